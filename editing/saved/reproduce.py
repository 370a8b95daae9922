"""An edit made again from its record: is it the same, to the bit or within which tolerance?"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from editing.calibrating.calibration import to_calibrate
from editing.gate.choice import acts_by
from editing.methods.mend.store import OtherFormat
from editing.methods.registry import METHODS, method_named
from editing.progress import EditResult, Preparation, Step
from editing.saved.record import EditRecord, digest_of, further_cases, settings_in
from editing.saved.sketch import STANDARD_ERROR, sketch_of
from editing.versions import versions
from inspector.errors import EditError
from inspector.model import Detector, InspectedModel, Patch

CLOSE = 1e-3
"""Largest relative difference of the deltas that counts as the same edit on another machine."""


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A saved edit beside the same edit made again.

    Attributes:
        same_bits: Every delta is the same, bit for bit.
        relative: Frobenius norm of the difference over the saved edit's; estimated where only the record is there.
        error: Standard error of that, at most, as a share of it; 0 where both patches were compared.
        largest: Largest difference of a single weight; ``None`` where only the record is there and the bits differ.
        changed: Matrices that are not the same to the bit.
        updates: Number of updates that the new edit keeps.
        other_versions: Software of another version than the saved edit was made with: name -> (saved, here).
        result: The new edit.
        same_detector: Whether the detector that says where it acts is the same one; ``None`` where it acts on every
            prompt, or where the record does not tell.
    """

    same_bits: bool
    relative: float
    error: float
    largest: float | None
    changed: tuple[str, ...]
    updates: int
    other_versions: dict[str, tuple[str, str]]
    result: EditResult
    same_detector: bool | None = None

    @property
    def same_deltas(self) -> bool:
        """Whether it is the same change, to the bit or within :data:`CLOSE`; an estimate, two standard errors up."""
        return self.same_bits or self.relative * (1 + 2 * self.error) <= CLOSE

    @property
    def same(self) -> bool:
        """Whether it is the same edit: the same change, acting in the same place."""
        return self.same_deltas and self.same_detector is not False

    def reading(self, record: EditRecord) -> str:
        """Say how close it came, in one or two sentences."""
        if self.same_bits:
            told = f"The same edit, to the bit: patch {record.identifier}, {self.updates} updates."
        else:
            how = (
                f"estimated from the record alone, standard error at most {100 * self.error:.0f} % of that"
                if self.largest is None
                else f"largest difference of a weight {self.largest:.2g}"
            )
            close = "The same edit within" if self.same_deltas else "Another edit:"
            told = (
                f"{close} {self.relative:.2g} of its norm ({how}); "
                f"{len(self.changed)} matri{'x' if len(self.changed) == 1 else 'ces'} differ; {record.updates} updates "
                f"then, {self.updates} now."
            )
        if self.same_detector is not None:
            told += (
                " It acts where the same detector fires."
                if self.same_detector
                else " But it acts elsewhere, by another detector, so it is not the same edit."
            )
        elif record.routed:
            told += " Its record does not tell which detector it acts by."
        if not self.same_deltas and record.learnt_from is None and METHODS[record.method].learns_from_companions:
            told += " Its record, of an earlier version, does not tell whether it was trained on further cases."
        changed = ", ".join(f"{name} {then} then, {now} now" for name, (then, now) in self.other_versions.items())
        return f"{told} Other versions: {changed}." if changed else told


def reproduce(
    model: InspectedModel,
    saved: Patch | None,
    record: EditRecord,
    cancel: Callable[[], bool] = lambda: False,
    detector: Detector | None = None,
) -> Generator[Preparation | Step, None, Reproduction | None]:
    """Make a saved edit again and compare.

    Args:
        saved: The patch that the record belongs to (:func:`editing.saved.files.load_edit`); ``None`` where only the
            record is there, whose hash says whether it is the same to the bit, and whose sketch how far it is else.
        detector: The model's, from which that of a routed edit is made again.

    Returns:
        How close it came; ``None`` when cancelled.

    Raises:
        EditError: The base or its dtype is another, the edit was made on top of another, its method is unknown; or it
            came out otherwise, and the record has no sketch and no patch beside it that would say how far; or it is
            routed, and the model has no detector; or it was trained on further cases that its record does not keep; or
            the editor network that is there is of another prompt format.
        PatchError: Its settings are not those of this version.
    """
    if record.fingerprint != model.fingerprint or record.dtype != model.dtype_name:
        raise EditError(
            f"The edit was made on {record.model} ({record.fingerprint}) in {record.dtype}; this is "
            f"{model.fingerprint} in {model.dtype_name}. Load that model with --dtype {record.dtype}."
        )
    if record.stacked:
        raise EditError("The edit was made on top of another one. Make both again, one after the other.")
    wanted = (record.gate or {}).get("detector") if record.routed else None
    if wanted and detector is None:
        raise EditError(f"The edit is routed, and {model.name} has no detector yet. {to_calibrate(model)}")
    settings = settings_in(record)
    method, learnt_from = method_named(record.method), record.learnt_from
    if learnt_from is None and saved is not None and (count := further_cases(method, saved)):
        raise EditError(
            f"The edit was trained on {count} further case{'' if count == 1 else 's'}, and its record is of an earlier "
            "version that does not keep them. Run the method with them again and save that edit."
        )
    try:
        result = yield from method.run(
            model, record.case, record.block, settings, companions=learnt_from or (), cancel=cancel
        )
    except OtherFormat as error:
        raise EditError(
            f"The editor network that is there for {model.name} was trained in another prompt format than that of this "
            "edit, so it does not make it again. If another editor network made the edit, put that one's file back; "
            "else use the saved edit as it is."
        ) from error
    if result.patch is None:
        return None
    same_detector = None
    if wanted and detector is not None:
        own = yield from acts_by(model, detector, record.case, result.patch.format, cancel)
        if own is None:
            return None
        same_detector = own.digest == wanted
    here = versions()
    return Reproduction(
        *_compared(saved, record, result.patch),
        updates=result.kept,
        other_versions={n: (v, here.get(n, "none")) for n, v in record.versions.items() if here.get(n) != v},
        result=result,
        same_detector=same_detector,
    )


def _compared(
    saved: Patch | None, record: EditRecord, new: Patch
) -> tuple[bool, float, float, float | None, tuple[str, ...]]:
    """Return the first five attributes of a :class:`Reproduction`."""
    if digest_of(new) == record.digest:
        return True, 0.0, 0.0, 0.0, ()
    made = sketch_of(new)
    if saved is not None:
        relative, largest = _apart(saved, new)
        return False, relative, 0.0, largest, sketch_of(saved).changed(made)
    if record.sketch is None:
        raise EditError(
            f"The edit came out otherwise than {record.identifier} to the bit, and its record is of an earlier version "
            "that does not tell how far a patch is from it. Put its .safetensors beside the record."
        )
    return False, record.sketch.relative_difference(made), STANDARD_ERROR, None, record.sketch.changed(made)


def _apart(saved: Patch, new: Patch) -> tuple[float, float]:
    """Return the Frobenius norm of the difference over the saved patch's, and the largest difference of a weight."""
    square = largest = 0.0
    old, made = ({delta.module: delta for delta in patch.deltas} for patch in (saved, new))
    for name in dict.fromkeys([*old, *made]):
        one, two = (None if name not in patch else patch[name].dense() for patch in (old, made))
        difference = -two if one is None else one if two is None else one - two  # type: ignore[operator]
        square += float(difference.double().square().sum())
        largest = max(largest, float(difference.abs().max()))
    return square**0.5 / max(saved.norm, 1e-30), largest
