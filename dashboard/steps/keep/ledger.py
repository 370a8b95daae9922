"""The ledger of all edits, in SQLite: in memory, or in the operator's file, which a killed program leaves whole."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError
from inspector.safeedit import Case
from inspector.validated import read_record

VERSION = 5
ADDED_SINCE = {
    1: ("model", "fingerprint", "scores_of", "verdicts", "asked"),
    2: ("scores_of", "verdicts", "asked"),
    3: ("verdicts", "asked"),
    4: ("asked",),
}
"""Columns that files of an earlier version lack; they are added when one is opened, empty in the rows it has."""
APPLICATION = 0x44494E4D
"""Names files of this kind (``PRAGMA application_id``): DINM."""
PATIENCE = 10.0
"""Seconds for which a write waits for whoever reads or copies the file."""


class LedgerError(InspectorError):
    """The ledger's file cannot be opened or written."""


@dataclass(frozen=True)
class Entry:
    """One edit of a visit.

    Attributes:
        number: Counts the visit's edits from 1.
        patch: Eight digits that name its deltas.
        model: The base model's label on the operator's list; empty in a row of a file that did not keep it.
        fingerprint: The base model's; empty there as well.
        name: What the visitor calls it; empty for nothing.
        seen: When it was first seen, UTC.
        origin: ``made here``, ``run in Methods``, ``finished example`` or ``uploaded``.
        method: The method, as its patch has it.
        where: The layers that it changes.
        case: The case, named without its text.
        settings: The method's settings, its seed among them where it has one.
        updates: Updates that it keeps.
        stopped: Why it ended.
        seconds: How long it took.
        strength: At which it was live last; where it never was, at which it is to be.
        routed: It acts only where a detector fires.
        gate: ``passed``, ``kept by hand``, ``refused``, ``not examined``, or ``not as it acts now`` where its word is
            of another strength or of another place where it acts.
        reason: The gate's, in a sentence, with the weights that it is of where those are other ones.
        scores: Of the last stress test, or of its exam in Methods: vanilla, edited and the number of samples, by score.
        scores_of: The weights that were tested where those are other ones than the row's as it acts; else empty.
        asked: How the exam of the scores asked both weights; empty without scores, and in a row of a file that did not
            keep it.
        verdicts: Of both answers to the case's adversarial prompt, when these weights were asked it last: ``vanilla``
            and ``edited``, each ``safe``, ``unsafe`` or ``degenerate``; empty where they were not, or act otherwise.
        live: It is live now.
        was_live: It is, or was once.
    """

    number: int
    patch: str
    model: str
    fingerprint: str
    name: str
    seen: str
    origin: str
    method: str
    where: str
    case: str
    settings: dict[str, Any]
    updates: int
    stopped: str
    seconds: float
    strength: float
    routed: bool
    gate: str
    reason: str
    scores: dict[str, tuple[float | None, float | None, int]] = field(default_factory=dict)
    scores_of: str = ""
    asked: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)
    live: bool = False
    was_live: bool = False

    @property
    def label(self) -> str:
        """The edit in a few words, for lists."""
        return f"{self.number} · {self.name or f'{self.method}, {self.where}'} · {self.patch}"


_COLUMNS = tuple(entry.name for entry in fields(Entry))
_LISTED = ", ".join(f'"{name}"' for name in _COLUMNS)
_JSON = ("settings", "scores", "verdicts")
_FLAGS = ("routed", "live", "was_live")
_TYPES = dict.fromkeys(("number", "updates", *_FLAGS), "INTEGER") | dict.fromkeys(("seconds", "strength"), "REAL")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS edits (visit TEXT NOT NULL, "
    + ", ".join(f'"{name}" {_TYPES.get(name, "TEXT")} NOT NULL' for name in _COLUMNS)
    + ", prompts TEXT, PRIMARY KEY (visit, number)) WITHOUT ROWID"
)


