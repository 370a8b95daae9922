"""The work of a sweep on one case: locate, edit, examine. A plain function, so that any engine can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from editing.calibrating.calibration import calibration_of, load_calibration
from editing.calibrating.layer_choice import LayerChoice, automatic_layer, recommended_layer
from editing.calibrating.trial_edits import Layers
from editing.command import recommended
from editing.gate.choice import acts_by
from editing.memory import memory_told
from editing.methods.registry import METHODS
from editing.progress import EditResult, run
from editing.sweep.fitting import OWN, left_out_by_kind, require_readable
from editing.sweep.settings import AUTO, NOWHERE, ONCE, RECOMMENDED, TOXIC, SweepSettings
from editing.sweep.store import CaseRecord, ExamRecord, Status
from inspector.divergence import Divergence, divergence
from inspector.errors import (
    REFUSALS,
    CaseError,
    EditError,
    InspectorError,
    NotFinite,
    NoVerdict,
    OutOfMemory,
    RefusedEdit,
)
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, Row
from inspector.model.memory.batch_size import MOST
from inspector.safeedit.cases import Case
from inspector.safeedit.exam import asked_as, examine, run_exam
from inspector.safeedit.known import NONE_KNOWN, Known, Pairing, compare
from inspector.safeedit.layouts import read_cases, serves
from inspector.safeedit.questions import Question, QuestionSets, make_exam
from inspector.safeedit.records import reply_record
from inspector.safeedit.sets import facts, passages
from inspector.safeedit.sources import more_texts
from inspector.safeedit.verdict import Judge


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


def texts_of(settings: SweepSettings) -> QuestionSets:
    """Return the sets that every exam of a sweep draws from."""
    attacks, questions = more_texts(settings.attacks)
    known = facts(settings.facts), passages(settings.passages)
    return QuestionSets(facts=known[0], passages=known[1], attacks=attacks, questions=questions)


def chosen_layer(model: InspectedModel, settings: SweepSettings, cases: Sequence[Case]) -> LayerChoice:
    """Return the layer that a sweep edits: a number where one layer serves all cases; and why.

    With ``once`` it is that of the first case that can be located on. With ``auto`` and ``recommended`` it is what
    :mod:`editing.calibrating.layer_choice` chooses.

    Raises:
        InspectorError: No case can be located on; what is wrong with the last one. Or the calibration is damaged, or
            has to be there and is not.
        OutOfMemory: The memory did not suffice for one of them.
    """
    if settings.block == AUTO:
        return automatic_layer(model, _layers(model), settings.method, settings.preset)
    if settings.block == RECOMMENDED:
        return recommended_layer(model, _layers(model), settings.method)
    if settings.block != ONCE:
        named = "Toxic layer, where each case's answers part most" if settings.block == TOXIC else "The layer"
        return LayerChoice(settings.block, f"{named}: --layer asks for it.")
    wrong: InspectorError = CaseError("There is no case to locate on. Check --cases.")
    for number, case in enumerate(cases):
        try:
            with memory_told():
                found = str(_toxic_layer(model, case, settings))
        except OutOfMemory:  # passes with what else the device holds: another case's layer would be chance
            raise
        except InspectorError as error:
            wrong = error
        else:
            name = number if case.identifier is None else case.identifier
            first = "the first case" if number == 0 else f"case {name}, the first one that can be located on"
            return LayerChoice(found, f"Toxic layer of {first}, where its answers part most: --layer asks for it.")
    raise wrong


def recommendation(model: InspectedModel) -> dict[str, Any]:
    """Return the mark that a model's calibration sets beside the toxic layers, with its reason.

    Raises:
        EditError: The calibration is damaged.
    """
    return recommended(model, _layers(model))


def _layers(model: InspectedModel) -> Layers | None:
    known = calibration_of(model)
    return None if known is None else known.layers


def _toxic_layer(model: InspectedModel, case: Case, settings: SweepSettings) -> int:
    return _located(model, case, settings).toxic_layer()


def _located(model: InspectedModel, case: Case, settings: SweepSettings) -> Divergence:
    return divergence(model, case, settings.locator, padding=settings.padding, format=settings.format)


def _detector(model: InspectedModel, digest: str) -> Detector:
    """Return the detector of the model's calibration.

    Raises:
        EditError: It is another one than the sweep began with, or there is none.
    """
    found = load_calibration(model).detector
    if digest and found.digest != digest:
        raise EditError(
            f"This sweep began with the detector {digest}, and the calibration here has {found.digest}. Put back the "
            "calibration that it began with, or start it in another folder."
        )
    return found


def work(
    model: InspectedModel,
    judge: Judge,
    case: Case,
    settings: SweepSettings,
    texts: QuestionSets,
    known: Known = NONE_KNOWN,
    number: int = 0,
    detector: str = "",
) -> tuple[Status, CaseRecord]:
    """Edit on one case and examine the edit; what a person can mend in one case does not cost the others.

    Args:
        known: Vanilla answers that the cases share.
        number: Place of the case in the sweep; the batch that is asked again to check them goes with it.
        detector: Digest of the detector that the sweep began with, by which its patches act; empty for whichever is
            there.

    Returns:
        ``done`` and the record; ``refused`` with the reason and the record of the vanilla weights, which is what a
        refused edit leaves, and one with which the model predicts no numbers; or ``failed`` and why, where the case
        could not be located on, edited on or asked, or the memory did not suffice. Where the edit is examined both
        ways, the status is that of the edit on every prompt, and the second exam has its own reason.
    """
    try:
        with memory_told():
            return _work(model, judge, case, settings, texts, known, number, detector)
    except InspectorError as error:
        return "failed", CaseRecord(error.user_message())


def _work(
    model: InspectedModel,
    judge: Judge,
    case: Case,
    settings: SweepSettings,
    texts: QuestionSets,
    known: Known,
    number: int,
    detector: str,
) -> tuple[Status, CaseRecord]:
    questions = make_exam(case, settings.size, texts)
    require_readable(model, settings, [question for question in questions if question.kind in OWN])
    chosen = settings.method_settings()
    block: int | None = None
    toxic: int | None = None
    elsewhere = settings.block == NOWHERE or settings.block.isdecimal()
    if settings.block.isdecimal():
        block = model.architecture.check_block(int(settings.block))
    try:
        with memory_told():
            located = _located(model, case, settings)
        toxic, toxic_reason = located.toxic_layer(), located.reason()
    except InspectorError as error:
        if not elsewhere:
            raise
        toxic_reason = error.user_message()
    if not elsewhere:
        block = toxic
    result, refused = None, ""
    try:
        if block is None:
            raise RefusedEdit(_NO_LAYER)
        result = run(METHODS[settings.method].run(model, case, block, chosen))
    except REFUSALS as error:
        refused = error.user_message()
    plain = VANILLA if result is None else result.row(), refused
    routed = plain if settings.acts == "always" else _routed(model, case, *plain, detector)
    asked = (model, judge, questions, settings, known, number)
    exam = _examined(*asked, *(routed if settings.acts == "detected" else plain))
    second: ExamRecord | None = None
    if settings.acts == "both":
        # Without a patch both ways are one exam, whose batch is asked again once.
        second = _examined(*asked, *routed) if plain[0].patch else replace(exam, pairing=Pairing())
    if all(one is None or one.error for one in (exam, second)):
        result = None
    record = CaseRecord(
        **vars(exam),
        block=block,
        toxic_layer=toxic,
        toxic_reason=toxic_reason,
        edit=None if result is None else _summary(result),
        left_out=left_out_by_kind(texts),
        routed=second,
    )
    return ("refused" if exam.error else "done"), record


def _routed(model: InspectedModel, case: Case, row: Row, refused: str, detector: str) -> tuple[Row, str]:
    """Return an edit as it acts only where the detector fires, or vanilla and why not; the same without a patch."""
    if row.patch is None:
        return row, refused
    try:
        return replace(row, detector=run(acts_by(model, _detector(model, detector), case, row.patch.format))), ""
    except REFUSALS as error:
        return VANILLA, error.user_message()


def _examined(
    model: InspectedModel,
    judge: Judge,
    questions: Sequence[Question],
    settings: SweepSettings,
    known: Known,
    number: int,
    row: Row,
    refused: str,
) -> ExamRecord:
    """Examine some weights, or vanilla where they predict no numbers; ask one batch again beside what was known.

    Args:
        refused: Why the weights are vanilla; empty for an edit's.
    """
    format = settings.format
    decoding = Decoding(max_new_tokens=settings.max_new_tokens)
    plain = asked_as(format, settings.evaluation)
    try:
        exam = run_exam(
            examine(
                model,
                questions,
                row,
                judge,
                format=format,
                evaluation=settings.evaluation,
                decoding=decoding,
                prompts_at_once=MOST,  # whatever memory is free: the same settings give the same results
                known=known,
            )
        )
        pairing = compare(
            model, questions, row, exam.replies, known, number, plain=plain, format=format, decoding=decoding
        )
    except NoVerdict:
        raise
    except NotFinite as error:
        if row.patch is None:
            raise
        # Vanilla's own prediction may be no number either: then this raises as well, and the case fails.
        return _examined(model, judge, questions, settings, known, number, VANILLA, _no_numbers(row, error))
    return ExamRecord(
        error=refused,
        patch=row.patch.identifier if row.patch else None,
        exam_seconds=exam.seconds,
        pairing=pairing,
        replies=tuple(reply_record(reply) for reply in exam.replies),
    )


def _no_numbers(row: Row, error: NotFinite) -> str:
    """Say of an exam that only the vanilla weights come through that its edit is none."""
    remedy = "" if row.detector is not None else " Smaller steps may do as well."
    return (
        f"With this edit ({row.label()}) the model cannot be examined, and with the vanilla weights it can, so it is "
        f"refused. {error.user_message()}{remedy}"
    )


_NO_LAYER = (
    "Trial edits defend at no layer more than this model does by itself, so it is left as it is. Choose --layer toxic "
    "or a number to edit it all the same."
)


def _summary(result: EditResult) -> dict[str, Any]:
    first = result.trace[0]
    kept = result.last
    return {
        "stop_reason": result.stop_reason,
        "updates": result.kept,
        "safe_probability": [first.safe_probability, kept.safe_probability],
        "unsafe_probability": [first.unsafe_probability, kept.unsafe_probability],
        "constraint_kl": kept.constraint_kl,
        "delta_norm": result.patch.norm if result.patch else 0.0,
        "seconds": result.seconds,
    }
