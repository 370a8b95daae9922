"""What Edit does; no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator

from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import Texts, case_of
from dashboard.steps.operate.gating import Below, Made
from editing import DinmSettings, EditResult, Preparation, Step, dinm
from editing.calibrating.trial_edits import Layers
from editing.stacking import edit_on_top
from inspector.errors import CaseError
from inspector.model import InspectedModel

Making = Generator[Preparation | Step, None, tuple[EditResult, Made | None]]
"""An edit that runs."""


def why_no_layer(layers: Layers | None, settings: DinmSettings) -> str | None:
    """Say why nothing is edited where trial edits of this model helped at no layer; ``None`` where an edit is made.

    Args:
        layers: What trial edits achieve at each layer; ``None`` if none were made.
        settings: Of the edit that was asked for: the paper's presets are an explicit choice and edit all the same.
    """
    if layers is None or layers.why_none is None or settings.preset != "corrected":
        return None
    return f"{layers.nothing_edited} To edit the toxic layer all the same, choose the preset paper or reference."


def make(
    model: InspectedModel, session: Session, texts: Texts, block: int, settings: DinmSettings, on_top: bool = False
) -> Making:
    """Run DINM; nothing is live yet.

    Args:
        on_top: Start from the live edit at its strength instead of from vanilla; the patch is the stack of both.

    Returns:
        The result, and the edit unless it was cancelled.

    Raises:
        CaseError: An edit on top is asked for, and none is live; or it is more than a visitor may ask.
        PatchError: The live edit is asked in another prompt format; said before the edit runs.
    """
    session.limits.require_steps(settings.steps)
    session.limits.require_harmless(settings.harmless_prompts, settings.harmless_at_once)
    case, cancel = case_of(texts), session.cancelled.is_set
    if not on_top:
        result = yield from dinm(model, case, block, settings, cancel=cancel)
        return result, None if result.patch is None else Made(LiveEdit(case, result))
    live = session.live
    if live is None:
        raise CaseError("No edit is live, so there is none to edit on top of. Untick 'On top', or press Operate first.")
    below = Below(live, session.weights, session.detector)
    result = yield from edit_on_top(
        model, below.row, lambda carrying: dinm(carrying, case, block, settings, cancel=cancel), settings.format
    )
    made = LiveEdit(case, result, (*live.below, live.case))
    return result, None if result.patch is None else Made(made, below)


def edit(
    model: InspectedModel, session: Session, texts: Texts, block: int, settings: DinmSettings
) -> Generator[Preparation | Step, None, EditResult]:
    """Run DINM without the gate; its patch becomes the session's live edit unless it was cancelled."""
    result, made = yield from make(model, session, texts, block, settings)
    if made is not None:
        session.add(made.edit)
    return result
