"""Several answers to one prompt: the prompt runs once per row of weights, the answers continue from its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from inspector.model.hooks import observe_inputs, observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row


@torch.no_grad()
def continue_prompt(
    model: InspectedModel,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    rows: Sequence[Row] = (VANILLA,),
    *,
    on_block: Callable[[int, Tensor], None] | None = None,
    on_embedding: Callable[[Tensor], None] | None = None,
    want_logits: bool = False,
) -> Tensor | None:
    """Run every answer after the shared prompt with every row of weights, in one batch.

    Batch order is row-major: all answers of ``rows[0]``, then all of ``rows[1]``. Answers are padded
    on the right, where a causal model's real positions never look; callbacks must read the first
    ``len(answer)`` positions only.

    Args:
        prompt: Token ids of the shared prompt.
        answers: Token ids of each answer.
        rows: The weights of each row.
        on_block: Gets ``(block, block output [rows * answers, tokens, d_model])``.
        on_embedding: Gets the input of block 0, of the same shape.
        want_logits: Return logits; otherwise the unembedding is never computed.

    Returns:
        Logits ``[rows * answers, tokens, vocabulary]`` (float32) where position ``t`` predicts answer token
        ``t`` (the last prompt position predicts token 0), or ``None``.
    """
    blocks = model.architecture.blocks
    ids = model.batch(*[list(answer) for _ in rows for answer in answers])
    with model.running(rows):
        first = model.network(
            input_ids=model.batch(*([list(prompt)] * len(rows))), use_cache=True, **model.last_logits_only
        )
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(answers))
    each_row = [row for row in rows for _ in answers]
    with ExitStack() as stack:
        stack.enter_context(model.running(each_row))
        if not want_logits:
            stack.enter_context(stopping_before(model.architecture.final_norm or model.architecture.unembedding))
        if on_block is not None:
            stack.enter_context(observe_outputs(blocks, on_block))
        if on_embedding is not None:
            stack.enter_context(observe_inputs(blocks[:1], lambda _position, states: on_embedding(states)))
        output = model.network(input_ids=ids, past_key_values=cache, use_cache=True)
        rest = output.logits
    if not want_logits:
        return None
    start = first.logits[:, -1:].repeat_interleave(len(answers), dim=0)
    return torch.cat([start, rest[:, :-1]], dim=1).float()
