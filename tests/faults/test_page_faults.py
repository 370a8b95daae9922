"""Faults while the page works: whatever ends a run, its visitor is free, is told in words, and can go on.

What other tests hold, by fault:

- cancel in every measurement and edit: ``tests/editing`` and ``tests/inspector``, one each
  (``grep "def test.*cancel"``); while it waits in line: ``tests/dashboard/kit/running/test_queue.py``
- the tab closed, a reload in a run: ``tests/dashboard/browser/test_browser_sessions.py``; a page gone in the middle of
  a run, with its stream and its connection: ``tests/benchmarks/test_benchmark_load.py``
- a loss that is not finite: ``test_not_finite.py`` in every method and on the page; in the middle of a descent
  ``tests/editing/methods/dinm/test_dinm_ends.py``; in an atlas ``tests/editing/atlas/test_atlas.py``
- memory that runs out where many prompts are asked: ``test_memory.py``; in a contest, a sweep:
  ``tests/editing/test_contest.py``, ``test_sweep_faults.py``
- SIGKILL in a write: ``tests/inspector/model/test_whole_file.py``, in a sweep: ``tests/editing/sweep/test_sweep.py``
- the server killed and started again: ``test_restart.py``; on its page:
  ``tests/dashboard/kit/running/test_reserving.py``
- every run of the page, ended in every way, and two runs in the same instant: ``test_every_run.py``
- damaged files: the embedded model ``tests/inspector/model/test_made_whole.py``, the example
  ``tests/dashboard/example/test_example.py``, a calibration ``tests/editing/calibrating/test_calibration.py``,
  an editor of MEND ``tests/editing/methods/mend/test_mend_store.py``,
  a patch ``tests/inspector/model/patches/test_patch_file.py``
"""

from __future__ import annotations

import errno
import json
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from attack_helpers import call, opened, press
from dashboard_helpers import tiny_model
from safetensors import SafetensorError

from dashboard.kit.running.run import NO_ROOM_TOLD, shown_to_user
from dashboard.kit.sessions.typed import texts_of
from dashboard.steps.stress import run as stress
from inspector.errors import PatchError
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases

SECRET = "a text that belongs to a visitor"
TEXTS = texts_of(bundled_cases()[0])
CASE = TEXTS.question, TEXTS.template, TEXTS.safe, TEXTS.unsafe


@pytest.fixture
def visitor(served):
    """A visitor with an open page: their client, their page, their session."""
    with httpx.Client(base_url=served.url, timeout=300) as web:
        web.page = secrets.token_hex(6)
        opened(served, web, web.page)
        web.session = served.sessions.of(served.sessions.owner(web.page))
        yield web


@pytest.fixture
def failing(monkeypatch):
    """Let the model's forward passes fail after so many."""

    def fail(error: Exception, after: int) -> None:
        network, left = tiny_model().network, [after]

        def forward(*given: Any, **named: Any) -> Any:
            if left[0] <= 0:
                raise error
            left[0] -= 1
            return type(network).forward(network, *given, **named)

        monkeypatch.setattr(network, "forward", forward, raising=False)

    yield fail


@pytest.mark.parametrize(
    ("handler", "after"),
    [("on_locate", 0), ("on_edit", 0), ("on_edit", 5), ("on_operate", 5), ("on_why", 3), ("on_atlas", 1)],
)
def test_an_error_in_a_run_frees_its_visitor_and_is_told_by_a_number(served, visitor, failing, handler, after):
    failing(ValueError(SECRET), after)
    said = json.dumps(press(served, visitor, visitor.page, handler))
    assert SECRET not in said and "Traceback" not in said
    assert "went wrong on this machine" in said or "see the server's log" in said
    assert not visitor.session.busy and len(served.app.line) == 0 and visitor.session.edits == []


