"""An edit and its gate for programs: a dictionary an event; and how the session's edit acts."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from dashboard.kit.acting import Acting, Wish, require_detector, route
from dashboard.kit.room import Context
from dashboard.kit.session import Session
from dashboard.steps.operate import gating
from dashboard.steps.operate.run import why_no_layer
from dashboard.steps.operate.settings import to_be_routed
from editing import DinmSettings, EditResult, Preparation, Step
from editing.gate import Budgets
from inspector.errors import RefusedEdit
from inspector.safeedit.exam import Progress

Making = Generator[Preparation | Step, None, tuple[EditResult, gating.Made | None]]
"""An edit that runs."""
Ended = TypeVar("Ended")


def edit_events(context: Context, session: Session, making: Making) -> Iterator[Any]:
    """Run an edit and the gate, and yield a dictionary an event; the last one says what has become of it."""
    run: Any = making
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            result, made = end.value
            break
        kind = "preparation" if isinstance(event, Preparation) else "step"
        yield {"done": False, "kind": kind, **asdict(event)}
    yield from gate_events(context, session, made, result)


def gate_events(context: Context, session: Session, made: gating.Made | None, result: EditResult) -> Iterator[Any]:
    """Hold an edit to the gate, and yield a dictionary an event; the last one says what has become of it.

    Args:
        made: ``None`` where there is no patch to examine.
        result: How the edit ended.
    """
    live = False
    if made is not None:
        settings = gating.settings_of(Budgets())
        made = yield from exam_events(gating.examined(context.model, session, made, settings, context.detector))
        live = gating.settle(session, made)
    yield {
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


def exam_events(run: Generator[Progress, None, Ended]) -> Generator[dict[str, Any], None, Ended]:
    """Yield a dictionary for each of the gate's answers, and return what its run returns."""
    while True:
        try:
            progress = next(run)
        except StopIteration as end:
            return end.value
        yield {"done": False, "kind": "gate", "answered": progress.answered, "total": progress.total}


def asked_for(context: Context, session: Session, settings: DinmSettings, routed: bool | None) -> DinmSettings:
    """Keep where the next edit is to act, and return its settings: one that is to be routed may learn more.

    Args:
        routed: Only where harm is detected, or on every prompt; ``None`` for as the gate takes it.

    Raises:
        CaseError: It is to be routed, and the model has no detector.
        RefusedEdit: Trial edits of this model helped at no layer, and the settings are those of ``corrected``.
    """
    unchanged = why_no_layer(context.layers, settings)
    if unchanged is not None:
        raise RefusedEdit(unchanged)
    if routed:
        require_detector(context.detector)
        settings = to_be_routed(settings)
    wishes: dict[bool | None, Wish] = {None: "gate", True: "where harm", False: "everywhere"}
    session.slot(Acting).wish = wishes[routed]
    return settings


def act(context: Context, session: Session, strength: float | None, routed: bool | None) -> None:
    """Set how the live edit acts; what is ``None`` stays as it is, and so does everything where one is refused.

    Raises:
        CaseError: It is to be routed, and the model has no detector.
        PatchError: The strength is out of range.
    """
    if routed:
        require_detector(context.detector)
    if strength is not None:
        session.scale(float(strength))
    if routed is not None:
        route(session, context.detector if routed else None)
