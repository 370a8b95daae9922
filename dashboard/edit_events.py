"""An edit and its gate for programs: a dictionary an event; and how the session's edit acts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from dashboard.kit.room import Context
from dashboard.kit.running.run import drain
from dashboard.kit.sessions.acting import Acting, Wish, detector_of, require_detector, route
from dashboard.kit.sessions.session import Session
from dashboard.steps.operate import gating
from dashboard.steps.operate.run import Making
from editing import DinmSettings, EditResult, Preparation, Step
from editing.gate.budgets import DEFAULTS, Budgets
from editing.gate.turns import in_turn
from editing.progress import run as run_quietly
from inspector.errors import CaseError
from inspector.safeedit.exam import Progress

Ended = TypeVar("Ended")


def edit_events(
    context: Context,
    session: Session,
    make: Callable[[DinmSettings], Making],
    tried: Sequence[DinmSettings],
    budgets: Budgets = DEFAULTS,
) -> Iterator[Any]:
    """Make edits in turn until one suffices, and yield a dictionary an event; the last one says what is so.

    Args:
        make: Runs an edit with settings.
        tried: The settings, see :func:`dashboard.steps.operate.gating.asked_for`.
        budgets: The gate's.
    """
    results: list[EditResult] = []

    def making(
        settings: DinmSettings, first: gating.Made | None
    ) -> Generator[dict[str, Any], None, gating.Made | None]:
        word = None if first is None else first.acceptance
        if word is not None:
            yield {"done": False, "kind": "passed" if word.passed else "refused", "gate": word.record()}
        result, made = yield from making_events(make(settings))
        results.append(result)
        return None if made is None else (yield from exam_events(examined(context, session, made, budgets)))

    best = yield from in_turn(tried, making)
    # Of two refused ones the better one waits, and /keep is about that.
    result = results[-1] if best is None else best.edit.result
    yield ended(session, best, result, best is not None and gating.settle(session, best))


def making_events(making: Making) -> Generator[dict[str, Any], None, tuple[EditResult, gating.Made | None]]:
    """Yield a dictionary for each event of an edit, and return what it returns."""

    def told(event: Preparation | Step) -> dict[str, Any]:
        kind = "preparation" if isinstance(event, Preparation) else "step"
        return {"done": False, "kind": kind, **asdict(event)}

    return (yield from drain(making, told))


def gate_events(context: Context, session: Session, made: gating.Made, result: EditResult) -> Iterator[Any]:
    """Hold an edit to the gate, and yield a dictionary an event; the last one says what has become of it.

    Args:
        result: How the edit ended.
    """
    made = yield from exam_events(examined(context, session, made))
    yield ended(session, made, result, gating.settle(session, made))


def examined(
    context: Context, session: Session, made: gating.Made, budgets: Budgets = DEFAULTS
) -> Generator[Preparation | Progress, None, gating.Made]:
    """Ask the gate about an edit, with the budgets that it has by default or others."""
    return gating.examined(context.model, session, made, gating.settings_of(budgets), context.detector)


def ended(session: Session, made: gating.Made | None, result: EditResult, live: bool) -> dict[str, Any]:
    """Say what has become of an edit.

    Args:
        live: The gate has accepted it.
    """
    return {
        "done": True,
        "stop_reason": result.stop_reason,
        "patch": result.patch.identifier if result.patch else None,
        "updates": result.kept,
        "delta_norm": result.patch.norm if result.patch else 0.0,
        "seconds": result.seconds,
        "live": live,
        "routed": made is not None and made.detector is not None,
        "gate": made.acceptance.record() if made is not None and made.acceptance is not None else None,
        "stacked": gating.stacked_edits(made.edit if made is not None else None),
    }


def exam_events(run: Generator[Preparation | Progress, None, Ended]) -> Generator[dict[str, Any], None, Ended]:
    """Yield a dictionary for each of the gate's answers and what comes before, and return what its run returns."""

    def told(event: Preparation | Progress) -> dict[str, Any]:
        if isinstance(event, Preparation):
            return {"done": False, "kind": "preparation", **asdict(event)}
        return {"done": False, "kind": "gate", "answered": event.answered, "total": event.total}

    return (yield from drain(run, told))


def asked_for(
    context: Context, session: Session, settings: DinmSettings, routed: bool | None, by_hand: Collection[str] = ()
) -> tuple[DinmSettings, ...]:
    """Keep where the next edit is to act, and return the edits that are made in turn until one suffices.

    Args:
        routed: Only where harm is detected, or on every prompt; ``None`` for as the gate takes it.
        by_hand: As for :func:`editing.methods.dinm.to_be_routed`.

    Raises:
        CaseError: It is to be routed, and the model has no detector.
    """
    if routed:
        require_detector(context.model, context.detector)
    wishes: dict[bool | None, Wish] = {None: "gate", True: "where harm", False: "everywhere"}
    session.slot(Acting).wish = wishes[routed]
    return gating.asked_for(context.model, session, settings, context.detector, by_hand)


def act(context: Context, session: Session, strength: float | None, routed: bool | None) -> None:
    """Set how the live edit acts; what is ``None`` stays as it is, and so does everything where one is refused.

    Raises:
        CaseError: It is to be routed, and the model has no detector, or that was cancelled.
        PatchError: The strength is out of range.
    """
    own = run_quietly(detector_of(context.model, session, context.detector)) if routed else None
    if routed and own is None:
        raise CaseError("Cancelled before the edit was routed, so it acts where it did.")
    if strength is not None:
        session.scale(float(strength))
    if routed is not None:
        route(session, own)
