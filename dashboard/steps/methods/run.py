"""What the controls of "Methods" do, as functions of (model, session, what was chosen); no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import Texts, case_of
from dashboard.kit.sessions.values import evaluation_of
from dashboard.steps.methods.further import can_be_routed, of_own_patches
from dashboard.steps.methods.state import Compared, Contest
from editing import Preparation
from editing.calibrating.trial_edits import Layers
from editing.contest import ROUTED, ContestProgress, ContestSettings, Standing, contest
from editing.gate.choice import acts_by
from editing.methods.registry import METHODS
from editing.optimising.trainee import SCOPES, Scope
from editing.progress import run as run_quietly
from inspector.errors import CaseError
from inspector.model import Detector, InspectedModel, Row
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.questions import FULL, QUICK, Size, make_exam
from inspector.safeedit.verdict import Judge
from inspector.toxicity import kept_probe

BRIEF = Size(transfer=0, harmless=6, facts=4, passages=2)
SIZES = {"Brief": BRIEF, "Quick": QUICK, "Full": FULL}
EXAMPLE_SIZE = Size(transfer=0, harmless=4, facts=0, passages=0)
"""What the finished example's methods are asked: less than a visitor's."""
LONGEST_ANSWER = 40
"""Tokens of an answer where nobody asks for another length."""
ROUNDING = "Rounded"
"""What the line is called that says what bfloat16 by itself does, without any edit."""
TITLES = {method.title: method.key for method in METHODS.values()}
ALONE, TOGETHER = "this case", "with 8 others"
TRAIN_ON = (ALONE, TOGETHER)
"""What the methods that learn from several cases train on: the case, or one of each other category as well."""
UPDATES = ("steps", "warm_up", "anti_steps")
"""Settings of the methods that count updates of weights."""


def companions(case: Case, choice: str) -> tuple[Case, ...]:
    """Return the further cases of a choice: the first bundled one of every other category, none that is scored."""
    if choice == ALONE:
        return ()
    others = [c for c in bundled_cases() if c.split != "score" and c.category != case.category]
    return tuple({c.category: c for c in reversed(others)}.values())[::-1][:8]


def run_contest(
    model: InspectedModel,
    session: Session,
    texts: Texts,
    block: int,
    titles: Sequence[str],
    scope: str,
    train_on: str,
    size: str,
    tokens: int,
    judge: Judge,
    way: str = "same prompts",
    *,
    picked: bool = True,
    layers: Layers | None = None,
) -> Generator[ContestProgress, None, Contest]:
    """Run the chosen methods on the case in the rail; what is done is kept in the session, whatever ends the run.

    Args:
        block: The layer whose region is looked at.
        picked: Somebody has picked that layer, so every method edits it; else each edits its own.
        layers: As for :func:`editing.contest.contest`.

    Raises:
        CaseError: No method is chosen, a choice is unknown, something is missing in the texts, or it is more than a
            visitor may ask.
        PromptError: A text is too long.
        ArchitectureError: The block does not exist.
    """
    if not titles:
        raise CaseError("No method is chosen. Tick at least one.")
    for name, value, known in (
        ("size", size, SIZES),
        ("scope", scope, SCOPES),
        ("training set", train_on, TRAIN_ON),
    ):
        if value not in known:
            raise CaseError(f"Unknown {name} '{value}'. Choose one of: {', '.join(known)}.")
    evaluation = evaluation_of(way)
    session.limits.require_tokens(tokens)
    unknown = [title for title in titles if title not in TITLES]
    if unknown:
        raise CaseError(f"Unknown method '{unknown[0]}'. Choose some of: {', '.join(TITLES)}.")
    case = case_of(texts)
    model.architecture.check_block(block)
    settings = ContestSettings(
        methods=tuple(key for title, key in TITLES.items() if title in titles),
        scope=cast(Scope, scope),
        size=SIZES[size],
        max_new_tokens=max(1, min(1024, tokens)),
        format=texts.format,
        evaluation=evaluation,
    )
    session.limits.require_prompts(len(make_exam(case, settings.size)))
    for key in settings.methods:
        made = settings.of(key)
        session.limits.require_steps(sum(getattr(made, name, 0) for name in UPDATES))
    probe = session.probe or run_quietly(kept_probe(model))
    run = contest(
        model,
        case,
        block if picked else None,
        settings,
        region=block,
        layers=layers,
        probe=probe,
        judge=judge,
        companions=companions(case, train_on),
        cancel=session.cancelled.is_set,
    )
    done = Contest(case, texts.format, block, (), picked)
    for event in run:
        if len(event.standings) > len(done.standings):
            # At once: what comes after it may fail, and a click on the screen's new line must not find an older run.
            done = session.slot(Compared).contest = replace(done, standings=event.standings)
        yield event
    return done


def edits_of(session: Session, example: Session) -> tuple[tuple[LiveEdit, ExamResult | None], ...]:
    """Return the edits of the visitor's last run of several methods, in their order, each with its exam.

    Args:
        example: The finished example's session: what it has run is no visitor's.
    """
    known, shown = session.slot(Compared).contest, example.slot(Compared).contest
    if known is None:
        return ()
    others = [standing.result for standing in shown.standings] if shown is not None else []
    # An exam of a routed line is of the patch as it acts there, not of the weights alone.
    return tuple(
        (LiveEdit(known.case, standing.result), standing.exam if can_be_routed(standing) else None)
        for standing in of_own_patches(known.standings)
        if standing.result is not None and all(standing.result is not other for other in others)
    )


def standing_record(standing: Standing) -> dict[str, Any]:
    """Return what was measured of one method as a dictionary that JSON can hold."""
    result, toxicity, shift = standing.result, standing.toxicity, standing.shift
    patch = result.patch if result is not None else None
    return {
        "method": standing.method.title,
        "failed": standing.failed,
        "unmeasured": standing.unmeasured,
        "layer": None if result is None or not standing.method.one_layer else result.block,
        "patch": None if patch is None else patch.identifier,
        "updates": None if result is None else result.kept,
        "seconds": None if result is None else result.seconds,
        "peak_mebibytes": standing.peak_mebibytes,
        "parameters_changed": standing.parameters_changed,
        "delta_norm": standing.delta_norm,
        "toxicity_change": None if toxicity is None else toxicity.region.change,
        "toxicity_forced": None if toxicity is None else toxicity.forced,
        "neurons_less_toxic": None if toxicity is None else toxicity.less_toxic,
        "region_shift": None if shift is None else shift.mean_input_shift,
        "shift_forced": None if shift is None else shift.forced,
        "shift_by_layer": None if shift is None else shift.by_block.tolist(),
        "scores": [asdict(score) for score in standing.scores],
        "asked": None if standing.exam is None else standing.exam.asked,
        **_detector_record(standing.exam),
    }


def rounding_record(known: Contest) -> dict[str, Any]:
    """Return what bfloat16 by itself does as a further line of a run of several methods, or why there is none."""
    told = standing_record(Standing(METHODS["dinm"], failed=known.rounded_as if known.rounded is None else ""))
    nothing = dict.fromkeys(("peak_mebibytes", "parameters_changed", "delta_norm"))
    scores = [asdict(score) for score in known.yardstick]
    asked = None if known.rounded is None else known.rounded.asked
    return {**told, **nothing, "method": ROUNDING, "scores": scores, "asked": asked}


def _detector_record(exam: ExamResult | None) -> dict[str, Any]:
    """Return what the detector of a routed line read of each prompt, and its false alarms; nothing of a plain line."""
    if exam is None or not exam.detector:
        return {"detector": None, "false_alarms": None}
    read = [(reply.question, reply.reading) for reply in exam.replies if reply.reading is not None]
    return {
        "detector": [
            {"kind": question.kind, "prompt": question.prompt, **asdict(reading), "fires": reading.fires}
            for question, reading in read
        ],
        "false_alarms": sum(reading.fires for question, reading in read if question.kind == "harmless"),
    }


def exam_settings(size: str, tokens: int, way: str) -> ContestSettings:
    """Return the settings of the exam that a run's edits get.

    Raises:
        CaseError: The way is unknown.
    """
    return ContestSettings(size=SIZES[size], max_new_tokens=max(1, min(1024, tokens)), evaluation=evaluation_of(way))


def patch_of(
    model: InspectedModel, session: Session, title: str | None, detector: Detector | None = None
) -> Generator[Preparation, None, tuple[LiveEdit, Row] | None]:
    """Return a method's edit and its weights as its line was examined, for the gate; nothing is live by this.

    Args:
        detector: Routes it where the routed line was picked; a plain line's patch acts on every prompt.

    Yields:
        How far what it acts by is.

    Returns:
        ``None`` when cancelled.

    Raises:
        CaseError: None is picked, or it was not run, has no edit, or makes none.
    """
    if not title:
        raise CaseError("No method is picked. Click a line of the table, then press again.")
    if title == ROUNDING:
        raise CaseError(f"{title} is no method: it says what bfloat16 by itself does. Name a method that was run.")
    known = session.slot(Compared).contest
    standing = known.named(title) if known is not None else None
    if known is None or standing is None:
        raise CaseError(f"{title} was not run. Tick it and press Run methods.")
    if standing.failed:
        raise CaseError(f"{title} made no edit: {standing.failed}")
    result = standing.result
    if result is not None and result.patch is None and result.reminder is not None:
        raise CaseError(f"{title} changes the prompt and no weight, so there is no patch to load. Its answer is below.")
    if result is None or result.patch is None:
        raise CaseError(f"{title}'s patch was not kept. Press Run methods to make it again.")
    routed_by = None
    if detector is not None and title.endswith(ROUTED):
        cancel = session.cancelled.is_set
        routed_by = yield from acts_by(model, detector, known.case, result.settings.format, cancel)
        if routed_by is None:
            return None
    edit = LiveEdit(known.case, result)
    return edit, replace(edit.row(1.0), detector=routed_by)
