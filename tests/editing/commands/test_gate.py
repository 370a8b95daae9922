"""What the gate refuses leaves only on the record, and its budgets are those that are given."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from command_helpers import CASE, LENIENT, QUICK, STRICT, ran
from routing_helpers import as_given

from editing import apply, edit
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate import budgets as gate_budgets
from editing.gate import gate
from editing.saved import load_edit
from inspector.model import Detector


def test_what_the_gate_refuses_is_not_saved_and_leaves_only_on_the_record(
    words, capsys, tmp_path, budgets, monkeypatch
):
    budgets(STRICT)
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    code, told, said = ran(edit, options, words, capsys)
    assert code == 1 and told["saved"] is None and "harmless KL" in told["gate"]["reason"]
    assert "A gated edit (--method gated) " in said and "--acts detected" not in said, "this model has no detector"
    assert not list(tmp_path.iterdir())
    code, told, said = ran(edit, [*options, "--keep-anyway"], words, capsys)
    assert code == 0 and told["gate"]["overridden"] and "A gated edit" not in said
    code, applied, _ = ran(apply, [told["saved"][0]], words, capsys)
    assert code == 0 and applied["gate"]["overridden"], "its record says that a person took it"
    zipped = tmp_path / "from the page.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in map(Path, told["saved"]):
            archive.write(file, file.name)
    assert ran(apply, [zipped], words, capsys)[:2] == (0, applied), "the page hands it out so"
    zipped.write_bytes(zipped.read_bytes()[:200])
    code, _, errors = ran(apply, [zipped], words, capsys)
    assert code == 2 and "cut or damaged" in errors
    budgets(LENIENT)
    code, told, _ = ran(edit, [*options, "--set", "edit_weight=0.2"], words, capsys)
    budgets(STRICT)
    code, applied, _ = ran(apply, [told["saved"][0], "--merged", tmp_path / "no"], words, capsys)
    assert code == 1 and not applied["gate"]["passed"] and not (tmp_path / "no").exists()
    with monkeypatch.context() as patched:
        patched.setattr(apply, "accept", lambda *given: gate.accept(*given, gate.GateSettings(LENIENT, 2, 1, 2, 0)))
        smaller = [told["saved"][0], "--rank", "1", "--adapter", tmp_path / "rank 1"]
        code, applied, _ = ran(apply, smaller, words, capsys)
        assert code == 1 and "at rank 1" in applied["adapter"]["refused"] and not (tmp_path / "rank 1").exists()
        assert ran(apply, [*smaller, "--keep-anyway"], words, capsys)[0] == 0


@pytest.mark.parametrize("acts", ["everywhere", "detected"])
def test_where_an_edit_that_acts_on_every_prompt_is_refused_the_other_way_is_named(
    words, capsys, tmp_path, budgets, monkeypatch, acts
):
    budgets(STRICT)
    known = Calibration(
        Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4),
        Detector((0,), torch.ones(1, words.architecture.d_model), 0.0, -1e9, words.fingerprint),
    )
    monkeypatch.setattr(edit, "calibration_of", lambda _model: known)
    monkeypatch.setattr("editing.gate.choice.for_case", as_given)
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--acts", acts, "--out", tmp_path]
    code, _, said = ran(edit, options, words, capsys)
    assert code == 1
    assert ("With --acts detected an edit acts only where harm is detected." in said) is (acts == "everywhere")
    assert ("A gated edit (--method gated) " in said) is (acts == "everywhere")


@pytest.mark.parametrize("acts", ["gate", "everywhere"])
def test_the_gate_s_budgets_are_those_that_are_given_and_a_looser_one_is_told(
    words, capsys, tmp_path, budgets, monkeypatch, acts
):
    budgets(STRICT)
    loose = [f"{name}=100" for name in vars(LENIENT)]
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--acts", acts, "--out", tmp_path]
    code, told, _ = ran(edit, options, words, capsys)
    assert code == 1 and "harmless KL" in told["gate"]["reason"] and "(0 allowed" in told["gate"]["reason"]
    monkeypatch.setattr(gate_budgets, "DEFAULTS", STRICT)  # by which the edit would not have passed
    given = [part for entry in loose for part in ("--budget", entry)]
    code, told, _ = ran(edit, [*options, *given], words, capsys)
    word = load_edit(Path(told["saved"][0]), words)[1].gate
    assert code == 0 and all(check["limit"] == 100 for check in word["checks"] if check["name"] != "gain")
    assert word["loosened"] and told["gate"]["passed"] is word["passed"] is False, (
        "the defaults would not have passed it"
    )
    assert told["gate"]["overridden"] is word["overridden"] is True


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "harm=1",
            "The gate has no budget 'harm'. It has harmless_kl, over_refusal, degenerate, parroting, lost_defence",
        ),
        ("harmless_kl", "'harmless_kl' is no NAME=VALUE. Write for example --budget harmless_kl=0.3."),
        ("harmless_kl=much", "budget"),
        ("parroting=101", "budget"),
        ("harmless_kl=-1", "budget"),
    ],
)
def test_a_budget_that_there_is_not_or_that_is_out_of_range_is_refused_before_anything_is_done(
    capsys, tmp_path, entry, said
):
    code, told, errors = ran(edit, ["--budget", entry, "--out", tmp_path], None, capsys)
    assert code == 2 and told is None and said in errors
