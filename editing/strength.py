"""Defence against damage over the strength of an edit: vanilla and every strength in one batch, one small curve.

All are asked the same, with the suffix if the edit was made with it, since the curve shows what the strength does;
by the paper's evaluation vanilla is asked without it, and the curve shows what suffix and strength do together.
Of the strength that the gate has judged, on more prompts, the gate's word stands.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from editing.gate.budgets import Budgets, Check, allowed, held_to, lost_defence
from editing.gate.exam import askable, own_and_harmless
from editing.gate.gate import RECORD, GateSettings, is_of, not_asked
from editing.progress import Preparation
from editing.values import Count
from inspector.errors import EditError
from inspector.model import VANILLA, Decoding, Encoded, InspectedModel, Row, encode
from inspector.model.answers.batching import Line, plan
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.patches.patch import STRONGEST
from inspector.safeedit import Case
from inspector.safeedit.asking import answers_of
from inspector.safeedit.exam import EVALUATIONS, Evaluation, asked_as
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.marking import KL_TOKENS, Marked, Reply, harmless_kl, marked_answer, with_all_taught
from inspector.safeedit.questions import JUDGED, Question
from inspector.safeedit.verdict import Judge, verdicts
from inspector.validated import settings as checked

ALIKE = " The gate asks both weights with the same prompts."
"""Said after the gate's word where the curve was asked otherwise."""
TOGETHER = " Gains and costs are of suffix and edit together; the budgets are meant for the edit alone."
"""Said of a curve that was asked as in the paper."""
SEVEN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("must ascend, each strength once")
    return values


Strengths = Annotated[
    tuple[Annotated[float, Field(ge=0, le=STRONGEST)], ...], Field(min_length=1), AfterValidator(_ascending)
]


@checked(EditError)
class StrengthSettings:
    """Settings of a strength curve.

    Attributes:
        strengths: Factors on the patch, ascending; that of the row itself is measured in any case.
        harmless: Harmless prompts of the gate (:func:`editing.gate.exam.small_exam`), half of them look-alikes.
        max_new_tokens: Longest answer.
        prompts_at_once: Most prompts in a batch, which has a line for each of them and each strength; fewer where the
            memory that is free holds fewer.
        budgets: What a strength that is suggested may cost. The curve asks fewer prompts than the gate, and one answer
            may go wrong where one may in the gate's exam (:func:`editing.gate.budgets.allowed`).
        evaluation: Whether vanilla, strength 0, is asked with the suffix, too
            (:data:`inspector.safeedit.exam.EVALUATIONS`).
    """

    strengths: Strengths = SEVEN
    harmless: Count = 8
    max_new_tokens: Count = 32
    prompts_at_once: Count = 5
    budgets: Budgets = Budgets()
    evaluation: Evaluation = "same"


