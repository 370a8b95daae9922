"""Prompts read into one cache for many lines: what they share at their start runs once.

The common start of all prompts runs once per row of weights; their rests run right-padded after it, where a causal
model's real positions never look, those of like length in one pass; then every line's cache is moved to the right so
that its pads stand on the left and its newest token last, which keeps the distances between real tokens as they were
(sliding windows depend on them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from inspector.model.answers.by_length import passes_of
from inspector.model.counted import Counted, only_counted
from inspector.model.families import FAMILIES
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import Row


@dataclass
class State:
    """The cache of the running lines; ``mask``, ``positions`` and each line's ``pads`` only where lines are padded."""

    cache: Any
    mask: Tensor | None = None
    positions: Tensor | None = None
    pads: Sequence[int] = ()

    def step(self, model: InspectedModel, inputs: Tensor) -> Tensor:
        """Read one token a line and return the logits after it, ``[lines, vocabulary]``; the caller holds the model."""
        where: dict[str, Tensor] = {}
        if self.mask is not None and self.positions is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
            where = {"attention_mask": _for_a_token(model, self.mask), "position_ids": self.positions}
            self.positions = self.positions + 1
        output = model.network(input_ids=inputs, past_key_values=self.cache, use_cache=True, **where)
        return output.logits[:, -1]

    def keep(self, lines: Sequence[int]) -> None:
        """Drop all lines but these."""
        index = torch.tensor(lines)
        self.cache.batch_select_indices(index)
        self.pads = [self.pads[line] for line in lines] if self.pads else ()
        if not any(self.pads):
            self.mask = self.positions = None
        elif self.mask is not None and self.positions is not None:
            self.mask, self.positions = self.mask[lines], self.positions[lines]


def _for_a_token(model: InspectedModel, mask: Tensor) -> Tensor:
    """Return a mask ``[lines, seen]`` with pads in it as attention takes it for the newest token, where that is known.

    Of the two-dimensional one transformers asks in every step whether there are pads, and waits for the device. It
    stays where a window hides more than the pads, or where attention is not PyTorch's fused one, which has masks of
    another kind.
    """
    config = model.network.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    known = model.architecture.family in FAMILIES and getattr(config, "_attn_implementation", None) == "sdpa"
    if not known or (window is not None and mask.shape[1] >= window):
        return mask
    return mask.bool()[:, None, None]


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
    shared = common_start(prompts) if len(prompts) > 1 else 0
    started = _start(model, prompts[0][:shared], rows) if shared else None
    rests = [list(prompts[number][shared:]) for number in numbers]
    lengths = list(map(len, rests))
    passes = passes_of(lengths, model.device)
    caches, logits = list[Any](), list[Tensor]()
    for lines in passes:
        cache = DynamicCache() if started is None else _selected(started, [rows.index(weights[n]) for n in lines])
        with model.running([weights[n] for n in lines]):
            logits.append(_last_logits(model, [rests[n] for n in lines], cache))
        caches.append(cache)
    del started
    back = torch.tensor([n for lines in passes for n in lines]).argsort()
    cache = _side_by_side(caches, [[lengths[n] for n in lines] for lines in passes])
    if len(caches) > 1:
        cache.batch_select_indices(back)
    read = torch.cat(logits)[back.to(logits[0].device)]
    if min(lengths) == max(lengths):
        return State(cache), read
    width = shared + max(lengths)
    padded = [max(lengths) - length for length in lengths]
    pads = torch.tensor(padded, device=model.device)
    mask = (torch.arange(width, device=model.device) >= pads.unsqueeze(1)).long()
    return State(cache, mask, (width - pads).unsqueeze(1), padded), read


def _start(model: InspectedModel, start: Sequence[int], rows: Sequence[Row]) -> Any:
    """Read what all prompts start with, once for each of the weights."""
    # Without a configuration every layer keeps all positions: a window that is cut here would count pads.
    cache = DynamicCache()
    with model.running(rows):
        ids = model.batch(*([list(start)] * len(rows)))
        model.network(input_ids=ids, past_key_values=cache, use_cache=True, **model.last_logits_only)
    return cache


def _last_logits(model: InspectedModel, rests: Sequence[Sequence[int]], cache: Any) -> Tensor:
    """Return the logits at each line's last real position; no others are computed."""
    counted = Counted([[len(rest) - 1] for rest in rests])
    with only_counted(model.architecture.unembedding, counted):
        return model.network(input_ids=model.batch(*rests), past_key_values=cache, use_cache=True).logits


def _selected(cache: Any, lines: Sequence[int]) -> Any:
    """Return a cache of its own with these lines of another one."""
    chosen, index = DynamicCache(), torch.tensor(lines)
    for number, layer in enumerate(cache.layers):
        if layer.is_initialized:
            chosen.update(*(each[index.to(each.device)] for each in (layer.keys, layer.values)), number)
    return chosen


def _side_by_side(caches: Sequence[Any], lengths: Sequence[Sequence[int]]) -> Any:
    """Join the caches of passes in the first one, each line's real positions at its right end.

    Args:
        caches: Right-padded, after a start that all have.
        lengths: Of each line's rest, pass by pass.
    """
    longest = max(map(max, lengths))
    first = caches[0]
    for number, layer in enumerate(first.layers):
        if not layer.is_initialized:
            continue
        keys, values = list[Tensor](), list[Tensor]()
        for cache, own in zip(caches, lengths, strict=True):
            padded = max(own) - torch.tensor(own)
            other = cache.layers[number]
            for held, into in ((other.keys, keys), (other.values, values)):
                moved = _shifted(held, padded) if min(own) < max(own) else held
                into.append(torch.nn.functional.pad(moved, (0, 0, longest - max(own), 0)))
            other.keys = other.values = None
        layer.keys, layer.values = (each[0] if len(each) == 1 else torch.cat(each) for each in (keys, values))
    return first


def _shifted(held: Tensor, pads: Tensor) -> Tensor:
    """Return keys or values ``[lines, heads, positions, d]`` with each line moved to the right by its pads."""
    width, pads = held.shape[-2], pads.to(held.device)
    index = (torch.arange(width, device=held.device) - pads.unsqueeze(1)) % width
    return torch.take_along_dim(held, index[:, None, :, None], dim=2)


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many ids all prompts start with, leaving at least one of each prompt."""
    ordered = sorted(map(tuple, prompts))
    first, last = ordered[0], ordered[-1]  # in lexicographic order these two differ earliest
    limit = min(map(len, prompts)) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)
