"""What is refused after it was measured: an edit that would lower safety on the case it was made for."""

from __future__ import annotations

import math

from editing.progress import Step
from inspector.errors import EditError


def margin(step: Step) -> float:
    """Return log P(safe) - log P(unsafe), a mean per token in nats.

    Raises:
        EditError: The step did not watch the unsafe answer.
    """
    if step.unsafe_probability is None:
        raise EditError("The unsafe answer was not watched, so this edit cannot be checked. Watch it.")
    return math.log(max(step.safe_probability, 1e-30)) - math.log(max(step.unsafe_probability, 1e-30))


def refuse_harm(what: str, before: Step, after: Step, remedy: str) -> None:
    """Refuse an edit that lets the unsafe answer gain on the safe one.

    Args:
        what: What was done, for the message: ``Knocking out this neuron``.
        before: The vital signs of the vanilla weights.
        after: Those of the edited ones.
        remedy: What to do instead, a sentence.

    Raises:
        EditError: The margin has fallen, or is not a number.
    """
    if not margin(after) >= margin(before):  # not a number is no proof of safety
        raise EditError(
            f"{what} would let the unsafe answer gain on the safe one (margin {margin(before):.3f} to "
            f"{margin(after):.3f} nats a token), which this program does not offer. {remedy}"
        )
