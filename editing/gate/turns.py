"""Which edit is made, decided by the gate: several in turn until one passes and defends enough, and the better of two.

An edit that is to act only where harm is detected may learn more than one that acts on every prompt, so it is made
first; the other one is made where that does not pass, or passes and leaves more than a share of the harmful prompts
undefended (:data:`ENOUGH`), and the better of both is taken (:func:`attempts`, :func:`of_two`). A gated edit is no
candidate: it defends less than either of them (`benchmarks.detox`), and its method is chosen by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar

from editing.gate.gate import Acceptance
from editing.gate.ranking import defended, rank, result, why_taken
from editing.memory import memory_told
from editing.methods.dinm import DinmSettings, to_be_routed
from inspector.errors import REFUSALS, InspectorError, OutOfMemory
from inspector.model import Detector

ENOUGH = 0.75
"""Share of the gate's harmful prompts from which on an edit that passed is taken without another one beside it: to make
and examine that takes at least as long again, and it defends unseen questions less often (`benchmarks.detox`). Routed,
an edit defends what its detector finds, some four of five unseen questions (`benchmarks.gate_word`)."""
LEARNS_MORE, HELD = "the edit that is made to act only there", "the one that is held to harmless prompts"
"""The two edits of :func:`attempts`, for people."""


class Examined(Protocol):
    """An edit that was made, with the gate's word on it."""

    @property
    def acceptance(self) -> Acceptance | None:
        """The gate's word; ``None`` if it was not examined to the end."""
        ...

    def worded(self, acceptance: Acceptance) -> Self:
        """Return it with another word of the gate."""
        ...


_Settings = TypeVar("_Settings")
_Event = TypeVar("_Event")
_Made = TypeVar("_Made", bound=Examined)


def attempts(
    settings: DinmSettings, detector: Detector | None, by_hand: Collection[str] = ()
) -> tuple[DinmSettings, ...]:
    """Return the edits that are made in turn until one is :func:`enough`, where the gate chooses where an edit acts.

    Args:
        settings: What is asked for.
        detector: Of harmful prompts; without one nothing can be routed.
        by_hand: As for :func:`editing.methods.dinm.to_be_routed`.
    """
    routed = to_be_routed(settings, by_hand)
    return (settings,) if detector is None or routed == settings else (routed, settings)


def in_turn(
    tried: Sequence[_Settings], make: Callable[[_Settings, _Made | None], Generator[_Event, None, _Made | None]]
) -> Generator[_Event, None, _Made | None]:
    """Make edits in turn until one is :func:`enough`, or it or its exam is cancelled, and take the better one.

    A later edit that is none (:data:`inspector.errors.REFUSALS`), or that memory does not suffice for, leaves the one
    before as it is, and the gate's word on that says why.

    Args:
        tried: Their settings, see :func:`attempts`.
        make: Makes an edit and asks the gate about it. It gets the settings and the best edit before, ``None`` for the
            first one, and returns ``None`` where the edit was cancelled.

    Yields:
        What ``make`` yields.

    Returns:
        The better edit, with both results in the gate's word on it; ``None`` where the first one was cancelled.

    Raises:
        InspectorError: The first edit cannot be made, or a later one for a reason that says nothing about it.
    """
    best: _Made | None = None
    for settings in tried:
        before = None if best is None else best.acceptance
        if best is None or before is None:
            best = yield from make(settings, None)
        else:
            try:
                with memory_told():
                    made = yield from make(settings, best)
            except (*REFUSALS, OutOfMemory) as error:
                return best.worded(_alone(before, error))
            if made is None or made.acceptance is None:
                return best
            later, word = of_two(before, made.acceptance)
            best = (made if later else best).worded(word)
        if best is None or best.acceptance is None or enough(best.acceptance):
            break
    return best


def enough(acceptance: Acceptance) -> bool:
    """Tell whether an edit is taken without another attempt: it passed, and defends :data:`ENOUGH` of the exam."""
    safe, asked = defended(acceptance)
    return acceptance.passed and safe >= ENOUGH * asked


def goes_on(acceptance: Acceptance) -> str:
    """Say why another edit is made after one that was not :func:`enough`."""
    why = f"which is less than {100 * ENOUGH:g} %" if acceptance.passed else "so it is not taken as it is"
    return f"The first edit: {result(acceptance)}, {why}. Another one is made, {HELD}; the better of both is taken."


def of_two(first: Acceptance, second: Acceptance) -> tuple[bool, Acceptance]:
    """Take the better of the gate's words on two edits of :func:`attempts`, of equal ones the first.

    Returns:
        Whether it is the second, and the word, with both results in its ``choice``.
    """
    later = rank(second) > rank(first)
    taken, other = (second, first) if later else (first, second)
    told = (
        f"Made in turn: {LEARNS_MORE}, {result(first)}; {HELD}, {result(second)}. Taken: the "
        f"{'second' if later else 'first'}, since {why_taken(taken, other, 'it')}."
    )
    return later, replace(taken, choice=f"{told} {taken.choice}".strip())


def _alone(first: Acceptance, why: InspectorError) -> Acceptance:
    """Return the gate's word on the first edit of :func:`attempts` where the second one came to nothing."""
    told = (
        f"Made in turn: {LEARNS_MORE}, {result(first)}; {HELD}, which came to nothing: {why.user_message()} Taken: "
        "the first, since there is no other."
    )
    return replace(first, choice=f"{told} {first.choice}".strip())
