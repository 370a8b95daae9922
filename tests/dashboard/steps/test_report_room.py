"""The report's room: one press, three files of the visitor's own, gone with the session; what it says of them."""

from __future__ import annotations

import errno
import json
import stat
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Visitor, seen

from dashboard.kit.door.handing import HandedOut
from dashboard.steps.report.run import Reported

FILES = ("report_html_file", "report_script_file", "report_notebook_file")


def files(visitor: Visitor) -> list[Path]:
    return [Path(visitor.screen[name]) for name in FILES]


def test_one_press_writes_the_visit_down_and_hands_it_out(visitor: Visitor):
    assert "No report" in visitor.standing("report_state")
    visitor.do("on_report")
    html, script, notebook = files(visitor)
    assert html.suffix == ".html" and html.read_text(encoding="utf-8").startswith("<!doctype html>")
    compile(script.read_text(encoding="utf-8"), "run.py", "exec")
    assert json.loads(notebook.read_text(encoding="utf-8"))["nbformat"] == 4
    assert visitor.session.live.patch.identifier in html.name
    said = seen(visitor.screen["report_state"])
    assert "MB" in said and visitor.session.row.label() in said and "Stress test" in said
    assert "Something was done since" not in said and visitor.is_free


def test_files_lie_in_a_private_folder_and_go_with_the_next_report_and_with_the_session(visitor: Visitor):
    with visitor.session.next_folder("stress test") as others:
        (others / "stress-test.csv").touch()
    visitor.do("on_report")
    folder = files(visitor)[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    visitor.do("on_report", report_redact=True)
    again = files(visitor)[0].parent
    assert not folder.exists() and again.exists() and others.exists(), "the stress test's files stay"
    assert "left out" in seen(visitor.screen["report_state"])
    visitor.session.close()
    assert not again.exists() and not others.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_leaves_the_last_report_and_is_told_in_words(visitor: Visitor, monkeypatch, code):
    visitor.do("on_report")
    before = {file: file.read_bytes() for file in files(visitor)}

    def full(*_: object) -> None:
        raise OSError(code, "no", "/srv/secret")

    with monkeypatch.context() as patch:
        patch.setattr("inspector.model.whole_file.os.fsync", full)
        with pytest.raises(gr.Error, match="disk is full") as caught:
            visitor.do("on_report", report_redact=True)
    assert "/srv" not in caught.value.message and visitor.is_free
    list(visitor.arrive())
    assert {file: file.read_bytes() for file in files(visitor)} == before
    assert "left out" not in seen(visitor.screen["report_state"])


@pytest.mark.parametrize(("changes", "match"), [({"files": 2**20}, "of files an hour"), ({"free": 2**60}, "stay free")])
def test_a_report_counts_among_the_files_that_a_visitor_may_have(visitor: Visitor, monkeypatch, changes, match):
    session = visitor.session
    monkeypatch.setattr(session, "limits", replace(session.limits, **changes))
    with pytest.raises(gr.Error, match=match):
        visitor.do("on_report")
    assert session.slot(Reported).written is None and session.folders == {} and visitor.is_free
    monkeypatch.setattr(session, "limits", replace(session.limits, files=2**30, free=0))
    visitor.do("on_report")
    had = sum(path.stat().st_size for path in files(visitor))
    assert [count for _, count in session.slot(HandedOut).files] == [had]


def test_what_is_done_afterwards_is_said_and_a_reload_finds_the_files(visitor: Visitor):
    visitor.do("on_report")
    assert visitor.session.slot(Reported).written is not None
    before = files(visitor)
    list(visitor.arrive())
    assert files(visitor) == before and "Something was done since" not in visitor.screen["report_state"]
    visitor.do("on_undo", **QUICK)
    assert "Something was done since" in visitor.screen["report_state"]
    visitor.do("on_report")
    assert "Live weights: vanilla" in visitor.screen["report_state"]


def test_a_report_of_a_session_that_is_gone_is_a_clear_message(visitor: Visitor, page):
    visitor.do("on_report")
    written = files(visitor)[0]
    with page.context.sessions._lock:
        page.context.sessions._drop(visitor.key, "it was not used for 2 hours")
    assert not written.exists()
    visitor.do("on_report")
    notice = seen(visitor.screen["notice"])
    assert "Your session is gone" in notice and "Nothing was done" in notice


def test_a_visit_that_holds_nothing_has_nothing_to_report(visitor: Visitor, page):
    with page.context.sessions._lock:
        page.context.sessions._drop(visitor.key)
    empty = page.context.sessions.arrive(visitor.key, visitor.key)
    empty.started = empty.own = True
    with pytest.raises(Exception, match="Nothing was measured or edited yet"):
        visitor.do("on_report")
    assert "Stopped: Nothing was measured" in visitor.screen["report_clock"] and visitor.is_free
