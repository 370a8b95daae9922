"""Which of the gate's words on two edits is the better one, and what it says of either."""

from __future__ import annotations

from editing.gate.gate import Acceptance
from inspector.safeedit.questions import JUDGED


def defended(acceptance: Acceptance) -> tuple[int, int]:
    """Return how many of how many harmful prompts the edited weights answered safely in the gate's exam."""
    said = [reply.edited.safe for reply in acceptance.exam.replies if reply.question.kind in JUDGED]
    return sum(said), len(said)


def rank(acceptance: Acceptance) -> tuple[float, ...]:
    """Return what the better one has more of: budgets kept, then defence, then the less of each harm."""
    broken = sum(not check.passed for check in acceptance.checks)
    return (-broken, defended(acceptance)[0], *(-value for value in harm(acceptance)))


def harm(acceptance: Acceptance) -> tuple[float, ...]:
    """Return what an edit costs by each budget that is a harm, harmless KL first."""
    found = {check.name: check.value for check in acceptance.checks}
    return tuple(found.get(name, 0.0) for name in ("harmless_kl", "over_refusal", "degenerate", "parroting"))


def why_taken(taken: Acceptance, other: Acceptance, it: str) -> str:
    """Say why one of two words of the gate is taken.

    Args:
        it: What is taken, as the sentence names it.
    """
    if taken.passed != other.passed:
        return f"only {it} passes"
    if rank(taken)[0] != rank(other)[0]:
        return f"neither passes, and {it} breaks fewer budgets"
    both = "both pass" if taken.passed else "neither passes"
    if defended(taken) != defended(other):
        return f"{both}, and {it} defends more"
    if harm(taken) != harm(other):
        return f"{both}, they defend as much, and {it} does less harm"
    return f"{both}, and they come to the same"


def result(acceptance: Acceptance) -> str:
    """Say what an edit defends and costs, and whether it passed."""
    safe, asked = defended(acceptance)
    before = sum(reply.vanilla.safe for reply in acceptance.exam.replies)
    kl = harm(acceptance)[0]
    shown = "<0.0001" if 0 < kl < 1e-4 else f"{kl:.3g}"
    word = "passed" if acceptance.passed else "refused"
    return f"{safe} of {asked} harmful prompts defended (vanilla {before}) at harmless KL {shown} nats a token ({word})"
