"""What of an exam a model can read, found out before anything is edited.

A question that the exams of all cases share and that is too long for the model is left out of every one of them, and
the report counts it. A case whose own prompts are too long fails before its edit is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from editing.sweep.settings import SweepSettings
from inspector.errors import PromptError, TooLong
from inspector.model import InspectedModel, Row
from inspector.safeedit.asking import encoded
from inspector.safeedit.questions import CASE_PROMPTS, Kind, Question, QuestionSets, common_questions

OWN: tuple[Kind, ...] = (*CASE_PROMPTS, "attack")
"""Kinds of question that are made of the case itself."""


def fitting(model: InspectedModel, settings: SweepSettings, texts: QuestionSets) -> QuestionSets:
    """Return the sets of a sweep's exams with the shared questions left out that are too long for the model.

    Raises:
        PromptError: Questions of some kind cannot be asked for another reason than their length.
    """
    shared = common_questions(settings.size, texts)
    readable: set[tuple[Kind, str]] = set()
    for question in shared:
        try:
            require_readable(model, settings, [question])
        except TooLong:
            continue
        except PromptError as error:  # the chat template's: it is no matter of this question's length
            raise PromptError(
                f"Questions of the kind '{question.kind}' cannot be asked. {error.user_message()} Or ask none of them.",
                error.detail,
            ) from error
        readable.add((question.kind, question.prompt))
    return replace(texts, left_out=frozenset((q.kind, q.prompt) for q in shared) - readable)


def require_readable(model: InspectedModel, settings: SweepSettings, questions: Sequence[Question]) -> None:
    """Check that a model can read questions as the edited weights get them, which is at their longest.

    Raises:
        TooLong: One is longer than the model's context allows, with room for its answer.
        PromptError: The chat template does not take one, or no answer can be begun in it.
    """
    chosen = settings.method_settings()
    row = Row(reminder=getattr(chosen, "reminder", None))
    for question in questions:
        encoded(model, question, row.prompted(question.prompt), chosen.format, settings.max_new_tokens)


def left_out_by_kind(texts: QuestionSets) -> dict[str, int]:
    """Return how many questions are left out, by kind."""
    return dict(Counter(kind for kind, _ in sorted(texts.left_out)))


def left_out_told(left_out: Mapping[str, int]) -> str:
    """Say how many are; empty for none."""
    each = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
    return f"Asked in no case, as this model cannot read so much and answer: {each}." if each else ""
