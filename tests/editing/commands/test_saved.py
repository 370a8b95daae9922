"""An edit of the command is saved whole or not at all, and made again from what was saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_helpers import CASE, QUICK, ran

from editing import apply, dinm, edit, reproduce, run
from editing.methods.registry import method_settings, read_settings
from editing.saved import handed_out, load_edit
from editing.stacking import edit_on_top
from inspector.model import PromptFormat
from inspector.safeedit import bundled_cases


def test_an_edit_is_saved_asked_merged_handed_on_and_made_again(words, capsys, tmp_path, budgets):
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    code, told, errors = ran(edit, options, words, capsys)
    assert code == 0 and told["layer"] == told["block"] == 1 and told["gate"]["passed"] and "step 1" in errors
    assert len(told["safe_probability"]) == 2 and told["safe_probability"][0] < told["safe_probability"][1] <= 1
    assert told["largest_logit_difference"] == 0, "what was saved was read back, and answers as the edit does"
    saved = told["saved"][0]
    to = ["--merged", tmp_path / "whole", "--adapter", tmp_path / "small", "--rank", "2", "--ask", "Sing?"]
    code, applied, _ = ran(apply, [saved, *to, "--max-new-tokens", "3"], words, capsys)
    assert code == 0 and applied["weights"] == told["weights"]
    (answered,) = applied["answers"]
    assert answered.keys() == {"prompt", "vanilla", "edited", "held_back", "detector"}
    assert answered["held_back"] is False and answered["detector"] is None, "this model has none"
    assert (tmp_path / "whole" / "config.json").is_file() and applied["merged"]["largest_logit_difference"] < 1e-3
    assert (tmp_path / "small" / "adapter_config.json").is_file() and 0 < applied["adapter"]["lost_share_of_norm"] < 1
    code, again, _ = ran(reproduce, [saved], words, capsys)
    assert code == 0 and again["same_bits"] and again["compared_with"] == "the patch"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--out", "file"], "Name another"),
        (["--out", "file/within"], "Name another"),
        (["--strength", "2"], "Choose one from 0 to 1.5"),
        (["--strength", "nan"], "Choose one from 0 to 1.5"),
    ],
)
def test_folder_and_strength_are_looked_at_before_the_model_is_loaded(capsys, tmp_path, monkeypatch, options, match):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("the one before", encoding="utf-8")
    loaded = []
    code = edit.main([*QUICK, "--case", str(CASE.identifier), "--layer", "1", "--out", "new", *options], loaded.append)
    assert code == 2 and match in capsys.readouterr().err and loaded == []
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["the one before"]


@pytest.mark.parametrize("spoilt", ["another edit", "cut"])
def test_an_edit_that_is_not_read_back_as_it_was_made_does_not_stay(
    words, capsys, tmp_path, budgets, monkeypatch, spoilt
):
    def read(path: Path, model):
        if spoilt == "cut":
            patch = path.with_suffix(".safetensors")
            patch.write_bytes(patch.read_bytes()[:-8])
        row, record = load_edit(path, model)
        doubled = tuple(replace(delta, left=2 * delta.left) for delta in row.patch.deltas)
        return replace(row, patch=replace(row.patch, deltas=doubled)), record

    monkeypatch.setattr(handed_out, "load_edit", read)
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    code, told, errors = ran(edit, options, words, capsys)
    assert code == 2 and told is None and not list(tmp_path.iterdir())
    assert ("another edit than the live one" if spoilt == "another edit" else "cut or changed") in errors


def test_an_edit_is_made_again_from_its_record_alone_and_another_ends_with_1(words, capsys, tmp_path, budgets):
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    saved, patch = map(Path, ran(edit, options, words, capsys)[1]["saved"])
    assert ran(apply, [saved, "--adapter", tmp_path / "exact"], words, capsys)[0] == 0
    patch.unlink()
    for path in (saved, tmp_path / "exact" / "dinm-edit.json"):
        code, again, _ = ran(reproduce, [path], words, capsys)
        assert code == 0 and again["same_bits"] and again["compared_with"] == "the record"
    told = json.loads(saved.read_text())
    sketch = told["record"]["sketch"]
    sketch["projections"] = [1.5 * one for one in sketch["projections"]]  # as of an edit half as large again
    told["record"]["digest"] = "0" * 64
    saved.write_text(json.dumps(told))
    code, again, _ = ran(reproduce, [saved], words, capsys)
    assert code == 1 and not again["same"] and again["largest_difference_of_a_weight"] is None
    assert again["relative_difference"] == pytest.approx(0.5, rel=0.5) and "Another edit" in again["reading"]
    del told["record"]["sketch"]
    saved.write_text(json.dumps(told))
    code, _, errors = ran(reproduce, [saved], words, capsys)
    assert code == 2 and "earlier version" in errors


def test_an_edit_on_top_of_a_saved_one_starts_from_it_and_is_saved_as_the_stack(words, capsys, tmp_path, budgets):
    options = [*QUICK, "--layer", "1", "--acts", "everywhere"]
    first = ran(edit, [*options, "--case", CASE.identifier, "--out", tmp_path / "first"], words, capsys)[1]
    assert first["stacked"] == 1
    other = next(case for case in bundled_cases() if case.split == "edit" and case.category != CASE.category)
    on_top = [*options, "--case", other.identifier, "--on-top", first["saved"][0]]
    code, told, _ = ran(edit, [*on_top, "--out", tmp_path / "both"], words, capsys)
    assert code == 0 and told["stacked"] == 2
    (below, _), (both, record) = (load_edit(Path(one["saved"][0]), words) for one in (first, told))
    assert record.stacked and record.case == other and record.below == (CASE,)
    settings = method_settings("dinm", **read_settings("dinm", QUICK[1::2]), format=PromptFormat())
    made = run(edit_on_top(words, below, lambda carrying: dinm(carrying, other, 1, settings)))
    assert made.patch.identifier == both.patch.identifier
    (sum_of,) = both.patch.deltas
    assert not torch.allclose(sum_of.dense(), below.patch.deltas[0].dense())
    last = [*options, "--case", CASE.identifier, "--on-top", told["saved"][0], "--out", tmp_path / "three"]
    _, three, _ = ran(edit, last, words, capsys)
    assert load_edit(Path(three["saved"][0]), words)[1].below == (CASE, other), "a detector reads each one's question"
    code, told, errors = ran(edit, [*on_top, "--plain-text", "--out", tmp_path / "plain"], words, capsys)
    assert (
        code == 2
        and told is None
        and "made in the chat template. Options: --set suffix" in errors
        and "step 0" not in errors
    )
