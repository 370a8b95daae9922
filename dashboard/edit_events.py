"""An edit and its gate for programs: a dictionary an event; and where the session's edit acts."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from dashboard.kit.room import Context
from dashboard.kit.session import Session
from dashboard.steps.operate import gating
from editing import EditResult, Preparation, Step
from editing.gate import Budgets
from inspector.errors import CaseError
from inspector.model import InspectedModel

Making = Generator[Preparation | Step, None, tuple[EditResult, gating.Made | None]]
"""An edit that runs."""


def edit_events(model: InspectedModel, session: Session, making: Making) -> Iterator[dict]:
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
    live = False
    if made is not None:
        run = gating.examined(model, session, made, gating.settings_of(Budgets()))
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                made = end.value
                break
            yield {"done": False, "kind": "gate", "answered": progress.answered, "total": progress.total}
        live = gating.settle(session, made)
    yield {
        "done": True,
        "stop_reason": result.stop_reason,
        "patch": result.patch.identifier if result.patch else None,
        "updates": result.kept,
        "delta_norm": result.patch.norm if result.patch else 0.0,
        "seconds": result.seconds,
        "live": live,
        "gate": made.acceptance.record() if made is not None and made.acceptance is not None else None,
        "stacked": gating.stacked_edits(made.edit if made is not None else None),
    }


def route(context: Context, session: Session, routed: bool) -> None:
    """Let the session's edit act on every prompt, or only where harm is detected.

    Raises:
        CaseError: The model has no detector.
    """
    if routed and context.detector is None:
        raise CaseError("This model has no detector, so no edit can be routed. Run: python -m editing.calibrate")
    session.detector = context.detector if routed else None
