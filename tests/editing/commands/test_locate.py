"""The commands that locate print the curve and both marks of a case, or say what is wrong."""

from __future__ import annotations

import json

import pytest
import tiny_models
import torch
from command_helpers import CASE, ran
from transformers import OlmoConfig

from editing import locate as locate_both
from editing.calibrating.calibration import Calibration, calibrate_command
from editing.calibrating.trial_edits import Layers, Trial
from inspector import locate
from inspector.divergence import divergence
from inspector.model import Detector


def test_locate_prints_the_curve_the_toxic_layer_and_further_locators(words, capsys):
    code, told, _ = ran(locate, ["--case", CASE.identifier, "--locators", "divergence", "growth"], words, capsys)
    plain = divergence(words, CASE)
    assert code == 0 and told["toxic_layer"] == plain.toxic_layer()
    assert told["divergence"]["l2"] == pytest.approx(plain.l2.tolist())
    assert [one["layer"] for one in told["locators"]] == [plain.toxic_layer(), plain.toxic_layer("growth")]
    own = ["--question", "Sing?", "--safe", "No.", "--unsafe", "Yes I will."]
    assert ran(locate, own, words, capsys)[1]["case"] is None


def test_both_marks_are_printed_with_their_reasons_where_the_model_is_calibrated(words, capsys, monkeypatch):
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, words.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.25, 1, 4), detector)
    plain = ran(locate, ["--case", CASE.identifier], words, capsys)[1]
    monkeypatch.setattr(locate_both, "calibration_of", lambda _: known)
    code, told, _ = ran(locate_both, ["--case", CASE.identifier], words, capsys)
    assert code == 0 and plain.items() <= told.items() and f"at layer {told['toxic_layer']} of" in told["toxic_reason"]
    assert told["recommended_layer"] == 1 and "vanilla 25 %" in told["recommended_reason"]
    monkeypatch.setattr(locate_both, "calibration_of", lambda _: None)
    told = ran(locate_both, ["--case", CASE.identifier], words, capsys)[1]
    assert told["recommended_layer"] is None and calibrate_command(words) in told["recommended_reason"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--case", "none such"], "Its ids: 0, 1, 2"),
        (["--question", "Sing?"], "needs --question, --safe and --unsafe"),
        (["--cases", "nowhere.json"], "There is no file"),
        (["--locators", "magic"], "Unknown locators"),
    ],
)
def test_locate_says_what_is_wrong(words, capsys, options, match):
    code, told, errors = ran(locate, options, words, capsys)
    assert code == 2 and told is None and match in errors


def test_a_model_of_an_unknown_family_is_read_by_a_command_that_is_told_where_its_parts_are(capsys, tmp_path):
    tiny_models.random_network(OlmoConfig(**tiny_models._LLAMA)).save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    own = [
        "--question",
        "Sing?",
        "--safe",
        "No.",
        "--unsafe",
        "Yes I will.",
        "--device",
        "cpu",
        "--model",
        str(tmp_path),
    ]
    assert locate.main(own) == 2 and "--path blocks=model.layers" in capsys.readouterr().err
    paths = ("blocks=model.layers", "down_projection=mlp.down_proj", "final_norm=model.norm")
    assert locate.main([*own, *(part for path in paths for part in ("--path", path))]) == 0
    assert len(json.loads(capsys.readouterr().out)["divergence"]["l2"]) == tiny_models._LLAMA["num_hidden_layers"]
