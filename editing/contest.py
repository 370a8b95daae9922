"""Several methods on one case, each edited and measured the same way: scores, cost, and "erase or suppress?".

The region is one layer's down-projection, the same for every method, whatever it changes and wherever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from editing.calibrating.layer_choice import automatic_layer
from editing.calibrating.trial_edits import Layers
from editing.gate.choice import acts_by
from editing.guard import check_case
from editing.memory import memory_told, peak_memory
from editing.methods.registry import METHODS, Method, method_named, method_settings
from editing.optimising.trainee import Scope
from editing.progress import EditResult, Preparation, Step
from editing.standing import Standing, toxicity_of
from editing.texts.harmless import harmless_answers
from editing.values import Count
from inspector.divergence import divergence
from inspector.errors import REFUSALS, EditError, InspectorError, NotFinite, NoVerdict
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, PromptFormat, Row
from inspector.region import region_shift
from inspector.safeedit import Case
from inspector.safeedit.exam import Evaluation, Examination, ExamResult, Progress, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import QUICK, QuestionSets, Size, make_exam
from inspector.safeedit.sets import held_out_cases
from inspector.safeedit.verdict import Judge
from inspector.toxicity import Probe
from inspector.validated import settings as checked


@checked(EditError)
class ContestSettings:
    """Settings of a contest.

    Attributes:
        methods: Keys of :data:`editing.methods.registry.METHODS`, in the order in which they run.
        scope: ``LoRA`` or ``full``, for SFT and DPO.
        size: How much each exam asks.
        max_new_tokens: Longest answer.
        format: The prompt format of edits, exams and measurements.
        evaluation: How the exams ask the two weights (:data:`inspector.safeedit.exam.EVALUATIONS`).
        prompts: Adversarial prompts of held-out cases that the activation shift is a mean over, with the case's own.
        changes: Changed settings of methods, by key and name.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    scope: Scope = "LoRA"
    size: Size = QUICK
    max_new_tokens: Count = 64
    format: PromptFormat = PromptFormat()
    evaluation: Evaluation = "same"
    prompts: Annotated[int, Field(ge=0)] = 18
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in (*self.methods, *self.changes):
            self.of(key)

    def of(self, key: str) -> Any:
        """Return one method's settings.

        Raises:
            EditError: The method or a setting is unknown, or a value is out of range.
        """
        changes = dict(self.changes.get(key, {}))
        if method_named(key).key in ("sft", "dpo"):
            changes.setdefault("scope", self.scope)
        return method_settings(key, **{"format": self.format, **changes})


@dataclass(frozen=True, eq=False)
class ContestProgress:
    """State of a running contest.

    Attributes:
        method: The method that runs.
        message: What it does.
        fraction: Share of the whole contest that is done, 0 to 1.
        seconds: Time since the start.
        standings: The methods that are done.
        trace: Steps of the running edit.
    """

    method: Method
    message: str
    fraction: float
    seconds: float
    standings: tuple[Standing, ...]
    trace: tuple[Step, ...] = ()


ContestEvents = Generator[ContestProgress, None, tuple[Standing, ...]]
EDIT_SHARE = 0.4
"""Share of a method's time that its edit is taken to be, for the progress bar."""
ROUTED = ", routed"
"""What the title of an edit ends with where it acts only where the model's detector finds harm."""
PICK_ONE = "To edit one all the same, pick it by hand."
"""The remedy of a method that edits one layer, where none helps."""


