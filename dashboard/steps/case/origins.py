"""Where the answers in the rail come from, and whether they still belong to the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from dashboard.kit.typed import Texts
from editing.own_answers import Origin, OwnAnswers
from inspector.errors import CaseError
from inspector.safeedit import bundled_cases

SIDES = ("safe", "unsafe")
Kept = Mapping[str, tuple[str, Origin, str, str]]
"""By side: an answer's text, where it came from, the question that it was written for, and a note."""
STALE = (
    "The answers belong to another question, so an edit would teach the wrong thing. Press Answer this question (or "
    "Operate, which does it first), write them yourself, or press Keep these answers."
)
WRITTEN = (
    "An answer that was typed here belongs to another question, and a new one would take its place. Press Keep these "
    "answers to edit with it, or Answer this question to let the model write another one."
)


@dataclass(frozen=True)
class Standing:
    """One answer as it stands in the rail.

    Attributes:
        origin: Where it comes from; ``None`` for an empty one.
        stale: It was made for another question.
        note: What was said of it when it was made.
    """

    origin: Origin | None
    stale: bool = False
    note: str = ""


@cache
def _bundled(side: str) -> dict[str, str]:
    """The question of every bundled answer."""
    return {getattr(case, side): case.question for case in bundled_cases()}


def standing(texts: Texts, side: str, kept: Kept) -> Standing:
    """Tell where an answer in the rail comes from.

    Args:
        side: ``safe`` or ``unsafe``.
        kept: What is known of answers that were written here.
    """
    text: str = getattr(texts, side)
    if not text.strip():
        return Standing(None)
    known = kept.get(side)
    if known is not None and known[0] == text:
        return Standing(known[1], known[2] != texts.question, known[3])
    question = _bundled(side).get(text)
    if question is not None:
        return Standing("case", question != texts.question)
    return Standing("typed")


def to_fill(texts: Texts, kept: Kept) -> tuple[str, ...]:
    """Return the sides whose answer is empty or belongs to another question."""
    found = {side: standing(texts, side, kept) for side in SIDES}
    return tuple(side for side, one in found.items() if one.origin is None or one.stale)


def require_fresh(texts: Texts, kept: Kept) -> None:
    """Refuse answers that belong to another question.

    Raises:
        CaseError: One does.
    """
    require_not_typed(texts, kept)
    if texts.question.strip() and any(standing(texts, side, kept).stale for side in SIDES):
        raise CaseError(STALE)


def require_not_typed(texts: Texts, kept: Kept) -> None:
    """Refuse to write over an answer that a person has typed for another question; others come back at a press.

    Raises:
        CaseError: There is one.
    """
    found = [standing(texts, side, kept) for side in SIDES]
    if texts.question.strip() and any(one.stale and one.origin == "typed" for one in found):
        raise CaseError(WRITTEN)


def kept_as(texts: Texts, kept: Kept, side: str, origin: Origin | None = None) -> Kept:
    """Return what is known once an answer is said to belong to the question in the rail.

    Args:
        origin: Where it comes from; what it was, by default.
    """
    now = standing(texts, side, kept)
    return {**kept, side: (getattr(texts, side), origin or now.origin or "typed", texts.question, now.note)}


def written(question: str, made: OwnAnswers, sides: tuple[str, ...], kept: Kept) -> Kept:
    """Return what is known once answers were written for a question."""
    answers = {side: getattr(made, side) for side in sides}
    return {**kept, **{side: (one.text, one.origin, question, one.note) for side, one in answers.items()}}
