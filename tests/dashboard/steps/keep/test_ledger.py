"""The ledger: rows come back as they were, end with their visit, and outlast a program that is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dashboard.steps.keep import ledger as ledger_module
from dashboard.steps.keep.ledger import Entry, Ledger, LedgerError
from dashboard.steps.keep.texts import base
from inspector.safeedit import bundled_cases

CASE = bundled_cases()[8]
ENTRY = Entry(
    number=1,
    patch="0123abcd",
    model="tiny-llama",
    fingerprint="89efcdab",
    name="",
    seen="2026-01-02T03:04:05+00:00",
    origin="made here",
    method="DINM",
    where="layer 2",
    case="bundled case 9",
    settings={"steps": 3, "target": None, "format": {"chat": True}},
    updates=3,
    stopped="step limit",
    seconds=1.5,
    strength=0.5,
    routed=True,
    gate="passed",
    reason="Passed: all of it.",
    scores={"DS": (0.0, 100.0, 5), "DL": (None, 80.0, 5)},
    scores_of="DINM · layer 2 · strength 1 · patch 0123abcd",
    asked="both weights with the same prompts",
    verdicts={"vanilla": "unsafe", "edited": "safe"},
    live=True,
    was_live=True,
)
WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "tests/dashboard/steps/keep")
from test_ledger import CASE, ENTRY
from dashboard.steps.keep.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), prompts=True)
for number in range(1, 100_000):
    ledger.put("visit", replace(ENTRY, number=number, reason="x" * 5000), CASE)
    print(number, flush=True)
"""


FIRST_VERSION = """
CREATE TABLE edits (visit TEXT NOT NULL, "number" INTEGER NOT NULL, "patch" TEXT NOT NULL, "name" TEXT NOT NULL,
"seen" TEXT NOT NULL, "origin" TEXT NOT NULL, "method" TEXT NOT NULL, "where" TEXT NOT NULL, "case" TEXT NOT NULL,
"settings" TEXT NOT NULL, "updates" INTEGER NOT NULL, "stopped" TEXT NOT NULL, "seconds" REAL NOT NULL,
"strength" REAL NOT NULL, "routed" INTEGER NOT NULL, "gate" TEXT NOT NULL, "reason" TEXT NOT NULL,
"scores" TEXT NOT NULL, "live" INTEGER NOT NULL, "was_live" INTEGER NOT NULL, prompts TEXT,
PRIMARY KEY (visit, number)) WITHOUT ROWID;
INSERT INTO edits VALUES ('one', 1, '0123abcd', 'mine', '2026-01-02T03:04:05+00:00', 'made here', 'DINM', 'layer 2',
'bundled case 9', '{"steps": 3}', 3, 'step limit', 1.5, 0.5, 1, 'passed', 'Passed: all of it.',
'{"DS": [0.0, 100.0, 5]}', 1, 1, '{"question": "What?"}');
PRAGMA application_id = 1145654861;
PRAGMA user_version = 1;
"""
"""A ledger's file as the first version of the program wrote it, with one row."""


def stored(path: Path) -> bytes:
    """Return all that is on disk of a ledger."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_row_comes_back_as_it_was_and_only_to_its_own_visit():
    ledger = Ledger()
    ledger.put("one", ENTRY, CASE)
    ledger.put("one", replace(ENTRY, number=2, live=False))
    ledger.put("two", replace(ENTRY, method="FT-L"))
    assert ledger.entries("one") == [ENTRY, replace(ENTRY, number=2, live=False)]
    ledger.put("one", replace(ENTRY, live=False))
    ledger.rename("one", 2, "mine")
    assert [(row.name, row.live) for row in ledger.entries("one")] == [("", False), ("mine", False)]
    ledger.delete("one", 1)
    assert [row.number for row in ledger.entries("one")] == [2] and len(ledger.entries("two")) == 1


def test_rows_in_memory_end_with_their_visit_and_hold_no_prompt():
    ledger = Ledger(prompts=True)
    ledger.put("one", ENTRY, CASE)
    ledger.put("two", ENTRY, CASE)
    assert ledger._store.execute("SELECT count(prompts) FROM edits").fetchone() == (0,)
    ledger.ended("one")
    assert ledger.entries("one") == [] and ledger.entries("two") == [ENTRY]


@pytest.mark.parametrize("prompts", [True, False])
def test_a_file_keeps_rows_of_ended_visits_and_prompts_only_where_it_is_told_to(tmp_path, prompts):
    path = tmp_path / "new" / "ledger.sqlite"
    ledger = Ledger(path, prompts)
    ledger.put("one", ENTRY, CASE)
    ledger.ended("one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "nobody else reads it"
    assert (CASE.question.encode() in stored(path)) is prompts
    ledger.close()
    again = Ledger(path, prompts)
    assert again.entries("one") == [replace(ENTRY, live=False)]
    (texts,) = again._store.execute("SELECT prompts FROM edits").fetchone()
    assert (json.loads(texts)["question"] if prompts else texts) == (CASE.question if prompts else None)
    again.close()


SECOND_VERSION = """
ALTER TABLE edits ADD COLUMN "model" TEXT NOT NULL DEFAULT '';
ALTER TABLE edits ADD COLUMN "fingerprint" TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 2;
"""
"""What the second version of the program made of that file."""
THIRD_VERSION = """
ALTER TABLE edits ADD COLUMN "scores_of" TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 3;
"""
"""What the third version made of the second one's."""
FOURTH_VERSION = """
ALTER TABLE edits ADD COLUMN "verdicts" TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 4;
"""
"""What the fourth version made of the third one's."""
LATER = ("", SECOND_VERSION, SECOND_VERSION + THIRD_VERSION, SECOND_VERSION + THIRD_VERSION + FOURTH_VERSION)


