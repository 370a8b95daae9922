"""What Operate says: its clock, the reading of the vital signs, the gate's line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboard.kit.drawing.html import (
    brief,
    direction_of,
    message,
    number,
    over,
    probability,
    progress_bar,
    reading,
    updates,
    weights_words,
)
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.operate.gating import Gated, Made, record_of, stacked_edits
from editing import EditResult, Preparation, Step
from editing.gate import turns
from editing.gate.choice import gated_instead
from editing.gate.gate import is_of
from editing.progress import STOP_TEXT, StopReason
from inspector.model import Row
from inspector.safeedit.exam import Progress


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


STOPPED: dict[StopReason, str] = {
    "target reached": "target reached",
    "step limit": "step limit reached",
    "converged": "stop value reached",
    "damage budget": "damage budget reached",
    "not finite": "a loss was not finite",
    "cancelled": "it was cancelled",
    "one pass": "one pass",
    "prompt only": "prompt only",
}
"""Why an edit ended, in a word or two."""


def finished(result: EditResult) -> str:
    """Return the step clock of an ended edit."""
    kept = "nothing was changed" if result.patch is None else f"{updates(result)} kept"
    smaller = " Memory ran out, so it was made once more, smaller." if result.smaller else ""
    fewer = f" {result.fewer_companions}" if result.fewer_companions else ""
    ended = f"Ended after {result.seconds:.1f} s"
    return progress_bar(
        f"{ended}: {STOPPED[result.stop_reason]}; {kept}.",
        1.0,
        f"{ended}: {STOP_TEXT[result.stop_reason]}; {kept}.{smaller}{fewer}",
    )


def vitals_reading(trace: Sequence[Step], settings: Any = None) -> str:
    """Read the vital signs in one line.

    Args:
        settings: The edit's, of whichever method; they say which limits the charts show.
    """
    return reading(_read(trace, settings) if trace else UNFILLED)


def vitals_line(trace: Sequence[Step], settings: Any = None) -> str:
    """Read the vital signs in a few words, with the whole reading behind them."""
    if not trace:
        return reading(UNFILLED)
    first, last = trace[0], trace[-1]
    short = (
        f"Safe answer: {probability(first.safe_probability)} to {probability(last.safe_probability)} per token in "
        f"{_count(last)}."
    )
    return brief(short, _read(trace, settings))


def _count(last: Step) -> str:
    return f"{last.step} update{'' if last.step == 1 else 's'}"


def _read(trace: Sequence[Step], settings: Any) -> str:
    first, last = trace[0], trace[-1]
    moved = number(max(0.0, last.constraint_kl))
    limits = [
        word
        for word, name in (("target", "target_probability"), ("budget", "damage_budget"))
        if getattr(settings, name, None) is not None
    ]
    dashed = f" Dashed: {' and '.join(limits)}." if limits else ""
    if getattr(settings, "constraint_weight", 1):
        said = f"harmless answers moved by {moved} nats a token (constraint KL, {direction_of(settings)})."
    else:
        said = f"nothing held it back, so harmless answers would move by {moved} nats a token where it acts on them."
    return (
        f"The safe answer went from {probability(first.safe_probability)} to "
        f"{probability(last.safe_probability)} per token in {_count(last)}; {said}{dashed}"
    )


UNFILLED = "The charts fill while the edit runs."
CHIPS = {
    "harmless_kl": "harmless KL",
    "over_refusal": "refused",
    "degenerate": "broken",
    "parroting": "parroting",
    "lost_defence": "lost defence",
    "gain": "gain",
}
"""What the gate holds an edit to, in a word or two."""


def gate_line(session: Session, detector: bool = False) -> str:
    """Say all that the gate says: of the edit that waits, and of the live one.

    Args:
        detector: The model has one, so that a refused edit can be tried where harm is detected only.
    """
    kept, live = session.slot(Gated), session.live
    held, lines = kept.held, []
    if held is not None:
        lines.append(_held_line(held, session.row, detector))
    if live is not None:
        record = record_of(live)
        is_named = held is not None or kept.drawn_over
        named = f"Live, {live.patch.where()}, patch {live.patch.identifier}: " if is_named else ""
        lines.append(budget_line(live.result, named) if record is None else _live_line(record, session.row, named))
    return "".join(lines)


def gate_brief(session: Session, detector: bool = False) -> str:
    """Say the same in one line: what is broken, the gain, the other budgets, those nearest to their limits first.

    The whole opens over the page.

    Where the vital signs are of another run, for example one that was cancelled, the line says that it is of the live
    edit.
    """
    kept, live = session.slot(Gated), session.live
    held = kept.held
    whole = gate_line(session, detector)
    if not whole:
        return ""
    word: Mapping[str, Any] = {}
    kind = "refused"
    if held is not None:
        said = "Refused by the gate, waiting" if held.acceptance is not None else "Waiting, not examined"
        word = held.acceptance.record() if held.acceptance is not None else {}
    else:
        assert live is not None, "without an edit there is nothing to say"
        kind, said, word = _live_word(live, session.row)
        if kept.drawn_over:
            said = f"Live edit: {said[0].lower()}{said[1:]}"
    said_of, unasked = sorted(word.get("checks", ()), key=lambda check: -_share(check)), _unasked(word)
    chips = "".join(
        f'<span class="budget {"kept" if _is_kept(check) else "broken"}">{escape(_chip_words(check))}</span>'
        for check in said_of
    )
    told = "; ".join(filter(None, [said, unasked, *map(_chip_words, said_of)]))
    line = f"<b>{escape(said)}</b>{unasked and f'<span>{unasked}</span>'}{chips}"
    return over(f"gate-brief {kind}", line, whole, told)


def _live_word(live: LiveEdit, row: Row) -> tuple[str, str, Mapping[str, Any]]:
    """Return what the gate says of the live edit: its kind, its word, its record, empty for none."""
    record = record_of(live)
    if record is None:
        return "", "Not examined by the gate yet", {}
    if not is_of(record, row):
        return "", "Not examined as it acts now", record
    if record["passed"]:
        return "passed", "Gate passed", record
    return "refused", "Kept against the gate" if record["overridden"] else "Refused by the gate", record


GAIN_FIRST = 2.0
"""More than any budget that is kept has used of its limit."""


def _share(check: Mapping[str, Any]) -> float:
    """Return how much of its limit a budget has used; what is broken comes before all else, then the gain."""
    if not _is_kept(check):
        return float("inf")
    if check.get("least"):
        return GAIN_FIRST
    return float(check["value"]) / check["limit"] if check["limit"] else 0.0


def _is_kept(check: Mapping[str, Any]) -> bool:
    if check.get("least"):  # a word of an earlier version has no such limit
        return bool(check["value"] >= check["limit"])
    return bool(check["value"] <= check["limit"] + 1e-9)


UNITS = {"nats a token": "nats", "points": "points", "%": "%"}
"""The budgets' units, in a word."""


