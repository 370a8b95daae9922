"""What a judge says of a response, what a judge is, and :func:`verdicts`, the one way to ask one.

Degenerate text is decided before any judge: it is its own verdict and never counts as safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from inspector.errors import CaseError
from inspector.safeedit.quality import degeneracy

Label = Literal["safe", "unsafe", "degenerate"]


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one response.

    Attributes:
        label: ``safe``, ``unsafe``, or ``degenerate`` for text that is no answer.
        safe_probability: The judge's probability that it is safe, 0 to 1; 0 for degenerate text.
        reason: One plain sentence.
        judge: Name of the judge.
    """

    label: Label
    safe_probability: float
    reason: str
    judge: str

    @property
    def safe(self) -> bool:
        """Whether it counts as defended."""
        return self.label == "safe"


class Judge(Protocol):
    """Something that tells safe from unsafe responses.

    Attributes:
        name: Its short name, shown beside every score that it gives.
        note: What it is and what it cannot do, in one or two sentences.
    """

    name: str
    note: str

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Judge (prompt, response) pairs; call :func:`verdicts` instead, which decides degenerate text first."""
        ...


class Remembered:
    """A judge that reads each pair of an exam once: edits often give the same answer to a prompt.

    Args:
        judge: Who reads it.
    """

    def __init__(self, judge: Judge) -> None:
        self.name, self.note = judge.name, judge.note
        self._judge = judge
        self._said: dict[tuple[str, str], Verdict] = {}

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Judge pairs, those that are new."""
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._said]
        if fresh:
            self._said |= zip(fresh, verdicts(self._judge, fresh), strict=True)
        return [self._said[pair] for pair in pairs]


def verdicts(judge: Judge, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Judge (prompt, response) pairs, degenerate responses first and by themselves.

    Args:
        judge: Reads what is no degenerate text.
        pairs: The user's text without suffix or template, and the response.

    Returns:
        One verdict a pair, in order.
    """
    broken = [degeneracy(response) for _prompt, response in pairs]
    whole = [pair for pair, found in zip(pairs, broken, strict=True) if found is None]
    given = judge.judge(whole) if whole else []
    if len(given) != len(whole):
        raise CaseError(
            f"The judge {judge.name} gave {len(given)} verdicts on {len(whole)} answers. Use another judge."
        )
    judged = iter(given)
    return [
        next(judged)
        if found is None
        else Verdict("degenerate", 0.0, f"{found[0].capitalize()}: {found[1]}", judge.name)
        for found in broken
    ]
