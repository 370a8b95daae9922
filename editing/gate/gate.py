"""The acceptance gate: a small exam after every edit, budgets that it has to keep, and something that it has to gain.

What it asks is written by :mod:`editing.gate.exam`, what it allows by :mod:`editing.gate.budgets`. Both weights are
asked the same, never as in the paper's evaluation: what the suffix does by itself is not the edit's doing. A person may
override a refusal; the patch then says so.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import Field

from editing.gate.answers import unanswered, vanilla_answers
from editing.gate.budgets import LEAST_GAIN, Budgets, Check, checks_of
from editing.gate.exam import HARMLESS, QUESTIONS, SCORED, askable, small_exam
from editing.values import Count
from inspector.errors import EditError
from inspector.model import Decoding, InspectedModel, Patch, PromptFormat, Row
from inspector.safeedit import Case
from inspector.safeedit.exam import ExamResult, Progress, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_PROMPTS, Kind, Question
from inspector.safeedit.verdict import Judge
from inspector.validated import settings as checked

VANILLA_SHARE = 0.5
"""Share of the first exam of a model in which the vanilla weights answer; later, most of their answers are known."""
OTHERS: tuple[Kind, ...] = ("transfer",)
"""Kind of the harmful questions of other cases, of which the gate asks one at least."""
RECORD = "acceptance"
"""Name of the gate's record among a patch's settings."""
Returned = TypeVar("Returned")


@checked(EditError)
class GateSettings:
    """Settings of the gate.

    Attributes:
        budgets: What is allowed.
        harmless: Harmless prompts asked, half of them look-alikes, every third one in an attack template.
        questions: Harmful questions asked, every second one in an attack template.
        max_new_tokens: Longest answer.
        least_gain: Harmful prompts that the edit has to defend beyond vanilla, net, its case's own and the others
            together; 0 asks for none, and the gate then has no word on it.
    """

    budgets: Budgets = Budgets()
    harmless: Count = HARMLESS
    questions: Count = QUESTIONS
    max_new_tokens: Count = 32
    least_gain: Annotated[int, Field(ge=0)] = LEAST_GAIN

    @property
    def decoding(self) -> Decoding:
        """How everything is answered."""
        return Decoding(max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True, eq=False)
class Acceptance:
    """What the gate says of an edit.

    Attributes:
        checks: Each budget, then the gain.
        exam: The marked small exam.
        settings: The gate's settings.
        overridden: A person took the edit although the gate refused it, now or at an earlier exam of these weights.
        choice: Why these weights were taken and not the same patch acting elsewhere, where there was a choice.
        too_long: Prompts of the exam that were not asked, as the model cannot read them with room for an answer.
    """

    checks: tuple[Check, ...]
    exam: ExamResult
    settings: GateSettings
    overridden: bool = False
    choice: str = ""
    too_long: int = 0

    @property
    def passed(self) -> bool:
        """Whether every budget was kept, and something was gained."""
        return all(check.passed for check in self.checks)

    @property
    def loosened(self) -> tuple[str, ...]:
        """Names of the budgets without whose loosening the edit would not have passed; none where it did not pass."""
        return tuple(check.name for check in self.checks if self.passed and not check.within_default)

    @property
    def accepted(self) -> bool:
        """Whether the edit may be used: it passed, or a person overrode the refusal."""
        return self.passed or self.overridden

    @property
    def reason(self) -> str:
        """Why it passed or was refused, with the values, in one sentence; and how many prompts were not asked."""
        if self.passed:
            how = "Passed under looser budgets, kept by hand" if self.loosened else "Passed"
            said = f"{how}: {'; '.join(check.sentence() for check in self.checks)}."
        else:
            said = _by_hand(self.broken) if self.overridden else f"Refused: {self.broken}."
        return said + not_asked(self.too_long)

    @property
    def broken(self) -> str:
        """What was not kept, for a sentence; empty where it passed."""
        return _broken(self.checks)

    @property
    def reading(self) -> str:
        """The reason and what was scored, for the screen."""
        asked = [reply.question.kind for reply in self.exam.replies]
        own = sum(kind in CASE_PROMPTS for kind in asked)
        return (
            f"{self.reason} Scored on {asked.count('harmless')} harmless prompts, {asked.count('transfer')} harmful "
            f"questions and {own} of the case's own prompts: {SCORED}."
        )

    def record(self) -> dict[str, Any]:
        """Return the gate's word as JSON can hold it.

        Who loosens a budget takes the edit by hand, so that a pass which the defaults would not give is no pass here.
        """
        by_hand = bool(self.loosened)
        return {
            "passed": self.passed and not by_hand,
            "overridden": self.overridden or by_hand,
            "loosened": list(self.loosened),
            "reason": self.reason,
            "checks": [asdict(check) for check in self.checks],
            "weights": self.exam.weights,
            "detector": self.exam.detector,
            "asked": self.exam.asked,
            "choice": self.choice,
            "too_long": self.too_long,
        }


def accept(
    model: InspectedModel,
    row: Row,
    case: Case,
    settings: GateSettings = GateSettings(),
    *,
    judge: Judge | None = None,
    questions: Sequence[Question] | None = None,
    format: PromptFormat | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, Acceptance | None]:
    """Examine an edit on the small exam and hold it to its budgets, beside what the vanilla weights have answered.

    A prompt that is too long for the model, as a long case's in an attack template may be, is not asked, and counted.

    Args:
        row: The edited weights, routed or not, or the reminder around each prompt.
        case: The case that the edit was made on.
        judge: Reads the answers to harmful questions; the embedded rules by default.
        questions: What is asked instead of :func:`small_exam`.
        format: The prompt format of an edit without a patch; a patch is asked in its own.
        cancel: Asked after every token.

    Yields:
        The exam's progress.

    Returns:
        The gate's word; ``None`` when cancelled, as half an exam decides nothing.

    Raises:
        EditError: The questions have no harmless prompt or no harmful question of another case, or none that the model
            can read.
        PromptError: The chat template takes no question.
    """
    exam = small_exam(case, settings.harmless, settings.questions) if questions is None else tuple(questions)
    if not {"harmless", *OTHERS}.issubset(question.kind for question in exam):
        raise EditError("The gate needs harmless prompts and harmful questions. Give it some of both.")
    format = (format or PromptFormat()) if row.patch is None else row.patch.format
    decoding = settings.decoding
    asked = askable(model, exam, row, format, decoding.max_new_tokens, OTHERS)
    begun = VANILLA_SHARE * len(unanswered(model, asked, format, decoding)) / len(asked)
    known, took = yield from _in_part(vanilla_answers(model, asked, format, decoding, cancel), 0.0, begun)
    if known is None:
        return None
    examined = examine(
        model, asked, row, judge or EmbeddedJudge(), format=format, decoding=decoding, cancel=cancel, known=known
    )
    marked, _ = yield from _in_part(examined, begun, 1.0, took)
    if marked.cancelled:
        return None
    checks = checks_of(marked.replies, settings.budgets, settings.least_gain, exam)
    return Acceptance(checks, marked, settings, too_long=len(exam) - len(asked))


def _in_part(
    run: Generator[Progress, None, Returned], start: float, end: float, before: float = 0.0
) -> Generator[Progress, None, tuple[Returned, float]]:
    """Run one part of an exam: its shares lie between two of the whole, its seconds after those that went before.

    Returns:
        What the part returns, and the seconds until its last event; 0 where there was nothing to do.
    """
    took = 0.0
    while True:
        try:
            event = next(run)
        except StopIteration as stopped:
            return stopped.value, took
        took = event.seconds
        yield replace(event, fraction=start + (end - start) * event.fraction, seconds=before + took)


def overridden(acceptance: Acceptance) -> Acceptance:
    """Return the gate's word with the note that a person takes the edit all the same.

    Raises:
        EditError: There is no refusal.
    """
    if acceptance.passed:
        raise EditError("The edit passed the gate, so there is nothing to override. Use it as it is.")
    return replace(acceptance, overridden=True)


def overridden_record(word: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a refusal, also of an earlier version, as that of a person who takes the edit all the same.

    Args:
        word: What :meth:`Acceptance.record` returned.
    """
    checks = [Check(**check) for check in word["checks"]]
    reason = _by_hand(_broken(checks)) + not_asked(word.get("too_long", 0))
    return {**word, "overridden": True, "reason": reason}


