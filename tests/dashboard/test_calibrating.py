"""A model is calibrated behind its open page: what is said meanwhile, what is used then, and what may go wrong."""

from __future__ import annotations

import threading
import types
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import pytest
import torch
from attack_helpers import opened, press, serve
from dashboard_helpers import Clock, Visitor, seen, tiny_model
from example_helpers import open_page

from dashboard import calibrating
from dashboard.calibrating import Calibrating, CalibratingLine
from dashboard.kit.bus import News
from dashboard.kit.sessions.visitors import Sessions
from dashboard.page import build_app
from editing.calibrating.calibration import Calibration, load_calibration, places
from editing.calibrating.trial_edits import Layers, Trial
from editing.progress import Preparation
from inspector.errors import EditError
from inspector.model import Detector


@pytest.fixture
def known(monkeypatch, tmp_path, model) -> Calibration:
    """What a calibration comes to here, and a cache of this test's own."""
    monkeypatch.setattr("editing.calibrating.calibration.cache_root", lambda: tmp_path)
    about = {"questions": 1, "harmless_prompts": 2}
    detector = Detector((1,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint, about=about)
    return Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)


def made_in_the_end(monkeypatch, known: Calibration) -> tuple[threading.Event, threading.Event]:
    """Let a calibration wait at its middle until it is let go; returns where it is and what lets it go."""
    there, go = threading.Event(), threading.Event()

    def make(_model, cancel) -> Iterator[Preparation]:
        yield Preparation("Trial edits on case 1 of 2", 0.25)
        there.set()
        assert go.wait(30)
        return None if cancel() else known

    monkeypatch.setattr(calibrating, "make_calibration", make)
    return there, go


def test_the_page_says_how_far_it_is_and_uses_the_result_from_then_on(monkeypatch, known, model, example_folder):
    page = open_page(example_folder)
    visitor = Visitor(page, "calibrating")
    there, go = made_in_the_end(monkeypatch, known)
    background = Calibrating(model)
    background.start(page.context.calibrated)
    assert there.wait(30)
    assert "Trial edits on case 1 of 2, 25 %" in background.note() and not background.wait(0)
    visitor.do("on_locate")
    assert "Trial edits work best" not in seen(visitor.screen["locate_reading"])
    go.set()
    assert background.wait(30) and "is calibrated now" in background.note()
    visitor.do("on_locate")
    assert visitor.screen["block"] == 1 and "Trial edits work best at layer 1" in seen(visitor.screen["locate_reading"])
    assert load_calibration(model).layers == known.layers, "it is kept for the next start"


def test_it_waits_behind_everybody_in_line_says_so_and_ends_when_it_is_told_to(monkeypatch, known, model):
    there, ends = threading.Event(), Calibrating(model)

    def make(_model, cancel) -> Iterator[Preparation]:
        there.set()
        yield Preparation("Trial edits on case 1 of 2", 0.25)
        assert cancel(), "nothing goes on while a visitor's run does"
        return None

    monkeypatch.setattr(calibrating, "make_calibration", make)
    run = ends.line.turns(iter_of("a visitor's step", "another"), "edit")
    next(run)
    ends.start(lambda _made: None)
    assert there.wait(30) and not ends.wait(0.3)
    assert "Trial edits on case 1 of 2, 25 %. It waits as long as visitors&#x27; runs go on." in ends.note()
    ends.stop()
    assert ends.wait(30) and "was stopped" in ends.note() and "It waits" not in ends.note()
    run.close()


def iter_of(*events: str) -> Generator[str, None, None]:
    """A visitor's run."""
    yield from events


def test_an_open_page_learns_that_its_model_is_calibrated_without_being_loaded_again(monkeypatch, known, model):
    there, go = made_in_the_end(monkeypatch, known)
    ends: list[Calibrating] = []
    real = Calibrating.start
    monkeypatch.setattr(Calibrating, "start", lambda self, done: ends.append(self) or real(self, done))
    app = build_app(model, calibrate=True, example=False)
    wired = [event for event in app.fns.values() if getattr(event.fn, "__name__", "") == "on_calibrating"]
    event, request = wired[0], types.SimpleNamespace(session_hash="open")
    arrival = next(event for event in app.fns.values() if getattr(event.fn, "__name__", "") == "on_arrival")
    arrival.fn({}, request)
    assert len(wired) == 2, "when the page is opened, and every few seconds"
    assert ends[0].line is app.line, "behind everybody's runs"
    values = {component: component.value for component in event.inputs}
    assert there.wait(30)

    def said() -> dict[str, Any]:
        return {component.elem_id: value for component, value in event.fn(values, request).items()}

    assert set(said()) == {"calibrating"}
    go.set()
    assert ends[0].wait(30)
    update = said()
    assert update["routed"].interactive and len(update["routed"].choices) == 3
    assert "Made from 1 harmful questions" in seen(update["routing-note"]) and "Detector:" in seen(update["detected"])
    assert update["methods-routed"].interactive and "only where harm" in update["methods-routed"].info
    (routed,) = (one for one in event.outputs if one.elem_id == "methods-routed")
    assert routed.value is True and "value" not in update["methods-routed"].constructor_args, "a choice stays"
    assert "Press Locate" in update["locate-reading"], "nothing is measured on this page"


