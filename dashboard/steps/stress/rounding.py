"""The rounding row of a stress test: what bfloat16 by itself does to harmless answers, without any edit; no Gradio."""

from __future__ import annotations

from collections.abc import Generator

from dashboard.kit.sessions.session import Session
from dashboard.steps.stress.run import Examined
from editing.rounding import harmless_questions, rounding_row, row_or_why
from inspector.errors import CaseError
from inspector.model import InspectedModel
from inspector.safeedit.exam import ExamResult, Progress
from inspector.safeedit.known import NONE_KNOWN, Known


def with_rounding(
    model: InspectedModel, session: Session, known: Known = NONE_KNOWN
) -> Generator[Progress, None, None]:
    """Put the rounding row beside a stress test that has just ended; where there is none, the session is told why.

    What cannot be had costs this row, and not the test.

    Args:
        known: The vanilla answers of that test, which are not asked again.
    """
    kept = session.slot(Examined)
    if kept.exam is None or kept.exam.cancelled:
        return
    made, kept.unrounded = yield from row_or_why(model, kept.exam, "this stress test", session.cancelled.is_set, known)
    if made is not None:
        kept.rounded = made


def rounding(
    model: InspectedModel, session: Session, known: Known = NONE_KNOWN
) -> Generator[Progress, None, ExamResult | None]:
    """Ask the same weights, rounded to bfloat16, the harmless prompts of the session's stress test.

    Args:
        known: Vanilla answers.

    Returns:
        The exam, which is the session's rounding row; ``None`` when cancelled.

    Raises:
        CaseError: There is no stress test, or it asked no harmless prompt.
        ModelLoadError: The weights cannot be rounded.
        OutOfMemory: A second network does not fit beside the first.
    """
    kept = session.slot(Examined)
    if kept.exam is None:
        raise CaseError("There are no scores to compare rounding with. Press Stress test first.")
    if not harmless_questions(kept.exam):
        raise CaseError(
            "This stress test asked no harmless prompt, which rounding is measured on. Choose Quick or Full."
        )
    made = yield from rounding_row(model, kept.exam, session.cancelled.is_set, known)
    if made is not None:
        kept.rounded = made
    return made
