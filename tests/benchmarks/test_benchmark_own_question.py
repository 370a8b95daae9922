"""What the benchmark of a routed edit's own question counts."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import own_question
from benchmarks.own_question import IN_TEMPLATES, fired
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from inspector.detection import Reading, Sample
from inspector.detection import case as case_reading
from inspector.model import Detector
from inspector.safeedit.cases import bundled_templates


def test_hits_and_false_alarms_are_those_of_the_detector_alone_and_with_the_question(llama, monkeypatch, capsys):
    size = llama.architecture.d_model
    silent = Detector((1,), torch.zeros(1, size), 0.0, 1e9, llama.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), silent)
    monkeypatch.setattr(own_question, "load_calibration", lambda _: known)
    short = sorted(bundled_templates("development"), key=lambda one: (one.language != "en", len(one.fill(""))))[:6]
    monkeypatch.setattr(own_question, "bundled_templates", lambda _split: short)
    harmless = [
        Sample(text, False, f"Sing {n}.") for n in range(2) for text in (f"Sing {n}.", f"Now: Sing {n}.", "So.")
    ]
    monkeypatch.setattr(own_question, "samples", lambda _split: harmless)
    # A model of random weights tells a question from prompts of other lengths: the default ones may be any.
    monkeypatch.setattr(case_reading, "_harmless", lambda: [Sample("x" * 200, False, "x" * 200)])
    assert own_question.main(["--questions", "2", "--harmless", "6"], lambda _: llama) == 0
    head, alone, beside, _ = capsys.readouterr().out.splitlines()
    assert "2 questions, 6 harmless prompts" in head and alone.count(" 0.00 (0 of ") == 4
    counted = [tuple(map(int, found)) for found in re.findall(r"\((\d+) of (\d+)\)", beside)]
    assert counted[0] == (2, 2), "each question, bare"
    assert [of for _, of in counted] == [2, 2 * IN_TEMPLATES, 4, 8], "each harmless prompt of each of both cases"


@pytest.mark.parametrize(("mark", "fires"), [((2.0, 0.0), True), ((0.0, 2.0), True), ((0.5, 0.5), False)])
def test_one_window_of_either_reading_is_enough(mark, fires):
    detector = Detector(
        (0,),
        torch.tensor([[1.0, 0.0]]),
        0.0,
        1.0,
        "base",
        cases=torch.tensor([[[0.0, 1.0]]]),
        case_biases=(-1.0,),
    )
    states = torch.zeros(3, 2)
    states[1] = torch.tensor(mark)
    assert fired(detector, [Reading(states.half().numpy(), (0,))]) == [fires]
