"""What Locate does; no Gradio in here."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.kit.session import Session
from dashboard.kit.typed import Texts, case_of
from inspector.divergence import Divergence, Padding, divergence
from inspector.model import InspectedModel
from inspector.presets import Preset


@dataclass
class LocatedCase:
    """What a visitor has measured: the vanilla divergence of their case; the first case's layer, if chosen once."""

    divergence: Divergence | None = None
    first_layer: int | None = None


def locate(model: InspectedModel, session: Session, texts: Texts, preset: Preset, padding: Padding) -> Divergence:
    """Measure the vanilla divergence and keep it in the session."""
    case = case_of(texts)
    measured = divergence(model, case, preset, padding=padding, format=texts.format)
    session.case, session.format = case, texts.format
    session.slot(LocatedCase).divergence = measured
    return measured