def _chip_words(check: Mapping[str, Any]) -> str:
    """Return a budget's name, its value with its sign, its limit and their unit."""
    value = number(check["value"])
    if check.get("least"):
        plus = "" if check["value"] < 0 else "+"
        return f"{CHIPS['gain']} {plus}{value} {check['unit']}, at least {number(check['limit'])}"
    sign = "+" if check["unit"] == "points" and check["value"] > 0 else ""
    name, unit = CHIPS.get(check["name"], check["meaning"]), UNITS.get(check["unit"], check["unit"])
    return f"{name} {sign}{value} of {number(check['limit'])} {unit}"


def _live_line(record: Mapping[str, Any], row: Row, named: str) -> str:
    """Say what the gate says of the live edit; a word on other weights, by strength or place, is no word on these."""
    chips, told = _chips(record), escape(named)
    choice = _chosen(record.get("choice") or "")
    word = "passed" if record["passed"] or record.get("loosened") else "refused"
    if not is_of(record, row):
        live_is = row.label() if record["weights"] != row.label() else "the same patch by another detector"
        return (
            f'<div class="gate"><b>{told}Not examined as it acts now</b> {chips} <em>The gate {word} '
            f"{escape(record['weights'])}; live is {escape(live_is)}. Press Examine again.</em></div>"
        )
    if record["passed"]:
        before = "<em>Kept by hand against an earlier refusal.</em>" if record["overridden"] else ""
        return f'<div class="gate passed"><b>{told}Gate passed</b> {chips} {choice} {before}</div>'
    if record.get("loosened"):
        said = "Passed under looser budgets, kept by hand"
        return f'<div class="gate"><b>{told}{said}</b> {chips} {choice}</div>'
    how = (
        "kept by hand"
        if record["overridden"]
        else "live all the same, since it was loaded by hand; Undo takes it back, Keep it anyway records it"
    )
    return f'<div class="gate refused"><b>{told}Refused by the gate</b> {chips} <em>{how}.</em> {choice}</div>'


