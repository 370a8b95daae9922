"""Answers, streamed token by token, with several rows of weights in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 for greedy decoding, else the softmax temperature of sampling.
        top_p: Smallest probability mass that sampling draws from.
        seed: Seed of the sampling; the same seed gives the same answers.
    """

    max_new_tokens: int = 96
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """State of a running generation.

    Attributes:
        texts: The answer of each row so far.
        token_ids: Its tokens, without the id that ended it.
        finished: Whether each row has ended by itself.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    finished: tuple[bool, ...]


def stream(
    model: InspectedModel,
    prompt: Sequence[int],
    rows: Sequence[Row] = (VANILLA,),
    decoding: Decoding = Decoding(),
) -> Iterator[Answers]:
    """Answer one prompt with each row's weights, in one batch, yielding after every token.

    All rows share prompt, suffix and decoding, so that a difference of the answers is a difference
    of the weights. Rows that sample draw with the same random numbers.

    Args:
        prompt: Token ids of the prompt.
        rows: The weights of each row.

    Yields:
        The answers so far.
    """
    ends = model.end_tokens()
    tokens: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    generator = torch.Generator().manual_seed(decoding.seed)
    inputs = model.batch(*([list(prompt)] * len(rows)))
    cache = None
    for _ in range(decoding.max_new_tokens):
        # The context manager must not be open across the yield: other visitors run in between.
        with torch.no_grad(), model.running(rows):
            output = model.network(
                input_ids=inputs,
                past_key_values=cache,
                use_cache=True,
            )
        cache = output.past_key_values
        chosen = _choose(output.logits[:, -1].float().cpu(), decoding, generator)
        for row, token in enumerate(chosen):
            if finished[row]:
                continue
            if token in ends:
                finished[row] = True
            else:
                tokens[row].append(token)
        yield Answers(
            texts=tuple(model.decode(ids).strip() for ids in tokens),
            token_ids=tuple(map(tuple, tokens)),
            finished=tuple(finished),
        )
        if all(finished):
            return
        inputs = torch.tensor(chosen, device=model.device).unsqueeze(1)


def answer(
    model: InspectedModel,
    prompt: Sequence[int],
    rows: Sequence[Row] = (VANILLA,),
    decoding: Decoding = Decoding(),
) -> Answers:
    """Run :func:`stream` to its end and return the last state."""
    states = deque(stream(model, prompt, rows, decoding), maxlen=1)
    if not states:
        raise ValueError("max_new_tokens must be at least 1")
    return states[0]


def _choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> list[int]:
    """Pick the next token of each row from logits ``[rows, vocabulary]``."""
    if decoding.temperature <= 0:
        return logits.argmax(dim=-1).tolist()
    probabilities = torch.softmax(logits / decoding.temperature, dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(dim=-1) - ordered >= decoding.top_p] = 0.0
    # One random number for all rows: equal weights give equal answers when sampling, too.
    draw = torch.rand((1, 1), generator=generator) * ordered.sum(dim=-1, keepdim=True)
    position = torch.searchsorted(ordered.cumsum(dim=-1), draw).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, position).squeeze(-1).tolist()
