"""The safeguards' benchmark runs gate, curve and stack on the edits that it names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from word_models import word_model

from benchmarks import safeguards, suffixes
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.budgets import Budgets
from editing.gate.exam import small_exam
from editing.methods.dinm import to_be_routed
from editing.stacking import edits_in
from editing.strength import StrengthCurve
from editing.values import changed
from inspector.errors import EditError
from inspector.model import Detector, Row, encode
from inspector.model.patches.routing import scores
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


def test_a_routed_run_asks_edits_made_to_be_routed_and_their_stack_as_they_act(monkeypatch, capsys):
    texts = [question.prompt for question in small_exam(bundled_cases()[0])]
    model = word_model([*texts, *(case.adversarial_prompt for case in suffixes.chosen_cases(2))])
    never = Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, 1.0, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), never)
    quick = {"steps": 1, "learning_rate": 1e-3, "harmless_prompts": 1, "harmless_tokens": 2, "companions": 0}
    made, asked, plain = [], [], suffixes.dinm
    monkeypatch.setattr(safeguards, "load_calibration", lambda _model: known)
    monkeypatch.setattr(
        suffixes, "dinm", lambda *given: made.append(given[-1]) or plain(*given[:-1], changed(given[-1], **quick))
    )
    for name in ("accept", "strength_curve", "examine_stack"):
        own = getattr(safeguards, name)
        monkeypatch.setattr(
            safeguards,
            name,
            lambda *given, own=own, **how: (
                asked.append([one for one in given if isinstance(one, Row)]) or own(*given, **how)
            ),
        )
    few = ["--layer", "1", "--harmless", "2", "--max-new-tokens", "4", "--suffix-prompt", "", "--routed"]
    assert safeguards.main(few, lambda _options: model) == 0
    told = capsys.readouterr().out
    assert "made to be routed at layer 1 (no suffix), cases" in told and "Edit 2 changes on edit 1's case" in told
    assert made == [to_be_routed(preset("corrected", suffix=""))] * 2
    (first,), (curve,), (second,), stack = asked
    assert first.detector is curve.detector is stack[0].detector and second is stack[1]
    assert (edits_in(first.patch), edits_in(second.patch)) == (1, 2)
    prompts = [encode(model, case.question, None, first.patch.format).prompt for case in suffixes.chosen_cases(2)]
    fired = [[row.detector.fires(score) for score in scores(model, row.detector, prompts)] for row in (first, second)]
    assert fired == [[True, False], [True, True]], "an edit acts on its own question, the stack on both"


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
