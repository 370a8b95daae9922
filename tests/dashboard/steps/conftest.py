"""Pages of a calibrated model, for the tests of what its detector and its recommended layer do."""

from __future__ import annotations

import pytest
import torch
from dashboard_helpers import Page, tiny_model
from example_helpers import open_page
from routing_helpers import ABOUT, as_given

from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from inspector.model import Detector


@pytest.fixture(scope="module")
def detecting(example_folder) -> tuple[Page, Detector]:
    """A page on a calibrated model, and its detector, whose threshold a test may set."""
    made = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=ABOUT)
    layers = Layers((Trial(0, 0.5, 0.1, 1.0), Trial(1, 0.75, 0.1, 1.0)), 0.25, 5, 20)
    return open_page(example_folder, calibration=Calibration(layers, made)), made


@pytest.fixture
def without_a_reading_of_the_case(monkeypatch, request) -> None:
    """What is decided is decided by the detector whose threshold a test sets, but where a test is about the case."""
    if "its_own_question" not in request.node.name:
        monkeypatch.setattr("editing.gate.choice.for_case", as_given)


@pytest.fixture
def any_pass_is_enough(monkeypatch) -> None:
    """The tiny model's answers are never safe ones; without this every edit that passes would be made twice."""
    monkeypatch.setattr("editing.gate.turns.enough", lambda acceptance: acceptance.passed)
