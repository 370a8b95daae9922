"""Patches at work: hooks that add a row's deltas to what a projection computes, for the rows that ask for them.

``W x`` of the base stays as computed and ``strength * delta x`` is added to it, so vanilla and edited rows share one
batch, and the vanilla rows are untouched bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from inspector.errors import PatchError
from inspector.model.hooks import rewrite_output
from inspector.model.patches.patch import Delta, Row


class StandingPatches:
    """Patches whose hooks are set once for a run of forward passes, and act only inside :meth:`acting`.

    Between two passes of a run other visitors' passes go through the same modules, so the hooks do nothing then.

    Args:
        network: The base model; its weights are not written.
        base: Its :func:`inspector.model.patches.patch.fingerprint`.
        rows: One entry per row of the batch, or ``None`` for all vanilla.

    Raises:
        PatchError: A patch belongs to another base model or names a part that this one lacks.
    """

    def __init__(self, network: nn.Module, base: str, rows: Sequence[Row] | None) -> None:
        self._network, self._base = network, base
        self._hooks = ExitStack()
        self._acts = False
        self.set(rows)

    def set(self, rows: Sequence[Row] | None) -> None:
        """Take other rows: those of a batch that some have left."""
        by_module = _by_module(self._base, rows)
        modules = {name: _module(self._network, name) for name in by_module}
        self.close()
        for name, changes in by_module.items():
            adder = _Adder(len(rows or ()), changes)
            self._hooks.enter_context(rewrite_output(modules[name], self._gated(adder)))

    def _gated(self, adder: _Adder) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda inputs, output: adder(inputs, output) if self._acts else output

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Let the patches act on the forward passes inside; the caller holds the model's lock."""
        self._acts = True
        try:
            yield
        finally:
            self._acts = False

    def close(self) -> None:
        """Take the hooks away."""
        self._hooks.close()


@contextmanager
def live_patches(network: nn.Module, base: str, rows: Sequence[Row] | None) -> Iterator[None]:
    """Run the forward passes inside with one :class:`Row` of weights per row of the batch.

    Args: as for :class:`StandingPatches`.

    Raises:
        PatchError: A patch belongs to another base model or names a part that this one lacks.
    """
    patches = StandingPatches(network, base, rows)
    try:
        with patches.acting():
            yield
    finally:
        patches.close()


def _by_module(base: str, rows: Sequence[Row] | None) -> dict[str, list[tuple[int, float, Delta]]]:
    """Return what changes each module: number of the row, strength, delta."""
    found: dict[str, list[tuple[int, float, Delta]]] = {}
    for index, row in enumerate(rows or ()):
        if row.reminder is not None:
            raise PatchError(
                f"{row.reminder.method} changes prompts, not weights, and this measurement compares weights. Use a "
                "method that makes a patch."
            )
        if row.patch is None or row.strength == 0:
            continue
        if row.detector is not None:
            raise PatchError(
                "An edit that acts only where harm is detected is decided for a whole prompt, and this measurement "
                "has none. Measure the patch itself."
            )
        if row.patch.fingerprint != base:
            raise PatchError(
                f"Patch {row.patch.identifier} was made for another base model "
                f"({row.patch.fingerprint}, this is {base}). Load that model or edit anew."
            )
        for delta in row.patch.deltas:
            found.setdefault(delta.module, []).append((index, row.strength, delta))
    return found


class _Adder:
    """Adds deltas to the rows of one module's output: one product a delta, whatever the number of its rows."""

    def __init__(self, batch: int, changes: list[tuple[int, float, Delta]]) -> None:
        self._batch = batch
        self._held: dict[Delta, tuple[Tensor, Tensor | None]] = {}
        grouped: dict[Delta, tuple[list[int], list[float]]] = {}
        for index, strength, delta in changes:
            rows, strengths = grouped.setdefault(delta, ([], []))
            rows.append(index)
            strengths.append(strength)
        self._groups = [(delta, _Chosen(rows), _Factors(strengths)) for delta, (rows, strengths) in grouped.items()]

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor:
        # OPT flattens [rows, tokens, d] to [rows * tokens, d] before its MLP.
        rows_in = inputs.reshape(self._batch, -1, inputs.shape[-1])
        rows_out = output.reshape(self._batch, -1, output.shape[-1])
        if output.requires_grad:  # else nobody else has it: it was made for this call
            rows_out = rows_out.clone()
        for delta, chosen, factors in self._groups:
            change = delta.apply(chosen.of(rows_in), self._parts(delta, rows_in.device))
            chosen.add_to(rows_out, factors.times(change))
        return rows_out.reshape(output.shape)

    def _parts(self, delta: Delta, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return left and right on a device, copied there once: captured steps read them at every replay."""
        held = self._held.get(delta)
        if held is None or held[0].device != device:
            held = self._held[delta] = delta.on(device)
        return held


class _Chosen:
    """Some rows of a batch: a slice where they are neighbours, else an index that is copied to a device once."""

    def __init__(self, rows: list[int]) -> None:
        neighbours = rows == list(range(rows[0], rows[-1] + 1))
        self._slice = slice(rows[0], rows[-1] + 1) if neighbours else None
        self._index = torch.tensor(rows)

    def of(self, states: Tensor) -> Tensor:
        return states[self._at(states)]

    def add_to(self, states: Tensor, change: Tensor) -> None:
        """Add in float32 and round once."""
        at = self._at(states)
        if isinstance(at, slice):
            states[at].add_(change)
        else:
            states[at] = (states[at].float() + change).to(states.dtype)

    def _at(self, states: Tensor) -> slice | Tensor:
        if self._slice is not None:
            return self._slice
        if self._index.device != states.device:
            self._index = self._index.to(states.device)
        return self._index


class _Factors:
    """The strengths of a delta's rows."""

    def __init__(self, strengths: list[float]) -> None:
        self._one = strengths[0] if len(set(strengths)) == 1 else None
        self._each = torch.tensor(strengths)[:, None, None]

    def times(self, change: Tensor) -> Tensor:
        if self._one is not None:
            return change if self._one == 1 else self._one * change
        if self._each.device != change.device:
            self._each = self._each.to(change.device)
        return self._each * change


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise PatchError(f"This model has no part '{name}' that the patch changes.") from None
