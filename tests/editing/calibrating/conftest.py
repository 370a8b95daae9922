"""What a calibration is made of in a test: few texts, one case, layers that are known, a cache of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.dinm import DinmSettings
from editing.progress import Preparation
from inspector.detection import samples


@pytest.fixture
def few_texts(monkeypatch, tmp_path, case):
    """Some texts of each kind, one case, and a cache of this test's own without shipped calibrations."""
    case = replace(case, split="edit")

    def few(split):
        texts = [sample for sample in samples(split) if len(sample.text) < 200]
        return [s for harmful in (True, False) for s in [s for s in texts if s.harmful == harmful][:12]]

    layers = Layers((Trial(1, 0.5, 0.1, 2.0), Trial(2, 0.75, 0.05, 1.0)), 0.25, 5, 20)

    def tried(_model, cancel):
        yield Preparation("Trial edits", 0.5)
        return None if cancel() else layers

    monkeypatch.setattr("editing.calibrating.calibration.try_layers", tried)
    monkeypatch.setattr("editing.calibrating.calibration.bundled_cases", lambda: [case])
    short = {"harmless_prompts": 2, "harmless_tokens": 3, "own_refusals": 1}
    monkeypatch.setattr("editing.calibrating.calibration.DinmSettings", lambda: DinmSettings(**short))
    for module in ("editing.calibrating.calibration", "editing.calibrate"):
        monkeypatch.setattr(f"{module}.samples", few)
    monkeypatch.setattr("editing.calibrating.calibration.SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr("editing.calibrating.calibration.cache_root", lambda: tmp_path)
