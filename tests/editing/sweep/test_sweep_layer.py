"""Which layer the cases of a sweep are edited at, and what says so."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from sweep_helpers import SHORT, finished, loader, swept, write_cases

from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.sweep import Store, SweepSettings
from editing.sweep.__main__ import _settings, main, options
from editing.sweep.work import cases_of, chosen_layer
from inspector.divergence import divergence
from inspector.errors import NotFinite, OutOfMemory, PromptError
from inspector.model import Detector


def test_the_layer_of_the_first_case_serves_all_where_it_is_located_once(tmp_path):
    cases = write_cases(tmp_path, 3)
    settings = SweepSettings(cases=str(cases), block="once", preset="reference", locate="reference")
    model, _ = loader(settings)
    first = cases_of(settings)[0]
    expected = divergence(model, first, "reference").toxic_layer()
    assert chosen_layer(model, settings, cases_of(settings)).layer == str(expected)
    found = swept(tmp_path / "out", cases, "--layer", "once", "--preset", "reference", "--locate", "reference")
    assert [result.record.block for result in found] == [expected] * 3
    same = swept(tmp_path / "out", cases, "--layer", "once", "--preset", "reference", "--locate", "reference")
    assert [result.record.patch for result in same] == [result.record.patch for result in found], "it resumes"
    store = Store(tmp_path / "out")
    about = store.about()
    store.close()
    assert about is not None and about.settings.block == str(expected), "whatever can be located on when it goes on"
    assert about.layer_reason.startswith("Toxic layer of the first case,")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "corrected"),
        (["--preset", "paper"], "paper"),
        (["--preset", "reference"], "reference"),
        (["--preset", "paper", "--locate", "corrected"], "corrected"),
        (["--preset", "paper", "--method", "ft-l"], "corrected"),
        (["--method", "ft-l", "--locate", "paper"], "paper"),
    ],
)
def test_cases_are_located_with_the_edit_s_own_preset_unless_another_is_named(given, expected):
    settings = _settings(options().parse_args(["--out", "x", *given]))
    assert settings.locator == expected
    assert SweepSettings.from_json(settings.as_json()) == settings


def test_a_sweep_says_which_locator_it_used_and_one_begun_with_another_goes_on_with_that(tmp_path, monkeypatch, capsys):
    """Before the edit's preset located by itself, a sweep of any preset was located as corrected is."""
    cases, folder, located = write_cases(tmp_path, 2), tmp_path / "out", list[str]()

    def noted(model, case, preset, **named):
        located.append(preset)
        return divergence(model, case, preset, **named)

    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "divergence", noted)
    paper = swept(tmp_path / "new", cases, "--preset", "paper")
    assert located == ["paper"] * 2
    model, _ = loader(SweepSettings(cases=str(cases)))
    for result, case in zip(paper, cases_of(SweepSettings(cases=str(cases))), strict=True):
        assert result.record.block == divergence(model, case, "paper").toxic_layer(), "as editing.edit does"
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "new"), "--report"], loader) == 0
    told = capsys.readouterr()
    assert "\nWhere the answers part most (the toxic layer), located as in the preset paper: layer " in told.err
    assert json.loads(told.out)["locate"] == "paper"
    assert json.loads((tmp_path / "new" / "scores.json").read_text("utf-8"))["settings"]["locate"] == "paper"

    swept(folder, cases, "--preset", "paper", "--locate", "corrected")  # as all were before
    store = Store(folder)
    with store._database:
        store._database.execute("DELETE FROM results WHERE number > 0")
    store.close()
    located.clear()
    assert [result.status for result in swept(folder, cases, "--preset", "paper")] == ["done"] * 2
    assert located == ["corrected"]
    capsys.readouterr()
    other = ["--out", str(folder), "--cases", str(cases), *SHORT, "--preset", "paper", "--locate", "paper"]
    assert main(other, loader) == 2
    assert "locate = 'corrected' there, 'paper' here" in capsys.readouterr().err


def test_settings_that_name_no_locator_are_those_of_a_sweep_located_as_corrected():
    told = json.loads(SweepSettings(preset="paper").as_json())
    del told["locate"]
    assert SweepSettings.from_json(json.dumps(told)).locator == "corrected"


