"""Where the answers in the rail come from, and whether they still belong to the question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from dashboard.kit.sessions.typed import Texts
from editing.texts.own_answers import Origin, OwnAnswers
from inspector.errors import CaseError
from inspector.safeedit import bundled_cases

SIDES = ("safe", "unsafe")


class Source(NamedTuple):
    """Where an answer came from; a tuple, so that it is weighed and kept with the page's controls.

    Attributes:
        text: The answer.
        origin: Who has written it.
        question: The question that it was written for.
        note: What was said of it then.
        model: The label of the model that has written it; empty where none has.
    """

    text: str
    origin: Origin
    question: str
    note: str = ""
    model: str = ""


Kept = Mapping[str, Source]
"""By side: where the last answer came from that was written here."""
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
        model: The label of the model that has written it; empty where none has.
    """

    origin: Origin | None
    stale: bool = False
    note: str = ""
    model: str = ""


@cache
def _bundled(side: str) -> dict[str, str]:
    """The question of every bundled answer."""
    return {getattr(case, side): case.question for case in bundled_cases()}


def standing(texts: Texts, side: str, kept: Kept) -> Standing:
    """Tell where an answer in the rail comes from.

    A bundled answer beside its own question is the case's, whatever question it was kept for since.

    Args:
        side: ``safe`` or ``unsafe``.
        kept: What is known of answers that were written here.
    """
    text: str = getattr(texts, side)
    if not text.strip():
        return Standing(None)
    question, known = _bundled(side).get(text), kept.get(side)
    if question == texts.question:
        return Standing("case")
    if known is not None and known.text == text:
        return Standing(known.origin, known.question != texts.question, known.note, known.model)
    return Standing("typed") if question is None else Standing("case", stale=True)


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


def noted(texts: Texts, kept: Kept) -> Kept:
    """Return what is known once an answer of which nothing was known is seen: it was typed, for the question beside it.

    Whoever types goes through answers that are half written, which a browser does not send one by one: so it is the
    text that is looked at, and not who has changed it.
    """
    found = dict(kept)
    for side in SIDES:
        text: str = getattr(texts, side)
        known = kept.get(side)
        if text.strip() and text not in _bundled(side) and (known is None or known.text != text):
            found[side] = Source(text, "typed", texts.question)
    return found


def kept_as(texts: Texts, kept: Kept, side: str) -> Kept:
    """Return what is known once an answer is said to belong to the question in the rail."""
    now = standing(texts, side, kept)
    return {**kept, side: Source(getattr(texts, side), now.origin or "typed", texts.question, now.note, now.model)}


def written(question: str, made: OwnAnswers, sides: Iterable[str], kept: Kept, model: str) -> Kept:
    """Return what is known once answers were written for a question.

    Args:
        sides: Which of the two are taken.
        model: The label of the model that has written them.
    """
    answers = {side: getattr(made, side) for side in sides}
    return {**kept, **{side: Source(one.text, one.origin, question, one.note, model) for side, one in answers.items()}}