@dataclass(frozen=True)
class Judged:
    """The gate's word on an edit at one strength, where it acts as it does now.

    Attributes:
        strength: The strength that the gate has examined.
        checks: What it measured, held to the curve's budgets.
    """

    strength: float
    checks: tuple[Check, ...]

    @property
    def broken(self) -> tuple[Check, ...]:
        """What was not kept; none where the edit passes."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def costs(self) -> bool:
        """Whether a budget is broken, and not the gain alone."""
        return any(not check.least for check in self.broken)

    @property
    def reading(self) -> str:
        """Say what the gate says of this strength."""
        word = "refuses" if self.broken else "passes"
        said = "; ".join(check.sentence() for check in self.broken or self.checks)
        return (
            f"The gate, which asks more prompts, {word} {self.strength:g} by these budgets: {said}. It was asked of no "
            "other strength."
        )


@dataclass(frozen=True, eq=False)
class StrengthCurve:
    """What an edit achieves and costs at each strength.

    Attributes:
        strengths: ``[strengths]`` ascending; with 0, vanilla, in any case.
        defended: ``[strengths]`` percent of the harmful prompts answered safely.
        harmless_kl: ``[strengths]`` KL(vanilla to edited) on harmless prompts, nats a token, mean over prompts of each
            prompt's mean over its first 24 tokens (:data:`inspector.safeedit.marking.KL_MEAN`).
        over_refusal: ``[strengths]`` percent of the harmless prompts refused.
        degenerate: ``[strengths]`` percent of all answers that are none.
        parroting: ``[strengths]`` percent of the prompts about something else given the training answer's content, or
            harmless ones any training answer.
        lost_defence: ``[strengths]`` harmful prompts that vanilla defends and the edit does not, percentage points net,
            as the gate counts them (:func:`editing.gate.budgets.lost_defence`).
        prompts: Number of harmful prompts.
        harmless: Number of harmless prompts.
        elsewhere: Number of prompts about something else than the edit.
        chosen: Strength of the row that was asked about.
        budgets: What a suggestion may cost.
        too_long: Prompts that were not asked, as the model cannot read them with room for an answer.
        judged: The gate's word on one of the strengths, by which that one keeps the budgets or not; ``None`` where it
            has not been asked of any of them.
        evaluation: How vanilla, strength 0, was asked beside the others.
    """

    strengths: np.ndarray
    defended: np.ndarray
    harmless_kl: np.ndarray
    over_refusal: np.ndarray
    degenerate: np.ndarray
    parroting: np.ndarray
    lost_defence: np.ndarray
    prompts: int
    harmless: int
    elsewhere: int
    chosen: float
    budgets: Budgets
    too_long: int = 0
    judged: Judged | None = None
    evaluation: Evaluation = "same"

    def at(self, strength: float) -> int:
        """Return the position of a strength.

        Raises:
            EditError: It was not measured.
        """
        found = np.flatnonzero(np.isclose(self.strengths, strength))
        if not len(found):
            listed = ", ".join(f"{value:g}" for value in self.strengths)
            raise EditError(f"The strength {strength:g} was not measured. Choose one of {listed}.")
        return int(found[0])

    @property
    def within(self) -> np.ndarray:
        """``[strengths]`` whether a strength keeps the budgets.

        One that the gate has judged does as the gate says, and none above one that costs too much by it.
        """
        kept = np.logical_and.reduce(list(self._kept.values()))
        if self.judged is not None:
            place = self.at(self.judged.strength)
            kept[place] = not self.judged.broken
            if self.judged.costs:
                kept[place:] = False
        return kept

    def broken(self, strength: float) -> tuple[str, ...]:
        """Return the budgets that a strength breaks, by what they are of; none where it keeps them all.

        Of the one that the gate has judged, what the gate says.

        Raises:
            EditError: It was not measured.
        """
        place = self.at(strength)
        if self.judged is not None and place == self.at(self.judged.strength):
            return tuple(check.meaning for check in self.judged.broken)
        return tuple(meaning for meaning, kept in self._kept.items() if not kept[place])

    @property
    def _kept(self) -> dict[str, np.ndarray]:
        """``[strengths]`` whether each budget is kept, by what it is of."""
        kept = {"harmless KL": self.harmless_kl <= self.budgets.harmless_kl}
        gate = GateSettings()
        fewer = gate.harmless + gate.questions - self.harmless  # it asks the case's own prompts as well
        asked = self.prompts + self.harmless
        for meaning, share, limit in (
            ("harmless prompts refused", self.over_refusal, (self.budgets.over_refusal, self.harmless, gate.harmless)),
            ("degenerate answers", self.degenerate, (self.budgets.degenerate, asked, asked + fewer)),
            ("parroting", self.parroting, (self.budgets.parroting, self.elsewhere, self.elsewhere + fewer)),
        ):
            kept[meaning] = share - share[0] <= allowed(*limit) + 1e-9
        # Of as many prompts of the case as the gate asks.
        kept["lost defence"] = self.lost_defence <= self.budgets.lost_defence + 1e-9
        return kept

    @property
    def suggestion(self) -> float | None:
        """The strength within the budgets that defends most, of equal ones that with the least harmless KL.

        ``None`` where none of them defends more than vanilla, on these prompts or by the gate's word.
        """
        gains = self.defended > self.defended[0]
        if self._passes is not None:
            gains[self.at(self._passes)] = True
        able = np.flatnonzero(self.within & gains)
        if not len(able):
            return None
        best = max(able, key=lambda n: (self.defended[n], -self.harmless_kl[n]))
        return float(self.strengths[best])

    @property
    def reading(self) -> str:
        """Say which strength is worth choosing, how it was asked, what the gate says, what was not asked."""
        asked = f" Asked: {EVALUATIONS[self.evaluation]}.{TOGETHER if self.evaluation == 'paper' else ''}"
        return self._advice + asked + self._gate_said + not_asked(self.too_long)

    @property
    def _passes(self) -> float | None:
        """The strength that passes by the gate's word; ``None`` where none was asked about, or it is refused."""
        return None if self.judged is None or self.judged.broken else self.judged.strength

    @property
    def _gate_said(self) -> str:
        """The gate's word where it refuses, or where these prompts alone would say otherwise than that it passes."""
        if self.judged is None:
            return ""
        place = self.at(self.judged.strength)
        alike = self.defended[place] > self.defended[0] and all(kept[place] for kept in self._kept.values())
        if alike and not self.judged.broken:
            return ""
        return f" {self.judged.reading}" + ("" if self.evaluation == "same" else ALIKE)

    @property
    def _advice(self) -> str:
        own = self.at(self.chosen)
        counted = f"({self.prompts} harmful, {self.harmless} harmless prompts)"
        by_gate = self.judged is not None and own == self.at(self.judged.strength)
        over = "" if by_gate else _over(self.broken(self.chosen))  # the gate's word follows
        if self.suggestion is None:
            gains = over and self.defended[own] > self.defended[0]
            but = f" {self.chosen:g} defends {self.defended[own]:.0f} %, but{over}." if gains else ""
            return (
                f"No strength within the budgets defends more than vanilla's {self.defended[0]:.0f} % {counted}: "
                f"keep vanilla, or make another edit.{but}"
            )
        best = self.at(self.suggestion)
        if best == own:
            return (
                f"Strength {self.chosen:g} is the best within the budgets: it defends {self.defended[own]:.0f} % "
                f"at {_kl(self.harmless_kl[own])} of harmless KL {counted}."
            )
        kl, was = self.harmless_kl[best], self.harmless_kl[own]
        if self.defended[best] == self.defended[own]:
            # Equal defence is suggested only for less damage, or where the chosen one leaves the budgets.
            share = f", {kl / was:.0%} of that at {self.chosen:g}" if kl < was else ""
            but = f"; {self.chosen:g}{over}" if over else ""
            return (
                f"Strength {self.suggestion:g} defends as much as {self.chosen:g} ({self.defended[best]:.0f} %) at "
                f"{_kl(kl)} of harmless KL{share}{but} {counted}."
            )
        but = f", but{over}" if over else ""
        return (
            f"Strength {self.suggestion:g} defends {self.defended[best]:.0f} % at {_kl(kl)} of harmless KL; "
            f"{self.chosen:g} defends {self.defended[own]:.0f} % at {_kl(was)}{but} {counted}."
        )


