"""What a row of the ledger says of an edit: where it comes from, the gate's word, its scores; no Gradio."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from dashboard.kit.drawing.html import case_name
from dashboard.steps.keep.kept import InMemory
from dashboard.steps.keep.ledger import Entry
from editing.gate.gate import is_of
from inspector.model import Row
from inspector.safeedit.exam import ExamResult

HERE, IN_METHODS, EXAMPLE, UPLOADED = "made here", "run in Methods", "finished example", "uploaded"
PASSED, BY_HAND, REFUSED, UNSEEN = "passed", "kept by hand", "refused", "not examined"
OTHERWISE = "not as it acts now"
"""The gate has a word on the patch, at another strength or acting elsewhere, and none on these weights."""


def first_entry(made: InMemory, number: int, origin: str, model: str) -> Entry:
    """Return the row of an edit that has none yet: it is not live, and nobody has examined it.

    Args:
        origin: One of :data:`HERE`, :data:`IN_METHODS`, :data:`EXAMPLE`, :data:`UPLOADED`.
        model: The base model's label.
    """
    patch, result = made.edit.patch, made.edit.result
    return Entry(
        number=number,
        patch=patch.identifier,
        model=model,
        fingerprint=patch.fingerprint,
        name="",
        seen=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=origin,
        method=patch.method,
        where=patch.where(),
        case=case_name(made.edit.case),
        settings=_plain(asdict(result.settings)),
        updates=result.kept,
        stopped=result.stop_reason,
        seconds=result.seconds,
        strength=made.strength,
        routed=made.detector is not None,
        gate=UNSEEN,
        reason="",
    )


def with_scores(entry: Entry, exam: ExamResult) -> Entry:
    """Return a row with the scores of an exam, and how it asked."""
    scores = {score.name: (score.vanilla.value, score.edited.value, score.edited.n) for score in exam.scores}
    return replace(entry, scores=scores, asked=exam.asked)


def other_weights(tested: tuple[str, str], row: Row) -> str:
    """Name the weights that were tested where a row of weights is another one; empty where it is that.

    Args:
        tested: Their :attr:`inspector.model.Row.key`.
    """
    if tested == row.key:
        return ""
    return f"{tested[0]}, by another detector" if tested[0] == row.label() else tested[0]


def gate_word(word: dict[str, Any] | None, row: Row) -> str:
    """Return the gate's word on weights in a few words; what it says of other ones is none on these."""
    if word is None:
        return UNSEEN
    if not is_of(word, row):
        return OTHERWISE
    return BY_HAND if word["overridden"] and not word["passed"] else PASSED if word["passed"] else REFUSED


def was_accepted(entry: Entry) -> bool:
    """Tell whether an edit may be live without being asked by the gate: it was live once, or the gate has passed it."""
    return entry.was_live or entry.gate not in (REFUSED, UNSEEN, OTHERWISE)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back, so that a row that was read equals the one that was written."""
    return json.loads(json.dumps(settings))