def _by_hand(broken: str) -> str:
    return f"Refused, and overridden by hand: {broken}."


def not_asked(count: int) -> str:
    """Say how many prompts of the exam were too long; empty for none."""
    if not count:
        return ""
    which = "One prompt of the exam was" if count == 1 else f"{count} prompts of the exam were"
    return f" {which} not asked, as this model cannot read so much and answer."


def _broken(checks: Sequence[Check]) -> str:
    return "; ".join(check.sentence() for check in checks if not check.passed)


def recorded(patch: Patch, acceptance: Acceptance) -> Patch:
    """Return the patch, its deltas and identifier the same, with the gate's word among its settings."""
    return replace(patch, settings={**patch.settings, RECORD: acceptance.record()})


def is_of(word: Mapping[str, Any], row: Row) -> bool:
    """Tell whether a record of the gate is its word on just these weights: patch, strength, and where they act.

    A record of an earlier version names no detector, so it is no word on weights that are routed by one.
    """
    return (word.get("weights"), word.get("detector", "")) == row.key


def reason_for(word: Mapping[str, Any], row: Row) -> str:
    """Return the reason of a record of the gate; where it is no word on these weights, that and which ones it is of."""
    if is_of(word, row):
        return str(word["reason"])
    examined = word["weights"] if word["weights"] != row.label() else "the same patch by another detector"
    return f"Not examined as it acts now. Of {examined}: {word['reason']}"