class Ledger:
    """All visits' edits.

    Args:
        path: The operator's file; ``None`` for in memory.
        prompts: Keep the texts of the cases as well; never in memory, where the visit has them anyway.

    Raises:
        LedgerError: The file cannot be opened, or is something else.
    """

    def __init__(self, path: Path | None = None, prompts: bool = False) -> None:
        self.path, self._prompts, self._lock = path, prompts and path is not None, threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # nobody else reads it, its log neither
            self._store = sqlite3.connect(path or ":memory:", timeout=PATIENCE, check_same_thread=False)
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise LedgerError("The ledger cannot be opened. Name another file.", f"{path}: {error}") from error

    def _open(self) -> None:
        (kind,), (version,) = (
            self._store.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        (tables,) = self._store.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (kind != APPLICATION or version not in (*ADDED_SINCE, VERSION)):
            self._store.close()
            said = "The file is no ledger of this version of the program. Name another one."
            raise LedgerError(said, str(self.path))
        if self.path is not None:
            _keep_private(self.path)
            # A row is on disk before anybody is told of it, and a program that is killed leaves whole rows only.
            self._store.execute("PRAGMA journal_mode = WAL")
            self._store.execute("PRAGMA synchronous = FULL")
        self._store.execute("PRAGMA secure_delete = ON")
        with self._store:
            self._store.execute("BEGIN IMMEDIATE")  # a program that is killed leaves the file as it was
            # Read again: another program may have brought the file up to date since.
            (version,) = self._store.execute("PRAGMA user_version").fetchone()
            self._store.execute(f"PRAGMA application_id = {APPLICATION}")
            self._store.execute(f"PRAGMA user_version = {VERSION}")
            self._store.execute(_TABLE)
            for name in ADDED_SINCE.get(version, ()):
                self._store.execute(f"ALTER TABLE edits ADD COLUMN \"{name}\" TEXT NOT NULL DEFAULT ''")
            self._store.execute("UPDATE edits SET live = 0")  # of an earlier start nothing is

    def put(self, visit: str, entry: Entry, case: Case | None = None) -> None:
        """Write a row, or write it anew.

        Args:
            case: The case's texts, which are kept only where the operator has asked for it.

        Raises:
            LedgerError: It cannot be written.
        """
        told = asdict(entry) | {name: json.dumps(getattr(entry, name)) for name in _JSON}
        texts = json.dumps(asdict(case)) if case is not None and self._prompts else None
        marks = ", ".join("?" * (len(_COLUMNS) + 2))
        self._write(
            f"INSERT OR REPLACE INTO edits (visit, {_LISTED}, prompts) VALUES ({marks})",
            [visit, *(told[name] for name in _COLUMNS), texts],
        )

    def entries(self, visit: str) -> list[Entry]:
        """Return a visit's rows, the first one first.

        Raises:
            LedgerError: They cannot be read.
        """
        try:
            with self._lock, closing(self._store.cursor()) as cursor:
                query = f"SELECT {_LISTED} FROM edits WHERE visit = ? ORDER BY number"
                rows = cursor.execute(query, [visit]).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from error
        try:
            return [_entry(row) for row in rows]
        except (TypeError, ValueError) as error:
            raise LedgerError(
                "The list of edits is damaged, so it cannot be read; the edits themselves are untouched. Whoever runs "
                "this page has to put the list's file back as it was, or start it with another --ledger.",
                f"{self.path or 'in memory'}: {error}",
            ) from error

    def rename(self, visit: str, number: int, name: str) -> None:
        """Give a row another name."""
        self._write("UPDATE edits SET name = ? WHERE visit = ? AND number = ?", [name, visit, number])

    def delete(self, visit: str, number: int) -> None:
        """Take a row away."""
        self._write("DELETE FROM edits WHERE visit = ? AND number = ?", [visit, number])

    def ended(self, visit: str) -> None:
        """Hear that a visit has ended: rows in memory go with it, those in the operator's file stay, none live."""
        if self.path is None:
            self._write("DELETE FROM edits WHERE visit = ?", [visit])
        else:
            self._write("UPDATE edits SET live = 0 WHERE visit = ?", [visit])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._store.close()

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        try:
            with self._lock, self._store:
                self._store.execute(statement, values)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> LedgerError:
        return LedgerError(
            "The list of edits cannot be written or read, so it may miss some; the edits themselves are untouched. "
            "Whoever runs this page has to make room, or start it with another --ledger.",
            f"{self.path or 'in memory'}: {error}",
        )


def _keep_private(path: Path) -> None:
    """Let nobody else read a ledger that was made otherwise, nor what SQLite keeps beside it.

    Raises:
        OSError: It is another user's.
    """
    if os.name == "nt":
        return
    for file in (path, *(path.with_name(f"{path.name}-{part}") for part in ("wal", "shm"))):
        if file.exists() and (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
            file.chmod(mode & 0o700)
            print(f"Warning: others could use {file}; now only you can, as it tells of visitors.", file=sys.stderr)


def _entry(row: Sequence[Any]) -> Entry:
    """Return what a row says.

    Raises:
        TypeError, ValueError: It is damaged.
    """
    told = dict(zip(_COLUMNS, row, strict=True))
    return read_record(Entry, told | {name: json.loads(told[name] or "{}") for name in _JSON})
