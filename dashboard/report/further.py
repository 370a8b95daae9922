"""What a visit has beyond its operation: as options of ``python -m dashboard.report``, or named as left out there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.compare.run import Measured
from dashboard.steps.methods import run as contests
from dashboard.steps.methods.further import routed_titles
from dashboard.steps.methods.state import Compared, Contest
from dashboard.steps.stress import run as stressing
from dashboard.steps.stress.run import Examined
from dashboard.steps.why.state import Looked, Why
from editing.calibrating.layer_choice import AUTO
from editing.contest import ROUTED, ContestSettings, Standing
from editing.gate.budgets import DEFAULTS
from editing.gate.gate import RECORD
from inspector.model import PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size, make_exam

MADE = (
    "Case",
    "Where the answers part",
    "The edit",
    "Both answers",
    "What the edit changed",
    "Why this layer",
    "Stress test",
    "Methods",
)
"""Parts of a report that the command makes."""


@dataclass(frozen=True)
class Further:
    """What the command has to be told for a report like a visit's.

    Attributes:
        options: Its options.
        left_out: What the visit's report has and these options do not make, for a list.
    """

    options: tuple[str, ...]
    left_out: tuple[str, ...]


def further(session: Session, live: LiveEdit, case: Case, facts: Mapping[str, Any], titles: Sequence[str]) -> Further:
    """Say which options make a report like a visit's, and what is not made by them.

    Args:
        live: The visit's live edit.
        case: Its case as the command line names it, which may have fewer texts.
        facts: What the steps have said in their parts.
        titles: The parts of the visit's report.
    """
    options: list[str] = []
    left_out = [title for title in titles if title not in MADE]
    format = measured_in(live.result.settings, session.format)
    if "locate" in facts and session.case != live.case:
        left_out.append("where the answers of another case part")
    elif "locate" in facts and facts["locate"]["preset"] != live.result.settings.preset:
        measured = facts["locate"]["preset"]
        left_out.append(f"where the answers part by the preset {measured}, which is not the edit's")
    elif "locate" in facts and session.format != format:
        left_out.append("where the answers part in another prompt format than the edit's")
    left_out += other_budgets(live)
    if "decoding" in facts:
        options += ["--max-new-tokens", str(facts["decoding"].max_new_tokens)]
        left_out += _of_answers(facts, live.case)
    if session.slot(Measured).curve is not None:
        left_out.append("defence and damage over the strength")
    exam = session.slot(Examined).exam
    if exam is not None:
        found = _stress(session, live.case, case, exam)
        options, left_out = [*options, *found.options], [*left_out, *found.left_out]
    padding = padding_of(facts)
    found = _layers(session.slot(Looked).why, format, live.case, padding)
    options, left_out = [*options, *found.options], [*left_out, *found.left_out]
    contest = session.slot(Compared).contest
    if contest is not None and contest.standings:
        found = _methods(contest, session, live, case, format, options)
        options, left_out = [*options, *found.options], [*left_out, *found.left_out]
    return Further(tuple(options), tuple(left_out))


def measured_in(settings: Any, otherwise: PromptFormat) -> PromptFormat:
    """Return the prompt format in which the command measures: of an edit by ours the edit's, in which it locates.

    Args:
        settings: The edit's.
        otherwise: What the paper's presets take, which edit in plain text and locate by the answers alone.
    """
    if settings.preset != "corrected":
        return otherwise
    return PromptFormat(settings.format.suffix, settings.format.chat)


def other_budgets(live: LiveEdit) -> list[str]:
    """Name the gate's budgets of a visit that are not those which commands have, for a list; nothing where all are."""
    word, given = live.patch.settings.get(RECORD), asdict(DEFAULTS)
    checks = [] if word is None else word["checks"]
    other = [one for one in checks if one["limit"] != given.get(one["name"], one["limit"])]
    told = ", ".join(f"{one['meaning']} {one['limit']:g} instead of {given[one['name']]:g}" for one in other)
    return [f"the gate's budgets of this visit, {told}"] if told else []


def _of_answers(facts: Mapping[str, Any], case: Case) -> Iterator[str]:
    if facts.get("asked") not in (None, case.adversarial_prompt):
        yield "the answers to another text than the adversarial prompt"
    if not facts["decoding"].greedy:
        yield "the drawing of the answers, which are greedy ones there"


def _stress(session: Session, live: Case, case: Case, exam: ExamResult) -> Further:
    """Return the options of a stress test: its size is that of the exam which has just its prompts."""
    asked = _prompts_of(exam)
    size = next((name for name, one in stressing.SIZES.items() if _prompts(live, one) == asked), None)
    if size is None or exam.key != session.row.key or exam.judge != EmbeddedJudge.name or exam.cancelled:
        return Further((), ("the stress test, which is of other texts or weights, by another judge, or cut short",))
    left_out = []
    if _prompts(case, stressing.SIZES[size]) != asked:
        left_out.append("the case's further prompts in the stress test")
    if session.slot(Examined).study is not None:  # the rounding row the command makes by itself
        left_out.append("what each suffix does alone and with the weights")
    options = ("--stress", size, "--evaluation", str(exam.evaluation))
    return Further((*options, *_length("--stress-tokens", exam, stressing.LONGEST_ANSWER)), tuple(left_out))


