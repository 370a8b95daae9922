"""A model is calibrated behind its open page: what is said meanwhile, what is used then, and what may go wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from dashboard_helpers import Visitor, open_page, tiny_model

from dashboard import calibrating
from dashboard.calibrating import Calibrating
from editing.calibration import Calibration, load_calibration, places
from editing.progress import Preparation
from editing.trial_edits import Layers, Trial
from inspector.errors import EditError
from inspector.model import Detector


@pytest.fixture
def known(monkeypatch, tmp_path, model) -> Calibration:
    """What a calibration comes to here, and a cache of this test's own."""
    monkeypatch.setattr("editing.calibration.cache_root", lambda: tmp_path)
    detector = Detector((1,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint, about={"questions": 1})
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
    assert "Trial edits work best" not in visitor.screen["locate_reading"]
    go.set()
    assert background.wait(30) and "is calibrated now" in background.note()
    visitor.do("on_locate")
    assert visitor.screen["block"] == 1 and "Trial edits work best at layer 1" in visitor.screen["locate_reading"]
    assert load_calibration(model).layers == known.layers, "it is kept for the next start"


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


def test_a_full_disk_costs_the_next_start_the_time_and_this_page_nothing(monkeypatch, known, model):
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
    assert "is calibrated now" in background.note() and "disk full" in background.note()


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
