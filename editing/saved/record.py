"""What is written down of an edit: enough to cite it, to check it and to make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from editing.gate import RECORD, Acceptance
from editing.methods.registry import METHODS
from editing.progress import EditResult
from editing.stacking import STACK
from editing.versions import versions
from inspector.errors import EditError
from inspector.model import InspectedModel, Patch, Row
from inspector.safeedit import Case
from inspector.safeedit.scores import Score


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
        gate: The acceptance gate's word (:meth:`editing.gate.Acceptance.record`); ``None`` where it was not asked.
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
    gate: dict[str, Any] | None = None

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
) -> EditRecord:
    """Write the record of an edit.

    Args:
        case: The case that it was made on.
        result: What the method returned.
        row: The edited weights as they are to be saved: strength and detector.
        method: Key of the method.
        acceptance: The gate's word; by default that which stands in the patch's settings.
        scores: What a stress test said of these weights.

    Raises:
        EditError: The row has no patch, or the method is unknown.
    """
    if row.patch is None:
        raise EditError("There is no edit to save: these are the vanilla weights. Make an edit first.")
    if method not in METHODS:
        raise EditError(f"Unknown method '{method}'. Valid ones: {', '.join(METHODS)}.")
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
        gate=None if gate is None else dict(gate),
    )


def digest_of(patch: Patch) -> str:
    """Return the SHA-256 over the base's fingerprint and each delta's name and contents, 64 hexadecimal digits."""
    found = hashlib.sha256(patch.fingerprint.encode())
    for delta in patch.deltas:
        found.update(delta.module.encode())
        for part in (delta.left, delta.right):
            if part is not None:
                found.update(str(tuple(part.shape)).encode())
                found.update(part.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _score(score: Score) -> dict[str, Any]:
    def side(of: Any) -> Mapping[str, Any]:
        return {"value": of.value, "low": of.low, "high": of.high, "n": of.n}

    return {"unit": score.unit, "source": score.source, "vanilla": side(score.vanilla), "edited": side(score.edited)}
