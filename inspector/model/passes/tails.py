"""What a change of one block's MLP does to the logits, for many blocks from one pass.

A change at block l cannot alter anything below it. :class:`Tails` runs the unchanged model once and keeps what
enters every down-projection; a changed output of block l then runs through the blocks above it only, and changes
of several blocks share one batch above the higher one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspector.model.counted import Counted
from inspector.model.hooks import block_output, rewrite_output, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import when_memory_runs_out
from inspector.model.memory.memory_need import bytes_in
from inspector.model.memory.recent import Recent, named
from inspector.model.offloaded import held
from inspector.model.passes.captured import batch_of, copied, observed, replayed
from inspector.model.passes.shared_rows import Alike, counted_in, laid_out, shared_rows

Change = Callable[[nn.Module, Tensor], Tensor]
"""From a down-projection and its input ``[..., d_ff]`` to its new output ``[..., d_model]``."""


_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest difference of a resumed state from the block's own, as a share of the position's size: a few roundings."""

_CONFIRMED: WeakKeyDictionary[InspectedModel, set[int]] = WeakKeyDictionary()
"""Blocks that can be resumed at their down-projection, by model."""
_Call = tuple[tuple, dict]
_ByBlock = dict[int, Tensor]
_Tiles = dict[tuple[int, int], Tensor]
"""Recorded tensors repeated, by whose they are and how often."""
_Shown = tuple[dict[int, _Call], _ByBlock, _ByBlock, _ByBlock]
"""Of one pass: calls, what enters down-projections, what is added to their output, what enters blocks run whole."""
MOST_KEPT = 24
"""Passes that are kept for a model, those used last: all parts of an edit's harmless prompts, which come in turn."""
MOST_BYTES = 2**29
"""What they may take together; of more than that those used last are kept."""
_KEPT: WeakKeyDictionary[InspectedModel, Recent[tuple, _Shown]] = WeakKeyDictionary()
when_memory_runs_out(_KEPT.clear)


def with_weight(weight: Tensor) -> Change:
    """Return the change that uses ``weight`` ``[d_model, d_ff]`` in place of the projection's own.

    The product is computed in float32 and returned in the input's dtype.
    """

    def project(module: nn.Module, inputs: Tensor) -> Tensor:
        bias = held(module, "bias")
        if bias is None and inputs.is_cuda and inputs.dtype != torch.float32 and not inputs.requires_grad:
            return _Product.apply(inputs, weight)
        return F.linear(inputs.float(), weight, None if bias is None else bias.float()).to(inputs.dtype)

    return project


