"""The whole operation without a page, as the page does it: locate, edit, gate, both answers, measurements; a visit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import Any

from dashboard.kit.sessions.acting import Acting, Wish
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.compare import run as comparing
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods import run as contests
from dashboard.steps.methods.further import rounded_beside, routed_too
from dashboard.steps.methods.state import Compared
from dashboard.steps.operate import gating
from dashboard.steps.stress import rounding
from dashboard.steps.stress import run as stressing
from dashboard.steps.why import run as why
from dashboard.steps.why.state import Looked
from editing import DinmSettings, dinm
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers
from editing.contest import ContestSettings, Standing
from editing.gate.budgets import Budgets
from editing.gate.turns import goes_on, in_turn
from editing.methods.registry import METHODS
from editing.progress import Preparation, run
from inspector.divergence import Padding, divergence
from inspector.model import Decoding, Detector, InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.exam import Evaluation
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.known import Answer, Asked

Tell = Callable[[Any], None]


def operate(
    model: InspectedModel,
    session: Session,
    case: Case,
    block: int,
    settings: DinmSettings,
    format: PromptFormat,
    decoding: Decoding,
    *,
    padding: Padding = "right",
    calibration: Calibration | None = None,
    acts: Wish = "gate",
    strength: float = 1.0,
    by_hand: Collection[str] = (),
    keep_anyway: bool = False,
    tell: Tell = lambda event: None,
) -> None:
    """Locate, edit, hold the edit to the gate, and let both weights answer; all of it is the session's.

    What the gate refuses waits in the session as on the page, and nothing is asked then.

    Args:
        format: The prompt format of the measurement.
        acts: Where the edit is to act.
        strength: Factor on it, 0 to 1.5, with which it is examined and asked.
        by_hand: Names of the settings that somebody has given, which stay in an edit that is to be routed.
        keep_anyway: Make a refused edit live all the same; its patch says so.
        tell: Hears of each event.

    Raises:
        CaseError: The case cannot be edited on, or the edit is to act where harm is detected and there is no detector.
        PatchError: The strength is out of range.
        EditError: No update was kept.
        PromptError: A text is too long.
    """
    measured = divergence(model, case, settings.preset, padding=padding, format=format)
    session.case, session.format, session.started = case, format, True
    session.slot(LocatedCase).divergence = measured
    session.slot(Looked).panel = replace(session.slot(Looked).panel, block=block)
    detector = calibration.detector if calibration is not None else None
    session.slot(Acting).wish = acts
    tried = gating.asked_for(model, session, settings, detector, by_hand)
    if not _edit(model, session, case, block, tried, strength, detector, tell):
        if not keep_anyway:
            return
        gating.keep(session)
    asked = comparing.Prompt(comparing.ADVERSARIAL, case.adversarial_prompt, case.question)
    for _ in comparing.ask(model, session, asked, format, decoding, detector):
        pass
    comparing.measure(model, session)


def _edit(
    model: InspectedModel,
    session: Session,
    case: Case,
    block: int,
    tried: Sequence[DinmSettings],
    strength: float,
    detector: Detector | None,
    tell: Tell,
) -> bool:
    """Make edits in turn until one suffices, and settle the better one; tells whether it is live."""

    def making(settings: DinmSettings, first: gating.Made | None) -> Generator[Any, None, gating.Made]:
        if first is not None and first.acceptance is not None:
            yield Preparation(goes_on(first.acceptance), 0.0)
        edited = yield from dinm(model, case, block, settings)
        made = gating.Made(LiveEdit(case, edited), strength=strength)
        return (yield from gating.examined(model, session, made, gating.settings_of(Budgets()), detector))

    best = run(in_turn(tried, making), tell)
    return best is not None and gating.settle(session, best)


def stress(
    model: InspectedModel,
    session: Session,
    size: str,
    evaluation: Evaluation,
    decoding: Decoding,
    tell: Tell,
    detector: Detector | None = None,
) -> None:
    """Put the live edit to the stress test, both ways, then what bfloat16 by itself does to the same answers.

    Args:
        size: One of :data:`dashboard.steps.stress.run.SIZES`.
        evaluation: How both weights are asked.
        detector: The model's; without one an edit that acts on every prompt is tested so only.
    """
    other = run(stressing.other_way(model, session, detector), tell)
    way = next(way for way, asked in WAYS.items() if asked == evaluation)
    heard: dict[Asked, Answer] = {}
    testing = stressing.stress(model, session, size, EmbeddedJudge(), stressing.NO_ATTACKS, way, decoding, other, heard)
    run(testing, tell)
    run(rounding.with_rounding(model, session, heard), tell)
    why = session.slot(stressing.Examined).unrounded
    if why:
        tell(Preparation(why, 1.0))


def several(
    model: InspectedModel,
    session: Session,
    block: int,
    methods: Sequence[str],
    evaluation: Evaluation,
    decoding: Decoding,
    tell: Tell,
    detector: Detector | None = None,
    *,
    picked: bool = True,
    layers: Layers | None = None,
) -> None:
    """Run methods on the visit's case, each with its own defaults, and examine them by the page's brief exam.

    Args:
        block: The layer whose region is looked at.
        methods: Keys of :data:`editing.methods.registry.METHODS`.
        evaluation: How both weights are asked.
        detector: Routes each patch for a line more; ``None`` for the plain lines alone.
        picked: Every method edits that layer; else each edits its own.
        layers: As for :func:`editing.contest.contest`.
    """
    assert session.case is not None
    way = next(way for way, asked in WAYS.items() if asked == evaluation)
    texts, titles = texts_of(session.case, session.format), [METHODS[key].title for key in methods]
    scope, tokens, judge = ContestSettings().scope, decoding.max_new_tokens, EmbeddedJudge()
    running = contests.run_contest(
        model,
        session,
        texts,
        block,
        titles,
        scope,
        contests.ALONE,
        "Brief",
        tokens,
        judge,
        way,
        picked=picked,
        layers=layers,
    )
    run(running, tell)
    run(rounded_beside(model, session), tell)
    done = session.slot(Compared).contest
    if done is not None and done.unrounded:
        tell(Preparation(done.unrounded, 1.0))
    if detector is not None:
        settings = contests.exam_settings("Brief", tokens, way)
        adding = routed_too(model, session, settings, detector, judge, layers)
        run(adding, lambda event: None if isinstance(event, Standing) else tell(event))


def look(
    model: InspectedModel, session: Session, locators: bool, atlas: bool, tell: Tell, padding: Padding = "right"
) -> None:
    """Ask the locators, and make the atlas that judges them; each where it is wanted.

    Args:
        padding: Side on which the locators that pad do so.
    """
    assert session.case is not None
    texts = texts_of(session.case, session.format)
    if locators:
        run(why.ask_locators(model, session, texts, padding), tell)
    if atlas:
        run(why.atlas(model, session, texts, why.NO_ANSWERS), tell)
