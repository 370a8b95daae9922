"""What a sweep has finished, in one SQLite file: each case is on disk before the next one starts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from editing.sweep.settings import SweepSettings
from editing.sweep.yardstick import Rounded
from editing.versions import versions
from inspector.errors import EditError
from inspector.safeedit.exam import Reply
from inspector.safeedit.known import Pairing
from inspector.safeedit.records import reply_from
from inspector.validated import read_record

FILE = "sweep.sqlite"
Status = Literal["done", "refused", "failed"]
"""How a case ended: edited and scored; refused, so that the vanilla weights count as edited; or without scores."""

_NEEDED: Mapping[str, Sequence[str]] = {
    "done": ("block", "replies"),
    "refused": ("block", "replies", "error"),
    "failed": ("error",),
}
"""What a case's record has in every version of this program."""


@dataclass(frozen=True)
class About:
    """What a sweep ran with, for the report.

    Attributes:
        settings: Its settings.
        model: The model's name.
        fingerprint: Names the base weights.
        dtype: Data type of the base weights.
        judge: The judge's name.
        judge_note: What the judge is.
        cases: Number of cases in all.
        layer_reason: Why the layer that the settings name is edited; empty where it is not written.
        versions: Versions of the software that computes, by name; empty where none are written.
        detector: Names the detector by which patches act (:attr:`inspector.model.Detector.digest`); empty where they
            act on every prompt, and in a sweep of before it was written.
        recommended_layer: Where trial edits of the model work; ``None`` where no layer is recommended.
        recommended_reason: Why that one, or none; empty in a sweep of before it was written.
    """

    settings: SweepSettings
    model: str
    fingerprint: str
    dtype: str
    judge: str
    judge_note: str
    cases: int
    layer_reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    detector: str = ""
    recommended_layer: int | None = None
    recommended_reason: str = ""


@dataclass(frozen=True)
class ExamRecord:
    """What is kept of one exam of a case's edit.

    Attributes:
        error: Why no edit is examined, so that the vanilla weights count; empty where one is.
        patch: Names the patch; ``None`` where there is none.
        exam_seconds: Duration of the exam.
        pairing: What asking again with both weights in one batch found.
        replies: The marked replies, as :func:`inspector.safeedit.records.reply_record` gives them.
    """

    error: str = ""
    patch: str | None = None
    exam_seconds: float = 0.0
    pairing: Pairing = Pairing()
    replies: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class CaseRecord(ExamRecord):
    """What is kept of a finished case, its exam among it; a failed one has its error alone.

    Attributes:
        block: The layer that was edited, or would have been; ``None`` for no layer.
        toxic_layer: Where its answers part most; ``None`` where that is unknown.
        toxic_reason: Why there, or why it is unknown; ``None`` in a sweep of before it was written.
        edit: How the edit went; ``None`` where it was refused.
        left_out: Number of questions that no case is asked, by kind.
        routed: The second exam, of the same edit where it acts only where the detector fires; ``None`` in a sweep that
            examines one way alone.
    """

    block: int | None = None
    toxic_layer: int | None = None
    toxic_reason: str | None = None
    edit: Mapping[str, Any] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    routed: ExamRecord | None = None


@dataclass(frozen=True)
class Finished:
    """One finished case.

    Attributes:
        number: Its place in the sweep.
        case: The record's id.
        category: Its unsafety category.
        status: How it ended.
        record: What :func:`editing.sweep.work.work` gave.
        seconds: Duration.
    """

    number: int
    case: str
    category: str
    status: Status
    record: CaseRecord
    seconds: float

    @property
    def routed(self) -> Finished | None:
        """The same case by its second exam; ``None`` where there is none."""
        exam = self.record.routed
        if exam is None:
            return None
        record = replace(self.record, **vars(exam), routed=None)
        return replace(self, status="refused" if exam.error else "done", record=record)

    @property
    def replies(self) -> tuple[Reply, ...]:
        """The marked replies; none for a failed case.

        Raises:
            EditError: What stands in the file is damaged.
        """
        try:
            return tuple(reply_from(record) for record in self.record.replies)
        except (ValueError, TypeError) as error:
            raise EditError(
                f"The replies of case {self.case or self.number} cannot be read ({error}). Restore the sweep's file, "
                "or sweep again into another --out."
            ) from error


