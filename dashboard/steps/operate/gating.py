"""The gate after an edit: what it examines, what it holds back, and what is kept all the same; no Gradio in here."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass, replace
from typing import Any

from dashboard.kit.sessions.acting import make_live, require_detector, wish_of
from dashboard.kit.sessions.session import LiveEdit, Session
from editing import DinmSettings, Preparation
from editing.gate.budgets import Budgets
from editing.gate.choice import Chosen, accept_where_best, acts_by
from editing.gate.exam import HARMLESS, QUESTIONS
from editing.gate.gate import RECORD, Acceptance, GateSettings, accept, is_of, overridden, overridden_record, recorded
from editing.gate.turns import attempts
from editing.methods.dinm import to_be_routed
from editing.stacking import StackExam, edits_in, examine_stack
from inspector.errors import CaseError
from inspector.model import Detector, InspectedModel, Row
from inspector.safeedit.exam import Evaluation, Progress

EXAM: dict[str, Any] = {"harmless": HARMLESS, "questions": QUESTIONS, "max_new_tokens": 32}
"""Size of the small exam on the page: that of :class:`editing.gate.gate.GateSettings`."""
STACK_EXAM: dict[str, Any] = {"harmless": 8, "max_new_tokens": 32}
"""Size of the exams that say what a second edit does to the first one's scores."""


@dataclass(frozen=True, eq=False)
class Below:
    """The edit that another one was made on top of.

    Attributes:
        edit: The edit.
        row: Its weights, at the strength at which it was live: what the other one started from.
        detector: What it acted on when it was live; ``None`` for on every prompt.
    """

    edit: LiveEdit
    row: Row
    detector: Detector | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """An edit that is not live yet.

    Attributes:
        edit: The edit.
        below: What it was made on top of, if anything.
        acceptance: The gate's word; ``None`` if it was not examined to the end.
        detector: Where the examined edit acts; ``None`` for on every prompt.
        as_saved: The weights as a file has brought them, strength and detector included, which is how they are
            examined; ``None`` for an edit that was made here.
        strength: Factor on an edit that was made here, 0 to 1.5, with which it is examined and live.
    """

    edit: LiveEdit
    below: Below | None = None
    acceptance: Acceptance | None = None
    detector: Detector | None = None
    as_saved: Row | None = None
    strength: float = 1.0

    @property
    def row(self) -> Row:
        """Its weights, as they were examined."""
        return self.as_saved or replace(self.edit.row(self.strength), detector=self.detector)

    def worded(self, acceptance: Acceptance) -> Made:
        """Return it with another word of the gate."""
        return replace(self, acceptance=acceptance)


@dataclass
class Gated:
    """What the gate holds back for a visitor, and what the last edit on top of another did.

    Attributes:
        held: The edit that waits: refused, or not examined to its end. It waits until another one is made.
        below: What the live edit was made on top of.
        stack: What it did to the first one's scores, as both acted when that was measured.
        drawn_over: Whether the vital signs are of a run since that has left the live edit as it was.
    """

    held: Made | None = None
    below: Below | None = None
    stack: StackExam | None = None
    drawn_over: bool = False

    def live_changed(self) -> None:
        """Forget what belongs to other weights; what waits goes on waiting."""
        self.below = self.stack = None
        self.drawn_over = False


def asked_for(
    model: InspectedModel,
    session: Session,
    settings: DinmSettings,
    detector: Detector | None,
    by_hand: Collection[str] = (),
) -> tuple[DinmSettings, ...]:
    """Return the edits that are made in turn (:func:`editing.gate.turns.in_turn`), as the visitor wants them to act.

    Args:
        settings: What the page shows.
        detector: The model's.
        by_hand: As for :func:`editing.methods.dinm.to_be_routed`.

    Raises:
        CaseError: An edit is to act only where harm is detected, and there is no detector.
    """
    wish = wish_of(session)
    if wish == "gate":
        return attempts(settings, detector, by_hand)
    if wish == "everywhere":
        return (settings,)
    require_detector(model, detector)
    return (to_be_routed(settings, by_hand),)


def settings_of(budgets: Budgets) -> GateSettings:
    """Return the gate's settings for budgets of the page."""
    return GateSettings(budgets=budgets, **EXAM)


def record_of(edit: LiveEdit | None) -> dict[str, Any] | None:
    """Return what the gate said of an edit, ``None`` if it was not asked."""
    return None if edit is None else edit.patch.settings.get(RECORD)


def is_refused(edit: LiveEdit | None) -> bool:
    """Tell whether the gate refuses an edit that nobody has kept against it."""
    word = record_of(edit)
    return word is not None and not word["passed"] and not word["overridden"]


def examined(
    model: InspectedModel, session: Session, made: Made, settings: GateSettings, detector: Detector | None = None
) -> Generator[Preparation | Progress, None, Made]:
    """Ask the gate about an edit, at its strength and acting where the visitor wants it to; else as the gate takes it.

    Args:
        detector: The model's; without one an edit acts on every prompt.

    Raises:
        CaseError: The edit is to act only where harm is detected, and there is no detector.
    """
    wish, row = wish_of(session), made.edit.row(made.strength)
    case, cancel = made.edit.case, session.cancelled.is_set
    beside: dict[str, Any] = {"below": made.edit.below, "acted_by": made.below and made.below.detector}
    if made.as_saved is not None:
        word = yield from accept(model, made.as_saved, case, settings, cancel=cancel)
        taken = None if word is None else Chosen(made.as_saved, word)
    elif wish == "gate":
        taken = yield from accept_where_best(model, row, case, settings, detector=detector, cancel=cancel, **beside)
    else:
        if wish == "where harm":
            found = require_detector(model, detector)
            own = yield from acts_by(model, found, case, made.edit.format, cancel, **beside)
            if own is None:
                return _not_examined(made)
            row = replace(row, detector=own)
        word = yield from accept(model, row, case, settings, cancel=cancel)
        taken = None if word is None else Chosen(row, word)
    if taken is None:
        return _not_examined(made)
    return replace(made, acceptance=taken.acceptance, detector=taken.row.detector)


