"""What Locate does; no Gradio in here."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts, case_of
from inspector.divergence import Divergence, Padding, divergence
from inspector.model import InspectedModel
from inspector.presets import Preset


@dataclass
class LocatedCase:
    """What a visitor has measured, and which layer was picked.

    Attributes:
        divergence: The vanilla divergence of their case.
        first_layer: The first case's layer, if it is chosen once.
        by_hand: The layer that the visitor has picked themselves since Locate was pressed.
        picked: The layer that was picked last, by whom ever.
        why: Why it was, where that is no matter of course; a sentence.
    """

    divergence: Divergence | None = None
    first_layer: int | None = None
    by_hand: int | None = None
    picked: int | None = None
    why: str = ""


def locate(model: InspectedModel, session: Session, texts: Texts, preset: Preset, padding: Padding) -> Divergence:
    """Measure the vanilla divergence and keep it in the session."""
    return keep(session, texts, measure(model, texts, preset, padding))


def measure(model: InspectedModel, texts: Texts, preset: Preset, padding: Padding) -> Divergence:
    """Measure the vanilla divergence of a case."""
    return divergence(model, case_of(texts), preset, padding=padding, format=texts.format)


def keep(session: Session, texts: Texts, measured: Divergence) -> Divergence:
    """Keep what was measured in the session, with the case that it is of."""
    session.case, session.format = case_of(texts), texts.format
    session.slot(LocatedCase).divergence = measured
    return measured