def test_after_an_error_the_same_press_works(served, visitor):
    with pytest.MonkeyPatch.context() as patch:
        network = tiny_model().network

        def forward(*_given: Any, **_named: Any) -> Any:
            raise ValueError(SECRET)

        patch.setattr(network, "forward", forward, raising=False)
        press(served, visitor, visitor.page, "on_locate")
        assert visitor.session.case is None
    press(served, visitor, visitor.page, "on_locate")
    assert visitor.session.case is not None


def press_edit(web: httpx.Client) -> Any:
    """Make an edit live through the endpoints, in the session of a browser."""
    kind, said = call(web, "edit", *CASE, 1, "corrected", 2, SUFFIX, False, None, True, None)
    assert kind == "complete", said
    if not said[0]["live"]:
        assert call(web, "keep")[0] == "complete"
    return said


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("of", ["the system", "safetensors"])
def test_a_disk_that_is_full_or_cannot_be_written_is_told_without_a_path(code, of):
    said = f'Error while serializing: I/O error: no (os error {code}) at path "/srv/secret/path"'
    with pytest.raises(gr.Error) as caught, shown_to_user():
        raise OSError(code, "no", "/srv/secret/path") if of == "the system" else SafetensorError(said)
    assert caught.value.message == NO_ROOM_TOLD and "/srv" not in caught.value.message


def test_a_full_disk_is_told_the_same_where_a_step_has_words_of_its_own_for_what_failed():
    with pytest.raises(gr.Error) as caught, shown_to_user():
        try:
            raise OSError(errno.ENOSPC, "no", "/srv/secret/path")
        except OSError as error:
            raise PatchError("The patch cannot be written.", str(error)) from error
    assert caught.value.message == NO_ROOM_TOLD


def test_scores_are_shown_though_no_file_of_them_can_be_written(served, visitor, monkeypatch):
    press_edit(visitor)
    press(served, visitor, visitor.page, "on_waking")  # the page is drawn anew after what a program has run

    def full(*_given: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space", str(Path("/srv/secret")))

    monkeypatch.setattr(stress, "write_files", full)
    said = json.dumps(press(served, visitor, visitor.page, "on_stress"))
    assert "disk is full" in said and "/srv" not in said and "stress-table" not in said
    assert visitor.session.slot(stress.Examined).exam is not None and not visitor.session.busy


@pytest.mark.parametrize("lost", ["heartbeat", "all"])
def test_a_browser_that_leaves_in_the_middle_of_a_stream_ends_its_run(served, visitor, monkeypatch, lost):
    """What it has open is its stream of answers, and the heartbeat by which Gradio tells the page that it has gone."""
    left: list[str] = []
    leave = served.sessions.leave
    monkeypatch.setattr(served.sessions, "leave", lambda page: (leave(page), left.append(page)))
    body = {
        "data": served.values("on_edit", steps=100_000, target=0),
        "fn_index": served.number("on_edit"),
        "session_hash": visitor.page,
    }
    with ExitStack() as heart, ExitStack() as stream:
        beats = heart.enter_context(visitor.stream("GET", f"/gradio_api/heartbeat/{visitor.page}")).iter_lines()
        next(beats)  # who lets go of the lines lets go of the connection
        visitor.post("/gradio_api/queue/join", json=body).raise_for_status()
        asked = {"session_hash": visitor.page}
        told = stream.enter_context(visitor.stream("GET", "/gradio_api/queue/data", params=asked)).iter_lines()
        next(line for line in told if "process_generating" in line)
        assert visitor.session.busy and not visitor.session.cancelled.is_set() and left == []
        heart.close()
        if lost == "all":
            stream.close()
        until = time.monotonic() + 60
        while (visitor.session.busy or not left) and time.monotonic() < until:
            time.sleep(0.05)
    assert left == [visitor.page] and not visitor.session.busy and len(served.app.line) == 0
    # With its stream Gradio itself takes no more of the run, which may end it first.
    assert visitor.session.cancelled.is_set() or lost == "all"
