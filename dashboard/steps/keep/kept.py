"""What Keep holds of a visitor beside the ledger's rows: edits in memory, what was written and asked last."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dashboard.kit.sessions.session import LiveEdit
from dashboard.steps.keep.asking import Asked
from dashboard.steps.keep.ledger import Entry
from dashboard.steps.keep.saving import Saved
from editing import EditResult
from inspector.model import Detector, Row


@dataclass(frozen=True, eq=False)
class InMemory:
    """An edit whose patch is in memory, and how it acts.

    Attributes:
        edit: The edit.
        detector: Where it acts; ``None`` for on every prompt.
        strength: Factor on its deltas.
    """

    edit: LiveEdit
    detector: Detector | None = None
    strength: float = 1.0

    @property
    def row(self) -> Row:
        """Its weights as they act."""
        return replace(self.edit.row(self.strength), detector=self.detector)


@dataclass(frozen=True, eq=False)
class Waiting:
    """An edit that the gate holds back.

    Attributes:
        made: The edit and how it is to act.
        word: The gate's record; ``None`` if it was not examined to its end.
    """

    made: InMemory
    word: dict[str, Any] | None = None


@dataclass
class Kept:
    """What the history keeps of a visitor beside the ledger's rows.

    Attributes:
        visit: Names the visit in the ledger; nothing else does.
        last: The highest number that a row was given; one that was deleted gives its number to no other.
        made: What is in memory, by the row's number.
        scored: The :attr:`inspector.model.Row.key` of the weights that a row's scores are of, by its number.
        judged: The same of those that a row's verdicts are of.
        stack: The patches that Undo had when it was last looked at, the live one last.
        undone: Those that Redo brings back, the next one last.
        deleted: Patches whose row was deleted: they get none unless they are live again.
        uploaded: Patches that came as a file.
        noted: The edits of the last run of several that have had their row.
        incoming: Copies of what the visitor has just sent.
        saved: What was written last, by its kind.
        asked: The last comparison of two edits.
        table: The same as a CSV file; empty where it could not be written.
        picks: Row numbers that the visitor has picked: ``row``, ``a``, ``b``.
        trouble: Why the ledger could not be written last; empty if it was.
        rows: The ledger's rows of the visit as they were last noted, for its report.
    """

    visit: str = ""
    last: int = 0
    made: dict[int, InMemory] = field(default_factory=dict)
    scored: dict[int, tuple[str, str]] = field(default_factory=dict)
    judged: dict[int, tuple[str, str]] = field(default_factory=dict)
    stack: tuple[str, ...] = ()
    undone: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    uploaded: set[str] = field(default_factory=set)
    noted: tuple[EditResult, ...] = ()
    incoming: list[Path] = field(default_factory=list)
    saved: dict[str, Saved] = field(default_factory=dict)
    asked: Asked | None = None
    table: str = ""
    picks: dict[str, int | None] = field(default_factory=dict)
    trouble: str = ""
    rows: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        # A session may start as a copy of another (Session.start_from): what is done in one is not done in the other.
        for entry in fields(self):
            if isinstance(held := getattr(self, entry.name), dict | list | set):
                setattr(self, entry.name, copy(held))
