"""What mere rounding does to answers: the yardstick beside which the harm of an edit is read.

DL compares texts and falls with every near-tie of a small model, so even the same weights rounded to bfloat16 do not
reach 100. An edit that changes harmless answers less than that changes less than what nobody calls a change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inspector.model.answers.batching import Decoding
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA
from inspector.model.patches.rounded import rounded
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.exam import Evaluation, Examination, ExamResult, examine
from inspector.safeedit.known import NONE_KNOWN, Known
from inspector.safeedit.questions import Question
from inspector.safeedit.scores import Score
from inspector.safeedit.verdict import Judge

YARDSTICK = ("DL", "still answers", "harmless KL")
"""The scores that rounding gives the measure of."""


def rounding_exam(
    model: InspectedModel,
    questions: Sequence[Question],
    judge: Judge,
    *,
    format: PromptFormat = PromptFormat(),
    decoding: Decoding = Decoding(max_new_tokens=64),
    prompts_at_once: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
    computed: bool = False,
    known: Known = NONE_KNOWN,
    evaluation: Evaluation = "same",
) -> Examination:
    """Give an edit's exam to the same weights rounded to bfloat16; a generator like :func:`examine`.

    The result's ``weights`` is :data:`inspector.model.patches.rounded.ROUNDED`, or ``COMPUTED`` of that module. Both
    are asked the same prompts, unless the evaluation is the paper's.

    Args:
        model: Its weights are float32 or float16; a copy takes as much memory again while this runs.
        questions: Those of the exam that it is to stand beside.
        judge: Reads the answers of judged kinds.
        format: Suffix and chat template of the edit.
        decoding: As in the edit's exam.
        prompts_at_once: Prompts in a batch, as for :func:`examine`.
        cancel: Asked after every token; ``True`` ends the exam and keeps what is marked.
        computed: The rounded weights compute in bfloat16 as well.
        known: Answers that the model itself has given in this decoding; the copy alone answers those prompts.
        evaluation: As in the edit's exam: whether the model itself is asked with the suffix, too.

    Raises:
        ModelLoadError: The weights cannot be rounded (:func:`inspector.model.patches.rounded.rounded`).
        CaseError: There is no question.
        PromptError: A prompt is longer than the model's context allows.
    """
    with rounded(model, computed) as copy:
        return (
            yield from examine(
                model,
                questions,
                VANILLA,
                judge,
                format=format,
                decoding=decoding,
                prompts_at_once=prompts_at_once,
                cancel=cancel,
                beside=copy,
                known=known,
                evaluation=evaluation,
            )
        )


def yardstick(exam: ExamResult) -> tuple[Score, ...]:
    """Return what a rounding exam gives to compare an edit with: the scores of :data:`YARDSTICK`."""
    return tuple(score for score in exam.scores if score.name in YARDSTICK)
