"""Token steps of fixed shapes: the cache has its full length from the start, so that a step is one CUDA graph.

A step reads its tokens from a buffer on the device, puts the next ones there, and its host only reads what was chosen,
one step behind: while it hands out one token the device is at the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import StaticLayer

from inspector.model.graphs import captured
from inspector.model.inspected import InspectedModel
from inspector.model.standing import StandingPatches

SHORTEST = 8
"""Tokens of an answer from which a capture, which takes as long as one or two plain steps, is worth it."""
WIDTH = 64
"""The cache's length is a multiple of this, for attention kernels that want masks aligned."""
_ROPE = (None, "default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not look at the positions' values; others wait for the device."""


def can_be_static(model: InspectedModel, steps: int) -> bool:
    """Tell whether a model's token steps can have fixed shapes, and whether that pays.

    Every block has to see all positions (no sliding window), through PyTorch's fused attention.
    """
    config = model.network.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    return (
        model.device.type == "cuda"
        and model.on_one_device
        and steps >= SHORTEST
        and window is None
        and rope in _ROPE
        and getattr(config, "_attn_implementation", None) == "sdpa"
    )


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
        choose: From logits ``[lines, vocabulary]`` to the next token of each line ``[lines]``; part of the graph if
            ``greedy``.
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
        choose: Callable[[Tensor], Tensor],
        greedy: bool,
    ) -> None:
        self._model, self._patches, self._left = model, patches, steps
        self._choose, self._greedy = choose, greedy
        seen, lines = cache.layers[0].keys.shape[-2], len(tokens)
        width = -(-(seen + steps) // WIDTH) * WIDTH
        self._cache = Cache(layers=[_static(layer, width) for layer in cache.layers])
        hidden = torch.finfo(model.dtype).min
        self._mask = torch.full((lines, 1, 1, width), hidden, dtype=model.dtype, device=tokens.device)
        visible = torch.ones(lines, seen, device=tokens.device) if mask is None else mask
        self._mask[..., :seen].masked_fill_(visible.bool()[:, None, None], 0.0)
        self._at = torch.tensor([seen], device=tokens.device)
        start = torch.full((lines, 1), seen, device=tokens.device) if positions is None else positions
        self._positions, self._tokens = start.clone(), tokens.unsqueeze(1).clone()
        on_gpu = tokens.device.type == "cuda"
        self._read = [torch.empty(lines, dtype=torch.long, pin_memory=on_gpu) for _ in range(2)]
        self._event: list[Any] = [torch.cuda.Event() if on_gpu else None for _ in range(2)]
        self._made, self._told = 0, 0
        self._run: Callable[[], Tensor] = self._step

    def next(self) -> list[int]:
        """Return the next token of each line, with the step after it under way."""
        while self._left and self._made < self._told + 2:
            self._enqueue()
        slot = self._told % 2
        self._told += 1
        if self._event[slot] is not None:
            self._event[slot].synchronize()
        return self._read[slot].tolist()

    @torch.no_grad()
    def _enqueue(self) -> None:
        with self._model.lock, self._patches.acting():
            if self._made == 1:  # one step has run as it is, so that all that is made on first use is there
                self._run = captured(self._step, self._tokens.device, "A token step of this model")
            logits = self._run()
            if not self._greedy:
                self._tokens.copy_(self._choose(logits).unsqueeze(1))
            slot = self._made % 2
            self._read[slot].copy_(self._tokens.squeeze(1), non_blocking=True)
            if self._event[slot] is not None:
                self._event[slot].record()
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
            self._tokens.copy_(self._choose(logits).unsqueeze(1))
        return logits


def _static(layer: Any, width: int) -> StaticLayer:
    """Return a cache layer of a fixed length that starts with another's keys and values."""
    found = StaticLayer(width)
    found.lazy_initialization(layer.keys, layer.values)
    seen = layer.keys.shape[-2]
    found.keys[:, :, :seen].copy_(layer.keys)
    found.values[:, :, :seen].copy_(layer.values)
    found.cumulative_length.fill_(seen)
    return found
