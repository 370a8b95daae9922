"""Beside a run of several methods: what rounding does, routed patches, what the region writes; no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from dashboard.kit.running.run import drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.methods.state import Compared, Contest
from editing import EditResult, Preparation, Step
from editing.calibrating.layer_choice import automatic_layer
from editing.calibrating.trial_edits import Layers
from editing.contest import PICK_ONE, ROUTED, ContestSettings, Standing, examine_routed
from editing.gate.choice import format_told
from editing.memory import memory_told, peak_memory
from editing.methods.dinm import to_be_routed
from editing.methods.registry import METHODS
from editing.progress import run as run_quietly
from editing.rounding import row_or_why, row_progress
from inspector.divergence import divergence
from inspector.errors import REFUSALS, CaseError, InspectorError
from inspector.model import Detector, InspectedModel
from inspector.safeedit.exam import Progress
from inspector.safeedit.verdict import Judge
from inspector.toxicity import kept_probe
from inspector.writing import RegionWriting, region_writing

LEARNS_MORE = f"{METHODS['dinm'].title}, learns more"
"""DINM as Operate makes it first where a detector can route it; it is shown routed alone."""


def rounded_beside(model: InspectedModel, session: Session) -> Generator[Preparation, None, None]:
    """Put the rounding row beside a run of several methods that has just ended, or why there is none; once a model.

    It answers the harmless prompts of the run as that has asked them. What cannot be had costs this row alone.

    Yields:
        How far the rounded weights are.
    """
    kept = session.slot(Compared)
    known = kept.contest
    if known is None or known.exam is None or session.cancelled.is_set():
        return

    def told(progress: Progress) -> Preparation:
        return Preparation(row_progress(progress), progress.fraction)

    making = row_or_why(model, known.exam, "this run", session.cancelled.is_set)
    rounded, why = yield from drain(making, told)
    kept.contest = replace(known, rounded=rounded, unrounded=why)


def can_be_routed(standing: Standing) -> bool:
    """Tell whether a method made a patch that a detector can switch."""
    result = standing.result
    return (
        result is not None
        and result.patch is not None
        and not standing.failed
        and not standing.method.title.endswith(ROUTED)
    )


def of_own_patches(standings: Sequence[Standing]) -> list[Standing]:
    """Return the methods that made a patch, and the routed lines whose patch is no other line's."""
    plain = [standing for standing in standings if can_be_routed(standing)]
    known = {standing.result.patch for standing in plain if standing.result is not None}
    made = [one for one in standings if one.result is not None and one.result.patch is not None and not one.failed]
    return [one for one in made if one in plain or (one.result is not None and one.result.patch not in known)]


def routed_standing(
    model: InspectedModel,
    session: Session,
    known: Contest,
    standing: Standing,
    settings: ContestSettings,
    detector: Detector,
    judge: Judge,
) -> Generator[Preparation, None, Standing | None]:
    """Examine a method's patch again, acting only where harm is detected; its weights are those of the plain row.

    Returns:
        A standing of its own, which says why where it cannot be examined; ``None`` when cancelled.
    """
    assert standing.result is not None
    card = f"{standing.method.card} {format_told(model, standing.result.settings.format)}".strip()
    standing = replace(standing, method=replace(standing.method, card=card))

    def told(event: Preparation | Progress) -> Preparation:
        if isinstance(event, Preparation):
            return event
        said = f"{standing.method.title}{ROUTED}: {event.answered} of {event.total} prompts answered"
        return Preparation(said, event.fraction)

    making = examine_routed(model, known.case, standing, settings, detector, judge, session.cancelled.is_set)
    return (yield from drain(making, told))


