"""Small pieces of HTML that every step uses. Everything that a person or a model wrote is escaped."""

from __future__ import annotations

from dashboard.kit.plain import escape
from dashboard.kit.session import Session
from editing import EditResult
from editing.gate import RECORD
from editing.stacking import edits_in
from inspector.model import Row
from inspector.safeedit import Case


def number(value: float, digits: int = 3) -> str:
    """Format a number for people: never a bare zero for something small."""
    if value == 0:
        return "0"
    smallest = 10.0 ** -(digits + 1)
    if abs(value) < smallest:
        return f"{'-' if value < 0 else ''}<{smallest:.{digits + 1}f}"
    # From here on three digits would be 1e+03.
    return f"{value:.{digits}g}" if abs(value) < 999.5 else f"{value:,.0f}"


def probability(value: float) -> str:
    """Format a probability: ``<0.0001``, else three digits."""
    return "<0.0001" if value < 0.0001 else f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def reading(text: str, kind: str = "") -> str:
    """Return a one-line reading under a figure."""
    return f'<p class="reading {kind}">{escape(text)}</p>'


def progress_bar(text: str, fraction: float) -> str:
    """Return one line of text over a bar that is filled to a fraction, 0 to 1."""
    return (
        f'<div class="clock" role="status"><span>{escape(text)}</span>'
        f'<div class="bar"><div style="width:{100 * fraction:.1f}%"></div></div></div>'
    )


def message(text: str) -> str:
    """Return the step clock with a plain message."""
    return progress_bar(text, 0.0)


def weights_badge(row: Row, extra: str = "") -> str:
    """Say above an answer which weights made it."""
    kind = "vanilla" if row.label() == "vanilla" else "edited"
    tail = f'<span class="badge-note">{escape(extra)}</span>' if extra else ""
    return f'<div class="answer-head"><span class="badge {kind}">{escape(row.label())}</span>{tail}</div>'


def live_badge(session: Session) -> str:
    """Say which weights are live for this visitor and how many edits there are."""
    row = session.row
    if session.live is None:
        return (
            '<div class="live"><span class="badge vanilla">live weights: vanilla</span>'
            "<span>no edit is live</span></div>"
        )
    made, stacked = len(session.edits), edits_in(session.live.patch)
    live = "1 edit live" if stacked == 1 else f"{stacked} edits stacked"
    word = session.live.patch.settings.get(RECORD, {})
    how = "passed under looser budgets, kept by hand" if word.get("loosened") else "kept against the gate's refusal"
    by_hand = f'<b class="refused">{how}</b> · ' if word.get("overridden") else ""
    return (
        f'<div class="live"><span class="badge edited">live weights: {escape(row.label())}</span><span>{by_hand}'
        f"{live} · {made} kept for Undo</span></div>"
    )


def updates(result: EditResult) -> str:
    return f"{result.kept} update{'' if result.kept == 1 else 's'}"


def case_name(case: Case | None) -> str:
    """Name a case without its text."""
    if case is None:
        return "no case yet"
    if case.identifier is None:
        return "a case of your own"
    return f"bundled case {case.identifier} ({case.category})"


def other_case(session: Session, case: Case | None, what: str, buttons: str) -> str:
    """Say that Locate shows another case than ``what``, and which buttons bring which to the rail's; else nothing."""
    if session.case is None or session.case == case:
        return ""
    return (
        f'<p class="reading warn">Locate shows another case, {escape(case_name(session.case))}. Press Locate to bring '
        f"it to the case in the rail, {buttons} to bring {what} to it.</p>"
    )


def score_value(amount: float, unit: str) -> str:
    """Format a score: percent with one decimal, bits with two, nats for people."""
    if unit == "%":
        return f"{amount:.1f}"
    return f"{amount:.2f}" if unit == "bits" else number(amount)
