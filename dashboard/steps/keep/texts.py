"""What the view says: what is live, what a file holds, the rows; everything that a person wrote is escaped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dashboard.kit.door.handing import shown_bytes
from dashboard.kit.drawing.glossary import marked
from dashboard.kit.drawing.html import heading, number, reading, weights_badge
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep.asking import Asked
from dashboard.steps.keep.entries import IN_METHODS, OTHERWISE, UNSEEN, gate_word, was_accepted
from dashboard.steps.keep.history import GONE
from dashboard.steps.keep.kept import Kept, Waiting
from dashboard.steps.keep.ledger import Entry
from dashboard.steps.keep.saving import ADAPTER, MODEL, PATCH, Saved
from editing.gate.gate import RECORD
from editing.progress import STOP_TEXT
from inspector.model import VANILLA, Row
from inspector.safeedit.exam import EVALUATIONS

HEADING = heading(2, "Keep", "take the edit with you, bring one in, look back")
THIS_EDIT = heading(3, "This edit", "as a file, read back before you get it")
INCOMING = heading(3, "Bring one in", "then the gate asks it")
HISTORY = heading(3, "History", "every edit of this visit; looking at a row changes nothing")
BESIDE = heading(3, "Side by side", "two rows and the vanilla weights answer the same text in one batch")
NOT_WRITTEN = "Cancelled; nothing was written, and a file that was there before stays."
READ_ONLY = "Bringing edits in is off in this demo."
TITLES = {PATCH: "Patch", ADAPTER: "Adapter", MODEL: "Merged model"}
ABOUT = {
    PATCH: "The change alone with its record: base, method, settings, seed, versions, scores, the gate's word, "
    "SHA-256. Comes back in here, and by <code>python -m editing.apply</code>; <code>load_row</code> of "
    "<code>inspector.model.patches.patch_file</code> reads it with its detector.",
    ADAPTER: "For <code>peft</code> and servers that load adapters beside each other. Exact, or smaller by its largest "
    "singular values.",
    MODEL: "Base and edit as one folder that <code>from_pretrained</code> loads, without this program.",
}
"""What each form is for."""
HEADERS = ("No.", "Name", "UTC", "Model", "Method", "Layers", "Case", "Gate", "Stress test", "State")
NOTHING = "Nothing was made yet. Every edit of this visit gets a row here: made, run in Methods, brought in, refused."
NO_PAIR_SHORT = "Two rows are needed"
ON_DISK = "Whoever runs this page keeps this list on disk, with the names that you give"
NO_ANSWER = "(not asked yet)"
NO_NAME = "–"
ROUTED = ", routed"
"""Said after the method of an edit that acts only where harm is detected."""
PAPER = "vanilla without suffix"
"""Said of a score that was asked as in the paper."""
FIRST_SCORES = ("DG-Avg", "DS", "transfer")
"""What a row shows of a stress test: the first of these that it has."""


def this_edit(session: Session, why_not: str | None, waiting: Waiting | None) -> str:
    """Say what is live, what the gate says of it, and whether it may leave."""
    lines = []
    if session.live is not None:
        word = session.live.patch.settings.get(RECORD)
        said = gate_word(word, session.row)
        told = said if said in (UNSEEN, OTHERWISE) else "kept by hand" if word and word["overridden"] else ""
        lines.append(weights_badge(session.row, told))
        if why_not is None and word is not None:
            lines.append(reading(f"Gate: {word['reason']}"))
    if why_not is not None:
        lines.append(reading(why_not, "" if session.live is None else "warn"))
    if waiting is not None:
        patch = waiting.made.edit.patch
        lines.append(
            reading(
                f"Another edit waits at the gate: {patch.method}, {patch.where()}, patch {patch.identifier}. It is not "
                "live, so it is in no file."
            )
        )
    return "".join(lines)


def card(kind: str, size: int, why_not: str | None) -> str:
    """Say what a form is for and how large it is, or why there is none."""
    note = f"About {shown_bytes(size)}." if why_not is None and size else ""
    said = f'<p class="reading warn">{escape(why_not)}</p>' if why_not else f'<p class="reading">{note}</p>'
    about = marked(f"<b>{TITLES[kind]}</b><p>{ABOUT[kind]}</p>")
    return f'<div class="keep-card">{about}{said}</div>'


def saved_line(saved: Saved | None, live: Row) -> str:
    """Say how what was written compares with the live edit, and whose it is if that is no longer live."""
    if saved is None:
        return ""
    apart = "no logit differs" if saved.difference == 0 else f"logits differ by at most {number(saved.difference)}"
    examined = "the gate has examined it as it was written."
    lost = f" The smaller rank loses {saved.lost:.1%} of the edit; {examined}" if saved.lost else ""
    said = reading(f"Written, read back and asked: {apart} from the live edit's.{lost}")
    if (saved.weights, saved.detector) != live.key:
        other = "the same patch by another detector" if saved.weights == live.label() else live.label()
        said = reading(f"This file is of {saved.weights}. Live is {other}: write it anew for that.", "warn")
    return said


def one_way(size: int, most: int) -> str:
    """Say that a file cannot be brought in here again.

    Args:
        size: Its bytes.
        most: Those of the largest file that is taken in.
    """
    return reading(
        f"It cannot be brought in here again: it has {shown_bytes(size)}, this page takes {shown_bytes(most)} "
        "(--max-upload). Unpack it, then: python -m editing.apply RECORD.json",
        "warn",
    )


def cells(rows: Sequence[Entry], in_memory: Collection[int], undo: Collection[str]) -> list[list[str]]:
    """Return the table's lines, the newest first.

    Args:
        in_memory: Numbers of those whose patch is in memory.
        undo: Patches that Undo goes back to.
    """
    return [
        [
            str(row.number),
            row.name or NO_NAME,
            row.seen[11:16],
            row.model or NO_NAME,
            f"{row.method}{ROUTED if row.routed else ''}",
            row.where.removeprefix("layers ").removeprefix("layer "),
            row.case,
            row.gate,
            tested(row),
            state(row, in_memory, undo),
        ]
        for row in reversed(rows)
    ]


def tested(row: Entry) -> str:
    """Return a row's stress test in one score; said with it: vanilla was asked otherwise, it is of other weights."""
    for name in FIRST_SCORES:
        vanilla, edited, _ = row.scores.get(name, (None, None, 0))
        if vanilla is not None and edited is not None:
            marks = (PAPER if row.asked.startswith(EVALUATIONS["paper"]) else "", OTHERWISE if row.scores_of else "")
            return ", ".join((f"{name} {vanilla:.0f} → {edited:.0f} %", *filter(None, marks)))
    return "–"


