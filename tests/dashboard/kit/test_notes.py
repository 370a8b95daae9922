"""What the operator reads: events with names and numbers, in lines that a program reads, without any visitor's text."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import gradio as gr
import pytest
from dashboard_helpers import Clock

from dashboard.kit.notes import LOGGER, note, places, write_to
from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.visitors import Sessions
from inspector.errors import CaseError

SECRET = "what a visitor has typed"


@pytest.fixture
def lines(tmp_path):
    """Read the log as it grows."""
    path = tmp_path / "log.jsonl"
    handler = write_to(str(path))
    yield lambda: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    LOGGER.removeHandler(handler)
    handler.close()


def test_an_event_is_a_line_of_json_with_its_fields(lines):
    note("run", kind="edit", seconds=1.5, done=True)
    (line,) = lines()
    assert line.pop("time") > 1e9
    assert line == {"event": "run", "level": "info", "kind": "edit", "seconds": 1.5, "done": True}


def test_an_event_is_not_written_again_by_a_package_that_sets_up_logging_of_its_own(lines, capsys):
    theirs = logging.StreamHandler()
    logging.getLogger().addHandler(theirs)
    try:
        note("run", kind="edit")
    finally:
        logging.getLogger().removeHandler(theirs)
    assert len(lines()) == 1 and capsys.readouterr().err == ""


def test_a_session_that_is_let_go_is_told_without_its_key_and_its_page(lines):
    clock = Clock()
    sessions = Sessions(grace=60, now=clock)
    session = sessions.arrive("a page", "a key")
    session.begin()
    session.end()
    sessions.leave("a page")
    clock.seconds = 61
    sessions.sweep()
    (line,) = lines()
    assert line.pop("time") > 1e9
    assert line == {"event": "lost session", "level": "info", "why": "it was not used for 60 seconds"}


def test_an_error_is_told_by_its_place_and_number_and_never_by_its_message(lines):
    def step(text: str) -> None:
        raise ValueError(f"cannot read {text}")

    with pytest.raises(gr.Error) as caught, shown_to_user():
        step(SECRET)
    (line,) = lines()
    assert line["event"] == "defect" and line["error"] == "ValueError" and "step" in line["at"]
    assert line["number"] in caught.value.message
    assert SECRET not in json.dumps(line) and SECRET not in caught.value.message


def test_what_a_person_can_mend_is_told_to_them_and_counted_without_its_words(lines):
    with pytest.raises(gr.Error, match=SECRET), shown_to_user():
        raise CaseError(f"There is no {SECRET}.")
    assert [(line["event"], line["error"]) for line in lines()] == [("told", "CaseError")]


def test_of_what_a_library_said_the_operator_gets_kind_and_place_and_the_visitor_nothing(lines):
    with pytest.raises(gr.Error) as caught, shown_to_user():
        try:
            Path(f"/nowhere/{SECRET}").read_text()
        except OSError as error:
            raise CaseError("It cannot be read. Choose another.", str(error)) from error
    assert caught.value.message == "It cannot be read. Choose another."
    (line,) = lines()
    assert (line["error"], line["cause"]) == ("CaseError", "FileNotFoundError ENOENT")
    assert "test_notes.py" in line["at"] and SECRET not in json.dumps(line)


def test_without_a_log_only_defects_are_said_on_standard_error(capsys):
    handler = write_to(None)
    try:
        note("run", kind="edit")
        note("defect", logging.ERROR, number="12", error="ValueError")
    finally:
        LOGGER.removeHandler(handler)
    said = capsys.readouterr().err
    assert "edit" not in said and "defect: number=12 error=ValueError" in said


def test_the_place_of_an_error_is_named_within_this_program():
    try:
        raise CaseError("Here.")
    except CaseError as error:
        assert places(error.__traceback__).startswith("tests/dashboard/kit/test_notes.py:")
