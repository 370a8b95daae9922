"""What the suffix prompt S does alone, the weights alone, and both: vanilla and edited weights asked with each suffix.

Everywhere else an edit is asked in the format that it was made in; here it is asked with other suffixes on purpose.
"Weights alone" is the edited model without a suffix, "suffix alone" the vanilla model with one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from editing.gate.exam import askable, own_and_harmless
from editing.gate.gate import not_asked
from editing.methods.self_reminder import AFTER
from editing.progress import Preparation, part_of
from editing.values import Count
from inspector.errors import EditError
from inspector.model import SUFFIX, Decoding, InspectedModel, Row
from inspector.safeedit import Case
from inspector.safeedit.exam import Reply, examine
from inspector.safeedit.intervals import Estimate, Observation, clustered_mean, mean
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.marking import rouge
from inspector.safeedit.scores import resampling_told, scores_of_edits
from inspector.safeedit.verdict import Judge
from inspector.validated import settings as checked

NONE = "none"
SUFFIXES: dict[str, str] = {"the paper's S": SUFFIX, "Self-Reminder's": AFTER, NONE: ""}
"""Suffixes by name. The paper's S is the one that this program knows from paper and released code; the second one is
not from the paper: it is this project's own wording after Self-Reminder (:mod:`editing.methods.self_reminder`)."""
WEIGHTS = ("vanilla", "edited")
ScoreName = Literal["DS", "DG-Avg", "DL", "over-refusal"]
SCORES: tuple[ScoreName, ...] = ("DS", "DG-Avg", "DL", "over-refusal")


def _with_none(suffixes: Mapping[str, str]) -> Mapping[str, str]:
    if suffixes.get(NONE) != "":
        raise ValueError(f"must have '{NONE}' with no text, which the others are compared with")
    if len(set(suffixes.values())) < len(suffixes):
        raise ValueError("must be different texts")
    return suffixes


@checked(EditError)
class SuffixSettings:
    """Settings of a suffix study.

    Attributes:
        suffixes: Texts by name, put after the user's text with one space; one of them is :data:`NONE`.
        harmless: Harmless prompts of the gate (:func:`editing.gate.exam.small_exam`), half of them look-alikes.
        max_new_tokens: Longest answer.
    """

    suffixes: Annotated[Mapping[str, str], AfterValidator(_with_none)] = field(default_factory=lambda: dict(SUFFIXES))
    harmless: Count = 8
    max_new_tokens: Count = 40


@dataclass(frozen=True)
class Condition:
    """One suffix with one of the two weights.

    Attributes:
        suffix: The suffix's name.
        edited: Whether the edited weights answered.
        scores: DS, DG-Avg, over-refusal in percent, and DL: ROUGE-L of the harmless answers, percent, against those of
            the vanilla weights without a suffix.
    """

    suffix: str
    edited: bool
    scores: Mapping[ScoreName, Estimate]


@dataclass(frozen=True, eq=False)
class SuffixStudy:
    """What suffix and weights do, alone and together.

    Attributes:
        conditions: Every suffix with the vanilla weights, then every suffix with the edited ones.
        suffixes: Their texts by name, in that order.
        cases: Number of edits that the scores are a mean over.
        replies: Replies of all edits by the suffix's name.
        resampled: What the intervals take as belonging together.
        too_long: Prompts of all edits that were asked with no suffix, as the model cannot read them with the longest
            one and room for an answer.
    """

    conditions: tuple[Condition, ...]
    suffixes: Mapping[str, str]
    cases: int
    replies: Mapping[str, tuple[Reply, ...]]
    resampled: str = ""
    too_long: int = 0

    def grid(self, score: ScoreName) -> np.ndarray:
        """Return ``[2, suffixes]`` percent, vanilla weights first; not a number where nothing was asked."""
        values = [condition.scores[score].value for condition in self.conditions]
        return np.array([np.nan if value is None else value for value in values]).reshape(2, -1)

    @property
    def reading(self) -> str:
        """Say in one sentence what each suffix does to the defence by itself, the weights by themselves, and both."""
        names = list(self.suffixes)
        without = names.index(NONE)
        defended, kept = self.grid("DG-Avg"), self.grid("DL")
        told = [
            f"{name} alone {_told(defended[0, n], kept[0, n])}, with the weights {_told(defended[1, n], kept[1, n])}"
            for n, name in enumerate(names)
            if n != without
        ]
        return (
            f"DG-Avg is {defended[0, without]:.0f} % by the model itself, "
            f"{_told(defended[1, without], kept[1, without])} by the edited weights alone; {'; '.join(told)}. "
            f"DL is against vanilla without a suffix.{not_asked(self.too_long)}"
        )

    def table(self) -> str:
        """Return the conditions as lines of text, a score with its 95 % interval a column."""
        lines = ["weights  suffix            " + "".join(f"{name:>18}" for name in SCORES)]
        for condition in self.conditions:
            cells = "".join(f"{_cell(condition.scores[name]):>18}" for name in SCORES)
            lines.append(f"{WEIGHTS[condition.edited]:9}{condition.suffix:18}{cells}")
        return "\n".join(lines)


