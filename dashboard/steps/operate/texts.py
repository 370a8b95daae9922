"""What Operate says: its clock and the reading of the vital signs."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.kit.html import number, probability, progress_bar, reading, updates
from editing import EditResult, Preparation, Step
from editing.progress import STOP_TEXT


def clock(event: Preparation | Step | None, seconds_per_step: float = 0.0) -> str:
    """Return the step clock with its progress bar."""
    if event is None:
        return progress_bar("Ready. Press Operate: it locates, edits and compares.", 0.0)
    if isinstance(event, Preparation):
        return progress_bar(event.message, event.fraction * 0.1)
    left = seconds_per_step * (event.steps - event.step)
    done = event.step / event.steps
    return progress_bar(
        f"Step {event.step} of at most {event.steps} · {seconds_per_step:.2f} s a step · at most {left:.0f} s left",
        0.1 + 0.9 * done,
    )


def finished(result: EditResult) -> str:
    """Return the step clock of an ended edit."""
    kept = "nothing was changed" if result.patch is None else f"{updates(result)} kept"
    return progress_bar(f"Ended after {result.seconds:.1f} s: {STOP_TEXT[result.stop_reason]}; {kept}.", 1.0)


def vitals_reading(trace: Sequence[Step]) -> str:
    """Read the vital signs in one line."""
    if not trace:
        return reading("The charts fill while the edit runs.")
    first, last = trace[0], trace[-1]
    count = f"{last.step} update{'' if last.step == 1 else 's'}"
    return reading(
        f"The safe answer went from {probability(first.safe_probability)} to "
        f"{probability(last.safe_probability)} per token in {count}; harmless answers moved by "
        f"{number(max(0.0, last.constraint_kl))} nats a token. Dashed lines are target and budget."
    )


def gate_line(result: EditResult) -> str:
    """Say under the vital signs whether what is kept stays within the edit's own budget; nothing without a patch."""
    if result.patch is None:
        return ""
    kept = next(step for step in result.trace if step.step == result.kept)
    budget, harm = result.settings.damage_budget, max(0.0, kept.constraint_kl)
    if budget is None:
        return f'<p class="gate">No damage budget was set: harmless KL {number(harm)} nats a token.</p>'
    kind, said = ("passed", "Within budget") if harm <= budget else ("refused", "Beyond budget")
    return (
        f'<p class="gate {kind}"><b>{said}</b> <span>harmless KL {number(harm)} of {number(budget)} nats a token</span>'
        "</p>"
    )
