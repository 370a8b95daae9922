"""The edit in a report: its vital signs, the gate's word, its settings."""

from __future__ import annotations

from typing import Any

from dashboard.kit.drawing.html import reading
from dashboard.kit.sharing.parts import Figure, Part, Table, Visit, plain
from dashboard.steps.operate import figures
from dashboard.steps.operate import texts as words
from dashboard.steps.operate.gating import Gated
from editing.values import setting_names, setting_value


def parts(visit: Visit) -> list[Part]:
    """Return the live edit and what the gate says; without one, the edit that it holds back."""
    session = visit.session
    held = session.slot(Gated).held
    edit = session.live or (None if held is None else held.edit)
    if edit is None:
        return []
    result = edit.result
    ended = plain(words.finished(result))
    made = f"{edit.patch.method} on {edit.patch.where()}, patch {edit.patch.identifier}."
    drawn = Figure(
        "Vital signs of the edit, step by step",
        figures.vitals_of(result.trace, result.settings),
        words.vitals_reading(result.taken, result.settings),
    )
    readings = (reading(f"{made} {ended}"), words.gate_line(session), words.stack_reading(session))
    return [
        Part("The edit", tuple(filter(None, readings)), figures=(drawn,), tables=(settings_table(result.settings),))
    ]


def settings_table(settings: Any) -> Table:
    """Return every setting of an edit by its name."""
    named = [("preset", settings.preset)] if hasattr(settings, "preset") else []
    named += [(name, setting_value(settings, name)) for name in setting_names(settings)]
    rows = tuple((name.replace("_", " "), "none" if value is None else str(value)) for name, value in named)
    return Table("Settings of the edit", ("Setting", "Value"), rows)
