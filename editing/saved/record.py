"""What is written down of an edit: enough to cite it, to check it and to make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from editing.gate.gate import RECORD, Acceptance
from editing.methods.registry import METHODS, Method, method_named
from editing.progress import STOP_TEXT, EditResult
from editing.saved.sketch import ReadSketch, add_delta, sketch_of
from editing.stacking import STACK, edits_in
from editing.versions import versions
from inspector.errors import EditError, PatchError
from inspector.model import InspectedModel, Patch, Row
from inspector.neurons import KNOCK_OUT
from inspector.safeedit import Case
from inspector.safeedit.scores import Score
from inspector.validated import read_record

NAMES = (*(method.title for method in METHODS.values()), KNOCK_OUT)
"""What the edits of a patch can be called."""


@dataclass(frozen=True)
class EditRecord:
    """One edit in words and numbers.

    Attributes:
        model: Name of the base model, a hub id or a path.
        revision: Branch, tag or commit of a hub model, if one was named.
        fingerprint: Names the base weights.
        dtype: Data type of the base weights.
        method: Key of :data:`editing.methods.registry.METHODS`.
        block: Block that was edited.
        settings: The method's settings, prompt format and seed among them.
        case: The case that the edit was made on.
        updates: Number of updates that it keeps.
        stop_reason: Why it ended.
        seconds: Duration.
        strength: Factor on the deltas that it was saved with, 0 to 1.5.
        routed: Whether it acts only where a detector fires; the detector then stands beside the patch.
        identifier: Eight digits that name the deltas.
        digest: SHA-256 over base, names and contents of the deltas.
        made: When the record was written, UTC.
        versions: Of the software that computes, by name.
        stacked: Whether it was made on top of another edit, whose change is in it.
        scores: Scores by name: ``vanilla``, ``edited``, their intervals, ``n``, the source.
        asked: How the exam of these scores asked both weights; empty without scores, and in earlier records.
        gate: The acceptance gate's word (:meth:`editing.gate.gate.Acceptance.record`); ``None`` where it was not asked.
        sketch: What it takes to hold another patch against this one without its file; ``None`` in earlier records.
        learnt_from: Further cases that it was trained on, in their order; ``None`` in earlier records.
        below: Cases of the edits that it was made on top of, the earliest first; none in earlier records, and where one
            of them is not known.
    """

    model: str
    revision: str | None
    fingerprint: str
    dtype: str
    method: str
    block: int
    settings: dict[str, Any]
    case: Case
    updates: int
    stop_reason: str
    seconds: float
    strength: float
    routed: bool
    identifier: str
    digest: str
    made: str
    versions: dict[str, str]
    stacked: bool = False
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: str = ""
    gate: dict[str, Any] | None = None
    sketch: ReadSketch | None = None
    learnt_from: tuple[Case, ...] | None = None
    below: tuple[Case, ...] = ()

    @property
    def may_leave(self) -> bool:
        """Whether the gate passed the edit, or a person overrode its refusal, on the record."""
        return self.gate is not None and bool(self.gate.get("passed") or self.gate.get("overridden"))

    def json(self) -> dict[str, Any]:
        """Return the record as JSON can hold it."""
        return asdict(self)


def record_of(
    model: InspectedModel,
    case: Case,
    result: EditResult,
    row: Row,
    *,
    method: str = "dinm",
    acceptance: Acceptance | None = None,
    scores: Sequence[Score] = (),
    asked: str = "",
    below: Sequence[Case] = (),
) -> EditRecord:
    """Write the record of an edit.

    Args:
        case: The case that it was made on.
        result: What the method returned.
        row: The edited weights as they are to be saved: strength and detector.
        method: Key of the method.
        acceptance: The gate's word; by default that which stands in the patch's settings.
        scores: What a stress test said of these weights.
        asked: How it asked both weights (:attr:`inspector.safeedit.exam.ExamResult.asked`).
        below: Cases of the edits that it stands on, the earliest first; kept where all are known.

    Raises:
        EditError: The row has no patch, or the method is unknown.
    """
    if row.patch is None:
        raise EditError("There is no edit to save: these are the vanilla weights. Make an edit first.")
    method_named(method)
    gate = row.patch.settings.get(RECORD) if acceptance is None else acceptance.record()
    return EditRecord(
        model=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint,
        dtype=model.dtype_name,
        method=method,
        block=result.block,
        settings=asdict(result.settings),
        case=case,
        updates=result.kept,
        stop_reason=result.stop_reason,
        seconds=result.seconds,
        strength=row.strength,
        routed=row.detector is not None,
        identifier=row.patch.identifier,
        digest=digest_of(row.patch),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        stacked=STACK in row.patch.settings,
        scores={score.name: _score(score) for score in scores},
        asked=asked,
        gate=None if gate is None else dict(gate),
        sketch=sketch_of(row.patch),
        learnt_from=result.learnt_from,
        below=tuple(below) if len(below) == edits_in(row.patch) - 1 else (),
    )


def check_record(model: InspectedModel, record: EditRecord, patch: Patch) -> None:
    """Check that a record tells of an edit that a method of this program can have made on a model, and of this patch.

    A method that changes one layer can have changed no other, but where its edit stands on top of another one. The
    names of a stack are those of methods: they stand in what is written of it, a script among that.

    Raises:
        PatchError: Its method, its layer, its updates or its end are none that there can be, or not those of the patch;
            or it was trained on another number of further cases than the patch, or stands on another number of edits.
    """
    known = record.method in METHODS and record.stop_reason in STOP_TEXT
    if not known or not 0 <= record.block < model.blocks or record.updates < 1:
        raise PatchError("The record names a method, a layer or an end of the edit that there is not. Choose another.")
    method, stacked = METHODS[record.method], STACK in patch.settings
    same = (record.identifier, record.fingerprint, record.stacked) == (patch.identifier, patch.fingerprint, stacked)
    named = _names(patch)
    possible = all(name in NAMES for name in named) and " + ".join(named) == patch.method
    there = not method.one_layer or (record.block in patch.blocks if stacked else patch.blocks == (record.block,))
    if not same or not possible or named[-1:] != [method.title] or not there:
        raise PatchError("The record tells of another layer, method or edit than its patch. Choose another file.")
    told = record.learnt_from
    if told is not None and not stacked and len(told) != further_cases(method, patch):
        raise PatchError("The record keeps other further cases than its patch was trained on. Choose another file.")
    if record.below and len(record.below) != edits_in(patch) - 1:
        raise PatchError("The record keeps the cases of other edits than those in its patch. Choose another file.")


def further_cases(method: Method, patch: Patch) -> int:
    """Return how many further cases a method's patch says that it was trained on; none where it learns from none."""
    told = patch.settings.get("companions") if method.learns_from_companions else None
    return told if isinstance(told, int) else 0


