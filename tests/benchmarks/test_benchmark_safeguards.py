"""The safeguards' benchmark runs gate, curve and stack on the edits that it names."""

from __future__ import annotations

import numpy as np
import pytest
from word_models import word_model

from benchmarks import safeguards, suffixes
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.budgets import Budgets
from editing.gate.exam import small_exam
from editing.strength import StrengthCurve
from inspector.errors import EditError
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import EVALUATIONS


@pytest.mark.parametrize("way", EVALUATIONS)
def test_a_run_prints_what_each_safeguard_says_and_how_it_was_asked(monkeypatch, capsys, way):
    quick = {"steps": 1, "learning_rate": 1e-3, "harmless_prompts": 1, "harmless_tokens": 2, "damage_budget": None}
    monkeypatch.setattr(safeguards, "preset", lambda name, **own: preset(name, **quick, **own))
    model = word_model(question.prompt for question in small_exam(bundled_cases()[0]))
    asked = ["--layer", "1", "--harmless", "2", "--max-new-tokens", "4", "--suffix-prompt", "", "--evaluation", way]
    assert safeguards.main(asked, lambda _options: model) == 0
    told = capsys.readouterr().out
    for part in (
        "corrected at layer 1 (no suffix), cases",
        "strength curve:",
        "  strength  defended",
        "second edit:",
        "Edit 2 changes on edit 1's case",
    ):
        assert part in told
    _, first, _ = told.split("\ngate: ")
    refused, curve = "\nRefused: " in first, first[first.index("\nstrength curve:") :]
    assert refused == ("The gate, which asks more prompts, refuses 1 by these budgets: " in curve)
    assert not (refused and "Strength 1 is the best" in curve)
    assert (
        told.count(f" Asked: {EVALUATIONS[way]}.") == told.count("\ngate: ") == 2
        and told.count("Scored on 2 harmless prompts, 27 harmful questions and 5 of the case's own prompts") == 2
    )


def test_the_layer_is_the_recommended_one_and_none_is_an_error_that_names_the_remedy(llama, monkeypatch, capsys):
    for defended, layer in ((1.0, 2), (0.0, None)):
        known = Calibration(Layers((Trial(2, defended, 0.1, 1.0),), 0.0, 1, 4), None)
        monkeypatch.setattr(suffixes, "load_calibration", lambda model, known=known: known)
        if layer is None:
            with pytest.raises(EditError, match="--layer"):
                suffixes.recommended_layer(llama)
            assert safeguards.main([], lambda _options: llama) == 2 and "--layer" in capsys.readouterr().err
        else:
            assert suffixes.recommended_layer(llama) == layer


def test_a_curve_is_a_line_a_strength():
    measured = ((0.0, 0.5), (20.0, 80.0), (0.0, 0.0123), (0.0, 12.5), (0.0, 0.0), (0.0, 10.0), (0.0, 20.0))
    arrays = (np.array(values) for values in measured)
    curve = StrengthCurve(*arrays, prompts=5, harmless=8, elsewhere=10, chosen=0.5, budgets=Budgets())
    head, _, line = safeguards.curve_table(curve).splitlines()
    assert line.split() == ["0.50", "80", "%", "0.0123", "12", "%", "0", "%", "10", "%", "+20", "points"]
    assert len(head) == len(line) and head.endswith("parroting  lost defence")