def contest(
    model: InspectedModel,
    case: Case,
    block: int | None,
    settings: ContestSettings = ContestSettings(),
    *,
    region: int | None = None,
    layers: Layers | None = None,
    probe: Probe | None = None,
    judge: Judge | None = None,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> ContestEvents:
    """Run methods on a case one after the other and measure each.

    A method that cannot run (no editor network, an edit that would lower safety, no memory) is a standing that says
    why; an edit that cannot be measured is kept without its scores, and one with which the model predicts no numbers,
    but does with its vanilla weights, is refused. The vanilla answers to harmless prompts are asked before the first
    edit, so that it is not timed with what the later ones find known.

    Args:
        block: The layer that every method edits, as somebody has picked it; ``None`` for the one that
            :func:`editing.calibrating.layer_choice.automatic_layer` chooses for each.
        region: The layer whose down-projection is looked at; by default ``block``, or else the toxic layer.
        layers: What trial edits of the model achieve, for that choice; ``None`` where it is not calibrated.
        probe: For the toxicity of the region; left out without one.
        judge: Reads the exam's answers; the embedded rules by default.
        companions: Further cases that SFT, DPO and Ext-Sub train on; none that is scored.
        cancel: Asked after every event; ``True`` ends the contest and keeps the methods that are done.

    Yields:
        After every step and token.

    Returns:
        A standing for each method that was done.

    Raises:
        CaseError: See :func:`editing.guard.check_case`.
        ArchitectureError: The block or the region does not exist.
    """
    check_case(case)
    for named in (block, region):
        if named is not None:
            model.architecture.check_block(named)
    started = time.perf_counter()
    prompts = [case.adversarial_prompt, *_shift_prompts(case, settings.prompts)]
    looked_at = block if region is None else region

    @cache
    def toxic() -> int:
        return divergence(model, case, format=settings.format).toxic_layer()

    done: list[Standing] = []
    furthest = 0.0
    if settings.methods:
        with suppress(InspectorError), memory_told():  # else each method says what is wrong by itself
            yield from _warmed_up(model, case, settings, cancel, started)
    for number, key in enumerate(settings.methods):
        method = METHODS[key]

        def told(message: str, share: float, trace: Sequence[Step] = (), at: int = number, of: Method = method):
            nonlocal furthest  # a method that prepares twice does not move the bar back
            furthest = max(furthest, (at + share) / len(settings.methods))
            return ContestProgress(of, message, furthest, time.perf_counter() - started, tuple(done), tuple(trace))

        standing: Standing | None = None
        try:
            with memory_told():
                own = automatic_layer(model, layers, key).block(toxic, PICK_ONE) if block is None else block
                standing = yield from _edited(model, case, own, method, settings, companions, cancel, told)
                if standing is None or cancel():
                    break
                standing = yield from _examined(model, case, standing, settings, judge or EmbeddedJudge(), cancel, told)
                if cancel():
                    break
                if not standing.refused:
                    yield told("measuring toxicity and activation shift", 0.95)
                    at = toxic() if looked_at is None else looked_at
                    standing = _looked_into(model, standing, at, prompts, probe)
        except InspectorError as error:
            why = error.user_message()
            if standing is None:
                standing = Standing(method, failed=why, refused=isinstance(error, REFUSALS))
            else:
                standing = replace(standing, unmeasured=why)
        done.append(standing)
        yield told("failed" if standing.failed else "done", 1.0)
        if cancel():
            break
    return tuple(done)


Told = Callable[..., ContestProgress]


def _warmed_up(
    model: InspectedModel, case: Case, settings: ContestSettings, cancel: Callable[[], bool], started: float
) -> Generator[ContestProgress, None, None]:
    """Ask the harmless prompts that the methods' edits watch; they are kept with the model."""
    first = METHODS[settings.methods[0]]
    for key in settings.methods:
        own = settings.of(key)
        alike = getattr(own, "look_alikes", 0.0)
        asking = harmless_answers(model, case, own.harmless_prompts, own.harmless_tokens, own.format, cancel, alike)
        for event in asking:
            message = f"before the first edit: {event.message}"
            yield ContestProgress(first, message, 0.0, time.perf_counter() - started, ())


def _edited(
    model: InspectedModel,
    case: Case,
    block: int,
    method: Method,
    settings: ContestSettings,
    companions: Sequence[Case],
    cancel: Callable[[], bool],
    told: Told,
) -> Generator[ContestProgress, None, Standing | None]:
    """Run one method's edit; ``None`` when cancelled."""
    own = settings.of(method.key)
    given = companions if method.learns_from_companions else ()
    trace: list[Step] = []
    with peak_memory(*model.devices) as peak:
        run = method.run(model, case, block, own, companions=given, cancel=cancel)
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                result: EditResult = end.value
                break
            if isinstance(event, Preparation):
                yield told(event.message, 0.05 * event.fraction, trace)
            else:
                trace.append(event)
                share = 0.05 + (EDIT_SHARE - 0.05) * event.step / max(1, event.steps)
                yield told(f"edit, step {event.step} of at most {event.steps}", share, trace)
    if result.patch is None and result.reminder is None:
        return None
    patch = result.patch
    return Standing(
        method,
        result=result,
        peak_mebibytes=peak.mebibytes,
        parameters_changed=0 if patch is None else patch.parameters_changed,
        delta_norm=0.0 if patch is None else patch.norm,
    )


def exam_of(
    model: InspectedModel,
    case: Case,
    row: Row,
    settings: ContestSettings,
    format: PromptFormat,
    judge: Judge,
    cancel: Callable[[], bool] = lambda: False,
) -> Examination:
    """Examine some weights as a contest examines every edit; a generator like :func:`examine`.

    Args:
        format: The prompt format in which the edit was made.
    """
    return examine(
        model,
        make_exam(case, settings.size, QuestionSets()),
        row,
        judge,
        format=format,
        evaluation=settings.evaluation,
        decoding=Decoding(max_new_tokens=settings.max_new_tokens),
        cancel=cancel,
    )


def examine_routed(
    model: InspectedModel,
    case: Case,
    standing: Standing,
    settings: ContestSettings,
    detector: Detector,
    judge: Judge,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation | Progress, None, Standing | None]:
    """Examine a method's patch again, acting only where harm is detected; its weights are those of the plain standing.

    Args:
        standing: Of an edit of weights, measured or not.
        detector: The model's; the edit acts by one that fires on its case's question as well.

    Yields:
        How far the detector is, then the exam's progress.

    Returns:
        A standing of its own, which says why where it cannot be examined; ``None`` when cancelled.
    """
    result = standing.result
    assert result is not None and result.patch is not None
    line = replace(routed_line(standing), unmeasured="", exam=None)
    format = result.settings.format
    try:
        with memory_told(model):
            own = yield from acts_by(model, detector, case, format, cancel)
            if own is None:
                return None
            exam = yield from exam_of(model, case, replace(standing.row, detector=own), settings, format, judge, cancel)
    except InspectorError as error:
        return replace(line, unmeasured=error.user_message())
    return None if exam.cancelled else replace(line, exam=exam)


def routed_line(standing: Standing) -> Standing:
    """Return a standing under its title as a routed one, without what was measured of its weights."""
    method = replace(standing.method, title=f"{standing.method.title}{ROUTED}")
    return replace(standing, method=method, toxicity=None, shift=None)


def _examined(
    model: InspectedModel,
    case: Case,
    standing: Standing,
    settings: ContestSettings,
    judge: Judge,
    cancel: Callable[[], bool],
    told: Told,
) -> Generator[ContestProgress, None, Standing]:
    """Examine one method's edit; one with which the model predicts no numbers is refused.

    Raises:
        NotFinite: The model predicts none with its vanilla weights either, which says nothing of the edit.
    """
    assert standing.result is not None
    row, trace, format = standing.row, standing.result.trace, standing.result.settings.format

    def asking(of: Row, what: str) -> Generator[ContestProgress, None, ExamResult]:
        run = exam_of(model, case, of, settings, format, judge, cancel)
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                return end.value
            share = EDIT_SHARE + (0.95 - EDIT_SHARE) * progress.fraction
            yield told(f"{what}, {progress.answered} of {progress.total} prompts answered", share, trace)

    try:
        exam = yield from asking(row, "exam")
    except NoVerdict:
        raise
    except NotFinite as error:
        if row.patch is None:
            raise
        yield from asking(VANILLA, "exam of the vanilla weights alone")
        why = f"This edit ({row.label()}) cannot be examined, so it is refused. {error.user_message()}"
        return Standing(standing.method, failed=why, refused=True)
    return replace(standing, exam=exam if exam.replies else None)


def _looked_into(
    model: InspectedModel, standing: Standing, block: int, prompts: Sequence[str], probe: Probe | None
) -> Standing:
    row = standing.row
    assert standing.result is not None
    shift = region_shift(model, prompts, row, block, format=standing.result.settings.format)
    toxicity = None if probe is None else toxicity_of(model, probe, row, block)
    return replace(standing, shift=shift, toxicity=toxicity)


def _shift_prompts(case: Case, count: int) -> list[str]:
    unseen = [other for other in held_out_cases() if other.question != case.question]
    return [other.adversarial_prompt for other in unseen[:count]]