class Store:
    """The results of one sweep in a folder.

    Args:
        folder: Where ``sweep.sqlite`` is or will be.

    Raises:
        EditError: The folder cannot be written, or the file is no sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Only the thread that drives the sweep writes; WAL keeps what is committed through a kill.
            self._database = sqlite3.connect(self.path)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS run (settings TEXT, about TEXT, started REAL)")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS results (number INTEGER PRIMARY KEY, case_id TEXT, category TEXT, "
                    "status TEXT, record TEXT, seconds REAL, finished REAL)"
                )
                self._database.execute("CREATE TABLE IF NOT EXISTS rounding (record TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise EditError(f"{self.path} cannot be used ({error}). Choose another folder with --out.") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def about(self) -> About | None:
        """Return what the sweep in this folder ran with, ``None`` for a new folder.

        Raises:
            EditError: Another version of this program wrote it.
        """
        found = self._database.execute("SELECT settings, about FROM run").fetchone()
        if found is None:
            return None
        try:
            return read_record(About, {**json.loads(found[1]), "settings": SweepSettings.from_json(found[0])})
        except (EditError, TypeError, ValueError) as error:
            raise EditError(
                f"{self.path.parent} holds a sweep of another version of this program ({error}). Choose another --out."
            ) from None

    def begin(self, about: About) -> None:
        """Start or go on with a sweep.

        Raises:
            EditError: The folder holds a sweep with other settings, in another data type, of other base weights or by
                another detector.
        """
        before = self.about()
        if before is None:
            told = {key: value for key, value in vars(about).items() if key != "settings"} | {"versions": versions()}
            with self._database:
                self._database.execute(
                    "INSERT INTO run VALUES (?, ?, ?)", (about.settings.as_json(), json.dumps(told), time.time())
                )
            return
        # Not by --dtype: 'auto' is another type on another device, and a type's name asks for what 'auto' was there.
        difference = replace(about.settings, dtype=before.settings.dtype).difference(before.settings)
        if difference is None and about.dtype != before.dtype:
            difference = f"data type {before.dtype} there, {about.dtype} here, and --dtype {before.dtype} asks for that"
        if difference is None and about.fingerprint != before.fingerprint:
            difference = f"base weights {before.fingerprint} there, {about.fingerprint} here"
        if difference is None and about.cases != before.cases:
            difference = f"{before.cases} cases there, {about.cases} here"
        if difference is None and about.detector != before.detector:
            difference = f"detector {before.detector or 'not named'} there, {about.detector} here"
        if difference is not None:
            raise EditError(
                f"{self.path.parent} holds another sweep ({difference}). Give the same settings to go on with it, or "
                "another --out for a new one."
            )

    def save(self, finished: Finished) -> None:
        """Put one finished case on disk, at once and whole."""
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    finished.number,
                    finished.case,
                    finished.category,
                    finished.status,
                    json.dumps(asdict(finished.record)),
                    finished.seconds,
                    time.time(),
                ),
            )

    def rounded(self) -> Rounded | None:
        """Return the rounding row, or why there is none; ``None`` where it was not tried yet.

        Raises:
            EditError: What stands in the file is damaged.
        """
        found = self._database.execute("SELECT record FROM rounding").fetchone()
        try:
            return None if found is None else read_record(Rounded, json.loads(found[0]))
        except (TypeError, ValueError) as error:
            raise EditError(
                f"The rounding row of {self.path} cannot be read ({error}). Restore the sweep's file, or sweep again "
                "into another --out."
            ) from error

    def keep_rounded(self, row: Rounded) -> None:
        """Put the rounding row on disk, in the place of any before."""
        with self._database:
            self._database.execute("DELETE FROM rounding")
            self._database.execute("INSERT INTO rounding VALUES (?)", (json.dumps(asdict(row)),))

    def numbers(self) -> frozenset[int]:
        """Return the places of the finished cases; one that failed is tried again when a sweep goes on."""
        found = self._database.execute("SELECT number FROM results WHERE status IS NOT 'failed'")
        return frozenset(number for (number,) in found)

    def results(self) -> Iterator[Finished]:
        """Return the finished cases in order.

        Raises:
            EditError: What stands in the file is damaged.
        """
        rows = self._database.execute(
            "SELECT number, case_id, category, status, record, seconds FROM results ORDER BY number"
        )
        names = [part.name for part in fields(Finished)]
        for row in rows:
            told = dict(zip(names, row, strict=True))
            try:
                record = json.loads(told["record"])
                finished = read_record(Finished, {**told, "record": record})
                if missing := [name for name in _NEEDED[finished.status] if name not in record]:
                    raise ValueError(f"{', '.join(missing)} is missing")
            except (TypeError, ValueError) as error:
                raise EditError(
                    f"Case {told['case'] or told['number']} of {self.path} cannot be read ({error}). Restore the "
                    "sweep's file, or sweep again into another --out."
                ) from error
            yield finished


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder for one sweep at a time.

    Raises:
        EditError: Another process sweeps into it, or it cannot be written.
    """
    lock = FileLock(folder / "sweep.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise EditError(f"Another process sweeps into {folder}. Wait for it, or choose another --out.") from None
    except (OSError, NotImplementedError) as error:
        raise EditError(f"{folder} cannot be used ({error}). Choose another folder with --out.") from error
    try:
        yield
    finally:
        lock.release()
