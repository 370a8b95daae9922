"""The file of a sweep: what is committed stays, what is cut does not, and nothing foreign gets in."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from editing.sweep import About, CaseRecord, Finished, Store, SweepSettings, only_one
from editing.sweep.marks import toxic_layers
from inspector.errors import EditError

ABOUT = About(SweepSettings(limit=2), "tiny", "f" * 16, "float32", "hand", "By hand.", 2)
HELD = """
import sys, time
from pathlib import Path
from editing.sweep import CaseRecord, Finished, Store, only_one
with only_one(Path(sys.argv[1])):
    store = Store(Path(sys.argv[1]))
    store.save(Finished(0, "0", "mental harm", "done", CaseRecord(block=1), 0.5))
    store._database.execute("INSERT INTO results (number) VALUES (1)")
    print("held", flush=True)
    time.sleep(600)
"""
"""A program that holds a folder, with one case committed and one half written, until it is killed."""


def program(text: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(folder)],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_refused_until_the_first_one_is_killed_and_what_that_committed_stays(tmp_path):
    """Killed amid a transaction, it leaves a file that can be written."""
    process = program(HELD, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(EditError, match="Another process sweeps"), only_one(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with only_one(tmp_path):
        store = Store(tmp_path)
    assert [(r.number, r.record) for r in store.results()] == [(0, CaseRecord(block=1))]
    store.save(Finished(1, "1", "mental harm", "failed", CaseRecord("Too long."), 0.1))
    assert [r.status for r in store.results()] == ["done", "failed"]
    assert store.numbers() == {0}, "a case that failed is tried again"
    store.close()


def test_a_folder_remembers_what_it_runs_with(tmp_path):
    store = Store(tmp_path)
    assert store.about() is None
    store.begin(ABOUT)
    store.close()
    again = Store(tmp_path)
    again.begin(ABOUT)
    found = again.about()
    assert found is not None and replace(found, versions={}) == ABOUT
    assert {"python", "torch", "transformers"} <= set(found.versions)
    again.close()


def test_a_folder_from_before_versions_were_written_can_be_read(tmp_path):
    store = Store(tmp_path)
    store.begin(ABOUT)
    with store._database:
        store._database.execute("UPDATE run SET about = json_remove(about, '$.versions')")
    assert store.about() == ABOUT
    store.close()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(ABOUT, settings=SweepSettings(limit=2, block="1")), "block = 'auto' there, '1' here"),
        (replace(ABOUT, dtype="bfloat16"), "data type float32 there, bfloat16 here, and --dtype float32 asks for that"),
        (replace(ABOUT, fingerprint="0" * 16), "base weights ffffffffffffffff there, 0000000000000000 here"),
        (replace(ABOUT, cases=3), "2 cases there, 3 here"),
        (replace(ABOUT, detector="d" * 16), "detector not named there, dddddddddddddddd here"),
    ],
)
def test_another_sweep_is_refused_with_its_first_difference(tmp_path, other, said):
    store = Store(tmp_path)
    store.begin(ABOUT)
    with pytest.raises(EditError, match=f"{said}.*another --out"):
        store.begin(other)
    store.close()


def test_a_sweep_that_began_with_auto_goes_on_with_the_type_that_auto_was(tmp_path):
    """On another device ``auto`` is another type, and what is refused there names this one."""
    store = Store(tmp_path)
    store.begin(ABOUT)
    with pytest.raises(EditError, match="--dtype float32 asks for that"):
        store.begin(replace(ABOUT, dtype="bfloat16"))
    store.begin(replace(ABOUT, settings=SweepSettings(limit=2, dtype="float32")))
    with pytest.raises(EditError, match="data type float32 there, bfloat16 here"):
        store.begin(replace(ABOUT, settings=SweepSettings(limit=2, dtype="bfloat16"), dtype="bfloat16"))
    store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "sweep.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(EditError, match=r"cannot be used.*another folder"):
        Store(tmp_path)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EditError, match=r"cannot be used.*another folder"), only_one(tmp_path / "file"):
        pass
    with pytest.raises(EditError, match=r"cannot be used.*another folder"):
        Store(tmp_path / "file")


def test_each_commit_is_flushed_to_disk(tmp_path):
    store = Store(tmp_path)
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.save(Finished(0, "0", "", "done", CaseRecord(), 0.0))
    reader = sqlite3.connect(tmp_path / "sweep.sqlite")  # while the writer is open
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (1,)
    reader.close()
    store.close()


@pytest.mark.parametrize("reply", [{"question": {}}, {}, {"answer": 7}])
def test_damaged_replies_name_their_case_and_the_remedy(tmp_path, reply):
    store = Store(tmp_path)
    store.save(Finished(0, "seven", "mental harm", "done", CaseRecord(block=1, replies=(reply,)), 0.5))
    (found,) = store.results()
    store.close()
    with pytest.raises(EditError, match=r"case seven cannot be read \(a reply's record is broken.*another --out"):
        _ = found.replies


@pytest.mark.parametrize(
    ("status", "record", "said"),
    [
        ("done", "{", "Expecting"),
        ("done", None, "NoneType"),
        ("done", "[]", "broken at record"),
        ("finished", "{}", "broken at status"),
        ("done", '{"block": "one"}', r"broken at record\.block"),
        ("done", '{"block": 1, "replies": [7]}', r"broken at record\.replies\.0"),
        ("done", '{"block": 1, "pairing": {"asked": 1}}', r"broken at record\.pairing"),
        ("done", '{"replies": []}', "block is missing"),
        ("refused", '{"block": 1, "replies": []}', "error is missing"),
        ("failed", "{}", "error is missing"),
    ],
)
def test_a_damaged_case_names_the_file_and_the_remedy(tmp_path, status, record, said):
    store = Store(tmp_path)
    store.save(Finished(0, "seven", "mental harm", "done", CaseRecord(block=1), 0.5))
    with store._database:
        store._database.execute("UPDATE results SET status = ?, record = ?", (status, record))
    with pytest.raises(EditError, match=rf"(?s)Case seven of .*sweep\.sqlite cannot be read \(.*{said}.*another --out"):
        list(store.results())
    store.close()


def test_a_case_from_before_its_toxic_layer_was_written_can_be_read(tmp_path):
    store = Store(tmp_path)
    store.save(Finished(0, "0", "", "done", CaseRecord(block=1, toxic_layer=2, toxic_reason="There."), 0.5))
    with store._database:
        store._database.execute("UPDATE results SET record = ?", ('{"block": 1, "patch": "aaaa", "replies": []}',))
    (found,) = store.results()
    store.close()
    assert found.record == CaseRecord(block=1, patch="aaaa") and toxic_layers([found]) == {}
    assert found.routed is None