def learning_more(
    model: InspectedModel,
    session: Session,
    known: Contest,
    settings: ContestSettings,
    detector: Detector,
    judge: Judge,
    layers: Layers | None = None,
) -> Generator[Preparation, None, Standing | None]:
    """Make DINM's edit as one that is to act only where harm is detected, and examine it so.

    Args:
        layers: As for :func:`editing.contest.contest`; asked where nobody had picked a layer.

    Returns:
        Its standing, which says why where there is no edit; ``None`` when cancelled.
    """
    card = "DINM with nothing that holds it back: what it would do to harmless prompts is left to the detector."
    method = replace(METHODS["dinm"], title=LEARNS_MORE, card=card)
    own = to_be_routed(replace(settings, format=known.format).of(method.key))

    def toxic() -> int:
        return divergence(model, known.case, format=known.format).toxic_layer()

    def told(event: Preparation | Step) -> Preparation:
        if isinstance(event, Preparation):
            return Preparation(f"{LEARNS_MORE}: {event.message}", event.fraction)
        return Preparation(f"{LEARNS_MORE}: step {event.step} of at most {event.steps}", event.step / event.steps)

    try:
        session.limits.require_steps(own.steps)
        with memory_told(), peak_memory(*model.devices) as peak:
            free = None if known.picked else automatic_layer(model, layers, method.key)
            block = known.block if free is None else free.block(toxic, PICK_ONE)
            editing = method.run(model, known.case, block, own, cancel=session.cancelled.is_set)
            result: EditResult = yield from drain(editing, told)
    except InspectorError as error:
        method = replace(method, title=f"{LEARNS_MORE}{ROUTED}")
        return Standing(method, failed=error.user_message(), refused=isinstance(error, REFUSALS))
    if result.patch is None:
        return None
    standing = Standing(
        method,
        result=result,
        peak_mebibytes=peak.mebibytes,
        parameters_changed=result.patch.parameters_changed,
        delta_norm=result.patch.norm,
    )
    return (yield from routed_standing(model, session, known, standing, settings, detector, judge))


def routed_too(
    model: InspectedModel,
    session: Session,
    settings: ContestSettings,
    detector: Detector,
    judge: Judge,
    layers: Layers | None = None,
) -> Generator[Preparation | Standing, None, None]:
    """Examine each patch of the last run again where the detector lets it act, then DINM's edit that learns more.

    Each is a line of the session's run as soon as it is done; those stay when it is cancelled. What keeps one from
    being examined costs that line alone.

    Args:
        settings: Of the run's exams.
        detector: The model's.
        layers: As for :func:`editing.contest.contest`.

    Yields:
        How far it is, and each line that is done.
    """
    kept = session.slot(Compared)
    known = kept.contest
    if known is None:
        return
    for standing in filter(can_be_routed, known.standings):
        made = yield from routed_standing(model, session, known, standing, settings, detector, judge)
        if made is None:
            return
        known = kept.contest = replace(known, standings=(*known.standings, made))
        yield made
    if all(standing.method.key != "dinm" for standing in known.standings):
        return
    made = yield from learning_more(model, session, known, settings, detector, judge, layers)
    if made is not None:
        kept.contest = replace(known, standings=(*known.standings, made))
        yield made


def routed_titles(standings: Sequence[Standing]) -> list[str]:
    """Return the titles of the lines that :func:`routed_too` adds to those of a run."""
    more = [LEARNS_MORE] if any(standing.method.key == "dinm" for standing in standings) else []
    return [f"{title}{ROUTED}" for title in (*(one.method.title for one in standings if can_be_routed(one)), *more)]


def write_regions(
    model: InspectedModel, session: Session
) -> Generator[Preparation, None, dict[str, RegionWriting] | None]:
    """Measure what the region writes along the toxic direction with each method's weights; kept with the visitor.

    Methods without a patch, and those whose patch was not kept, have none.

    Returns:
        What each method's region writes; ``None`` when cancelled, and nothing is kept then.

    Raises:
        CaseError: No method was run, or no patch of them is at hand.
    """
    kept = session.slot(Compared)
    known = kept.contest
    if known is None:
        raise CaseError("No method was run yet. Tick some and press Run methods.")
    chosen = of_own_patches(known.standings)
    if not chosen:
        raise CaseError("No patch of these methods is at hand. Press Run methods to make them again.")
    yield Preparation("Reading the toxicity probe", 0.0)
    probe = session.probe or run_quietly(kept_probe(model))
    assert probe is not None, "nothing cancels it here"
    found: dict[str, RegionWriting] = {}
    for number, standing in enumerate(chosen):
        yield Preparation(f"What the region writes with {standing.method.title}", number / len(chosen))
        if session.cancelled.is_set():
            return None
        assert standing.result is not None
        row, format = standing.row, standing.result.settings.format
        found[standing.method.title] = region_writing(
            model, known.case, row, probe.direction, known.block, format=format
        )
    kept.written = found
    return found
