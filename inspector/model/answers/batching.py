"""Many prompts answered at once with several rows of weights, token by token.

A *line* is one prompt with one row of weights (how its prompt is read: :mod:`inspector.model.answers.cached_lines`).
Lines of the same prompt and weights are answered once, and lines that have ended leave the batch. Where memory runs
out, the prompts are answered anew in two halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from inspector.errors import PromptError
from inspector.model.answers.cached_lines import State, read
from inspector.model.answers.static_steps import StaticSteps, can_be_static
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import halves, let_go, ran_out
from inspector.model.passes.thin_products import look_for_memory_again, thin_products
from inspector.model.patches.detector import DetectorReading
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.patches.routing import decisions
from inspector.model.patches.standing import StandingPatches
from inspector.validated import settings as checked

NO_NUMBER = -1
"""What a host reads in the place of a token where the logits are no numbers."""

COLDEST = 1e-30
"""Temperatures below this are greedy: logits over them leave the numbers of float32."""


@checked(PromptError, "decoding setting")
class Decoding:
    """How answers are decoded.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 for greedy decoding, else the softmax temperature of sampling.
        top_p: Smallest probability mass that sampling draws from.
        seed: Seed of the sampling; the same seed gives the same answers.
    """

    max_new_tokens: Annotated[int, Field(ge=0)] = 96
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < COLDEST


@dataclass
class Line:
    """One prompt with one row of weights, as it is answered.

    Attributes:
        prompt: Position of the prompt.
        row: Position of the row of weights.
        tokens: The answer so far, without the id that ended it.
        ended: The id that ended it; ``None`` while it runs or where it was cut.
        weights: What answers: the row, or vanilla where its detector does not fire.
        held_back: Whether that is so.
        reading: What the row's detector read of the prompt; ``None`` of a row without one.
    """

    prompt: int
    row: int
    tokens: list[int] = field(default_factory=list)
    ended: int | None = None
    weights: Row = VANILLA
    held_back: bool = False
    reading: DetectorReading | None = None

    @property
    def finished(self) -> bool:
        """Whether it has ended by itself."""
        return self.ended is not None


def generate(
    model: InspectedModel, prompts: Sequence[Sequence[int]], rows: Sequence[Row], decoding: Decoding
) -> Iterator[list[Line]]:
    """Answer every prompt with every row of weights in one batch, yielding all lines after every token.

    Lines that sample draw with the same random numbers, so an answer does not depend on what else is in the batch
    (but for rounding) and equal weights give equal answers.

    Args:
        prompts: Token ids of each prompt, none of them empty.
        rows: The weights.

    Yields:
        The lines, row after row, in the prompts' order; the same objects each time, growing. More often than an answer
        has tokens, and once shorter than before, where the batch had to be halved.

    Raises:
        NotFinite: The logits after a prompt, or after an answer that has not ended, are no numbers.
    """
    lines = [Line(prompt, row) for row in range(len(rows)) for prompt in range(len(prompts))]
    return _generate(model, prompts, rows, lines, decoding)


def generate_each(
    model: InspectedModel, asked: Sequence[tuple[Sequence[int], Row]], decoding: Decoding
) -> Iterator[list[Line]]:
    """Answer prompts, each with weights of its own, in one batch; else like :func:`generate`.

    Args:
        asked: Token ids of each prompt and the weights that answer it.

    Yields:
        The lines in the order of ``asked``; a line's ``row`` counts the different rows of weights as they come.
    """
    rows = list(dict.fromkeys(row for _, row in asked))
    lines = [Line(number, rows.index(row)) for number, (_, row) in enumerate(asked)]
    return _generate(model, [prompt for prompt, _ in asked], rows, lines, decoding)


def _generate(
    model: InspectedModel,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    lines: list[Line],
    decoding: Decoding,
) -> Iterator[list[Line]]:
    asked = [rows[line.row] for line in lines]
    for line, made in zip(lines, decisions(model, [prompts[line.prompt] for line in lines], asked), strict=True):
        line.weights, line.held_back, line.reading = made.weights, made.held_back, made.reading
    # What a detector holds back is answered by the vanilla weights, most often beside those: once for both.
    first: dict[tuple[tuple[int, ...], Row], Line] = {}
    twins = [(line, first.setdefault((tuple(prompts[line.prompt]), line.weights), line)) for line in lines]
    different = list(first.values())

    def shown() -> list[Line]:
        for line, twin in twins:
            if line is not twin:
                line.tokens[:], line.ended = twin.tokens, twin.ended
        return lines

    numbers = list(dict.fromkeys(line.prompt for line in different))
    try:
        for _ in _answered(model, prompts, different, decoding):
            yield shown()
        return
    except Exception as error:
        if not ran_out(error) or len(numbers) < 2:  # the weights of one prompt stay in one batch
            raise
        let_go(error)
    for line in different:
        line.tokens.clear()
        line.ended = None
    for some in halves(numbers):
        for _ in _answered(model, prompts, [line for line in different if line.prompt in some], decoding):
            yield shown()


def _answered(
    model: InspectedModel, prompts: Sequence[Sequence[int]], lines: Sequence[Line], decoding: Decoding
) -> Iterator[None]:
    """Answer some lines in one batch, token by token."""
    ends = model.end_tokens()
    running = list(lines)
    # The hooks stand for the whole run, but act within a step only: other visitors run in between.
    with model.standing() as patches:
        steps = _Steps(model, prompts, lines, decoding, patches)
        for _ in range(decoding.max_new_tokens):
            for line, token in zip(running, steps.next(), strict=True):
                if line.finished:
                    continue
                if token == NO_NUMBER:
                    raise model.not_finite("prediction")
                if token in ends:
                    line.ended = token
                else:
                    line.tokens.append(token)
            yield
            kept = [position for position, line in enumerate(running) if not line.finished]
            if not kept:
                return
            # Dropping lines copies the cache: not for every single one.
            if 4 * (len(running) - len(kept)) >= len(running) and steps.keep(kept):
                running = [running[position] for position in kept]


class _Steps:
    """The token steps of some lines: the first one reads the prompts, the others one token a line."""

    def __init__(
        self,
        model: InspectedModel,
        prompts: Sequence[Sequence[int]],
        lines: Sequence[Line],
        decoding: Decoding,
        patches: StandingPatches,
    ) -> None:
        self._model, self._prompts, self._lines = model, prompts, list(lines)
        self._decoding, self._patches = decoding, patches
        # Not a method of this object: what an answer holds on its device goes with the answer.
        self._choose = partial(choose, decoding=decoding, generator=torch.Generator().manual_seed(decoding.seed))
        self._state: State | None = None
        self._static: StaticSteps | None = None
        self._tokens: Tensor | None = None

    def next(self) -> list[int]:
        """Return the next token of each line, or :data:`NO_NUMBER`; one wait for the device."""
        if self._static is not None:
            return self._static.next()
        if self._tokens is None:
            return self._first()
        with torch.no_grad(), self._model.lock:
            assert self._state is not None
            with self._patches.acting(), thin_products(self._model, len(self._tokens)):
                logits = self._state.step(self._model, self._tokens.unsqueeze(1))
            self._tokens, told = self._choose(logits)
        return told.tolist()

    def _first(self) -> list[int]:
        with torch.no_grad(), self._model.lock:
            look_for_memory_again(self._model)
            rows = [line.weights for line in self._lines]
            self._state, logits = read(self._model, self._prompts, [line.prompt for line in self._lines], rows)
            self._patches.set(rows)
            self._tokens, told = self._choose(logits)
            if can_be_static(self._model, self._decoding.max_new_tokens - 1):
                self._static = self._fixed(self._state, self._tokens)
                self._state = None  # its keys and values were copied
        return told.tolist()

    def keep(self, lines: Sequence[int]) -> bool:
        """Drop all lines but these, if the steps' shapes are free; says whether that was done."""
        if self._static is not None:
            return False
        assert self._state is not None and self._tokens is not None
        with self._model.lock:
            self._state.keep(lines)
            self._tokens = self._tokens[lines]
            self._lines = [self._lines[position] for position in lines]
            self._patches.set([line.weights for line in self._lines])
        return True

    def _fixed(self, state: State, tokens: Tensor) -> StaticSteps:
        steps, greedy = self._decoding.max_new_tokens - 1, self._decoding.greedy
        given = (state.cache, state.mask, state.positions, tokens, self._patches, steps)
        return StaticSteps(self._model, *given, self._choose, greedy)


