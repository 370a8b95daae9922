"""What a stress test hands out: files of every answer, private, counted, and safe for a spreadsheet."""

from __future__ import annotations

import csv
import gc
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from stress_helpers import exam, reply

from dashboard.kit.door.handing import HandedOut
from dashboard.steps.stress import run as stress
from dashboard.steps.stress.run import Examined
from inspector.safeedit.records import reply_from, reply_record


def test_the_files_of_a_visitor_go_with_the_next_run_and_with_the_visitor(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    first = Path(visitor.screen["stress_csv"])
    assert first.is_file() and first.parent.stat().st_mode & 0o077 == 0, "nobody else may read it"
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    second = Path(visitor.screen["stress_json"])
    assert second.is_file() and not first.parent.exists()
    with visitor.page.context.sessions._lock:
        visitor.page.context.sessions._drop(visitor.key)
    gc.collect()
    assert not second.parent.exists()


def test_two_windows_hand_out_the_same_files_which_are_written_once(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    first, exam = visitor.screen["stress_csv"], visitor.session.slot(Examined).exam
    had = visitor.session.slot(HandedOut).files
    paths = stress.write_files(visitor.page.context.model, exam, visitor.session)
    assert paths == (first, visitor.screen["stress_json"]) and visitor.session.slot(HandedOut).files == had
    Path(first).unlink()
    again = stress.write_files(visitor.page.context.model, exam, visitor.session)
    assert Path(again[0]).is_file() and again != paths


def test_files_of_scores_count_among_a_visitor_s_and_where_they_are_too_much_the_scores_are_shown_without(
    visitor, monkeypatch
):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    had = sum(Path(visitor.screen[name]).stat().st_size for name in ("stress_csv", "stress_json"))
    assert visitor.session.slot(HandedOut).files[-1][1] == had
    for limits, why in (({"files": had}, "files an hour are allowed"), ({"files": None, "free": 2**60}, "stay free")):
        monkeypatch.setattr(visitor.session, "limits", replace(visitor.session.limits, **limits))
        with pytest.warns(UserWarning, match=why):
            visitor.do("on_stress", stress_size="This case", stress_tokens=4)
        assert visitor.screen["stress_csv"] is None and visitor.session.slot(stress.Examined).exam is not None
    assert visitor.is_free


def test_the_csv_has_a_line_an_answer_and_no_cell_that_a_spreadsheet_runs():
    result = exam(reply("DS", "safe", text="=1+1"), reply("harmless", None, kl=0.5, likeness=0.25))
    lines = list(csv.DictReader(io.StringIO(stress.as_csv(result))))
    assert len(lines) == 4 and tuple(lines[0]) == stress.COLUMNS
    assert lines[1]["answer"] == "'=1+1" and lines[1]["mark"] == "safe" and lines[1]["reason"] == "Because."
    assert lines[3]["kl_nats"] == "0.500000" and lines[3]["mark"] == "answered"


def test_a_reply_comes_back_from_its_record():
    one = reply("fact", None, kl=0.1)
    assert reply_from(json.loads(json.dumps(reply_record(one)))) == one