def _length(option: str, exam: ExamResult, default: int) -> tuple[str, ...]:
    """Return the option of an exam's longest answer where it is not the command's own."""
    return () if exam.max_new_tokens == default else (option, str(exam.max_new_tokens))


def _prompts_of(exam: ExamResult) -> list[str]:
    return [reply.question.prompt for reply in exam.replies]


def _prompts(case: Case, size: Size) -> list[str]:
    return [question.prompt for question in make_exam(case, size)]


def padding_of(facts: Mapping[str, Any]) -> str | None:
    """Return the side on which the measurement of where the answers part has padded; ``None`` where it pads none."""
    located = facts.get("locate")
    return None if located is None or located["preset"] == "corrected" else located["padding"]


def _layers(why: Why, format: PromptFormat, live: Case, padding: str | None) -> Further:
    """Return the options of what was measured of the layers of the edit's case; with the locators goes the padding.

    Args:
        padding: The side that the whole command is given already.
    """
    asked = bool(why.located or why.refused or why.padding is not None)
    if not asked and why.atlas is None:
        return Further((), ())
    if why.case is None or _texts(why.case) != _texts(live) or why.format != format:
        return Further((), ("why this layer, which is of another case or format",))
    left_out, side = [], list[str]()
    if asked and padding is None and why.side != "right":
        side = ["--padding", why.side]
    elif asked and padding is not None and why.side != padding:
        left_out.append(f"that the locators have padded on the {why.side}, other than where the answers part")
    made = 0 if why.atlas is None else len(why.atlas.entries) + len(why.atlas.left_out)
    if why.atlas is not None and (why.atlas.settings.answers or made < why.atlas.blocks):
        left_out.append("what the atlas's edits answer, or that it was cut short")
    atlas = ("--atlas",) if why.atlas is not None and why.atlas.entries else ()
    return Further((*(("--locators",) if asked else ()), *side, *atlas), tuple(left_out))


def _methods(
    contest: Contest, session: Session, live: LiveEdit, case: Case, format: PromptFormat, options: Sequence[str]
) -> Further:
    """Return the options of a run of several methods: the command's is of the edit's case, brief, and by the defaults.

    Args:
        options: Those of the parts before it, which share the way of asking.
    """
    made = [one for one in contest.standings if not one.method.title.endswith(ROUTED)]
    exams = [one.exam for one in made if one.exam is not None]
    if exams and all(_prompts_of(exam) == _prompts(contest.case, contests.EXAMPLE_SIZE) for exam in exams):
        return Further((), ("the methods, which are the finished example's and were asked less than those of a run",))
    asked = _prompts(case, contests.SIZES["Brief"])
    if not (
        _texts(contest.case) == _texts(live.case)
        and contest.format == format
        and contest.block == live.result.block
        and all(_prompts_of(exam) == asked for exam in exams)
        and all(exam.judge == EmbeddedJudge.name and not exam.cancelled for exam in exams)
        and all(map(_by_default, made))
    ):
        return Further((), ("the methods, which are of another case, layer, exam or choice, or cut short",))
    given, more = dict(pairwise(options)), list[str]()
    for exam in exams[:1]:  # those of one run are all asked alike
        if given.get("--evaluation", exam.evaluation) != exam.evaluation:
            return Further((), ("the methods, whose answers were asked for in another way than the stress test's",))
        more += [] if "--evaluation" in given else ["--evaluation", str(exam.evaluation)]
        more += _length("--methods-tokens", exam, contests.LONGEST_ANSWER)
    more += [] if contest.picked else ["--methods-layer", AUTO]  # the command's own layer is a number
    left_out, routed = [], [one.method.title for one in contest.standings if one not in made]
    if routed and set(routed) == set(routed_titles(made)):
        more.append("--methods-routed")
    elif routed:
        left_out.append("the methods that were routed afterwards, of which some were left out")
    if session.slot(Compared).written is not None:
        left_out.append("what the region writes, by method")
    return Further(("--methods", *(one.method.key for one in made), *more), tuple(left_out))


def _by_default(standing: Standing) -> bool:
    """Tell whether a method ran with its own settings, and learnt from its one case."""
    if standing.result is None:
        return True
    settings, patch = standing.result.settings, standing.result.patch
    given = ContestSettings(methods=(standing.method.key,), format=settings.format).of(standing.method.key)
    further = patch.settings.get("companions", 0) if patch is not None and standing.method.learns_from_companions else 0
    return bool(settings == given and not further)


def _texts(case: Case) -> tuple[str, ...]:
    return case.question, case.adversarial_prompt, case.safe, case.unsafe
