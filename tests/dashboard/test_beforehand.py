"""What is done in the background of a calibrated model's page before anybody asks for an edit."""

from __future__ import annotations

import threading

import pytest
import torch
from dashboard_helpers import tiny_model

from dashboard import page as pages
from dashboard.beforehand import Beforehand
from dashboard.example.make import Example
from dashboard.page import build_app
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from inspector.errors import PromptError
from inspector.model import Detector


@pytest.fixture
def known() -> Calibration:
    layers = Layers((Trial(0, 0.5, 0.1, 1.0), Trial(1, 0.75, 0.1, 1.0)), 0.25, 5, 20)
    about = {"questions": 1, "harmless_prompts": 1}
    return Calibration(layers, Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=about))


@pytest.mark.parametrize(("calibrate", "is_calibrated"), [(True, True), (True, False), (False, True)])
def test_a_page_begins_it_where_its_model_is_calibrated_and_ends_it_with_itself(
    monkeypatch, known, calibrate, is_calibrated
):
    begun: list[Beforehand] = []
    examples: list[Example] = []
    monkeypatch.setattr(pages, "_calibration", lambda _model: known if is_calibrated else None)
    monkeypatch.setattr("dashboard.calibrating.Calibrating.start", lambda *_given: None)
    monkeypatch.setattr(Beforehand, "start", lambda self, after: begun.append(self))
    monkeypatch.setattr(Example, "start", lambda self: examples.append(self))
    app = build_app(tiny_model(), calibrate=calibrate, example=False)
    assert len(begun) == (calibrate and is_calibrated) and examples[0].line is app.line
    if begun:
        assert begun[0].line is app.line and begun[0]._detector is known.detector
        assert begun[0]._block == known.layers.recommended is not None


def test_it_waits_for_what_goes_first_gives_way_between_steps_and_ends_within_one(monkeypatch, known):
    gone, order = threading.Event(), list[str]()

    def steps(model, detector, block, cancel):
        assert model is tiny_model() and detector is known.detector and block == 1
        while not cancel():
            order.append("step")
            yield 0.5

    def give_way(cancelled):
        order.append("way")
        if len(order) > 5:
            ahead.stop()
            assert cancelled()

    monkeypatch.setattr("dashboard.beforehand.get_ready", steps)
    ahead = Beforehand(tiny_model(), known.detector, 1)
    monkeypatch.setattr(ahead.line, "give_way", give_way)
    ahead.start(gone.wait)
    assert not ahead.wait(0.05) and order == []
    gone.set()
    assert ahead.wait(30) and order == ["way", *["step", "way"] * 3]


def test_what_fails_is_told_to_the_operator_and_ends_nothing_else(monkeypatch, known, capsys):
    def fails(*_given, **_named):
        raise PromptError("A prompt is longer than this model's context.")
        yield

    monkeypatch.setattr("dashboard.beforehand.get_ready", fails)
    ahead = Beforehand(tiny_model(), known.detector, 1)
    ahead.start(lambda: None)
    assert ahead.wait(30)
    said = capsys.readouterr().err
    assert "Not made ready for the first edit" in said and "longer than this model's context" in said