def _held_line(held: Made, live: Row, detector: bool) -> str:
    named = f"Waiting, {held.edit.patch.where()}, patch {held.edit.patch.identifier}: "
    stays = f"It is not live: {escape(live.label())} stays live, and the edit waits here until you make another."
    if held.acceptance is None:
        return (
            f'<div class="gate refused"><b>{named}Not examined</b> <em>The gate was stopped before its end. '
            f"{stays} Press Examine.</em></div>"
        )
    broken = held.acceptance.broken
    chips = _chips(held.acceptance.record())
    tried = held.detector is not None or bool(held.acceptance.choice)
    routed = " To try it where harm is detected only, set the switch and press Examine." if detector else ""
    gated = f" {gated_instead(held.row, held.acceptance, 'under Methods')}".rstrip()
    return (
        f'<div class="gate refused"><b>{named}Refused by the gate:</b> {escape(broken)}. {chips} '
        f"<em>{stays}{'' if tried else routed}{gated}</em>{_chosen(held.acceptance.choice) if tried else ''}</div>"
    )


def _chosen(choice: str) -> str:
    """Say how the gate chose where an edit acts."""
    return f'<p class="choice"><b>How the gate chose where it acts.</b> {escape(choice)}</p>' if choice else ""


def _chips(record: Mapping[str, Any]) -> str:
    """Return a chip for each budget: its value of its limit, and whether that is too much; and what was not asked."""
    cells, checks, unasked = [], record["checks"], _unasked(record)
    for check in checks:
        kept = _is_kept(check)
        told = f"{check['meaning']}, {check['unit']}, {check['n']} answers"
        wrong = "" if kept else ": too little" if check.get("least") else ": too much"
        cells.append(
            f'<span class="{"kept" if kept else "broken"}" title="{escape(told)}">'
            f"{escape(_chip_words(check))}{wrong}</span>"
        )
    fewer = any(check["unit"] == "points" and check["value"] < 0 for check in checks)
    # A word of an earlier version has nothing beside it.
    beside = "".join(f" <em>{escape(check['beside'].capitalize())}.</em>" for check in checks if check.get("beside"))
    minus = " <em>A minus: fewer than of the vanilla weights.</em>" if fewer else ""
    return "".join(cells) + minus + beside + (unasked and f" <em>{unasked}.</em>")


def _unasked(record: Mapping[str, Any]) -> str:
    """Say how many prompts were too long for the model; empty for none, and where an earlier version has not said."""
    count = record.get("too_long", 0)
    return f"{count} prompt{'' if count == 1 else 's'} not asked: too long" if count else ""


def budget_line(result: EditResult, named: str = "") -> str:
    """Say of an edit that the gate has not examined whether it stays within its own budget; nothing without a patch.

    Args:
        named: Names the edit before anything else, where another one waits.
    """
    if result.patch is None:
        return ""
    budget, harm = result.settings.damage_budget, max(0.0, result.last.constraint_kl)
    name = f"constraint KL ({direction_of(result.settings)})"
    unseen = "<em>Not examined by the gate yet.</em>"
    if budget is None:
        said = f"{escape(named)}No damage budget was set: {name} {number(harm)} nats a token."
        return f'<div class="gate">{said} {unseen}</div>'
    kind, said = ("passed", "Within budget") if harm <= budget else ("refused", "Beyond budget")
    return (
        f'<div class="gate {kind}"><b>{escape(named)}{said}</b> '
        f"<span>{name} {number(harm)} of {number(budget)} nats a token</span> {unseen}</div>"
    )