def plan(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Group prompts into batches of at most ``size`` so that those with a long common start go together.

    Returns:
        Positions of the prompts, batch by batch; every position once.
    """
    order = sorted(range(len(prompts)), key=lambda position: tuple(prompts[position]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pick the next token of each line from logits ``[lines, vocabulary]``; both results stay on their device.

    Returns:
        The tokens ``[lines]`` that the next step reads, and the same for the host, with :data:`NO_NUMBER` where a
        line's logits are no numbers. Minus infinity forbids a token, which is no fault.
    """
    if decoding.greedy:
        tokens = logits.argmax(dim=-1)  # of a logit that is no number where there is one
        return tokens, _told(tokens, logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1))
    probabilities = torch.softmax(logits.float() / decoding.temperature, dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= decoding.top_p, 0.0)
    mass = ordered.sum(dim=-1, keepdim=True)
    # One random number for all lines: equal weights give equal answers when sampling, too.
    draw = float(torch.rand(1, generator=generator)) * mass
    position = torch.searchsorted(ordered.cumsum(dim=-1), draw).clamp(max=logits.shape[-1] - 1)
    tokens = order.gather(-1, position).squeeze(-1)
    return tokens, _told(tokens, mass.squeeze(-1))


def _told(tokens: Tensor, signs: Tensor) -> Tensor:
    """Return tokens ``[lines]`` for the host; a sign ``[lines]`` is finite where the logits of its line are."""
    return tokens.masked_fill(signs - signs != 0, NO_NUMBER)  # fewer kernels than isfinite
