"""The history of a visit in a report, and the last two edits that were asked side by side."""

from __future__ import annotations

from dataclasses import replace

from dashboard.kit.drawing.html import reading
from dashboard.kit.sharing.parts import Hidden, Part, Table, Text, Visit
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.asking import Asked
from dashboard.steps.keep.kept import Kept

NAMES = words.HEADERS.index("Name")
SEPARATOR = " · "
"""Stands between number, name and patch in a row's label."""


def parts(visit: Visit) -> list[Part]:
    """Return the rows of the visit as they were last noted, and its last comparison of two of them."""
    kept = visit.session.slot(Kept)
    found = []
    if kept.rows:
        undo = {edit.patch.identifier for edit in visit.session.edits}
        lines = words.cells(kept.rows, set(kept.made), undo)
        rows = tuple(_without_texts(line, visit.hidden) for line in lines)
        reasons = tuple(
            (str(row.number), row.patch, f"{row.strength:g}", row.reason) for row in reversed(kept.rows) if row.reason
        )
        tables = [Table("Every edit of the visit, the newest first", words.HEADERS, rows)]
        if reasons:
            heads = ("No.", "Patch", "Strength", "The gate's reason")
            tables.append(Table("What the gate said", heads, reasons, folded=True))
        bases = dict.fromkeys(words.base(row) for row in kept.rows)
        otherwise = tuple(reading(said, "warn") for row in kept.rows if (said := words.tested_otherwise(row)))
        readings = (*(reading(f"Edits of {base}.") for base in bases), *otherwise)
        found.append(Part("History", readings, tables=tuple(tables)))
    if kept.asked is not None:
        found.append(_beside(kept.asked, visit.hidden))
    return found


def _without_texts(line: list[str], hidden: Hidden) -> tuple[str, ...]:
    """Return a line of the table; where prompts are left out, so is the name that its visitor gave it."""
    named = line[NAMES] if line[NAMES] == words.NO_NAME else hidden.prompt(line[NAMES])
    return (*line[:NAMES], named, *line[NAMES + 1 :])


def _beside(asked: Asked, hidden: Hidden) -> Part:
    if hidden.texts:  # a label has the row's name
        vanilla_label, *rows = asked.labels
        first_label, second_label = (
            f"{row.partition(SEPARATOR)[0]}{SEPARATOR}{row.rpartition(SEPARATOR)[2]}" for row in rows
        )
        asked = replace(asked, labels=(vanilla_label, first_label, second_label))
    heads, covered = words.heads(asked), asked.covered
    vanilla = Text("Vanilla answer", asked.texts[0], "vanilla", covered[0], heads[0])
    first = Text(f"A: {asked.labels[1]}", asked.texts[1], "edited", covered[1], heads[1])
    second = Text(f"B: {asked.labels[2]}", asked.texts[2], "second", covered[2], heads[2])
    prompt = Text(f"Asked: {asked.choice}", asked.prompt, "prompt")
    return Part(
        "Two edits side by side",
        readings=(reading("Two rows of the history and the vanilla weights, asked the same in one batch."),),
        texts=(prompt, vanilla),
        beside=(first, second),
    )
