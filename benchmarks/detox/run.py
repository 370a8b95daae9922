"""One case of the comparison: every row's edit, and one exam for all rows that are asked in one format."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from benchmarks.detox.rows import COMPUTING, ROUNDING, SUFFIX_ALONE, edit_of, routed_name
from editing import run
from editing.calibrating.calibration import Calibration
from editing.gate.choice import acts_by
from editing.memory import memory_told
from inspector.errors import REFUSALS, InspectorError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row
from inspector.model.patches.rounded import computes
from inspector.safeedit import Case
from inspector.safeedit.exam import Evaluation, ExamResult, examine, examine_all
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Question
from inspector.safeedit.records import exam_from, exam_record
from inspector.safeedit.yardstick import rounding_exam

_Got = TypeVar("_Got")


@dataclass(frozen=True)
class Outcome:
    """One row on one case.

    Attributes:
        exam: Its marked exam; a refused edit's is that of the vanilla weights, which it leaves; a failed one has none.
        refused: Why there is no edit, or empty.
        failed: Why nobody knows what it would have been, as where the memory ran out, or empty.
        seconds: Duration of the edit, without exam and location.
    """

    exam: ExamResult | None
    refused: str = ""
    failed: str = ""
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold."""
        exam = None if self.exam is None else exam_record(self.exam)
        return {"exam": exam, "refused": self.refused, "failed": self.failed, "seconds": self.seconds}


def outcome_from(record: dict[str, Any]) -> Outcome:
    """Return the outcome that :meth:`Outcome.record` wrote."""
    exam = None if record["exam"] is None else exam_from(record["exam"])
    return Outcome(exam, record["refused"], record["failed"], record["seconds"])


@dataclass(frozen=True)
class Made:
    """One row's edit: its weights (vanilla where there is none), its format, why it was refused or failed, seconds."""

    row: Row
    format: PromptFormat
    refused: str
    failed: str
    seconds: float


def edits_of(
    model: InspectedModel,
    case: Case,
    calibration: Calibration,
    names: Sequence[str],
    format: PromptFormat,
    routed: bool = False,
) -> dict[str, Made]:
    """Make the edits of the named rows; a routed row comes with the edit that it routes, all with ``routed``."""
    made: dict[str, Made] = {}
    for name in names:
        edit = edit_of(name)
        if edit is None:
            continue
        begun, refused, failed, row = time.perf_counter(), "", "", VANILLA
        try:
            with memory_told():
                result = edit.make(model, case, calibration, format)
                begun, row = time.perf_counter() - result.seconds, result.row()
        except REFUSALS as error:
            refused = error.user_message()
        except InspectorError as error:
            failed = error.user_message()
        seconds = time.perf_counter() - begun
        made[name] = Made(row, edit.settings(format).format, refused, failed, seconds)
        told = "".join(f": {why}" for why in (refused, failed) if why)
        print(f"case {case.identifier}, {name}: {seconds:.0f} s{told}", file=sys.stderr, flush=True)
        if (beside := routed_name(name, routed)) is not None:
            made[beside] = _routed(model, case, calibration, beside, made[name])
    return made


def _routed(model: InspectedModel, case: Case, calibration: Calibration, beside: str, made: Made) -> Made:
    """Let the detector decide where an edit acts; what is no edit stays none."""
    if made.row.patch is None:
        return made
    detector = _tried(
        f"{beside} of case {case.identifier}", acts_by(model, calibration.detector, case, made.row.patch.format)
    )
    if isinstance(detector, str):
        return replace(made, row=VANILLA, failed=detector)
    return replace(made, row=replace(made.row, detector=detector))


def _tried(named: str, work: Generator[Any, None, _Got]) -> _Got | str:
    """Run work to its end and return what it gives; or say and return what stands against it, full memory included."""
    try:
        with memory_told():
            return run(work)
    except InspectorError as error:
        print(f"{named} failed: {error.user_message()}", file=sys.stderr, flush=True)
        return error.user_message()


def outcomes_of(
    model: InspectedModel,
    case: Case,
    questions: Sequence[Question],
    calibration: Calibration,
    names: Sequence[str],
    max_new_tokens: int,
    format: PromptFormat = PromptFormat(),
    evaluation: Evaluation = "same",
    routed: bool = False,
) -> dict[str, Outcome]:
    """Edit one case in every way and examine all of it; what fails in one exam costs its rows, not the others.

    Args:
        names: Rows, of :data:`benchmarks.detox.rows.EDITS`, the suffix alone and the rounded weights.
        evaluation: How edits and rounded weights are asked beside vanilla
            (:data:`inspector.safeedit.exam.EVALUATIONS`).
        routed: Whether every edit of weights has a routed row (:func:`benchmarks.detox.rows.routed_name`).
    """
    judge, decoding = EmbeddedJudge(), Decoding(max_new_tokens=max_new_tokens)
    made = edits_of(model, case, calibration, names, format, routed)
    found, of_case = dict[str, Outcome](), f" of case {case.identifier}"
    asked: dict[str, Any]
    if SUFFIX_ALONE in names:
        both = examine(model, questions, VANILLA, judge, format=format, evaluation="paper", decoding=decoding)
        found[SUFFIX_ALONE] = _outcome(_tried(f"{SUFFIX_ALONE}{of_case}", both))
    for name in (ROUNDING, COMPUTING):
        if name not in names:
            continue
        if name == COMPUTING and not computes(model.device):
            print(f"{name}: left out, as {model.device} does not compute in it", file=sys.stderr, flush=True)
        else:
            asked = {"format": format, "evaluation": evaluation, "decoding": decoding}
            whole = rounding_exam(model, questions, judge, computed=name == COMPUTING, **asked)
            found[name] = _outcome(_tried(f"{name}{of_case}", whole))
    for group in _asked_alike({name: one for name, one in made.items() if not one.failed}):
        first, rows = made[group[0]], [made[name].row for name in group]
        asked = {"format": first.format, "evaluation": evaluation, "decoding": decoding}
        exams = _tried(
            f"{', '.join(group)}{of_case}", examine_all(model, questions, rows, judge, prompts_at_once=AT_ONCE, **asked)
        )
        for place, name in enumerate(group):
            found[name] = _outcome(exams if isinstance(exams, str) else exams[place], made[name])
    for name, one in made.items():
        if one.failed:
            found[name] = _outcome(one.failed, one)
    return {name: found[name] for name in _with_routed(names, routed) if name in found}


def _outcome(exam: ExamResult | str, made: Made | None = None) -> Outcome:
    """Return the outcome of a row from its exam, or from what stands against it."""
    refused, seconds = ("", 0.0) if made is None else (made.refused, made.seconds)
    if isinstance(exam, str):
        return Outcome(None, failed=exam, seconds=seconds)
    return Outcome(exam, refused, seconds=seconds)


def _with_routed(names: Sequence[str], every: bool) -> Iterator[str]:
    """Yield rows in the order in which they were named, each with its routed one after it."""
    for name in names:
        yield name
        if (beside := routed_name(name, every)) is not None:
            yield beside


AT_ONCE = 6
"""Prompts of a batch, each with a line for every row."""


def _asked_alike(made: dict[str, Made]) -> Iterator[list[str]]:
    """Yield the rows that can share an exam: of one prompt format; a reminder changes the prompts and stays alone."""
    groups: dict[Any, list[str]] = {}
    for name, one in made.items():
        groups.setdefault((one.format, one.row.reminder), []).append(name)
    yield from groups.values()
