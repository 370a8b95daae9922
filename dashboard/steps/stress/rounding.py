"""The rounding row of a stress test: what bfloat16 by itself does to harmless answers, without any edit; no Gradio."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from weakref import WeakKeyDictionary

from dashboard.kit.sessions.session import Session
from dashboard.steps.stress.run import Examined
from editing.memory import memory_told
from editing.rounding import computes_in_bfloat16, harmless_of, rounded_exam, why_not_rounded
from inspector.errors import CaseError, InspectorError
from inspector.model import Decoding, InspectedModel, PromptFormat
from inspector.model.memory.recent import Recent, named
from inspector.safeedit.exam import ExamResult, Progress
from inspector.safeedit.known import NONE_KNOWN, Known

_ROWS: WeakKeyDictionary[InspectedModel, Recent[str, ExamResult]] = WeakKeyDictionary()
"""Rounding rows by what was asked: bundled prompts that the tests of all cases share, so one row serves them."""
MOST_ROWS = 8


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
    why = why_not_rounded(model)
    if why is None and not any(reply.question.kind == "harmless" for reply in kept.exam.replies):
        why = "No rounding row: this stress test asks no harmless prompt"
    try:
        if why is None:
            with memory_told():
                yield from rounding(model, session, known)
    except InspectorError as error:
        why = f"No rounding row: {error.user_message()}"
    kept.unrounded = why or ""


def rounding(
    model: InspectedModel, session: Session, known: Known = NONE_KNOWN
) -> Generator[Progress, None, ExamResult | None]:
    """Ask the same weights, rounded to bfloat16, the harmless prompts of the session's stress test.

    What was asked of this model before is not asked again.

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
    # Rounded weights were taught nothing, so the row is the same whichever case was edited on.
    harmless = harmless_of([reply.question for reply in kept.exam.replies])
    if not harmless:
        raise CaseError(
            "This stress test asked no harmless prompt, which rounding is measured on. Choose Quick or Full."
        )
    computed = computes_in_bfloat16(model)
    rows = _ROWS.setdefault(model, Recent(MOST_ROWS))
    name = named([question.prompt for question in harmless], kept.exam.format, kept.exam.max_new_tokens, computed)
    before = rows.get(name)
    if before is not None:
        kept.rounded = replace(before, format=kept.exam.format)
        return kept.rounded
    made = yield from rounded_exam(
        model,
        harmless,
        format=kept.exam.format,
        decoding=Decoding(max_new_tokens=kept.exam.max_new_tokens),
        cancel=session.cancelled.is_set,
        known=known,
    )
    if made.cancelled:
        return None
    kept.rounded = made
    rows[name] = replace(made, format=PromptFormat())  # a suffix may be a visitor's own
    return made
