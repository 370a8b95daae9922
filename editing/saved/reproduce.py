"""An edit made again from its record: is it the same, to the bit or within which tolerance?"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from editing.methods.registry import METHODS
from editing.progress import EditResult, Preparation, Step
from editing.saved.record import EditRecord, digest_of
from editing.versions import versions
from inspector.errors import EditError
from inspector.model import InspectedModel, Patch
from inspector.validated import read_record

CLOSE = 1e-3
"""Largest relative difference of the deltas that counts as the same edit on another machine."""


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A saved edit beside the same edit made again.

    Attributes:
        same_bits: Every delta is the same, bit for bit.
        relative: Frobenius norm of the difference over the saved edit's.
        largest: Largest difference of a single weight.
        updates: Number of updates that the new edit keeps.
        other_versions: Software of another version than the saved edit was made with: name -> (saved, here).
        result: The new edit.
    """

    same_bits: bool
    relative: float
    largest: float
    updates: int
    other_versions: dict[str, tuple[str, str]]
    result: EditResult

    @property
    def same(self) -> bool:
        """Whether it is the same edit, to the bit or within :data:`CLOSE`."""
        return self.same_bits or self.relative <= CLOSE

    def reading(self, record: EditRecord) -> str:
        """Say how close it came, in one or two sentences."""
        if self.same_bits:
            told = f"The same edit, to the bit: patch {record.identifier}, {self.updates} updates."
        else:
            told = (
                f"{'The same edit within' if self.same else 'Another edit:'} {self.relative:.2g} of its norm (largest "
                f"difference of a weight {self.largest:.2g}); {record.updates} updates then, {self.updates} now."
            )
        changed = ", ".join(f"{name} {then} then, {now} now" for name, (then, now) in self.other_versions.items())
        return f"{told} Other versions: {changed}." if changed else told


def reproduce(
    model: InspectedModel, saved: Patch, record: EditRecord, cancel: Callable[[], bool] = lambda: False
) -> Generator[Preparation | Step, None, Reproduction | None]:
    """Make a saved edit again and compare.

    Args:
        saved: The patch that the record belongs to (:func:`editing.saved.files.load_edit`).

    Returns:
        How close it came; ``None`` when cancelled.

    Raises:
        EditError: The base or its dtype is another, the edit was made on top of another, or its settings are not those
            of this version.
    """
    if record.fingerprint != model.fingerprint or record.dtype != model.dtype_name:
        raise EditError(
            f"The edit was made on {record.model} ({record.fingerprint}) in {record.dtype}; this is "
            f"{model.fingerprint} in {model.dtype_name}. Load that model with --dtype {record.dtype}."
        )
    if record.stacked:
        raise EditError("The edit was made on top of another one. Make both again, one after the other.")
    method = METHODS.get(record.method)
    if method is None:
        raise EditError(f"Unknown method '{record.method}'. Valid ones: {', '.join(METHODS)}.")
    try:
        settings: Any = read_record(method.settings, record.settings)
    except ValueError as error:
        raise EditError(
            f"The settings are not those of this version ({error}). Use the version it was made with."
        ) from error
    result = yield from method.run(model, record.case, record.block, settings, cancel=cancel)
    if result.patch is None:
        return None
    new = {delta.module: delta.dense() for delta in result.patch.deltas}
    old = {delta.module: delta.dense() for delta in saved.deltas}
    pairs = [(old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])]
    differences = [
        (one if one is not None else torch.zeros_like(two)) - (two if two is not None else torch.zeros_like(one))
        for one, two in pairs
    ]
    here = versions()
    return Reproduction(
        same_bits=digest_of(result.patch) == record.digest,
        relative=float(sum(d.double().square().sum() for d in differences) ** 0.5) / max(saved.norm, 1e-30),
        largest=max(float(d.abs().max()) for d in differences),
        updates=result.kept,
        other_versions={n: (v, here.get(n, "none")) for n, v in record.versions.items() if here.get(n) != v},
        result=result,
    )
