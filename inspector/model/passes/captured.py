"""Vanilla passes over whole sequences, kept as CUDA graphs by shape: the base weights never change, so a pass does not.

A pass ends after the last block. What its parts got and gave stays in the graph's own tensors until the next pass of
the same shape. Lengths are rounded up, so that few shapes serve all texts; the pads stand on the right, where no real
position of a causal model looks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from inspector.model.hooks import observe_inputs, observe_outputs, passing_through, record_calls, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import let_go, ran_out, when_memory_runs_out
from inspector.model.memory.memory_need import free_memory
from inspector.model.memory.recent import Recent
from inspector.model.passes.fewer_kernels import fewer_kernels
from inspector.model.passes.graphs import Graph, failed, given_up, worked

ROUNDED = 32
"""Lengths are multiples of this."""
LARGEST = 1024
"""Most tokens of a pass that is captured: beyond it the device is the slower one, and its host does not matter."""
KEPT = 6
"""Shapes whose passes are kept; those used last, and as many as have :data:`TOGETHER` tokens."""
TOGETHER = 2048
"""Most tokens of all kept passes: each keeps what every block got and gave."""
ROOM = 4
"""A pass is captured where this many times its memory is free."""
_KIND = "A pass"
"""What it is among all that is captured."""


@dataclass(eq=False)
class Observed:
    """What one vanilla pass showed; tensors that the next pass of this shape may overwrite.

    Attributes:
        calls: Arguments of each block's call, by block.
        outputs: Each block's output ``[sequences, tokens, d_model]``, by block.
        inner: What enters each down-projection, by block; OPT's is flat.
        residual: What enters the norm after attention, by block; empty where the family has none.
    """

    calls: dict[int, tuple[tuple, dict]] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    inner: dict[int, Tensor] = field(default_factory=dict)
    residual: dict[int, Tensor] = field(default_factory=dict)


def observed(
    model: InspectedModel,
    ids: Tensor,
    blocks: Sequence[int],
    cached: bool | None = None,
    arguments: Mapping[str, Tensor] | None = None,
) -> Observed:
    """Run the vanilla model over token ids ``[sequences, tokens]`` and keep what chosen blocks got and gave.

    The caller holds the lock. Calls are kept of all blocks from the lowest chosen one on. Blocks above the highest one
    compute nothing: the states in their calls are those that it gave.

    Args:
        cached: Give the pass a cache: without one transformers looks for packed sequences, for which it waits for the
            device. On CUDA by default.
        arguments: What the network is called with beside the ids (:class:`~inspector.model.passes.shared_rows.Rows`).
    """
    architecture = model.architecture
    found, lowest, highest = Observed(), min(blocks), max(blocks)
    joins = [architecture.part_of_block(block, architecture.paths.after_attention) for block in blocks]

    def keep(store: dict[int, Tensor]) -> Callable[[int, Tensor], None]:
        return lambda position, states: store.__setitem__(blocks[position], states)

    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(model.running())
        stack.enter_context(stopping_before(architecture.final_norm or architecture.unembedding))
        calls = stack.enter_context(record_calls(architecture.blocks[lowest:]))
        stack.enter_context(passing_through(architecture.blocks[highest + 1 :], architecture.blocks[highest]))
        chosen = [architecture.down_projections[block] for block in blocks]
        stack.enter_context(observe_inputs(chosen, keep(found.inner)))
        stack.enter_context(observe_outputs([architecture.blocks[b] for b in blocks], keep(found.outputs)))
        if joins[0] is not None:
            stack.enter_context(observe_inputs([j for j in joins if j is not None], keep(found.residual)))
        cached = ids.device.type == "cuda" if cached is None else cached
        cache = DynamicCache() if cached else None
        model.network(input_ids=ids, past_key_values=cache, use_cache=cache is not None, **(arguments or {}))
    found.calls = {lowest + number: _without_cache(call) for number, call in calls.items()}
    return found


def _without_cache(call: tuple[tuple, dict]) -> tuple[tuple, dict]:
    """Return the arguments of a block's call as they are where nothing is cached."""
    args, kwargs = call
    named = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    if "use_cache" in named:
        named["use_cache"] = False
    return tuple(None if isinstance(value, Cache) else value for value in args), named


def batch_of(model: InspectedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return sequences as one batch ``[sequences, tokens]``, padded on the right; on CUDA to a rounded length."""
    ids = model.batch(*sequences)
    if not _captures(model, ids):
        return ids
    more = -ids.shape[1] % ROUNDED
    return torch.nn.functional.pad(ids, (0, more), value=model.pad)


def replayed(model: InspectedModel, ids: Tensor) -> Observed | None:
    """Return what a captured pass of this shape shows of all blocks; ``None`` where passes are not captured.

    The caller holds the lock, and copies what it keeps before it gives it up (:func:`copied`).
    """
    if not _captures(model, ids):
        return None
    kept = _KEPT.setdefault(model, Recent(KEPT))
    shape = (ids.shape[0], ids.shape[1])
    if shape not in kept:
        while kept and sum(rows * tokens for rows, tokens in kept) + ids.numel() > TOGETHER:
            kept.popitem(last=False)
        if free_memory(ids.device) < ROOM * _bytes_of(model, ids.numel()):
            return None
        observed(model, ids, [model.blocks - 1])  # what is made on first use has to be there
        try:
            kept[shape] = _Pass(model, ids)
        except RuntimeError as error:
            if ran_out(error):  # this time, and perhaps not the next
                let_go(error)
                return None
            first = str(error).strip().splitlines()[0]
            warnings.warn(f"Passes of this model cannot be captured and run launch by launch ({first}).", stacklevel=2)
            failed(model, _KIND)
            return None
        worked(model, _KIND)
    return kept[shape].of(ids)


def _bytes_of(model: InspectedModel, tokens: int) -> int:
    """Return about how much a captured pass keeps: what entered and left each block and its two halves."""
    architecture = model.architecture
    return tokens * model.blocks * (architecture.d_ff + 5 * architecture.d_model) * model.dtype.itemsize


def copied(value: Any, known: dict[int, Tensor]) -> Any:
    """Return a copy of tensors within tuples, lists and dictionaries; one that comes twice is copied once.

    Args:
        known: Copies by the id of what they are of; filled.
    """
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = value.clone()
        return known[id(value)]
    if isinstance(value, tuple | list):
        return type(value)(copied(entry, known) for entry in value)
    if isinstance(value, dict):
        return {key: copied(entry, known) for key, entry in value.items()}
    return value


class _Pass:
    def __init__(self, model: InspectedModel, ids: Tensor) -> None:
        self._ids = ids.clone()
        with fewer_kernels(model):
            self._graph = Graph(lambda: observed(model, self._ids, range(model.blocks), cached=True), ids.device)

    def of(self, ids: Tensor) -> Observed:
        self._ids.copy_(ids)
        return self._graph.replay()


_KEPT: WeakKeyDictionary[InspectedModel, Recent[tuple[int, int], _Pass]] = WeakKeyDictionary()
when_memory_runs_out(_KEPT.clear)


def _captures(model: InspectedModel, ids: Tensor) -> bool:
    return model.can_be_captured and ids.numel() <= LARGEST and not given_up(model, _KIND)