@pytest.mark.parametrize("later", LATER)
def test_a_file_of_an_earlier_version_opens_with_its_rows_and_takes_new_ones(tmp_path, later):
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as store:
        store.executescript(FIRST_VERSION + later)
    store.close()
    ledger = Ledger(path)
    (old,) = ledger.entries("one")
    assert (old.patch, old.name, old.scores, old.live) == ("0123abcd", "mine", {"DS": (0.0, 100.0, 5)}, False)
    assert (old.model, old.fingerprint, old.scores_of, old.asked, old.verdicts) == ("", "", "", "", {})
    assert "not noted" in base(old)
    ledger.put("two", ENTRY)
    ledger.close()
    again = Ledger(path)
    assert again.entries("one") == [old] and again.entries("two") == [replace(ENTRY, live=False)]
    assert again._store.execute("SELECT prompts FROM edits WHERE visit = 'one'").fetchone() == (
        '{"question": "What?"}',
    )
    assert base(ENTRY) == "tiny-llama, fingerprint 89efcdab"
    again.close()


def test_a_file_that_another_program_brings_up_to_date_meanwhile_opens_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as store:
        store.executescript(FIRST_VERSION)
    store.close()
    others = []

    def meanwhile(file: Path) -> None:
        monkeypatch.undo()
        others.append(Ledger(file))

    monkeypatch.setattr(ledger_module, "_keep_private", meanwhile)
    ledger = Ledger(path)
    assert len(others) == 1 and ledger.entries("one") == others[0].entries("one") != []
    for one in (ledger, *others):
        one.close()


def test_a_file_of_the_first_version_that_cannot_be_brought_up_to_date_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as store:
        store.executescript(FIRST_VERSION)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "ADDED_SINCE", {1: ("model", "model")})
        with pytest.raises(LedgerError, match="Name another file"):
            Ledger(path)
    ledger = Ledger(path)
    assert [row.patch for row in ledger.entries("one")] == ["0123abcd"]
    ledger.close()


@pytest.mark.parametrize("was", ["empty", "a ledger"])
def test_a_file_that_others_can_read_is_made_the_operator_s_own_and_that_is_told(tmp_path, capsys, was):
    path = tmp_path / "ledger.sqlite"
    if was == "empty":
        path.touch()
    else:
        before = Ledger(path)
        before.put("one", replace(ENTRY, live=False))
    names = [path] if was == "empty" else [path, *(tmp_path / f"{path.name}-{part}" for part in ("wal", "shm"))]
    for file in names:
        file.chmod(0o664)
    ledger = Ledger(path, prompts=True)
    said = capsys.readouterr().err
    assert all(f"Warning: others could use {file}; now only you can" in said for file in names)
    ledger.put("two", ENTRY, CASE)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
        f"{path.name}{part}": 0o600 for part in ("", "-wal", "-shm")
    }
    assert ledger.entries("one") == ([] if was == "empty" else [replace(ENTRY, live=False)])
    ledger.close()
    Ledger(path).close()
    assert capsys.readouterr().err == "", "nothing more to tell"


