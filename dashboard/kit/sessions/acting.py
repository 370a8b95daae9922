"""Where a visitor's edits act: what they ask for, and where each edit acted when it was live last."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dashboard.kit.sessions.session import LiveEdit, Session
from editing.calibrating.calibration import to_calibrate
from editing.gate.choice import acts_by
from editing.progress import Preparation
from inspector.errors import CaseError
from inspector.model import Detector, InspectedModel

Wish = Literal["gate", "everywhere", "where harm"]
"""Where the next edit is to act: as the gate finds best, on every prompt, or only where harm is detected."""
EVERYWHERE, WHERE_HARM = "acts on every prompt", "acts only where harm is detected"
"""The two ways in which an edit can act, as the switch and the columns of tables name them."""
WHERE_IT_ACTS = "where the edit acts"
"""What a link calls that."""


@dataclass
class Acting:
    """What a visitor asks for.

    Attributes:
        wish: Of the next edit.
        routed: Identifiers of the patches that acted only where harm is detected when they were live last.
        detectors: What each of them acted on last, or would act on; a file can bring a detector of its own.
    """

    wish: Wish = "gate"
    routed: frozenset[str] = frozenset()
    detectors: Mapping[str, Detector] = field(default_factory=dict)


def wish_of(session: Session) -> Wish:
    """Return where a visitor's next edit is to act."""
    return session.slot(Acting).wish


def route(session: Session, detector: Detector | None) -> None:
    """Let the live edit act only where a detector fires, or on every prompt; remembered for Undo.

    A visitor who has asked for one of the two asks for this one from now on, so that the switch says what is so.
    """
    session.detector = detector
    live, kept = session.live, session.slot(Acting)
    if live is None:
        return
    own = {live.patch.identifier}
    kept.routed = kept.routed - own if detector is None else kept.routed | own
    if detector is not None:
        kept.detectors = {**kept.detectors, live.patch.identifier: detector}
    if kept.wish != "gate":
        kept.wish = "everywhere" if detector is None else "where harm"


def make_live(session: Session, edit: LiveEdit, detector: Detector | None) -> None:
    """Make an edit the live one, at strength 1, acting where a detector fires or on every prompt."""
    session.add(edit)
    route(session, detector)


def undo(session: Session) -> LiveEdit | None:
    """Drop the live edit and return the one before, if there is one.

    It acts as it acted when it was live last, at the strength that it had then; what the visitor has asked for since
    follows it, see :func:`route`.
    """
    live = session.undo()
    if live is None:
        session.detector = None
        return None
    route(session, acted_by(session, live))
    return live


def switched(session: Session, before: Wish) -> str:
    """Say where the live edit acts if the switch has changed with it, as it does when an edit comes back; else nothing.

    Args:
        before: Where the visitor's next edit was to act before it came back.
    """
    wish = wish_of(session)
    if wish in ("gate", before):
        return ""
    acts = EVERYWHERE if wish == "everywhere" else WHERE_HARM
    return f"{acts}, as it did. The switch says so now, and the next edit acts so, too."


def acted_by(session: Session, edit: LiveEdit) -> Detector | None:
    """Return what an edit acted by when it was live last; ``None`` for on every prompt."""
    kept, patch = session.slot(Acting), edit.patch.identifier
    return kept.detectors.get(patch) if patch in kept.routed else None


def detector_of(
    model: InspectedModel, session: Session, detector: Detector | None
) -> Generator[Preparation, None, Detector | None]:
    """Make what a visitor's live edit acts by where it acts only where harm is detected.

    That by which it has acted before, or that was made for it already, else its own (:func:`detector_for`).

    Args:
        detector: The model's.

    Yields:
        How far it is.

    Returns:
        The detector; ``None`` when the visitor has cancelled.

    Raises:
        CaseError: The model has none.
    """
    live, found = session.live, require_detector(model, detector)
    if live is None:
        return found
    kept, patch = session.slot(Acting), live.patch.identifier
    if patch in kept.detectors:
        return kept.detectors[patch]
    own = yield from detector_for(model, session, found, live)
    if own is not None:
        kept.detectors = {**kept.detectors, patch: own}
    return own


def detector_for(
    model: InspectedModel, session: Session, detector: Detector, edit: LiveEdit
) -> Generator[Preparation, None, Detector | None]:
    """Make a detector that fires on an edit's own question as well, and on those of the edits that it stands on.

    Args:
        detector: The model's.
        edit: The edit, live or not.

    Yields:
        How far it is.

    Returns:
        The detector; ``None`` when the visitor has cancelled.
    """
    return acts_by(model, detector, edit.case, edit.format, session.cancelled.is_set, below=edit.below)


def require_detector(model: InspectedModel, detector: Detector | None) -> Detector:
    """Return a model's detector.

    Raises:
        CaseError: It has none.
    """
    if detector is None:
        raise CaseError(f"This model has no detector, so no edit can be routed. {to_calibrate(model)}")
    return detector
