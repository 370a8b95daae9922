"""Several answers to one prompt: the prompt runs once per row of weights, the answers continue from its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from inspector.model.counted import Counted, only_counted
from inspector.model.hooks import observe_inputs, observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.patches.routing import decided


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
) -> list[Tensor]:
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
        want_logits: Return logits; otherwise the unembedding is never computed for the answers.

    Returns:
        For each row and answer float32 logits ``[len(answer), vocabulary]`` where position ``t`` predicts answer token
        ``t`` (the last prompt position predicts token 0); an empty list where none are wanted.
    """
    architecture = model.architecture
    rows = decided(model, [prompt] * len(rows), rows)
    each = [answer for _ in rows for answer in answers]
    counted = Counted([range(len(answer) - 1) for answer in each])
    with model.running(rows):
        first = model.network(
            input_ids=model.batch(*([list(prompt)] * len(rows))), use_cache=True, **model.last_logits_only
        )
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(answers))
    with ExitStack() as stack:
        stack.enter_context(model.running([row for row in rows for _ in answers]))
        if want_logits:
            stack.enter_context(only_counted(architecture.unembedding, counted))
        else:
            stack.enter_context(stopping_before(architecture.final_norm or architecture.unembedding))
        if on_block is not None:
            stack.enter_context(observe_outputs(architecture.blocks, on_block))
        if on_embedding is not None:
            stack.enter_context(observe_inputs(architecture.blocks[:1], lambda _position, states: on_embedding(states)))
        output = model.network(
            input_ids=model.batch(*[list(answer) for answer in each]), past_key_values=cache, use_cache=True
        )
        rest = output.logits
    if not want_logits:
        return []
    starts = first.logits[:, -1:].repeat_interleave(len(answers), dim=0)
    return [torch.cat([start, more]).float() for start, more in zip(starts, counted.split(rest), strict=True)]
