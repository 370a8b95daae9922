"""The work of a sweep on one case: locate, edit, examine. A plain function, so that any engine can run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from editing.methods.registry import METHODS
from editing.progress import EditResult, run
from inspector.divergence import divergence
from inspector.errors import InspectorError
from inspector.model import Decoding, InspectedModel
from inspector.safeedit.cases import Case
from inspector.safeedit.exam import Texts, examine, make_exam, run_exam
from inspector.safeedit.layouts import read_cases, serves
from inspector.safeedit.records import reply_record
from inspector.safeedit.sets import facts, passages
from inspector.safeedit.sources import more_texts
from inspector.safeedit.verdict import Judge

if TYPE_CHECKING:
    from editing.sweep.settings import SweepSettings


def cases_of(settings: SweepSettings) -> tuple[Case, ...]:
    """Return the cases that a sweep edits on, in order: those that can be edited on and are not kept for scoring."""
    found = [
        case
        for case in read_cases(settings.cases, settings.split).cases
        if "edit" in serves(case)
        and case.split != "score"
        and (not settings.categories or case.category in settings.categories)
    ]
    return tuple(found[: settings.limit])


def texts_of(settings: SweepSettings) -> Texts:
    """Return the sets that every exam of a sweep draws from."""
    attacks, questions = more_texts(settings.attacks)
    known = facts(settings.facts), passages(settings.passages)
    return Texts(facts=known[0], passages=known[1], attacks=attacks, questions=questions)


def work(
    model: InspectedModel, judge: Judge, case: Case, settings: SweepSettings, texts: Texts
) -> tuple[str, dict[str, Any]]:
    """Edit on one case and examine the edit.

    Returns:
        ``done`` and the record, or ``failed`` and why, where the case does not allow it.
    """
    try:
        return "done", _work(model, judge, case, settings, texts)
    except InspectorError as error:
        return "failed", {"error": error.user_message()}


def _work(model: InspectedModel, judge: Judge, case: Case, settings: SweepSettings, texts: Texts) -> dict[str, Any]:
    chosen = settings.method_settings()
    if settings.block.isdigit():
        block = model.architecture.check_block(int(settings.block))
    else:
        measured = divergence(model, case, settings.locate, suffix=settings.suffix)  # type: ignore[arg-type]
        block = measured.toxic_layer()
    result = run(METHODS[settings.method].run(model, case, block, chosen))
    exam = run_exam(
        examine(
            model,
            make_exam(case, settings.size, texts),
            result.row(),
            judge,
            suffix=settings.suffix,
            chat=chosen.chat,
            decoding=Decoding(max_new_tokens=settings.max_new_tokens),
        )
    )
    return {
        "block": block,
        "patch": result.patch.identifier if result.patch else None,
        "edit": _summary(result),
        "exam_seconds": exam.seconds,
        "replies": [reply_record(reply) for reply in exam.replies],
    }


def _summary(result: EditResult) -> dict[str, Any]:
    first = result.trace[0]
    kept = next(step for step in result.trace if step.step == result.kept)
    return {
        "stop_reason": result.stop_reason,
        "updates": result.kept,
        "safe_probability": [first.safe_probability, kept.safe_probability],
        "unsafe_probability": [first.unsafe_probability, kept.unsafe_probability],
        "constraint_kl": kept.constraint_kl,
        "delta_norm": result.patch.norm if result.patch else 0.0,
        "seconds": result.seconds,
    }
