"""What an edit reports while it runs and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from inspector.model import Patch

StopReason = Literal["target reached", "step limit", "converged", "damage budget", "not finite", "cancelled"]

STOP_TEXT: dict[StopReason, str] = {
    "target reached": "the safe answer reached its target probability",
    "step limit": "the step limit was reached",
    "converged": "the total loss fell below the stop value",
    "damage budget": "the next step would have done more damage to harmless prompts than the budget allows",
    "not finite": "a loss or gradient was not a finite number; the last good step was kept",
    "cancelled": "it was cancelled",
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


@dataclass(frozen=True)
class Step:
    """The vital signs at one point of an edit. Step 0 is vanilla, before any update.

    Attributes:
        step: Number of updates made so far.
        steps: Step limit.
        edit_loss: Negative log-likelihood of the safe answer, mean per token, nats.
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
        patch: The weight change; ``None`` for a cancelled edit.
        trace: Every step, vanilla first. After a damage-budget or not-finite stop its last entry is
            the rejected one; :attr:`kept` names the step whose weights are in the patch.
        kept: Number of updates that the patch holds.
        stop_reason: Why it ended.
        block: The edited block.
        settings: The method's settings.
        seconds: Duration of all steps and the preparation.
    """

    patch: Patch | None
    trace: tuple[Step, ...]
    kept: int
    stop_reason: StopReason
    block: int
    settings: Any
    seconds: float


EditEvents = Generator[Preparation | Step, None, EditResult]
_Event = TypeVar("_Event")
_Result = TypeVar("_Result")


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