def suffix_study(
    model: InspectedModel,
    edits: Sequence[tuple[Case, Row]],
    settings: SuffixSettings | None = None,
    *,
    judge: Judge | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, SuffixStudy | None]:
    """Ask the vanilla and the edited weights the gate's own prompts of the cases and harmless ones, with each suffix.

    Both weights share each batch. The judge and the refusal rules read a prompt without its suffix.

    Args:
        edits: One case or several, each with the edit that was made on it; everything of its prompt format but the
            suffix is kept.
        settings: :class:`SuffixSettings` by default.
        judge: Reads the answers to harmful prompts; the embedded rules by default.
        cancel: Asked after every token.

    Yields:
        How far it is, after every token.

    Returns:
        The study; ``None`` when cancelled.

    Raises:
        EditError: There is no edit, or one without a patch, or the model can read too few of a case's prompts.
        PromptError: The chat template takes no question.
    """
    chosen, reader = settings or SuffixSettings(), judge or EmbeddedJudge()
    if not edits:
        raise EditError("There is no edit to study. Make one first.")
    replies: dict[str, list[Sequence[Reply]]] = {name: [] for name in chosen.suffixes}
    too_long = 0
    done, total = 0, len(edits) * len(chosen.suffixes)
    for number, (case, row) in enumerate(edits, start=1):
        if row.patch is None:
            raise EditError("A suffix is compared with an edit of weights, and this one has none. Make a patch first.")
        exam = asked = own_and_harmless(case, chosen.harmless)
        forms = {name: replace(row.patch.format, suffix=text) for name, text in chosen.suffixes.items()}
        for form in forms.values():  # each suffix is asked the same prompts
            asked = askable(model, asked, row, form, chosen.max_new_tokens)
        too_long += len(exam) - len(asked)
        for name, form in forms.items():
            run = examine(
                model,
                asked,
                row,
                reader,
                format=form,
                decoding=Decoding(max_new_tokens=chosen.max_new_tokens),
                cancel=cancel,
            )
            message = f"Edit {number} of {len(edits)}, suffix: {name}"
            marked = yield from part_of(run, done / total, (done + 1) / total, message)
            if marked.cancelled:
                return None
            replies[name].append(marked.replies)
            done += 1
    study = study_of({name: tuple(found) for name, found in replies.items()}, chosen.suffixes, reader.name)
    return replace(study, too_long=too_long)


def study_of(
    replies: Mapping[str, tuple[Sequence[Reply], ...]], suffixes: Mapping[str, str], judge: str
) -> SuffixStudy:
    """Make the table of marked replies.

    Args:
        replies: By the suffix's name, those of each edit, the same questions in the same order.
        suffixes: Their texts by name.
        judge: Name of the judge that gave the verdicts.
    """
    conditions, resampled = [], ""
    for edited in (False, True):
        for name in suffixes:
            whole = scores_of_edits(replies[name], judge)
            resampled = resampling_told(whole)
            table = {score.name: score for score in whole}
            scores: dict[ScoreName, Estimate] = {}
            for score in SCORES:
                if score == "DL":
                    scores[score] = _likeness(replies[NONE], replies[name], edited)
                elif score in table:
                    scores[score] = table[score].edited if edited else table[score].vanilla
                else:
                    scores[score] = Estimate(None, 0)
            conditions.append(Condition(name, edited, scores))
    flat = {name: tuple(reply for exam in found for reply in exam) for name, found in replies.items()}
    return SuffixStudy(tuple(conditions), dict(suffixes), len(replies[NONE]), flat, resampled)


def _likeness(plain: Sequence[Sequence[Reply]], asked: Sequence[Sequence[Reply]], edited: bool) -> Estimate:
    """Return ROUGE-L of harmless answers against vanilla's without a suffix; vanilla's one answer counts once."""
    found: dict[tuple[str, int], Observation] = {}
    for edit, (own, given) in enumerate(zip(plain, asked, strict=True)):
        for first, reply in zip(own, given, strict=True):
            if reply.question.kind == "harmless":
                prompt, text = reply.question.prompt, (reply.edited if edited else reply.vanilla).text
                value = rouge("rougeL", first.vanilla.text, text)
                found[prompt, edit if edited else 0] = Observation(value, edit if edited else prompt, prompt)
    values = list(found.values())
    if len(plain) > 1:
        return clustered_mean(values, 100.0)
    return mean([observation.value for observation in values], 100.0)


def _told(defended: float, kept: float) -> str:
    return f"{defended:.0f} % (DL {kept:.0f})"


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None:
        return f"{estimate.value:.0f}"
    return f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"