def settings_in(record: EditRecord) -> Any:
    """Return the settings of a record's method.

    Raises:
        EditError: There is no such method.
        PatchError: They are not those of this version.
    """
    try:
        return read_record(method_named(record.method).settings, record.settings)
    except ValueError as error:
        raise PatchError(
            "The settings of this edit are not those of this version. Use the version it was made with.", str(error)
        ) from error


def digest_of(patch: Patch) -> str:
    """Return the SHA-256 over the base's fingerprint and each delta's name and contents, 64 hexadecimal digits."""
    found = hashlib.sha256(patch.fingerprint.encode())
    for delta in patch.deltas:
        add_delta(found, delta)
    return found.hexdigest()


def _names(patch: Patch) -> list[Any]:
    """Return the method of each edit in a patch, the earliest first; where the patch is from outside, it may be any."""
    told = patch.settings.get(STACK, [{"method": patch.method}])
    if not isinstance(told, list):
        return [None]
    return [part.get("method") if isinstance(part, Mapping) else None for part in told]


def _score(score: Score) -> dict[str, Any]:
    def side(of: Any) -> Mapping[str, Any]:
        return {"value": of.value, "low": of.low, "high": of.high, "n": of.n}

    return {"unit": score.unit, "source": score.source, "vanilla": side(score.vanilla), "edited": side(score.edited)}
