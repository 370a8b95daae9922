"""A stress test without a browser: the example at start, a run that streams, cancel, stale scores, judges."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Page, Visitor
from example_helpers import open_page

from dashboard import api
from dashboard.lighter import LighterBlocks
from dashboard.steps.stress import run as stress
from dashboard.steps.stress.judging import Judges, judges_of
from dashboard.steps.stress.run import Examined
from inspector.errors import EditError
from inspector.safeedit.questions import CASE_PROMPTS
from inspector.safeedit.records import reply_from


@pytest.fixture(scope="module")
def guarded(example_folder) -> Page:
    return open_page(example_folder, read_only=True)


def test_the_example_is_scored_and_its_files_can_be_had_at_start(visitor):
    shown = visitor.session.slot(Examined).exam
    assert shown is not None and len(shown.replies) == 42
    assert "refusal rules" in visitor.standing("stress_head") and shown.weights in visitor.standing("stress_head")
    for name in ("stress_csv", "stress_json"):
        assert Path(visitor.standing(name)).stat().st_size > 1000


def test_a_run_fills_the_table_and_ends_idle(visitor):
    updates = visitor.do("on_stress", stress_size="This case", stress_tokens=16)
    assert any("stress_table" in update for update in updates)
    result = visitor.session.slot(Examined).exam
    assert [r.question.kind for r in result.replies] == list(CASE_PROMPTS)
    assert "5 prompts" in visitor.standing("stress_clock")
    assert visitor.is_free and visitor.standing("stress_rows")[0][1] == "DS"
    written = json.loads(Path(visitor.standing("stress_json")).read_text(encoding="utf-8"))
    assert [reply_from(record) for record in written["replies"]] == list(result.replies)


def test_a_cancelled_run_keeps_what_was_answered(visitor):
    run = visitor.press("on_stress", stress_size="Quick", stress_tokens=16)
    for changed in run:
        if "stress_table" in changed and "<table" in visitor.screen["stress_table"]:
            visitor.session.cancelled.set()
    assert visitor.session.slot(Examined).exam.cancelled and len(visitor.session.slot(Examined).exam.replies) == 5
    assert "Cancelled" in visitor.standing("stress_clock") and visitor.is_free


def test_while_it_runs_the_head_is_of_what_is_scored_and_an_error_brings_the_test_before_back(visitor, monkeypatch):
    visitor.do("on_edit", **QUICK)
    names = ("stress_head", "stress_table", "stress_prompt", "stress_vanilla", "stress_rows")
    before = {name: visitor.standing(name) for name in names}
    assert "These scores belong to other weights" in before["stress_head"]
    real = stress.examine_all

    def breaking(*given, **options):
        for progress in real(*given, **options):
            yield progress
            if progress.fresh:
                raise EditError("It broke. Try again.")

    monkeypatch.setattr(stress, "examine_all", breaking)
    seen = []
    with pytest.raises(gr.Error, match="It broke"):
        for changed in visitor.press("on_stress", stress_size="This case", stress_tokens=4):
            if "stress_table" in changed:
                seen.append({name: visitor.standing(name) for name in (*names, "stress_csv")})
    first, *_, answered, _restored = seen
    for shown in (first, answered):
        assert f"being scored: {visitor.session.row.label()}" in shown["stress_head"]
        assert "other weights" not in shown["stress_head"] and shown["stress_rows"] == []
        assert shown["stress_prompt"] == "" and shown["stress_csv"] is None
    assert "fills as answers come" in first["stress_table"] and "DS" in answered["stress_table"]
    assert {name: visitor.standing(name) for name in names} == before
    assert Path(visitor.standing("stress_csv")).is_file() and visitor.is_free


def test_scores_of_other_weights_are_called_so_and_without_an_edit_there_is_nothing_to_score(visitor):
    visitor.do("on_undo")
    assert "Live now: vanilla" in visitor.standing("stress_head")
    with pytest.raises(gr.Error, match="No edit is live"):
        visitor.do("on_stress", stress_size="This case")
    assert visitor.is_free


def test_a_judge_that_is_nowhere_is_refused_with_the_remedy(visitor):
    with pytest.raises(gr.Error, match=r"cannot be loaded.*embedded"):
        visitor.do("on_stress", stress_judge="/nowhere/judge", stress_size="This case")
    assert visitor.is_free and visitor.session.slot(Examined).exam is not None


def test_a_read_only_demo_takes_no_judge_of_one_s_own(guarded):
    with pytest.raises(gr.Error, match="read-only"):
        Visitor(guarded).do("on_stress", stress_judge="someone/judge", stress_size="This case")


def test_a_page_and_its_programs_share_the_judges_that_are_loaded(page, monkeypatch):
    made: list[Judges] = []
    monkeypatch.setattr(api, "judges_of", lambda context: made.append(judges_of(context)) or made[-1])
    with LighterBlocks(analytics_enabled=False):
        api.connect(page.context)
    assert made == [page.house.rooms["stress"].judges]