def strength_curve(
    model: InspectedModel,
    row: Row,
    case: Case,
    settings: StrengthSettings = StrengthSettings(),
    *,
    judge: Judge | None = None,
    questions: Sequence[Question] | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, StrengthCurve | None]:
    """Answer a case's prompts and harmless ones at every strength, vanilla and all strengths in one batch.

    Args:
        row: The edit, routed or not; its strength is the chosen one.
        case: The case that it was made on.
        judge: Reads the answers to harmful prompts; the embedded rules by default.
        questions: What is asked instead of what the gate asks of the case's own prompts and of its harmless ones.
        cancel: Asked after every token.

    Yields:
        How far it is, after every token.

    Returns:
        The curve; ``None`` when cancelled.

    Raises:
        EditError: The row has no patch, or the questions are not of both kinds, or none that the model can read.
        PromptError: The chat template takes no question.
    """
    if row.patch is None:
        raise EditError("Only a patch has a strength, and these weights have none. Make an edit of weights first.")
    if questions is None:
        questions = own_and_harmless(case, settings.harmless)
    kinds = [question.kind for question in questions]
    if "harmless" not in kinds or not set(JUDGED).intersection(kinds):
        raise EditError("A strength curve needs harmful and harmless prompts. Give it some of both.")
    room = settings.max_new_tokens
    questions = askable(model, questions, row, row.patch.format, room)
    harmful = [number for number, question in enumerate(questions) if question.kind in JUDGED]
    harmless = [number for number, question in enumerate(questions) if question.kind == "harmless"]
    strengths = sorted({0.0, row.strength, *settings.strengths})
    judged = judged_at(row, strengths[1:], settings.budgets)
    rows = [VANILLA, *(Row(row.patch, strength, detector=row.detector) for strength in strengths[1:])]
    edited, vanilla = (
        [encode(model, q.prompt, None, format, room=room).prompt for q in questions]
        for format in (row.patch.format, asked_as(row.patch.format, settings.evaluation))
    )
    answers: dict[tuple[int, int], Line] = {}
    longest = max(map(len, (*vanilla, *edited))) + room
    batches = plan(vanilla, prompts_that_fit(model, longest, len(rows), settings.prompts_at_once))
    for number, batch in enumerate(batches):
        lines: list[Line] = []
        plain, asked = ([prompts[position] for position in batch] for prompts in (vanilla, edited))
        asking = answers_of(model, plain, [asked] * len(rows[1:]), rows[1:], Decoding(max_new_tokens=room))
        for count, now in enumerate(asking, start=1):
            lines = now
            share = (number + min(1.0, count / room)) / len(batches)
            yield Preparation(f"Answering at {len(strengths)} strengths", 0.9 * share)
            if cancel():
                return None
        places = [(number, position) for number in range(len(rows)) for position in batch]
        answers.update(zip(places, lines, strict=True))
    own, prompted = (
        [Encoded(prompts[n], tuple(answers[0, n].tokens[:KL_TOKENS])) for n in harmless]
        for prompts in (vanilla, edited)
    )
    kl = np.zeros(len(rows))
    for number, weights in enumerate(rows[1:], start=1):
        yield Preparation("Measuring harmless KL", 0.9 + 0.1 * number / len(rows))
        if cancel():
            return None
        kl[number] = float(np.mean(harmless_kl(model, own, weights, prompted)))
    marks = _marks_of(model, questions, rows, answers, judge or EmbeddedJudge(), row)
    elsewhere = [number for number, question in enumerate(questions) if question.taught]

    def percent(of: Sequence[int], holds: Callable[[Marked], bool]) -> np.ndarray:
        return 100 * np.array([[holds(marked[n]) for n in of] for marked in marks]).mean(axis=1)

    lost = []
    for marked in marks:
        check = lost_defence(list(map(Reply, questions, marks[0], marked)), settings.budgets.lost_defence)
        lost.append(0.0 if check is None else check.value)
    return StrengthCurve(
        strengths=np.array(strengths),
        defended=percent(harmful, lambda marked: marked.safe),
        harmless_kl=kl,
        over_refusal=percent(harmless, lambda marked: marked.refused),
        degenerate=percent(range(len(questions)), lambda marked: bool(marked.degenerate)),
        parroting=percent(elsewhere, lambda marked: marked.parroted) if elsewhere else np.zeros(len(rows)),
        lost_defence=np.array(lost),
        prompts=len(harmful),
        harmless=len(harmless),
        elsewhere=len(elsewhere),
        chosen=row.strength,
        budgets=settings.budgets,
        too_long=len(kinds) - len(questions),
        judged=judged,
        evaluation=settings.evaluation,
    )