def tested_otherwise(row: Entry) -> str:
    """Name the weights that a row's scores are of where those are other ones; nothing where they are its own."""
    return f"The scores of row {row.number} are of {row.scores_of}, {OTHERWISE}." if row.scores_of else ""


def state(row: Entry, in_memory: Collection[int], undo: Collection[str]) -> str:
    """Say where a row's edit is."""
    if row.live:
        return "live"
    if row.number not in in_memory:
        return "not in memory"
    if not was_accepted(row):
        return "not live yet" if row.origin == IN_METHODS and row.gate == UNSEEN else "held back"
    return "under Undo" if row.patch in undo else "in memory"


def details(row: Entry | None, in_memory: bool) -> str:
    """Say everything of a row that its line has no room for."""
    if row is None:
        return ""
    how = ", only where harm is detected" if row.routed else ""
    ended = dict(STOP_TEXT).get(row.stopped, row.stopped)  # type: ignore[call-overload]
    said = (
        f"Patch {row.patch} of {base(row)}, {row.origin}: {row.updates} update{'' if row.updates == 1 else 's'} in "
        f"{row.seconds:.1f} s; {ended}. Strength {row.strength:g}{how}."
    )
    lines = [reading(said)]
    if row.reason:
        lines.append(reading(f"Gate: {row.reason}"))
    if row.verdicts:
        said = f"Its case's adversarial prompt, answered last: vanilla {row.verdicts['vanilla']}"
        lines.append(reading(f"{said}, edited {row.verdicts['edited']}."))
    if row.asked:
        lines.append(reading(f"Its scores were asked: {row.asked}."))
    if otherwise := tested_otherwise(row):
        lines.append(reading(otherwise, "warn"))
    if not in_memory:
        lines.append(reading(f"{GONE}.", "warn"))
    named = {**row.settings, **{f"score: {name}": _score(values) for name, values in row.scores.items()}}
    table = "".join(
        f'<tr><th scope="row">{escape(str(name).replace("_", " "))}</th><td>{escape(_value(value))}</td></tr>'
        for name, value in named.items()
    )
    lines.append(
        '<details class="keep-settings"><summary>All settings and scores</summary><div class="score-wrap">'
        f'<table class="scores"><tbody>{table}</tbody></table></div></details>'
    )
    return "".join(lines)


def base(row: Entry) -> str:
    """Return the model that an edit belongs to, with its fingerprint."""
    return f"{row.model}, fingerprint {row.fingerprint}" if row.model else "a model that was not noted"


def _score(values: tuple[float | None, float | None, int]) -> str:
    vanilla, edited = ("–" if value is None else number(value) for value in values[:2])
    return f"{vanilla} → {edited} (n = {values[2]})"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return str(value)


def trouble(kept: Kept) -> str:
    """Say why the ledger could not be written; nothing where it was."""
    return reading(kept.trouble, "warn") if kept.trouble else ""


def heads(asked: Asked) -> tuple[str, str, str]:
    """Return what stands above the three answers."""
    made = []
    for place, (name, label, note) in enumerate(zip(("", "A: ", "B: "), asked.labels, asked.notes, strict=True)):
        kind = "vanilla" if label == VANILLA.label() else "edited"
        verdict, told = "", "" if asked.verdicts is not None else "not judged"
        if asked.verdicts is not None:
            mark = asked.verdicts[place]
            verdict = f'<span class="badge verdict {mark.label}" title="{escape(mark.reason)}">{mark.label}</span>'
            told = mark.judge
        notes = " · ".join(filter(None, (told, note)))
        made.append(
            f'<div class="answer-head"><span class="badge {kind}">{escape(name + label)}</span>{verdict}'
            f'<span class="badge-note">{escape(notes)}</span></div>'
        )
    return made[0], made[1], made[2]