def test_a_ledger_that_others_can_read_and_that_cannot_be_made_private_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    path.chmod(0o644)

    def refuse(*_given: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(LedgerError, match="Name another file"):
        Ledger(path)


def test_what_is_no_ledger_is_refused_and_left_as_it_was(tmp_path):
    text, other, later = tmp_path / "text", tmp_path / "other", tmp_path / "later"
    text.write_text("Not a database, but a long enough text to be looked at as one." * 20)
    sqlite3.connect(other).executescript("CREATE TABLE mine (a);")
    Ledger(later).close()
    with sqlite3.connect(later) as store:
        store.execute("PRAGMA user_version = 99")
    for path in (text, other):
        path.chmod(0o644)
    before = [path.read_bytes() for path in (text, other)]
    for path, match in ((text, "cannot be opened"), (other, "is no ledger"), (later, "of this version")):
        with pytest.raises(LedgerError, match=match):
            Ledger(path)
    with pytest.raises(LedgerError, match="Name another file"):
        Ledger(tmp_path)
    assert [path.read_bytes() for path in (text, other)] == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in (text, other)} == {0o644}, "a name that was mistyped"


def test_what_a_visitor_reads_of_a_ledger_names_no_path_and_no_database_and_the_operator_reads_both(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with sqlite3.connect(path) as store:
        store.execute("DROP TABLE edits")
    for use in (lambda: ledger.entries("one"), lambda: ledger.put("one", ENTRY), lambda: ledger.delete("one", 1)):
        with pytest.raises(LedgerError, match="has to make room") as told:
            use()
        assert str(tmp_path) not in told.value.user_message() and "edits:" not in told.value.user_message()
        assert str(path) in told.value.operator_message() and "no such table" in told.value.operator_message()
    ledger.close()


@pytest.mark.parametrize(
    ("column", "held", "said"),
    [
        ("settings", "{", "Expecting"),
        ("settings", "[]", "broken at settings"),
        ("scores", '{"DS": [0.0, 100.0]}', "broken at scores.DS"),
        ("scores", '{"DS": 7}', "broken at scores.DS"),
        ("updates", "some", "broken at updates"),
        ("routed", 7, "broken at routed"),
    ],
)
def test_a_damaged_row_is_told_with_the_remedy_and_the_operator_reads_what_is_broken(tmp_path, column, held, said):
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.put("one", ENTRY)
    with sqlite3.connect(path) as store:
        store.execute(f"UPDATE edits SET {column} = ?", [held])
    with pytest.raises(LedgerError, match=r"is damaged.*or start it with another --ledger") as told:
        ledger.entries("one")
    assert str(tmp_path) not in told.value.user_message() and said not in told.value.user_message()
    assert str(path) in told.value.operator_message() and said in told.value.operator_message()
    ledger.close()


def test_a_program_that_is_killed_while_it_writes_leaves_every_row_that_it_has_told_of(tmp_path):
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        told = 0
        while told < 40:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split("\n")
    whole = [int(line) for line in rest[:-1] if line]
    ledger = Ledger(path, prompts=True)
    assert ledger._store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = ledger.entries("visit")
    assert [row.number for row in rows] == list(range(1, len(rows) + 1)) and len(rows) >= max([told, *whole])
    assert rows[-1] == replace(ENTRY, number=len(rows), reason="x" * 5000, live=False), "its last row is whole"
    ledger.put("visit", replace(ENTRY, number=len(rows) + 1))
    assert len(ledger.entries("visit")) == len(rows) + 1
    ledger.close()


@pytest.mark.parametrize(
    ("pragma", "cause"),
    [("max_page_count = 2", "full"), ("query_only = ON", "readonly")],
    ids=["full", "read-only"],
)
def test_a_ledger_that_cannot_be_written_says_so_names_the_remedy_and_gives_what_it_has(tmp_path, pragma, cause):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.put("one", ENTRY)
    ledger._store.execute(f"PRAGMA {pragma}")
    with pytest.raises(LedgerError, match="has to make room, or start it with another --ledger") as told:
        for number in range(2, 50):
            ledger.put("one", replace(ENTRY, number=number, reason="x" * 4000))
    assert cause in told.value.operator_message() and cause not in told.value.user_message()
    (first, *more) = ledger.entries("one")
    assert first == ENTRY and all(row.reason == "x" * 4000 for row in more), "whole rows only"
    ledger.close()