def test_a_session_that_is_gone_is_not_begun_anew_by_a_page_that_looks_how_far_a_calibration_is(
    monkeypatch, known, model, example_folder
):
    page, clock = open_page(example_folder), Clock()
    monkeypatch.setattr(page.context, "sessions", Sessions(grace=3600, now=clock))
    line = CalibratingLine(Calibrating(model))
    with page.app:
        line.build()
        line.connect(page.app, page.context)
    opens, event = (one for one in page.app.fns.values() if getattr(one.fn, "__name__", "") == "on_calibrating")
    visitor = Visitor(page, "away")
    values = {part: part.value for part in event.inputs}
    visitor.do("on_undo", max_new_tokens=4)
    assert visitor.session.live is None and page.context.example.session.live is not None
    page.context.sessions.leave(visitor.key)
    clock.seconds += 25 * 3600
    page.context.sessions.sweep()
    assert set(event.fn(values, visitor.request)) == {line.line}, "it goes on to say how far it is"
    line.background._ended.set()
    assert set(opens.fn(values, visitor.request)) == {line.line}, "a page that opens looks once more"
    assert event.fn(values, visitor.request)[line.clock].constructor_args["active"] is False, "nothing is to come"
    assert page.context.visit(visitor.request) is None
    assert visitor.do("on_locate") == [{"notice"}]
    assert "Your session is gone" in visitor.screen["notice"] and "Live now: vanilla." in visitor.screen["notice"]
    assert visitor.session.live is None, "never the example's patch"


def test_no_event_of_a_page_asks_for_the_route_that_the_doors_refuse_and_the_line_is_answered(monkeypatch, known):
    there, go = made_in_the_end(monkeypatch, known)
    ends: list[Calibrating] = []
    real = Calibrating.start
    monkeypatch.setattr(Calibrating, "start", lambda self, done: ends.append(self) or real(self, done))
    with serve(calibrate=True) as page, httpx.Client(base_url=page.url, timeout=60) as web:
        opened(page, web, "calibrating page")
        events = web.get("/config").json()["dependencies"]
        asked = [event for event in events if event["backend_fn"]]
        assert sum(event["id"] == page.number("on_calibrating") for event in asked) == 1
        # Gradio's script posts what does not queue to /run, and a direct post is refused.
        assert [event["id"] for event in asked if event["queue"] is False] == []
        assert there.wait(30)
        said = str(press(page, web, "calibrating page", "on_calibrating"))
        assert "Trial edits on case 1 of 2, 25 %" in said and "process_completed" in said
        go.set()
        assert ends[0].wait(30)
        said = str(press(page, web, "calibrating page", "on_calibrating"))
        assert "is calibrated now" in said and "Made from 1 harmful questions" in said


def test_a_located_case_gets_its_recommended_layer_marked_and_what_is_picked_stays(known, example_folder):
    page = open_page(example_folder)
    visitor = Visitor(page, "marked")
    visitor.do("on_locate")
    picked = visitor.screen["block"]
    page.context.calibrated(known)
    (heard,) = [one for one in page.context.bus.hearings(News.CALIBRATED) if page.parts.locate_reading in one.outputs]
    update = heard.answer(visitor.session, {part: visitor.standing(page.name(part)) for part in heard.inputs})
    assert "Trial edits work best at layer 1" in seen(update[page.parts.locate_reading])
    notes = [note.text for note in update[page.parts.curve].layout.annotations]
    assert any("recommended" in text for text in notes) and page.parts.block not in update and picked is not None
    visitor.session.controls[page.parts.question] = " "
    empty = {**{part: visitor.standing(page.name(part)) for part in heard.inputs}, page.parts.question: " "}
    update = heard.answer(visitor.session, empty)
    assert "make no prompt" in update[page.parts.locate_reading] and page.parts.block not in update


def test_a_stopped_one_leaves_nothing(monkeypatch, known, model):
    there, go = made_in_the_end(monkeypatch, known)
    used: list[Calibration] = []
    background = Calibrating(model)
    background.start(used.append)
    assert there.wait(30)
    background.stop()
    go.set()
    assert background.wait(30) and "was stopped" in background.note()
    assert used == [] and not places(model)[0].exists()


def test_a_full_disk_costs_the_next_start_the_time_and_this_page_nothing(monkeypatch, known, model, capsys):
    there, go = made_in_the_end(monkeypatch, known)

    def full(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(calibrating, "save_calibration", full)
    used: list[Calibration] = []
    background = Calibrating(model)
    background.start(used.append)
    assert there.wait(30)
    go.set()
    assert background.wait(30) and used == [known]
    assert "is calibrated now" in background.note() and "could not be kept" in background.note()
    assert "disk full" not in background.note() and "disk full" in capsys.readouterr().err, "the operator reads why"


@pytest.mark.parametrize("error", [EditError("It is not in memory. Load it."), ValueError("It is not in memory.")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_goes_wrong_is_said_and_the_page_goes_on(monkeypatch, known, model, error):
    def make(_model, _cancel):
        yield Preparation("Trial edits", 0.1)
        raise error

    monkeypatch.setattr(calibrating, "make_calibration", make)
    background = Calibrating(model)
    background.start(lambda _made: None)
    said = "not in memory" if isinstance(error, EditError) else "see the server&#x27;s log"
    assert background.wait(30) and said in background.note()


def test_the_tiny_model_of_these_tests_has_no_calibration_of_its_own():
    assert not any(place.is_file() for place in places(tiny_model()))