class _Product(torch.autograd.Function):
    """A float32 weight times inputs of half precision, whose gradient in the weight keeps to half precision's units.

    Both sides of that gradient are numbers of the inputs' type, so products of that type, summed up in float32, are the
    float32 product at a tenth of its time.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return F.linear(inputs.float(), weight).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (inputs,) = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        return None, torch.mm(rows.T, inputs.reshape(-1, inputs.shape[-1]), out_dtype=torch.float32)


class Tails:
    """The parts of the model above chosen blocks, ready to be run again with another output of one of them.

    Where the family's map says so (and a comparison with the model's own output confirms it), a block is
    resumed at its down-projection and the last block's MLP runs on the counted positions only; otherwise whole
    blocks are run.

    Args:
        model: The base model.
        sequences: Token ids of each sequence; shorter ones are padded on the right.
        counted: Positions of each sequence whose logits are wanted.
        blocks: The blocks that may be changed; all by default.
        counted_only: A change at the last block sees the counted positions only: nothing looks at the others.
        alike: Texts that begin alike share a row, in which that is computed once
            (:mod:`inspector.model.passes.shared_rows`): many edits' own answers follow one prompt. What is said of
            sequences here is of rows, then.
        keep: Keep what the pass shows for later tails of the same texts, positions and blocks: many edits meet them.
    """

    def __init__(
        self,
        model: InspectedModel,
        sequences: Sequence[Sequence[int]],
        counted: Sequence[Sequence[int]],
        blocks: Sequence[int] | None = None,
        counted_only: bool = True,
        keep: bool = False,
        alike: bool = False,
    ) -> None:
        architecture = model.architecture
        self._model = model
        self.blocks = tuple(sorted(architecture.check_block(b) for b in (blocks or range(model.blocks))))
        self._lowest = self.blocks[0]
        rows = shared_rows(model, sequences) if alike else None
        self._counted = Counted(counted if rows is None else counted_in(rows, counted))
        self._sequences = len(sequences if rows is None else rows)
        texts = named(*(tuple(map(tuple, each)) for each in (sequences, counted)))
        asked = (self.blocks, counted_only, rows is not None, texts)
        with model.lock:
            known = _KEPT.setdefault(model, Recent(MOST_KEPT))
            shown = known.get(asked)
            if shown is None:
                shown = self._read(sequences, rows, counted_only)
            if keep:
                known[asked] = shown
                while len(known) > 1 and sum(map(bytes_in, known.values())) > MOST_BYTES:
                    known.popitem(last=False)
        self._calls: dict[int, _Call]
        self._inner: _ByBlock
        self._residual: _ByBlock
        self._entering: _ByBlock
        self._calls, self._inner, self._residual, self._entering = shown
        self._resumes = not self._entering
        self._mlp = self._separate_mlp() if self._resumes else None
        self._gathers_last = counted_only and self._resumes and architecture.last_block in self.blocks
        self._counted.place(architecture.head_device)

    def _read(self, sequences: Sequence[Sequence[int]], rows: list[Alike] | None, counted_only: bool) -> _Shown:
        if rows is None:
            return self._capture(batch_of(self._model, sequences), counted_only, None)
        whole = laid_out(self._model, rows)
        return self._capture(whole.ids, counted_only, whole.arguments)

    @torch.no_grad()
    def _capture(self, ids: Tensor, counted_only: bool, arguments: Mapping[str, Tensor] | None) -> _Shown:
        architecture = self._model.architecture
        seen = replayed(self._model, ids) if arguments is None else None
        known: dict[int, Tensor] = {}
        shown = observed(self._model, ids, self.blocks, arguments=arguments) if seen is None else seen
        needed = range(self._lowest, self._model.blocks)
        self._calls = {number: without_states(shown.calls[number]) for number in needed}
        inner = {block: shown.inner[block] for block in self.blocks}
        self._residual = {block: shown.residual[block] for block in self.blocks if shown.residual}
        if seen is not None:
            self._calls, inner, self._residual = copied((self._calls, inner, self._residual), known)
        self._inner = {block: states.reshape(*ids.shape, -1) for block, states in inner.items()}
        resumes = architecture.paths.after_attention is not None
        self._resumes = resumes and all(self._confirmed(block, shown.outputs[block]) for block in self.blocks)
        self._entering = {}
        if not self._resumes:
            entering = {block: _states(shown.calls[block]) for block in self.blocks}
            self._entering = entering if seen is None else copied(entering, known)
        last = architecture.last_block
        if counted_only and self._resumes and last in self.blocks:
            self._inner[last] = self._counted.of(self._inner[last])
            self._residual[last] = self._counted.of(self._residual[last])
        return self._calls, self._inner, self._residual, self._entering

    def _confirmed(self, block: int, own: Tensor) -> bool:
        """Tell whether a block is resumed: what was confirmed once for its weights, which never change, is."""
        found = _CONFIRMED.setdefault(self._model, set())
        if block not in found and self._confirms(block, own):
            found.add(block)
        return block in found

    def _confirms(self, block: int, own: Tensor) -> bool:
        """Tell whether resuming at the down-projection gives the block's own output, position by position.

        Each position is measured against its own size (that of what is added up there, if larger): models park a
        massive activation on one position, beside which an error at all others would not show.
        """
        weight = self._model.architecture.down_weight(block)
        if weight.device.type == "meta":
            return False
        resumed = self._resume(block, with_weight(weight.detach().float()))
        sizes = [states.float().abs().amax(dim=-1) for states in (own, self._residual[block], resumed)]
        size = torch.stack(sizes).amax(dim=0).clamp(min=1e-6)
        error = (resumed.float() - own.float()).abs().amax(dim=-1)
        return bool((error <= _TOLERANCE.get(own.dtype, 1e-4) * size).all())

    def _separate_mlp(self) -> nn.Module | None:
        """Return the last block's MLP if the family has it as one module."""
        parent, _, _ = self._model.architecture.paths.down_projection.rpartition(".")
        return self._model.architecture.part_of_block(self._model.architecture.last_block, parent or None)

    def _resume(self, block: int, change: Change) -> Tensor:
        architecture = self._model.architecture
        written = change(architecture.down_projections[block], self._inner[block])
        after_mlp = architecture.part_of_block(block, architecture.paths.after_mlp)
        if after_mlp is not None:
            written = after_mlp(written)
        return self._residual[block] + written

    def inner(self, block: int) -> Tensor:
        """Return what enters a down-projection, ``[sequences, tokens, d_ff]`` (see ``counted_only``, ``alike``)."""
        return self._inner[block]

    def changed(self, block: int, change: Change) -> Tensor:
        """Return a block's output with its down-projection changed, differentiable in what ``change`` holds."""
        if self._resumes:
            with self._model.lock:  # a norm after the MLP may carry another visitor's hooks while they run
                return self._resume(block, change)
        projection = self._model.architecture.down_projections[block]
        shape = self._inner[block].shape

        def rewrite(inputs: Tensor, output: Tensor) -> Tensor:
            return change(projection, inputs.reshape(shape)).reshape(output.shape)

        args, kwargs = self._calls[block]
        with self._model.lock, rewrite_output(projection, rewrite):
            return call_block(self._model.architecture.blocks[block], self._entering[block], args, kwargs)

    def logits(self, changed: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Run the tails above changed block outputs in one batch.

        Args:
            changed: What :meth:`changed` returned, by block.

        Returns:
            Float32 logits ``[positions, vocabulary]`` of the counted positions, by block.
        """
        architecture = self._model.architecture
        last = architecture.last_block
        order = sorted(changed)
        states: Tensor | None = None
        gathered: list[Tensor] = []
        tiles: _Tiles = {}
        with self._model.lock:
            for number in range(order[0], len(architecture.blocks)):
                if states is not None:
                    if number == last:
                        gathered += self._last_block(states, tiles)
                    else:
                        args, kwargs = self._repeated(number, states, tiles)
                        states = call_block(architecture.blocks[number], states, args, kwargs)
                if number in changed:
                    new = changed[number]
                    if number == last:
                        gathered.append(new if self._gathers_last else self._counted.of(new))
                    else:
                        states = new if states is None else torch.cat([states, new])
            together = architecture.logits(torch.stack(gathered)).float()
        return dict(zip(order, together, strict=True))

    def _last_block(self, states: Tensor, tiles: _Tiles) -> list[Tensor]:
        """Run the last block, its MLP on the counted positions only where that can be done."""
        architecture = self._model.architecture
        last = architecture.last_block
        args, kwargs = self._repeated(last, states, tiles)
        if self._mlp is None:
            return self._split(call_block(architecture.blocks[last], states, args, kwargs))
        norm = architecture.part_of_block(last, architecture.paths.after_attention)
        after_mlp = architecture.part_of_block(last, architecture.paths.after_mlp)
        assert norm is not None
        seen: list[Tensor] = []
        with stopping_before(norm, seen.append):
            call_block(architecture.blocks[last], states, args, kwargs)
        residual = torch.stack(self._split(seen[0]))
        written = self._mlp(norm(residual))
        return list(residual + (written if after_mlp is None else after_mlp(written)))

    def _split(self, states: Tensor) -> list[Tensor]:
        """Return the counted positions of each change's share of the batch."""
        shares = states.reshape(-1, self._sequences, *states.shape[1:])
        return list(self._counted.of_shares(shares))

    def _repeated(self, number: int, states: Tensor, tiles: _Tiles) -> tuple[tuple, dict]:
        """Return the recorded arguments beside the states of a block's call, for as many changes as share the batch.

        Args:
            tiles: Those that other blocks were called with, which is the same mask in most; filled.
        """
        args, kwargs = self._calls[number]
        times = len(states) // self._sequences
        if times == 1 or self._sequences == 1:  # a batch of one broadcasts
            return args, kwargs
        return _tile(args, self._sequences, times, tiles), _tile(kwargs, self._sequences, times, tiles)


def _tile(value: Any, rows: int, times: int, tiles: _Tiles) -> Any:
    if isinstance(value, Tensor):
        if value.dim() <= 1 or value.shape[0] != rows:
            return value
        if (id(value), times) not in tiles:
            tiles[id(value), times] = torch.cat([value] * times)
        return tiles[id(value), times]
    if isinstance(value, tuple | list):
        return type(value)(_tile(entry, rows, times, tiles) for entry in value)
    if isinstance(value, dict):
        return {key: _tile(entry, rows, times, tiles) for key, entry in value.items()}
    return value


def _states(call: tuple[tuple, dict]) -> Tensor:
    """Return the states that a block was called with."""
    args, kwargs = call
    return args[0] if args else kwargs["hidden_states"]


def without_states(call: tuple[tuple, dict]) -> tuple[tuple, dict]:
    """Return a block's call with nothing in the place of its states, the largest of what it was called with."""
    args, kwargs = call
    return ((None, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": None})


def call_block(block: nn.Module, states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Call a block with new states and the other arguments of its recorded call."""
    if args:
        return block_output(block(states, *args[1:], **kwargs))
    return block_output(block(**{**kwargs, "hidden_states": states}))
