"""Prompts read into one cache for many lines: what they share at their start runs once.

The common start of all prompts runs once per row of weights; their rests run right-padded after it, where a causal
model's real positions never look; then every line's cache is moved to the right so that its pads stand on the left and
its newest token last, which keeps the distances between real tokens as they were (sliding windows depend on them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from inspector.model.counted import Counted, only_counted
from inspector.model.inspected import InspectedModel
from inspector.model.patch import Row


@dataclass
class State:
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


def read(
    model: InspectedModel, prompts: Sequence[Sequence[int]], numbers: Sequence[int], weights: Sequence[Row]
) -> tuple[State, Tensor]:
    """Read every line's prompt with its weights; the logits are those after it, ``[lines, vocabulary]``.

    What all prompts start with is read once for each of the weights. The caller holds the model.

    Args:
        prompts: Token ids of each prompt.
        numbers: The prompt of each line.
        weights: Its weights.
    """
    rows = list(dict.fromkeys(weights))
    # Without a configuration every layer keeps all positions: a window that is cut here would count pads.
    cache = DynamicCache()
    shared = common_start(prompts) if len(prompts) > 1 else 0
    if shared:
        with model.running(rows):
            start = model.batch(*([list(prompts[0][:shared])] * len(rows)))
            model.network(input_ids=start, past_key_values=cache, use_cache=True, **model.last_logits_only)
        cache.batch_select_indices(torch.tensor([rows.index(row) for row in weights]))
    rests = [list(prompts[number][shared:]) for number in numbers]
    lengths = torch.tensor([len(rest) for rest in rests])
    with model.running(weights):
        logits = _last_logits(model, model.batch(*rests), lengths, cache)
    longest = int(lengths.max())
    pads = (longest - lengths).to(model.device)
    if not bool(pads.any()):
        return State(cache), logits
    _shift_right(cache, pads)
    width = shared + longest
    mask = (torch.arange(width, device=model.device) >= pads.unsqueeze(1)).long()
    return State(cache, mask, (width - pads).unsqueeze(1)), logits


def _last_logits(model: InspectedModel, inputs: Tensor, lengths: Tensor, cache: Any) -> Tensor:
    """Return the logits at each line's last real position; no others are computed."""
    counted = Counted([[length - 1] for length in lengths.tolist()])
    with only_counted(model.architecture.unembedding, counted):
        return model.network(input_ids=inputs, past_key_values=cache, use_cache=True).logits


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


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many ids all prompts start with, leaving at least one of each prompt."""
    ordered = sorted(map(tuple, prompts))
    first, last = ordered[0], ordered[-1]  # in lexicographic order these two differ earliest
    limit = min(map(len, prompts)) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)