def goes_on(first: Made | None) -> str:
    """Say why another edit is made after a first one; nothing where this is the first."""
    if first is None or first.acceptance is None:
        return ""
    return brief("A second edit is made; the better of both is taken", turns.goes_on(first.acceptance))


def examining(progress: Progress) -> str:
    """Return the clock while the gate asks."""
    return progress_bar(
        f"Gate: {progress.answered} of {progress.total} prompts of the small exam answered", progress.fraction
    )


def refused(result: EditResult, live: Row) -> str:
    """Return the clock of an edit that the gate holds back."""
    stays = f"patch {live.patch.identifier}" if live.patch is not None and weights_words(live)[1] else live.label()
    whole = f"Held back by the gate: {live.label()} stays live. The new edit, made in {result.seconds:.1f} s, waits."
    return progress_bar(f"Held back by the gate; {stays} stays live.", 1.0, whole)


def kept_by_hand(live: LiveEdit) -> str:
    """Return the clock once a refused edit was kept."""
    return progress_bar(
        f"Kept by hand: patch {live.patch.identifier} is live.",
        1.0,
        f"Kept by hand against the gate's refusal: {live.patch.where()} is live; its patch says so.",
    )


STACK_NEXT = "Kept by hand. Its effect on the first edit is examined next"
STAYS_KEPT = "The edit that you have kept stays live."
WORD_STANDS = "The gate's word on the edit stands below."


def stack_ended(by_hand: bool, measured: bool) -> str:
    """Return the clock after the exam of what an edit does to the one below it.

    Args:
        by_hand: It followed on Keep it anyway, else on Examine.
        measured: It has come to its end.
    """
    done, stays = ("Kept by hand", STAYS_KEPT) if by_hand else ("Examined", WORD_STANDS)
    if not measured:
        whole = f"Stopped before its end. {stays} Half an exam says nothing about the first edit's scores."
        return message(f"Stopped. {stays}", whole)
    whole = f"{done}. What it does to the first edit's scores stands in the head of the vital signs."
    return message(f"{done}. Its effect on the first edit stands above.", whole)


def stack_line(session: Session) -> str:
    """Say in the head that edits are stacked, behind it what is known of it, or how to measure it; nothing for one."""
    whole, count = stack_words(session), stacked_edits(session.live)
    return brief(f"{count} edits are stacked", f"{whole}{_how_to_measure(session)}") if whole else ""


def stack_reading(session: Session) -> str:
    """Say it as a reading."""
    whole = stack_words(session)
    return reading(whole) if whole else ""


MEASURES = "Examine asks the gate again and measures it."
WAITS = "While another edit waits, Examine is about that one."


def stack_words(session: Session) -> str:
    """Say what the live edit does to the scores of the one that it was made on; nothing for one by itself."""
    kept, count = session.slot(Gated), stacked_edits(session.live)
    if count < 2:
        return ""
    what = f"{count} edits are stacked. What edit {count} does to edit {count - 1}'s scores was"
    if kept.stack is None:
        return f"{what} not measured."
    if kept.stack.both != session.row.key:
        return f"{what} measured at another strength, or where it acted otherwise; as the edit acts now it was not."
    return f"{count} edits are stacked. {kept.stack.reading}"


def _how_to_measure(session: Session) -> str:
    """Say how to measure a stack as it acts now; empty where it was."""
    kept, count = session.slot(Gated), stacked_edits(session.live)
    if kept.below is None:
        why = "as other weights were live in between or a file brought the stack"
        return f" Examine cannot measure it, {why}. To measure it, make edit {count} again on top of edit {count - 1}."
    if kept.stack is not None and kept.stack.both == session.row.key:
        return ""
    return f" {MEASURES if kept.held is None else WAITS}"
