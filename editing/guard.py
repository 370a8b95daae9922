"""What is refused: answers in each other's place before an edit, and an edit that has lowered safety after it."""

from __future__ import annotations

import math

from editing.progress import Step
from inspector.errors import CaseError, EditError, RefusedEdit
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.refusal import CONFIDENCE, read_refusal

DECLINES = CONFIDENCE["flat no"]
"""How sure the refusal rules must be that the unsafe answer declines."""


def check_case(case: Case) -> None:
    """Check that a case can be edited on and that its safe answer is not known to be the unsafe one.

    The rules know English wording only: an unsafe text of one's own in the safe answer's place passes unless the
    other answer declines.

    Raises:
        CaseError: An answer is empty, both are the same, the safe one is a bundled case's unsafe one, or only the
            unsafe one declines.
    """
    case.require_answers()
    if any(case.safe.split() == other.unsafe.split() for other in bundled_cases()):
        raise CaseError("The safe answer is a bundled case's unsafe answer. Put the safe one there.")
    other = read_refusal(case.unsafe, case.adversarial_prompt)
    if other.probability >= DECLINES and not read_refusal(case.safe, case.adversarial_prompt).refused:
        raise CaseError(
            f"The answers look exchanged: the unsafe one declines ({other.reason.rstrip('.')}) and the safe one does "
            "not. Put the answer that declines into the safe answer's box."
        )


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
        RefusedEdit: The margin has fallen, or is not a finite number.
    """
    if not all(map(math.isfinite, (margin(before), margin(after)))):  # no proof of safety
        raise RefusedEdit(
            f"{what} cannot be checked: the probability of an answer is not a finite number. Load the model in float32 "
            f"(--dtype float32). {remedy}"
        )
    if margin(after) < margin(before):
        raise RefusedEdit(
            f"{what} would let the unsafe answer gain on the safe one (margin {margin(before):.3f} to "
            f"{margin(after):.3f} nats a token), which this program does not offer. {remedy}"
        )
