"""Where the command makes its edit: the layer that the calibration says, on every prompt or where harm is detected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from command_helpers import CASE, QUICK, ran

from editing import apply, edit, reproduce
from editing.calibrating.calibration import Calibration, calibrate_command
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate import turns
from inspector.divergence import divergence
from inspector.errors import EditError, RefusedEdit
from inspector.model import Detector, PromptFormat


@pytest.mark.parametrize("method", ["dinm", "ft-l"])
def test_the_recommended_layer_can_be_asked_for_by_name(words, method):
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, words.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    for preset in ("corrected", "paper"):
        layer, why = edit.layer_of(words, CASE, "recommended", preset, known, PromptFormat(), method=method)
        assert (layer, why) == (1, f"Recommended layer. {known.layers.reason}")
    nowhere = Calibration(Layers((Trial(1, 0.0, 0.1, 1.0),), 0.5, 1, 4), detector)
    with pytest.raises(RefusedEdit, match=r"No layer helps.*give --layer toxic or a number"):
        edit.layer_of(words, CASE, "recommended", "paper", nowhere, PromptFormat(), method=method)


def test_the_recommended_layer_of_a_model_that_is_not_calibrated_is_refused_with_the_remedy(words, capsys, tmp_path):
    options = [*QUICK, "--case", CASE.identifier, "--out", tmp_path / "new", "--layer", "recommended"]
    code, told, errors = ran(edit, options, words, capsys)
    assert code == 2 and told is None and f"Run: {calibrate_command(words)}" in errors and "--layer toxic" in errors
    assert not (tmp_path / "new").exists()


def test_an_edit_is_made_where_the_calibration_says_or_not_at_all(words, capsys, tmp_path, budgets, monkeypatch):
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, words.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    assert edit.layer_of(words, CASE, "auto", "corrected", known, PromptFormat())[0] == 1
    toxic = divergence(words, CASE).toxic_layer()
    for method, calibration, said in (("ft-l", known, "FT-L edits there"), ("dinm", None, "not calibrated")):
        layer, why = edit.layer_of(words, CASE, "auto", "corrected", calibration, PromptFormat(), method=method)
        assert layer == toxic and said in why
    assert (
        edit.layer_of(words, CASE, "toxic", "paper", known, PromptFormat())[0]
        == divergence(words, CASE, "paper").toxic_layer()
    )
    ends = (replace(CASE, safe="I will not.", unsafe=" ".join(CASE.unsafe.split()[:n])) for n in range(1, 30))
    by_end = ((one, divergence(words, one, "reference", padding="left").toxic_layer()) for one in ends)
    short, left = next(pair for pair in by_end if pair[1] != divergence(words, pair[0], "reference").toxic_layer())
    assert edit.layer_of(words, short, "toxic", "reference", known, PromptFormat(), "left")[0] == left
    located = []
    with monkeypatch.context() as patched:
        measured = lambda *_, padding, format: located.append(format) or divergence(words, CASE)  # noqa: E731
        patched.setattr(edit, "divergence", measured)
        plain = ["--plain-text", "--suffix-prompt", "Be good.", "--layer", "toxic"]
        ran(edit, [*QUICK, "--case", CASE.identifier, "--out", tmp_path, *plain], words, capsys)
    assert located[0].suffix == "Be good." and not located[0].chat, "the case is located as it is edited"
    with pytest.raises(EditError, match="neither"):
        edit.layer_of(words, CASE, "best", "corrected", known, PromptFormat())[0]
    nowhere = Calibration(Layers((Trial(1, 0.0, 0.1, 1.0),), 0.5, 1, 4), detector)
    with monkeypatch.context() as patched:
        patched.setattr(edit, "calibration_of", lambda _: nowhere)
        code, told, errors = ran(edit, [*QUICK, "--case", CASE.identifier, "--out", tmp_path / "none"], words, capsys)
    assert code == 1 and told["saved"] is told["layer"] is told["block"] is None and not (tmp_path / "none").exists()
    assert "No layer helps, so nothing was edited: the best trial edits" in errors and "vanilla 50 %" in errors
    assert "give --layer toxic or a number" in told["refused"] and "vanilla 50 %" in told["recommended_reason"]
    nothing = told
    options = [*QUICK, "--case", CASE.identifier, "--out", tmp_path, "--routed"]
    errors = ran(edit, [*options, "--layer", "1"], words, capsys)[2]
    assert f"no detector yet. Run: {calibrate_command(words)}" in errors
    monkeypatch.setattr(edit, "calibration_of", lambda _: known)
    code, told, errors = ran(edit, options, words, capsys)
    assert code == 0 and "only where harm is detected" in told["weights"]
    assert "Recommended layer. Trial edits work best at layer 1" in errors
    assert nothing.keys() - {"refused"} == told.keys(), "what reads one of both finds the same names"
    assert {name for name, value in nothing.items() if value is None} == {
        "layer",
        "block",
        "recommended_layer",
        *edit.OF_AN_EDIT,
    }
    plain = [*options[:-2], tmp_path / "plain"]
    with monkeypatch.context() as patched:
        patched.setattr(turns, "ENOUGH", 0.0)
        chosen = ran(edit, plain, words, capsys)[1]
    # The gate's word on one that is made in turn is another, so that it has another folder.
    in_turn = [*plain, "--out", tmp_path / "in turn"]
    assert "Taken: on every prompt" in chosen["gate"]["choice"], "it fires on everything: the plain edit is as good"
    everywhere = ran(edit, [*plain, "--acts", "everywhere"], words, capsys)[1]
    assert everywhere["gate"]["choice"] == "" and everywhere["patch"] not in (chosen["patch"], told["patch"])
    _, both, errors = ran(edit, in_turn, words, capsys)
    assert "Another one is made" in errors and f"less than {100 * turns.ENOUGH:g} %" in errors, (
        "the first one passed and defends nothing"
    )
    assert both["gate"]["choice"].startswith("Made in turn") and both["patch"] in (chosen["patch"], everywhere["patch"])
    # At such a rate the held edit's first step is beyond its damage budget; the first edit has none.
    alone = [*plain, "--set", "learning_rate=1", "--out", tmp_path / "alone"]
    code, first, errors = ran(edit, alone, words, capsys)
    assert code == 0 and first["saved"] and "Another one is made" in errors, "the first one passed, and is not lost"
    assert "which came to nothing: DINM kept no update" in first["gate"]["choice"]
    assert "Taken: the first, since there is no other." in first["gate"]["choice"]
    assert told["layer_reason"] == f"Recommended layer. {told['recommended_reason']}"
    assert (told["toxic_layer"], told["recommended_layer"]) == (divergence(words, CASE).toxic_layer(), 1)
    assert told["toxic_reason"] == f"The answers part most at layer {told['toxic_layer']} of 0-{words.blocks - 1}."
    assert told["recommended_reason"].startswith("Trial edits work best at layer 1: 100 % defended (4 unseen prompts")
    code, _, errors = ran(apply, [told["saved"][0], "--adapter", tmp_path / "no"], words, capsys)
    assert code == 2 and "no adapter alone" in errors
    monkeypatch.setattr(reproduce, "calibration_of", lambda _: known)
    code, again, _ = ran(reproduce, [told["saved"][0]], words, capsys)
    assert code == 0 and again["same_detector"] is True
    other = replace(known, detector=replace(detector, threshold=-2.0))
    monkeypatch.setattr(reproduce, "calibration_of", lambda _: other)
    code, again, _ = ran(reproduce, [told["saved"][0]], words, capsys)
    assert (
        code == 1 and again["same_bits"] and again["same_detector"] is False and "not the same edit" in again["reading"]
    )