@pytest.mark.parametrize("done", [True, False])
def test_a_sweep_from_before_the_layer_of_once_was_kept_goes_on(tmp_path, done):
    """With the layer of its first finished case, whatever the locator finds now; with none, with what it finds."""
    cases = write_cases(tmp_path, 2)
    store = Store(tmp_path / "out")
    swept(tmp_path / "out", cases, "--layer", "once", "--locate", "reference")
    (first, second), about = store.results(), store.about()
    assert about is not None
    found = int(about.settings.block)
    before = 0 if found else 1
    with store._database:
        store._database.execute("DELETE FROM results")
        store._database.execute("UPDATE run SET settings = ?", (replace(about.settings, block="once").as_json(),))
    store.save(replace(first, record=replace(first.record, block=before), status="done" if done else "failed"))
    kept, gone_on = swept(tmp_path / "out", cases, "--layer", "once", "--locate", "reference")
    expected = before if done else found
    assert (kept.record.block, gone_on.record.block) == (expected, expected)
    assert gone_on.status == second.status
    store.close()


def test_the_layer_that_serves_all_is_that_of_the_first_case_that_can_be_located_on(tmp_path):
    settings = SweepSettings(cases=str(write_cases(tmp_path, 2)), block="once")
    model, _ = loader(settings)
    whole = cases_of(settings)
    broken = replace(whole[0], adversarial_prompt="word " * 20_000)
    found = chosen_layer(model, settings, [broken, whole[1]])
    assert found.layer == str(divergence(model, whole[1]).toxic_layer())
    assert found.reason.startswith("Toxic layer of case 1, the first one that can be located on,")
    with pytest.raises(PromptError, match="reads at most"):
        chosen_layer(model, settings, [broken])


def test_memory_that_runs_out_on_the_first_case_does_not_take_the_layer_of_another(tmp_path, monkeypatch):
    settings = SweepSettings(cases=str(write_cases(tmp_path, 2)), block="once")
    model, _ = loader(settings)
    first, _ = cases = cases_of(settings)

    def full(model, case, *given, **named):
        if case == first:
            raise MemoryError
        return divergence(model, case, *given, **named)

    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "divergence", full)
    with pytest.raises(OutOfMemory):
        chosen_layer(model, settings, cases)


def test_auto_edits_the_recommended_layer_but_with_ft_l_and_the_paper_s_presets(tmp_path, monkeypatch):
    settings = SweepSettings(cases=str(write_cases(tmp_path, 1)))
    model, _ = loader(settings)
    layers = Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint))
    module = sys.modules[chosen_layer.__module__]
    monkeypatch.setattr(module, "calibration_of", lambda _model: known)
    assert chosen_layer(model, settings, cases_of(settings)).layer == "2"
    for other in (replace(settings, method="gated"), replace(settings, method="delman")):
        assert chosen_layer(model, other, cases_of(other)).layer == "2"
    for other in (replace(settings, preset="paper"), replace(settings, method="ft-l")):
        assert chosen_layer(model, other, cases_of(other)).layer == "toxic"
    monkeypatch.setattr(module, "calibration_of", lambda _model: None)
    assert chosen_layer(model, settings, cases_of(settings)).layer == "toxic"


def test_the_report_says_which_layer_is_edited_and_why(tmp_path, monkeypatch, capsys):
    cases, folder = write_cases(tmp_path, 1), tmp_path / "out"
    found = {}
    known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), Detector((0,), torch.ones(1, 32), 0, 0, ""))
    for name, calibration in (("calibrated", known), ("not", None)):
        monkeypatch.setattr(sys.modules[chosen_layer.__module__], "calibration_of", lambda _, one=calibration: one)
        swept(folder / name, cases)
        running = capsys.readouterr().err
        assert main(["--out", str(folder / name), "--report"], loader=loader) == 0
        told = capsys.readouterr()
        found[name] = told.err, json.loads(told.out)
        assert f"\n{found[name][1]['layer_reason']}\n" in f"\n{running}", "said while it runs as well"
    report, told = found["calibrated"]
    assert "layer 2, cases" in report and "\nRecommended layer. Trial edits work best at layer 2: 75 %" in report
    assert (told["layer"], told["layer_reason"]) == ("2", f"Recommended layer. {known.layers.reason}")
    model, _ = loader(SweepSettings(cases=str(cases)))
    (case,) = cases_of(SweepSettings(cases=str(cases)))
    measured, here = divergence(model, case), f"layer {divergence(model, case).toxic_layer()} in 1 of 1 cases."
    for name in ("calibrated", "not"):
        (result,) = finished(folder / name)
        assert (result.record.toxic_layer, result.record.toxic_reason) == (
            measured.toxic_layer(),
            measured.reason(),
        )
        located = "Where the answers part most (the toxic layer), located as in the preset corrected"
        assert f"\n{located}: {here}\n" in found[name][0]
    report, told = found["not"]
    assert "tiny-llama is not calibrated" in report and "Run: python -m editing.calibrate" in told["layer_reason"]


KNOWN = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), Detector((0,), torch.ones(1, 32), 0, 0, ""))


