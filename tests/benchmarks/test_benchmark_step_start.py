"""The benchmark of the search's start finds from both starts what the edit itself takes, and counts the trials."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import step_start
from editing.calibrating import step_size
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.dinm import DinmSettings, dinm
from editing.optimising.replay import master_weight
from editing.progress import run
from inspector.model import Detector

FEW = DinmSettings(harmless_prompts=1, harmless_tokens=2, own_refusals=0, steps=1)


@pytest.fixture
def known(llama, monkeypatch):
    def keep(kept):
        layers = Layers((Trial(2, 1.0, 0.1, 1.0, step_size=kept),), 0.0, 1, 4)
        found = Calibration(layers, Detector.__new__(Detector))
        monkeypatch.setattr(step_start, "load_calibration", lambda _model: found)

    return keep


def test_both_starts_end_in_the_size_that_an_edit_takes(llama, known, case, monkeypatch):
    known(1e-2)
    case = replace(case, split="edit")
    monkeypatch.setattr(step_start, "bundled_cases", lambda: [case, case, replace(case, split="score")])
    told = step_start.table(llama, 2, FEW).splitlines()
    own = run(dinm(llama, case, 2, FEW)).patch.settings["learning_rate"]
    cells = told[-1].split()
    assert (len(told), cells[0]) == (3, str(case.identifier))
    assert float(cells[1]) == pytest.approx(step_size.first_size(master_weight(llama, 2)), rel=1e-3)
    assert float(cells[3]) == pytest.approx(own, rel=1e-3), "from the start that an edit has"
    assert float(cells[4]) == pytest.approx(1e-2 * (FEW.step_kl / 3e-3) ** 0.5, rel=1e-3)
    assert float(cells[6]) == pytest.approx(own, rel=step_size.CLOSE - 1)
    assert all(1 <= int(cells[place]) <= step_size.TRIALS for place in (2, 5))


def test_without_a_kept_size_it_says_so(llama, known, capsys):
    known(None)
    assert step_start.main([], lambda _options: llama) == 2
    assert "has kept no step size" in capsys.readouterr().err
