"""What the case says about itself."""

from __future__ import annotations

from dashboard.kit.html import reading
from dashboard.steps.case.run import PromptView


def prompt_reading(view: PromptView) -> str:
    """Read the assembled prompt's length and what is odd about it."""
    notes = "".join(f"; {note}" for note in view.notes)
    return reading(f"{view.tokens:,} of at most {view.limit:,} tokens{notes}.", "warn" if view.notes else "")
