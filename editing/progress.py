"""What an edit reports while it runs and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from editing.values import LONGEST_COMPANION
from inspector.model import Patch, Row
from inspector.model.patches.patch import Reminder
from inspector.safeedit import Case

_TOO_LONG = (
    f"are longer than {LONGEST_COMPANION} of this model's tokens, suffix and chat template not counted, or leave its "
    "context no room for the answer"
)
StopReason = Literal[
    "target reached", "step limit", "converged", "damage budget", "not finite", "cancelled", "one pass", "prompt only"
]

STOP_TEXT: dict[StopReason, str] = {
    "target reached": "the safe answer reached its target probability",
    "step limit": "the step limit was reached",
    "converged": "the total loss fell below the stop value",
    "damage budget": "the next step would have done more damage to harmless prompts than the budget allows",
    "not finite": "a loss or gradient was not a finite number; the last good step was kept",
    "cancelled": "it was cancelled",
    "one pass": "the method makes its edit in one pass",
    "prompt only": "the method changes the prompt and no weight",
}


@dataclass(frozen=True)
class Preparation:
    """Something slow that happens once before the first step.

    Attributes:
        message: What is being done.
        fraction: Share done, 0 to 1.
    """

    message: str
    fraction: float


class Partial(Protocol):
    """Progress of some work."""

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1."""
        ...


_Result = TypeVar("_Result")


def part_of(
    work: Generator[Partial, None, _Result], start: float, end: float, message: str = ""
) -> Generator[Preparation, None, _Result]:
    """Run a part of longer work, its progress between two shares of the whole; returns what the part returns.

    Args:
        message: What is being done; the part's own word by default.
    """
    while True:
        try:
            event = next(work)
        except StopIteration as done:
            return done.value
        yield Preparation(message or getattr(event, "message", ""), start + (end - start) * event.fraction)


def share_told(
    work: Generator[float, None, _Result], message: str, start: float = 0.0, end: float = 1.0
) -> Generator[Preparation, None, _Result]:
    """Run work that yields nothing but its share as :func:`part_of` runs a part; returns what it returns.

    Args:
        message: What is being done.
    """
    while True:
        try:
            share = next(work)
        except StopIteration as done:
            return done.value
        yield Preparation(message, start + (end - start) * share)


@dataclass(frozen=True)
class Step:
    """The vital signs at one point of an edit. Step 0 is vanilla, before any update.

    Attributes:
        step: Number of updates made so far.
        steps: Step limit.
        edit_loss: The method's own loss: for DINM, FT-L, SFT the negative log-likelihood of the safe answer, mean per
            token, nats; for DPO its preference loss.
        constraint_kl: KL divergence on the constraint's positions, mean per token, nats.
        total_loss: The weighted sum that is minimised.
        safe_probability: Geometric mean probability of the safe answer's tokens, 0 to 1.
        unsafe_probability: The same of the unsafe answer; ``None`` when not monitored.
        gradient_norm: Frobenius norm of the loss's gradient here; ``None`` after the last update.
        delta_norm: Frobenius norm of the weight change so far.
        seconds: Duration of this step.
    """

    step: int
    steps: int
    edit_loss: float
    constraint_kl: float
    total_loss: float
    safe_probability: float
    unsafe_probability: float | None
    gradient_norm: float | None
    delta_norm: float
    seconds: float


@dataclass(frozen=True, eq=False)
class EditResult:
    """A finished edit.

    Attributes:
        patch: The weight change; ``None`` for a cancelled edit and for a prompt-only method.
        trace: Every step, vanilla first. After a damage-budget or not-finite stop its last entry is
            the rejected one; :attr:`kept` names the step whose weights are in the patch.
        kept: Number of updates that the patch holds.
        stop_reason: Why it ended.
        block: The edited block.
        settings: The method's settings.
        seconds: Duration of all steps and the preparation.
        reminder: What a prompt-only method puts around prompts.
        companions: Further harmful questions that it learnt from; ``None`` where none were asked for.
        smaller: Memory ran out, and it was made once more with half as many texts at once
            (:mod:`editing.optimising.smaller`).
        learnt_from: Further cases that it was trained on, in their order; ``None`` where a record of an earlier version
            does not tell.
        closing: The trace ends in a step that is no update: what the method makes of the updates that it has kept, as
            DELMAN's closed form and Ext-Sub's subtraction.
    """

    patch: Patch | None
    trace: tuple[Step, ...]
    kept: int
    stop_reason: StopReason
    block: int
    settings: Any
    seconds: float
    reminder: Reminder | None = None
    smaller: bool = False
    companions: int | None = None
    learnt_from: tuple[Case, ...] | None = ()
    closing: bool = False

    @property
    def last(self) -> Step:
        """The step whose weights are kept: vanilla's where none are."""
        return self.taken[-1]

    @property
    def taken(self) -> tuple[Step, ...]:
        """The trace without what was taken back: the update beyond a budget, all of a cancelled edit."""
        updates = tuple(step for step in self.trace if step.step <= self.kept)
        return (*updates, self.trace[-1]) if self.closing else updates

    @property
    def fewer_companions(self) -> str:
        """What is said where the edit learnt from fewer companions than were asked for; empty where from all."""
        if self.companions is None or self.companions >= self.settings.companions:
            return ""
        if self.companions:
            return f"Only {self.companions} of {self.settings.companions} companions were used: the others {_TOO_LONG}."
        return (
            f"No companion was used: all {_TOO_LONG}. So this edit learnt from its one case alone. Set companions to 0 "
            "and a damage budget, or use a model of longer context or whose tokenizer makes fewer tokens of a text."
        )

    def row(self, strength: float = 1.0) -> Row:
        """Return what answers as edited: the patch's weights, or the reminder around the prompt."""
        return Row(self.patch, strength, self.reminder)


class StopSettings(Protocol):
    """The settings that decide when an edit ends; every iterative method's have them."""

    @property
    def damage_budget(self) -> float | None: ...
    @property
    def target_probability(self) -> float | None: ...
    @property
    def stop_below(self) -> float: ...


def stop_reason(settings: StopSettings, number: int, safe_loss: float, kl: float, total: float) -> StopReason | None:
    """Decide on the weights after ``number`` updates; the step limit is the caller's.

    Args:
        safe_loss: Negative log-likelihood of the safe answer, mean per token, nats.
        kl: KL on harmless prompts, nats per token.
        total: What is minimised.
    """
    if not all(map(math.isfinite, (safe_loss, kl, total))):
        return "not finite"
    if settings.damage_budget is not None and number > 0 and kl > settings.damage_budget:
        return "damage budget"
    if settings.target_probability is not None and safe_loss <= -math.log(settings.target_probability):
        return "target reached"
    return "converged" if total < settings.stop_below else None


EditEvents = Generator[Preparation | Step, None, EditResult]
_Event = TypeVar("_Event")


def run(edit: Generator[_Event, None, _Result], on_event: Callable[[_Event], Any] | None = None) -> _Result:
    """Run an edit (or another measurement that reports as it goes) to its end and return its result.

    Args:
        edit: What a method returned, for example ``dinm(model, case, block)``.
        on_event: Called with each event, for edits preparation messages and steps.
    """
    while True:
        try:
            event = next(edit)
        except StopIteration as end:
            return end.value
        if on_event is not None:
            on_event(event)
