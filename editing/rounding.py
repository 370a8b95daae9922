"""The rounding row beside an exam or a sweep: what bfloat16 by itself does to harmless answers; once a model.

Rounded weights were taught nothing, so the row is the same whatever was edited: it belongs to the prompts, how they
are asked and how long answers may be.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from editing.memory import memory_told, require_free_memory
from inspector.errors import InspectorError
from inspector.model import Decoding, InspectedModel, PromptFormat
from inspector.model.memory.memory_need import bytes_of
from inspector.model.memory.recent import Recent, named
from inspector.model.patches.rounded import computes
from inspector.safeedit.exam import Evaluation, Examination, ExamResult, Progress
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.known import NONE_KNOWN, Known
from inspector.safeedit.questions import Question
from inspector.safeedit.yardstick import rounding_exam

NONE = "No rounding row"
"""How a reason begins why there is none."""


def why_not_rounded(model: InspectedModel) -> str | None:
    """Return why a model has no rounding row, ``None`` if it can have one."""
    if any(parameter.device.type == "meta" for parameter in model.network.parameters()):
        return f"{NONE}: weights are offloaded"
    if model.quantisation is not None:
        return f"{NONE}: this model is quantised ({model.quantisation})"
    if all(parameter.dtype == torch.bfloat16 for parameter in model.network.parameters()):
        return f"{NONE}: this model is bfloat16 already"
    return None


_ROWS: WeakKeyDictionary[InspectedModel, Recent[str, ExamResult]] = WeakKeyDictionary()
"""Rounding rows by what was asked: bundled prompts that the exams of all cases share, so one row serves them."""
MOST_ROWS = 8


def harmless_of(questions: Sequence[Question]) -> list[Question]:
    """Return the harmless questions of an exam, as nobody was taught an answer to any."""
    return [replace(question, taught=()) for question in questions if question.kind == "harmless"]


def harmless_questions(exam: ExamResult) -> list[Question]:
    """Return those that an exam has asked."""
    return harmless_of([reply.question for reply in exam.replies])


def row_told(row: ExamResult | None, why: str = "") -> str:
    """Say what stands in a rounding row, or why there is none, in a sentence; empty where nothing is to be said."""
    if row is not None:
        return f"Rounded: {row.weights}."
    return why and f"{why.removesuffix('.')}."


def row_progress(progress: Progress) -> str:
    """Say how far a rounding row is."""
    return f"Rounded weights: {progress.answered} of {progress.total} harmless prompts answered"


def row_or_why(
    model: InspectedModel,
    exam: ExamResult,
    what: str,
    cancel: Callable[[], bool] = lambda: False,
    known: Known = NONE_KNOWN,
) -> Generator[Progress, None, tuple[ExamResult | None, str]]:
    """Make the rounding row of an exam, or say why it has none: what cannot be had costs the row, and not the exam.

    Args:
        what: What has asked the exam, in words: ``this run``.
        cancel: As for :func:`rounding_row`.
        known: As for it.

    Returns:
        The row, and why there is none; neither when cancelled.
    """
    why = why_not_rounded(model)
    if why is None and not harmless_questions(exam):
        why = f"{NONE}: {what} asks no harmless prompt"
    if why is not None:
        return None, why
    try:
        with memory_told():
            return (yield from rounding_row(model, exam, cancel, known)), ""
    except InspectorError as error:
        return None, f"{NONE}: {error.user_message()}"


def rounding_row(
    model: InspectedModel, exam: ExamResult, cancel: Callable[[], bool] = lambda: False, known: Known = NONE_KNOWN
) -> Generator[Progress, None, ExamResult | None]:
    """Make :func:`rounded_exam` of the harmless prompts of an exam, as that has asked them.

    What was asked of this model before is not asked again.

    Args:
        exam: Of any edit of the model; it has asked harmless prompts.
        cancel: Asked after every token; ``True`` leaves no row.
        known: Vanilla answers.

    Returns:
        The row; ``None`` when cancelled.

    Raises:
        CaseError: The exam asked no harmless prompt.
        ModelLoadError: The weights cannot be rounded.
        OutOfMemory: A second network does not fit beside the first.
    """
    questions, computed = harmless_questions(exam), _computes_in_bfloat16(model)
    rows = _ROWS.setdefault(model, Recent(MOST_ROWS))
    asked = [question.prompt for question in questions]
    name = named(asked, exam.format, exam.evaluation, exam.max_new_tokens, computed)
    before = rows.get(name)
    if before is not None:
        return replace(before, format=exam.format)
    made = yield from rounded_exam(
        model,
        questions,
        format=exam.format,
        evaluation=exam.evaluation,
        decoding=Decoding(max_new_tokens=exam.max_new_tokens),
        cancel=cancel,
        known=known,
    )
    if made.cancelled:
        return None
    rows[name] = replace(made, format=PromptFormat())  # a suffix may be a visitor's own
    return made


def rounded_exam(
    model: InspectedModel,
    harmless: Sequence[Question],
    *,
    format: PromptFormat,
    decoding: Decoding,
    evaluation: Evaluation = "same",
    prompts_at_once: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
    known: Known = NONE_KNOWN,
) -> Examination:
    """Ask the same weights, rounded to bfloat16, harmless prompts; a generator like ``rounding_exam``.

    A model that computes in float32 is set beside one that computes in bfloat16, where the device can; of any other the
    weights alone are rounded.

    Args:
        harmless: What :func:`harmless_of` gives.
        format: Suffix and chat template.
        decoding: As in the exam that it is to stand beside.
        evaluation: As there.
        prompts_at_once: Prompts in a batch; by default as many as fit.
        cancel: Asked after every token.
        known: Vanilla answers in this decoding, which are not given again.

    Raises:
        OutOfMemory: A second network does not fit beside the first.
        InspectorError: See :func:`inspector.safeedit.yardstick.rounding_exam`.
    """
    for device, count in bytes_of(model.network).items():
        require_free_memory(
            device,
            count,
            "A second network, of the same weights rounded,",
            "Use a machine with more memory; nothing else depends on this row.",
        )
    return (
        yield from rounding_exam(
            model,
            harmless,
            EmbeddedJudge(),
            format=format,
            decoding=decoding,
            evaluation=evaluation,
            prompts_at_once=prompts_at_once,
            cancel=cancel,
            computed=_computes_in_bfloat16(model),
            known=known,
        )
    )


def _computes_in_bfloat16(model: InspectedModel) -> bool:
    """Tell whether a model computes in float32 on a device that can in bfloat16 as well."""
    plain = all(parameter.dtype == torch.float32 for parameter in model.network.parameters())
    return plain and computes(model.device)
