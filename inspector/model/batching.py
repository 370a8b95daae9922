"""Many prompts answered at once with several rows of weights: what they share at their start runs once.

A *line* is one prompt with one row of weights. The common start of all prompts runs once per row of weights;
their rests run right-padded after it, where a causal model's real positions never look; then every line's cache
is moved to the right so that its pads stand on the left and its newest token last, which keeps the distances
between real tokens as they were (sliding windows depend on them). Lines that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import DynamicCache

from inspector.errors import PromptError
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row
from inspector.model.routing import decided
from inspector.model.standing import StandingPatches
from inspector.model.static_steps import StaticSteps, can_be_static
from inspector.model.thin_products import thin_products
from inspector.validated import settings as checked


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
    """

    prompt: int
    row: int
    tokens: list[int] = field(default_factory=list)
    ended: int | None = None
    weights: Row = VANILLA
    held_back: bool = False

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
        The lines, row after row, in the prompts' order; the same objects each time, growing.
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
    for line, before, after in zip(
        lines, asked, decided(model, [prompts[line.prompt] for line in lines], asked), strict=True
    ):
        line.weights, line.held_back = after, before is not after and after == VANILLA
    ends = model.end_tokens()
    running = list(lines)
    # The hooks stand for the whole run, but act within a step only: other visitors run in between.
    with model.standing() as patches:
        steps = _Steps(model, prompts, lines, decoding, patches)
        for _ in range(decoding.max_new_tokens):
            for line, token in zip(running, steps.next(), strict=True):
                if line.finished:
                    continue
                if token in ends:
                    line.ended = token
                else:
                    line.tokens.append(token)
            yield lines
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
        self._state: _State | None = None
        self._static: StaticSteps | None = None
        self._tokens: Tensor | None = None

    def next(self) -> list[int]:
        """Return the next token of each line; one wait for the device."""
        if self._static is not None:
            return self._static.next()
        with torch.no_grad(), self._model.lock:
            if self._tokens is None:
                self._state, logits = _read(self._model, self._prompts, self._lines)
                self._patches.set([line.weights for line in self._lines])
                self._tokens = self._choose(logits)
                if can_be_static(self._model, self._decoding.max_new_tokens - 1):
                    self._static = self._fixed(self._state, self._tokens)
                    self._state = None  # its keys and values were copied
            else:
                assert self._state is not None
                with self._patches.acting(), thin_products(self._model, len(self._tokens)):
                    logits = self._state.step(self._model, self._tokens.unsqueeze(1))
                self._tokens = self._choose(logits)
        return self._tokens.tolist()

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

    def _fixed(self, state: _State, tokens: Tensor) -> StaticSteps:
        steps, greedy = self._decoding.max_new_tokens - 1, self._decoding.temperature <= 0
        given = (state.cache, state.mask, state.positions, tokens, self._patches, steps)
        return StaticSteps(self._model, *given, self._choose, greedy)


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many ids all prompts start with, leaving at least one of each prompt."""
    ordered = sorted(map(tuple, prompts))
    first, last = ordered[0], ordered[-1]  # in lexicographic order these two differ earliest
    limit = min(map(len, prompts)) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)


def plan(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Group prompts into batches of at most ``size`` so that those with a long common start go together.

    Returns:
        Positions of the prompts, batch by batch; every position once.
    """
    order = sorted(range(len(prompts)), key=lambda position: tuple(prompts[position]))
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass
class _State:
    """The cache of the running lines; ``mask`` and ``positions`` only where lines are padded."""

    cache: Any
    mask: Tensor | None = None
    positions: Tensor | None = None

    def step(self, model: InspectedModel, inputs: Tensor) -> Tensor:
        """Read one token a line and return the logits after it, ``[lines, vocabulary]``; the caller holds the model."""
        where: dict[str, Tensor] = {}
        if self.mask is not None and self.positions is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
            where = {"attention_mask": self.mask, "position_ids": self.positions}
            self.positions = self.positions + 1
        output = model.network(input_ids=inputs, past_key_values=self.cache, use_cache=True, **where)
        return output.logits[:, -1]

    def keep(self, lines: Sequence[int]) -> None:
        """Drop all lines but these."""
        index = torch.tensor(lines)
        self.cache.batch_select_indices(index)
        if self.mask is not None and self.positions is not None:
            self.mask, self.positions = self.mask[lines], self.positions[lines]


def _read(model: InspectedModel, prompts: Sequence[Sequence[int]], lines: Sequence[Line]) -> tuple[_State, Tensor]:
    """Read every line's prompt with its weights; the logits are those after it, ``[lines, vocabulary]``.

    What all prompts start with is read once for each of the weights.
    """
    rows = list(dict.fromkeys(line.weights for line in lines))
    # Without a configuration every layer keeps all positions: a window that is cut here would count pads.
    cache = DynamicCache()
    shared = common_start(prompts) if len(prompts) > 1 else 0
    if shared:
        with model.running(rows):
            start = model.batch(*([list(prompts[0][:shared])] * len(rows)))
            model.network(input_ids=start, past_key_values=cache, use_cache=True, **model.last_logits_only)
        cache.batch_select_indices(torch.tensor([rows.index(line.weights) for line in lines]))
    rests = [list(prompts[line.prompt][shared:]) for line in lines]
    lengths = torch.tensor([len(rest) for rest in rests])
    with model.running([line.weights for line in lines]):
        logits = _last_logits(model, model.batch(*rests), lengths, cache)
    longest = int(lengths.max())
    pads = (longest - lengths).to(model.device)
    if not bool(pads.any()):
        return _State(cache), logits
    _shift_right(cache, pads)
    width = shared + longest
    mask = (torch.arange(width, device=model.device) >= pads.unsqueeze(1)).long()
    return _State(cache, mask, (width - pads).unsqueeze(1)), logits


def _last_logits(model: InspectedModel, inputs: Tensor, lengths: Tensor, cache: Any) -> Tensor:
    """Return the logits at each line's last real position, computing as few others as the network allows."""
    wanted, place = lengths.unique(return_inverse=True)
    # A list is an index on any device; a tensor would have to lie where the last block computes.
    only = {"logits_to_keep": (wanted - 1).tolist()} if model.last_logits_only else {}
    output = model.network(input_ids=inputs, past_key_values=cache, use_cache=True, **only)
    column = place if only else lengths - 1
    return output.logits[torch.arange(len(lengths)), column]


def _shift_right(cache: Any, pads: Tensor) -> None:
    """Move each line's keys and values to the right by its number of pads."""
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        width = layer.keys.shape[-2]
        index = (torch.arange(width, device=pads.device) - pads.unsqueeze(1)) % width
        index = index[:, None, :, None].to(layer.keys.device)
        layer.keys = torch.take_along_dim(layer.keys, index, dim=2)
        layer.values = torch.take_along_dim(layer.values, index, dim=2)


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> Tensor:
    """Pick the next token of each line ``[lines]`` from logits ``[lines, vocabulary]``; it stays on their device."""
    if decoding.temperature <= 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / decoding.temperature, dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= decoding.top_p, 0.0)
    # One random number for all lines: equal weights give equal answers when sampling, too.
    draw = float(torch.rand(1, generator=generator)) * ordered.sum(dim=-1, keepdim=True)
    position = torch.searchsorted(ordered.cumsum(dim=-1), draw).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, position).squeeze(-1)
