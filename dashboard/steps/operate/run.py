"""What Edit does; no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator

from dashboard.kit.session import LiveEdit, Session
from dashboard.kit.typed import Texts, case_of
from editing import DinmSettings, EditResult, Preparation, Step, dinm
from inspector.model import InspectedModel


def edit(
    model: InspectedModel, session: Session, texts: Texts, block: int, settings: DinmSettings
) -> Generator[Preparation | Step, None, EditResult]:
    """Run DINM; its patch becomes the session's live edit unless it was cancelled."""
    case = case_of(texts)
    result = yield from dinm(model, case, block, settings, cancel=session.cancelled.is_set)
    if result.patch is not None:
        session.add(LiveEdit(case, result))
    return result