@pytest.mark.parametrize("options", [["--preset", "paper"], ["--layer", "1"], []])
def test_both_marks_stand_with_their_reasons_in_report_and_scores_whichever_is_edited(
    tmp_path, monkeypatch, capsys, options
):
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "calibration_of", lambda _model: KNOWN)
    cases, folder = write_cases(tmp_path, 2), tmp_path / "out"
    found = swept(folder, cases, *options)
    capsys.readouterr()
    assert main(["--out", str(folder), "--report"], loader) == 0
    told = capsys.readouterr()
    head = told.err.split("\npercent; Fluency")[0]
    assert head.count(KNOWN.layers.reason) == 1 and ("Recommended layer: 2. " in head) == bool(options)
    for result in found:
        assert f"  {result.record.toxic_reason} Cases " in head or f"  {result.record.toxic_reason} Case " in head
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert (scores["recommended_layer"], scores["recommended_reason"]) == (2, KNOWN.layers.reason)
    assert scores["marks"] == [
        {
            "case": result.case,
            **{name: getattr(result.record, name) for name in ("block", "toxic_layer", "toxic_reason")},
        }
        for result in found
    ]
    state = json.loads(told.out)
    assert (state["recommended_layer"], state["recommended_reason"]) == (2, KNOWN.layers.reason)
    assert state["toxic_layers"] == scores["toxic_layers"]


def test_a_sweep_of_before_its_recommended_layer_was_kept_is_reported_without_it(tmp_path, capsys):
    folder = tmp_path / "out"
    swept(folder, write_cases(tmp_path, 1), "--layer", "1")
    store = Store(folder)
    (told,) = store._database.execute("SELECT about FROM run").fetchone()
    before = {name: value for name, value in json.loads(told).items() if not name.startswith("recommended")}
    with store._database:
        store._database.execute("UPDATE run SET about = ?", (json.dumps(before),))
    store.close()
    capsys.readouterr()
    assert main(["--out", str(folder), "--report"], loader) == 0
    assert "ecommended layer" not in capsys.readouterr().err


def test_a_sweep_of_the_recommended_layer_by_name_edits_that_one_with_any_preset(tmp_path, monkeypatch):
    cases = write_cases(tmp_path, 1)
    settings = SweepSettings(cases=str(cases), block="recommended", preset="paper")
    model, _ = loader(settings)
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "calibration_of", lambda _model: KNOWN)
    for one in (settings, replace(settings, method="ft-l", preset="corrected")):
        found = chosen_layer(model, one, cases_of(one))
        assert (found.layer, found.reason) == ("2", f"Recommended layer. {KNOWN.layers.reason}")
    (result,) = swept(tmp_path / "out", cases, "--layer", "recommended", "--preset", "paper")
    assert result.record.block == 2
    none = replace(KNOWN, layers=Layers((Trial(1, 0.25, 0.05, 1.0),), 0.25, 5, 20))
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "calibration_of", lambda _model: none)
    (refused,) = swept(tmp_path / "none", cases, "--layer", "recommended", "--preset", "paper")
    assert refused.status == "refused" and "at no layer more than this model does by itself" in refused.record.error


def test_a_case_that_cannot_be_located_is_edited_at_another_layer_all_the_same_and_told(tmp_path, monkeypatch, capsys):
    def broken(*_given, **_named):
        raise NotFinite("The states of these texts are not finite numbers.")

    cases = write_cases(tmp_path, 1)
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "divergence", broken)
    (at_one,) = swept(tmp_path / "one", cases, "--layer", "1", "--report")
    assert at_one.status == "done" and at_one.record.toxic_layer is None
    assert at_one.record.toxic_reason == "The states of these texts are not finite numbers."
    head = capsys.readouterr().err
    assert "\nToxic layer unknown in 1 of 1 cases.\n" in head
    assert "\n  The states of these texts are not finite numbers. Case 0.\n" in head
    (toxic,) = swept(tmp_path / "toxic", cases, "--layer", "toxic")
    assert toxic.status == "failed" and "not finite" in toxic.record.error


def test_where_no_layer_helps_every_case_keeps_vanilla_and_says_so(tmp_path, monkeypatch):
    cases = write_cases(tmp_path, 2)
    model, _ = loader(SweepSettings(cases=str(cases)))
    layers = Layers((Trial(1, 0.25, 0.05, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint))
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "calibration_of", lambda _model: known)
    found = swept(tmp_path / "out", cases)
    assert [result.status for result in found] == ["refused"] * 2
    for result in found:
        assert "at no layer more than this model does by itself" in result.record.error
        assert result.replies and all(reply.edited == reply.vanilla for reply in result.replies)