def _not_examined(made: Made) -> Made:
    """Return an edit whose exam was cancelled."""
    return replace(made, acceptance=None, detector=None)


def settle(session: Session, made: Made) -> bool:
    """Make an edit live that the gate accepts, else hold it back; tells whether it is live."""
    kept = session.slot(Gated)
    if made.acceptance is None or not made.acceptance.accepted:
        kept.held = made
        return False
    kept.held = None
    make_live(session, _with_word(made.edit, made.acceptance), made.detector)
    session.scale(made.strength if made.as_saved is None else made.as_saved.strength)
    kept.below = made.below
    return True


def keep(session: Session) -> LiveEdit:
    """Make the edit live that the gate has refused, or keep the live one that it refuses; the patch says so.

    Raises:
        CaseError: Nothing waits, or it was not examined.
        EditError: It was not refused.
    """
    held = session.slot(Gated).held
    if held is None and is_refused(session.live):
        live = session.live
        assert live is not None
        word = overridden_record(live.patch.settings[RECORD])
        patch = replace(live.patch, settings={**live.patch.settings, RECORD: word})
        session.edits = [*session.edits[:-1], replace(live, result=replace(live.result, patch=patch))]
        return session.edits[-1]
    if held is None:
        raise CaseError("The gate has refused no edit, so there is nothing to keep against it. Press Operate first.")
    if held.acceptance is None:
        raise CaseError("The gate has not examined this edit to its end. Press Examine first.")
    settle(session, replace(held, acceptance=overridden(held.acceptance)))
    live = session.live
    assert live is not None
    return live


def examine_now(
    model: InspectedModel, session: Session, settings: GateSettings, detector: Detector | None = None
) -> Generator[Preparation | Progress, None, bool]:
    """Ask the gate about the edit that waits, else about the live one as it acts now, at its strength.

    One that a file has brought to act on every prompt is examined where harm is detected if the visitor asks for that.
    A live edit stays live whatever the gate says: it was made live by hand, and Undo is beside it. That it was kept
    against a refusal stays on its record where it is examined as it was then; at another strength, on other prompts or
    by another detector nobody has kept it yet.

    Args:
        detector: The model's.

    Returns:
        Whether other weights are live now.

    Raises:
        CaseError: There is no edit.
    """
    held = session.slot(Gated).held
    if held is not None:
        saved = held.as_saved
        if saved is not None and saved.detector is None and wish_of(session) == "where harm":
            held = replace(held, as_saved=None, strength=saved.strength)
        return settle(session, (yield from examined(model, session, held, settings, detector)))
    live = session.live
    if live is None:
        raise CaseError("No edit is live and none waits, so there is nothing to examine. Press Operate first.")
    word = yield from accept(model, session.row, live.case, settings, cancel=session.cancelled.is_set)
    if word is not None:
        before = record_of(live)
        # Who loosened a budget has kept the edit against no refusal.
        by_hand = (
            before is not None and before["overridden"] and not before.get("loosened") and is_of(before, session.row)
        )
        session.edits = [*session.edits[:-1], _with_word(live, replace(word, overridden=by_hand))]
    return False


def stack_exam(
    model: InspectedModel, session: Session, evaluation: Evaluation = "same"
) -> Generator[Preparation, None, StackExam | None]:
    """Measure what the live edit, made on top of another, does to that one's scores; kept unless it was cancelled.

    Each is asked as it acts, or acted, when it is live: at its strength, and where its detector fires if it has one.

    Args:
        evaluation: Whether vanilla is asked with the suffix, too (:data:`inspector.safeedit.exam.EVALUATIONS`).

    Raises:
        CaseError: The live edit was made on top of none.
    """
    kept, live = session.slot(Gated), session.live
    if kept.below is None or live is None:
        raise CaseError("The live edit was made on top of no other, so there is nothing to compare.")
    run = examine_stack(
        model,
        (kept.below.edit.case, live.case),
        replace(kept.below.row, detector=kept.below.detector),
        session.row,
        evaluation=evaluation,
        cancel=session.cancelled.is_set,
        **STACK_EXAM,
    )
    measured = yield from run
    if measured is not None:
        kept.stack = measured
    return measured


def stack_exam_due(session: Session, evaluation: Evaluation) -> bool:
    """Tell whether a live edit on top of another was not examined as it acts now, asked so."""
    kept = session.slot(Gated)
    if kept.below is None or session.live is None:
        return False
    known = kept.stack
    return known is None or known.both != session.row.key or known.evaluation != evaluation


def stacked_edits(edit: LiveEdit | None) -> int:
    """Return how many edits are stacked in one."""
    return 0 if edit is None else edits_in(edit.patch)


def _with_word(edit: LiveEdit, word: Acceptance) -> LiveEdit:
    return replace(edit, result=replace(edit.result, patch=recorded(edit.patch, word)))
