"""Token steps of fixed shapes: the cache has its full length from the start, so that a step is one CUDA graph.

A step reads its tokens from a buffer on the device, puts the next ones there, and its host only reads what was chosen,
one step behind: while it hands out one token the device is at the next.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import StaticLayer

from inspector.model.inspected import InspectedModel
from inspector.model.passes.fewer_kernels import fewer_kernels
from inspector.model.passes.graphs import captured, given_up
from inspector.model.patches.standing import StandingPatches

SHORTEST = 8
"""Tokens of an answer from which a capture, which takes as long as one or two plain steps, is worth it."""
WIDTH = 64
"""The cache's length is a multiple of this, for attention kernels that want masks aligned."""
_KIND = "A token step of this model"
"""What a step is among all that is captured."""


def can_be_static(model: InspectedModel, steps: int) -> bool:
    """Tell whether a model's token steps can have fixed shapes, and whether that pays: without a graph it does not."""
    return model.can_be_captured and steps >= SHORTEST and not given_up(model, _KIND)


class StaticSteps:
    """The steps of some lines after their prompts were read.

    Args:
        model: The model.
        cache: Keys and values of the prompts, each line's newest token last.
        mask: ``[lines, seen]``, 0 for pads; ``None`` for no pads.
        positions: ``[lines, 1]``, where each line's next token stands; ``None`` for all after what was seen.
        tokens: ``[lines]`` the first token of each answer.
        patches: The weights of each line.
        steps: How many steps there are to make.
        choose: From logits ``[lines, vocabulary]`` to the next token of each line ``[lines]``, and what the host reads
            of it; part of the graph if ``greedy``.
        greedy: Whether it depends on the logits alone.
    """

    def __init__(
        self,
        model: InspectedModel,
        cache: DynamicCache,
        mask: Tensor | None,
        positions: Tensor | None,
        tokens: Tensor,
        patches: StandingPatches,
        steps: int,
        choose: Callable[[Tensor], tuple[Tensor, Tensor]],
        greedy: bool,
    ) -> None:
        self._model, self._patches, self._left = model, patches, steps
        self._choose, self._greedy = choose, greedy
        seen, lines = cache.layers[0].keys.shape[-2], len(tokens)
        width = -(-(seen + steps) // WIDTH) * WIDTH
        hidden = torch.finfo(model.dtype).min
        self._mask = torch.full((lines, 1, 1, width), hidden, dtype=model.dtype, device=tokens.device)
        visible = torch.ones(lines, seen, device=tokens.device) if mask is None else mask
        self._mask[..., :seen].masked_fill_(visible.bool()[:, None, None], 0.0)
        self._at = torch.tensor([seen], device=tokens.device)
        self._cache = Cache(layers=[_Layer(layer, width, self._at) for layer in cache.layers])
        start = torch.full((lines, 1), seen, device=tokens.device) if positions is None else positions
        self._positions, self._tokens = start.clone(), tokens.unsqueeze(1).clone()
        self._chosen = tokens.clone()
        on_gpu = tokens.device.type == "cuda"
        self._read = [torch.empty(lines, dtype=torch.long, pin_memory=on_gpu) for _ in range(2)]
        self._event: list[Any] = [torch.cuda.Event() if on_gpu else None for _ in range(2)]
        self._made, self._told = 0, 0
        self._run: Callable[[], Tensor] | None = None

    def next(self) -> list[int]:
        """Return what was chosen for each line as the host reads it, with the step after it under way."""
        while self._left and self._made < self._told + 2:
            self._enqueue()
        slot = self._told % 2
        self._told += 1
        if self._event[slot] is not None:
            self._event[slot].synchronize()
        return self._read[slot].tolist()

    @torch.no_grad()
    def _enqueue(self) -> None:
        with self._model.lock, self._patches.acting(), fewer_kernels(self._model) if self._made < 2 else nullcontext():
            if self._made == 1:  # one step has run as it is, so that all that is made on first use is there
                self._run = captured(self._step, self._tokens.device, _KIND, self._model)
            logits = self._step() if self._run is None else self._run()
            if not self._greedy:
                self._take(logits)
            slot = self._made % 2
            self._read[slot].copy_(self._chosen, non_blocking=True)
            if self._event[slot] is not None:
                # Of the tokens' device: the thread's current one may be another.
                self._event[slot].record(torch.cuda.current_stream(self._tokens.device))
        self._made, self._left = self._made + 1, self._left - 1

    def _step(self) -> Tensor:
        self._mask.index_fill_(-1, self._at, 0.0)
        output = self._model.network(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
        self._at.add_(1)
        self._positions.add_(1)
        if self._greedy:
            self._take(logits)
        return logits

    def _take(self, logits: Tensor) -> None:
        tokens, chosen = self._choose(logits)
        self._tokens.copy_(tokens.unsqueeze(1))
        self._chosen.copy_(chosen)


class _Layer(StaticLayer):
    """A cache layer of a fixed length that starts with another's keys and values.

    Args:
        layer: The other one.
        width: The length.
        at: ``[1]``, where the next token's go; all layers share it, and who makes the steps moves it on.
    """

    def __init__(self, layer: Any, width: int, at: Tensor) -> None:
        super().__init__(width)
        self.lazy_initialization(layer.keys, layer.values)
        seen = layer.keys.shape[-2]
        self.keys[:, :, :seen].copy_(layer.keys)
        self.values[:, :, :seen].copy_(layer.values)
        self._at = at

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put one token's keys and values at their place and return all."""
        self.keys.index_copy_(2, self._at, key_states)
        self.values.index_copy_(2, self._at, value_states)
        return self.keys, self.values
