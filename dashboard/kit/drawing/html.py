"""Small pieces of HTML that every step uses. Everything that a person or a model wrote is escaped."""

from __future__ import annotations

from typing import Any

from dashboard.kit.drawing.glossary import EVERYDAY, marked
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import Session
from editing import EditResult
from editing.gate.gate import RECORD, is_of
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
    """Return a one-line reading under a figure; its terms open the glossary, but for everyday ones."""
    return f'<p class="reading {kind}">{marked(escape(text), EVERYDAY)}</p>'


def heading(level: int, title: str, about: str = "") -> str:
    """Return a heading whose terms open the glossary.

    Args:
        level: 2 for a view, 3 for a part of it, 4 for a figure beside another.
        title: Names what stands below it.
        about: What there is to say of that, in small letters beside the name.
    """
    small = f"<small>{marked(escape(about))}</small>" if about else ""
    return f"<h{level}><span>{marked(escape(title))}</span>{small}</h{level}>"


def brief(short: str, whole: str) -> str:
    """Return a reading of one line; the whole opens over the page, so that nothing below it moves."""
    return over("reading", escape(short), reading(whole), short)


def over(kind: str, line: str, whole: str, told: str) -> str:
    """Return one line with all that it stands for, which opens over the page.

    Args:
        kind: Classes of the line.
        line: What is always seen, as HTML.
        whole: What opens, as HTML.
        told: The line without markup, for where it is cut.
    """
    return f'<details class="over {kind}"><summary title="{escape(told)}">{line}</summary><div>{whole}</div></details>'


LINE = 66
"""Characters that the clock of Operate, which is one line, has room for at 1280 pixels."""


def progress_bar(text: str, fraction: float, whole: str = "") -> str:
    """Return one line of text over a bar.

    Args:
        text: What is always seen; in Operate as much of it as fits (:data:`LINE`).
        fraction: How much of the bar is filled, 0 to 1.
        whole: All that the line stands for, which opens over the page; nothing where that is the line itself.
    """
    said = (
        over("said", escape(text), reading(whole), whole)
        if whole
        else f'<span title="{escape(text)}">{escape(text)}</span>'
    )
    return (
        f'<div class="clock" role="status">{said}'
        f'<div class="bar"><div style="width:{100 * fraction:.1f}%"></div></div></div>'
    )


def message(text: str, whole: str = "") -> str:
    """Return the step clock with a plain message.

    Args:
        whole: As for :func:`progress_bar`.
    """
    return progress_bar(text, 0.0, whole)


def weights_words(row: Row) -> tuple[str, str]:
    """Name weights where there is little room: method and place, then what else tells them from others.

    A strength of 1 goes without saying, and what acts only where harm is detected is called routed.
    """
    patch = row.patch
    if patch is None or row.reminder is not None or row.strength == 0:
        return row.label(), ""
    strength = "" if row.strength == 1 else f"strength {row.strength:g} · "
    routed = "" if row.detector is None else " · routed"
    return f"{patch.method} · {patch.where()}", f"{strength}patch {patch.identifier}{routed}"


def row_badge(row: Row) -> str:
    """Return the badge of weights: short, the whole as its title."""
    kind = "vanilla" if row.label() == "vanilla" else "edited"
    shown = " · ".join(filter(None, weights_words(row)))
    return f'<span class="badge {kind}" title="{escape(row.label())}">{escape(shown)}</span>'


def weights_badge(row: Row, extra: str = "") -> str:
    """Say above an answer which weights made it."""
    tail = f'<span class="badge-note" title="{escape(extra)}">{escape(extra)}</span>' if extra else ""
    return f'<div class="answer-head">{row_badge(row)}{tail}</div>'


def live_badge(session: Session) -> str:
    """Say which weights are live for this visitor and how many edits there are."""
    row = session.row
    if session.live is None:
        return (
            '<div class="live"><span class="badge vanilla"><b>live weights: vanilla</b></span>'
            "<span>no edit is live</span></div>"
        )
    made, stacked = len(session.edits), edits_in(session.live.patch)
    live = "1 edit live" if stacked == 1 else f"{stacked} edits stacked"
    word = session.live.patch.settings.get(RECORD, {})
    counted = f"{live} · {made} kept for Undo"
    name, rest = weights_words(row)
    told = f"live weights: {escape(row.label())} · {counted}"
    kind, by_hand = "edited", ""
    if word.get("overridden"):
        loosened = bool(word.get("loosened"))
        kind = "edited overruled"
        now = "" if is_of(word, row) else ", not as it acts now"
        by_hand = f"<em>! kept{', looser budgets' if loosened else ' against the gate'}{now}</em> "
        how = "passed under looser budgets, kept by hand" if loosened else "kept against the gate's refusal"
        told += f" · {how}{now and '; the gate has not examined it as it acts now'}"
    return (
        f'<div class="live"><span class="badge {kind}" title="{told}"><b>live weights: {escape(name)}</b>'
        f"<small>{by_hand}{escape(rest)}</small></span><span>{counted}</span></div>"
    )


def updates(result: EditResult) -> str:
    return f"{result.kept} update{'' if result.kept == 1 else 's'}"


def direction_of(settings: Any) -> str:
    """Say from which weights to which the KL of an edit's vital signs is: the paper's is the other way round."""
    return getattr(settings, "direction", "vanilla to edited")


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
