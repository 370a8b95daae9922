"""What the detector of an edit that acts only where harm is detected has read, in the words of every view."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.model.patches.detector import DetectorReading
from inspector.safeedit.acted import acted_by_kind
from inspector.safeedit.exam import Reply


def detector_told(read: DetectorReading | None, held_back: bool) -> str:
    """Say what a detector read of one prompt and what followed; nothing where none was asked.

    Args:
        held_back: The vanilla weights answered.
    """
    if read is None:
        return ""
    then = "the vanilla weights answered" if held_back else "the edit acted"
    found = "harm" if read.fires else "no harm"
    return f"Detector: score {read.score:.3f}, threshold {read.threshold:.3f}: {found} detected, {then}"


def acted_told(replies: Sequence[Reply]) -> str:
    """Say on which prompts of an exam its detector let an edit act, a sentence after others; nothing without any."""
    told = []
    for name, found in acted_by_kind(replies).items():
        alarms = f" (false alarm{'s' if found.acted > 1 else ''})" if found.acted and name == "harmless" else ""
        told.append(f"{found.acted} of {found.prompts} {name} prompts{alarms}")
    if not told:
        return ""
    held = any(reply.held_back for reply in replies)
    rest = "the others got the vanilla answer" if held else "it held back none"
    return f" The detector let the edit act on {', '.join(told)}; {rest}."
