"""The rounding row of a sweep: what bfloat16 by itself does to the harmless answers, made once and kept with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from editing.memory import memory_told
from editing.rounding import NONE, harmless_of, rounded_exam, why_not_rounded
from editing.sweep.settings import SweepSettings
from inspector.errors import InspectorError
from inspector.model import Decoding, InspectedModel
from inspector.model.memory.batch_size import MOST
from inspector.safeedit.exam import run_exam
from inspector.safeedit.known import Known
from inspector.safeedit.questions import Question, QuestionSets, common_questions
from inspector.safeedit.scores import Score
from inspector.safeedit.yardstick import yardstick


@dataclass(frozen=True)
class Rounded:
    """The rounding row, or why there is none.

    Attributes:
        why: Why there is none; empty for one.
        weights: What answered (:mod:`inspector.model.patches.rounded`).
        prompts: Number of harmless prompts.
        scores: Those that rounding gives the measure of (:data:`inspector.safeedit.yardstick.YARDSTICK`).
    """

    why: str = ""
    weights: str = ""
    prompts: int = 0
    scores: tuple[Score, ...] = ()


def rounded_of(model: InspectedModel, settings: SweepSettings, texts: QuestionSets, known: Known) -> Rounded:
    """Ask the rounded weights the harmless prompts that all cases of a sweep share; what cannot be had costs the row.

    Args:
        texts: The sets that every exam draws from.
        known: Vanilla answers that the cases share, which are not given again.
    """
    why, harmless = why_not_rounded(model), harmless_of(common_questions(settings.size, texts))
    if why is None and not harmless:
        why = f"{NONE}: this sweep asks no harmless prompt"
    if why is not None:
        return Rounded(why)
    said = f"The same weights in bfloat16 answer {len(harmless)} harmless prompts once, as a yardstick of harm."
    print(said, file=sys.stderr, flush=True)
    try:
        with memory_told():
            return _asked(model, settings, harmless, known)
    except InspectorError as error:
        return Rounded(f"{NONE}: {error.user_message()}")


def _asked(model: InspectedModel, settings: SweepSettings, harmless: Sequence[Question], known: Known) -> Rounded:
    exam = run_exam(
        rounded_exam(
            model,
            harmless,
            format=settings.format,
            evaluation=settings.evaluation,
            decoding=Decoding(max_new_tokens=settings.max_new_tokens),
            prompts_at_once=MOST,  # as the exams of the edits
            known=known,
        )
    )
    return Rounded("", exam.weights, len(exam.replies), yardstick(exam))


def rounded_told(row: Rounded | None) -> list[str]:
    """Say what stands in the row, or why there is none; nothing of a sweep that has not tried to make it."""
    if row is None:
        return []
    if row.why:
        return [f"{row.why.removesuffix('.')}."]
    return [
        f"Rounded: {row.weights}, without an edit, on the {row.prompts} harmless prompts that all cases share; an edit "
        "changes harmless answers no more than that where its DL is as high."
    ]