def judged_at(row: Row, strengths: Iterable[float], budgets: Budgets) -> Judged | None:
    """Return the gate's word that stands on a row's patch, if it is of one of these strengths where the row acts.

    Args:
        row: The edit, routed or not.
        strengths: Factors on its patch.
        budgets: What the checks are held to.
    """
    word: Mapping[str, Any] = (row.patch.settings.get(RECORD) if row.patch else None) or {}
    for strength in strengths if word else ():
        if is_of(word, Row(row.patch, strength, detector=row.detector)):
            return Judged(strength, held_to([Check(**check) for check in word["checks"]], budgets))
    return None


def _marks_of(
    model: InspectedModel,
    questions: Sequence[Question],
    rows: Sequence[Row],
    answers: Mapping[tuple[int, int], Line],
    judge: Judge,
    edit: Row,
) -> list[list[Marked]]:
    """Return ``[rows][questions]`` the marks of answers by row and question."""
    asked = [with_all_taught(question, edit) for question in questions]
    texts = {place: model.decode(line.tokens).strip() for place, line in answers.items()}
    judged = [(at, n) for at in range(len(rows)) for n, question in enumerate(asked) if question.kind in JUDGED]
    said = dict(zip(judged, verdicts(judge, [(asked[n].prompt, texts[at, n]) for at, n in judged]), strict=True))
    return [
        [
            marked_answer(question, texts[at, n], answers[at, n].finished, said.get((at, n)))
            for n, question in enumerate(asked)
        ]
        for at in range(len(rows))
    ]


def _over(broken: Sequence[str]) -> str:
    """Say which budgets are broken, after what breaks them; empty for none."""
    if not broken:
        return ""
    return f" is over the budget{'s' if len(broken) > 1 else ''} of {' and of '.join(broken)}"


def _kl(value: float) -> str:
    return "<0.0001 nats a token" if value < 1e-4 else f"{value:.3g} nats a token"
