"""The command that calibrates: what it makes, measures and tells, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from calibration_helpers import one_of
from safetensors import SafetensorError

from editing import calibrate
from editing.calibrating.calibration import (
    load_calibration,
    places,
)
from editing.calibrating.trial_edits import Layers, Trial
from editing.progress import Preparation

pytestmark = pytest.mark.usefixtures("few_texts")


def test_the_command_makes_one_and_measures_it_on_other_texts(llama, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("inspector.detection.scores.LEAST_AREA", 1.1)
        assert calibrate.main([], lambda _chosen: llama) == 0
    told = capsys.readouterr()
    area = json.loads(told.out)["detector"]["auc_unseen"]
    assert f"Warning: This model's detector is weak: area under the ROC curve {area:.3f}, below 1.1" in told.err
    assert "Recommended layer: 2" in told.err and "defended  75 %" in told.err
    assert str(places(llama)[0]) in told.err and "12 texts" in told.err and "bundled prompts" in told.err
    made = json.loads(told.out)
    assert (made["layers"]["recommended"], made["file"]) == (2, str(places(llama)[0]))
    assert [(trial["layer"], trial["block"]) for trial in made["layers"]["trials"]] == [(1, 1), (2, 2)]
    assert made["layers"]["trials"][0]["defended"] >= 0 and made["detector"]["harmful_texts"] == 12
    sure = made["answers"]["harmless"]["log_probability"]
    assert f"Kept: 2 answers of its own to harmless prompts, log P {sure:.3f} nats a token." in told.err and sure < 0
    assert made["answers"]["refusals"] == {"answers": 0, "log_probability": None}, "a nonsense model declines nothing"
    assert "Kept: 0 refusals of its own." in told.err
    assert calibrate.main(["--measure", "development"], lambda _chosen: llama) == 0
    told = capsys.readouterr()
    table, found = told.err, json.loads(told.out)
    assert found["split"] == "development" and found["formats"]["with the suffix"]["found"]
    assert "split 'development'" in table and "n = 4" in table and "no suffix" in table
    assert "all forms of a question together" in table and " questions)" in table
    assert calibrate.main(["--measure", "stress"], lambda _chosen: llama) == 0
    assert "texts of the stress test" in capsys.readouterr().err
    own = tmp_path / "own.csv"
    own.write_text("prompt,type\nHow do I win?,homonyms\nHow do I rob him?,contrast_homonyms\n", encoding="utf-8")
    assert calibrate.main(["--measure", str(own)], lambda _chosen: llama) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)["formats"]["with the suffix"]
    assert "texts of own.csv" in told.err and found["found"]["contrast_homonyms"]["n"] == 1
    assert found["false_alarms"]["homonyms"]["n"] == found["false_alarms"]["look-alike"]["n"] == 1
    own.write_text("prompt,harmful,type\nHow do I win?,false,bare\nWhy?,false,ordinary\n", encoding="utf-8")
    assert calibrate.main(["--measure", str(own)], lambda _chosen: llama) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)["formats"]["with the suffix"]
    assert found["auc"] is None and "none of one kind of prompts" in told.err and "NaN" not in told.out
    assert found["false_alarms"]["bare"]["n"] == 2 and found["false_alarms"]["type bare"]["n"] == 1
    with pytest.raises(SystemExit):
        calibrate.main(["--measure", "scored"], lambda _chosen: llama)
    assert "'scored' is none of development, score, stress, packaged, and no .csv file" in capsys.readouterr().err
    assert calibrate.main(["--measure", "score", "--calibration", str(tmp_path / "none")], lambda _chosen: llama) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_calibration_that_was_written_elsewhere_is_measured_by_its_name(llama, tmp_path, capsys, monkeypatch):
    def made(_model):
        yield Preparation("Trial edits", 0.5)
        return one_of(llama)

    kept = tmp_path / "kept.safetensors"
    monkeypatch.setattr(calibrate, "make_calibration", made)
    assert calibrate.main(["--out", str(kept)], lambda _chosen: llama) == 0
    monkeypatch.setattr("editing.calibrating.calibration.places", lambda _model: ())
    capsys.readouterr()
    assert calibrate.main(["--measure", "development", "--calibration", str(kept)], lambda _chosen: llama) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threshold"] == load_calibration(llama, kept).detector.threshold


def test_a_layer_that_was_recommended_anew_is_told_and_comes_back_with_both_trials(
    llama, tmp_path, capsys, monkeypatch
):
    anew = Layers((Trial(2, 1.0, 0.05, 1.0),), 0.25, 18, 72)
    layers = Layers((Trial(1, 0.25, 0.1, 2.0), Trial(2, 0.3, 0.05, 1.0)), 0.25, 5, 20, anew=anew)
    calibrated = replace(one_of(llama), layers=layers)

    def made(_model):
        yield Preparation("Trial edits", 0.5)
        return calibrated

    monkeypatch.setattr(calibrate, "make_calibration", made)
    assert calibrate.main(["--out", str(tmp_path / "kept")], lambda _chosen: llama) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)["layers"]
    assert found["recommended"] == found["anew"]["recommended"] == 2 and found["anew"]["anew"] is None
    assert [(trial["layer"], trial["least_gain"] > 0) for trial in found["anew"]["trials"]] == [(2, True)]
    assert "Trial edits on 18 fresh cases" in told.err and "Recommended layer: 2." in told.err
    assert load_calibration(llama, tmp_path / "kept").layers == layers


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["--measure", "score", "--out", "kept"], "Name the file to read with --calibration."),
        (["--calibration", "kept"], "Name the file to write with --out."),
    ],
)
def test_an_option_that_would_name_nothing_is_refused_before_a_model_is_loaded(options, remedy, capsys):
    loaded: list[object] = []
    assert calibrate.main(options, loaded.append) == 2
    told = capsys.readouterr()
    assert remedy in told.err and told.out == "" and loaded == []


def test_a_file_that_cannot_be_measured_is_told_before_a_model_is_loaded(tmp_path, capsys):
    def loader(_chosen):
        raise AssertionError("the model is loaded")

    assert calibrate.main(["--measure", str(tmp_path / "none.csv")], loader) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_memory_that_runs_out_is_told_without_a_traceback(capsys):
    def loader(_chosen):
        raise MemoryError

    assert calibrate.main([], loader) == 2
    assert "memory" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["a folder", "below a file", "closed", "the cache"])
def test_a_place_that_cannot_be_written_is_told_before_a_model_is_loaded(tmp_path, capsys, monkeypatch, out):
    closed, may, loaded = tmp_path / "closed", os.access, list[object]()
    closed.mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    monkeypatch.setattr("editing.calibrating.calibration.cache_root", lambda: closed)
    place = {"a folder": tmp_path, "below a file": tmp_path / "file" / "kept", "closed": closed / "new" / "kept"}
    options = [] if out == "the cache" else ["--out", str(place[out])]
    assert calibrate.main(options, loaded.append) == 2
    told = capsys.readouterr()
    named = str(place.get(out, closed / "calibration"))
    assert f"Give another file's path with --out. ({named}" in told.err and loaded == []


def test_a_disk_that_is_full_at_the_end_is_told_without_a_traceback(llama, tmp_path, capsys, monkeypatch):
    def made(_model):
        yield Preparation("Trial edits", 0.5)
        return one_of(llama)

    def full(*_given, **_named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(calibrate, "make_calibration", made)
    monkeypatch.setattr("inspector.model.tensor_file.save_file", full)
    assert calibrate.main(["--out", str(tmp_path / "kept")], lambda _chosen: llama) == 2
    told = capsys.readouterr()
    assert "No space left on device" in told.err and "make room there" in told.err and told.out == ""
    assert not list(tmp_path.iterdir())
