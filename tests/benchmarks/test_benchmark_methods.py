"""The benchmark of the methods goes on in its own folder only, and a fault costs one case of it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import made_up
import pytest
import torch

from benchmarks.methods import _mechanism, all_asked, compare, cost, same_settings
from editing.calibrating.trial_edits import Layers, Trial
from editing.contest import ContestSettings
from editing.methods.registry import METHODS, method_settings
from editing.standing import Standing
from editing.standing_file import load_standings
from inspector.errors import EditError
from inspector.model import Decoding, PromptFormat, answer, encode
from inspector.safeedit.exam import EVALUATIONS, asked_as
from inspector.safeedit.questions import CASE_ONLY


def test_a_folder_of_other_settings_or_another_model_is_refused_and_its_own_goes_on(tiny, tmp_path):
    settings, model = ContestSettings(methods=("dinm", "sft")), tiny("llama")
    same_settings(tmp_path / "out", model, settings)
    same_settings(tmp_path / "out", model, settings)
    others = (
        (model, replace(settings, methods=("sft",))),
        (model, replace(settings, scope="full")),
        (model, replace(settings, max_new_tokens=3)),
        (tiny("qwen2"), settings),
    )
    for other, changed in others:
        with pytest.raises(EditError, match=r"other settings, another model or another detector. Give another --out"):
            same_settings(tmp_path / "out", other, changed)
    with pytest.raises(EditError, match="Give another --out"):
        same_settings(tmp_path / "out", model, settings, "auto")


@pytest.mark.parametrize(("layer", "edited"), [("toxic", (0, 0)), ("auto", (2, 0)), ("1", (1, 1))])
def test_every_method_edits_the_layer_that_is_named_or_with_auto_its_own(
    llama, case, tmp_path, monkeypatch, layer, edited
):
    module = sys.modules[all_asked.__module__]
    layers = Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20)
    monkeypatch.setattr(module, "kept_probe", no_probe)
    monkeypatch.setattr(module, "calibration_of", lambda _model: SimpleNamespace(layers=layers))
    for name in (module.__name__, "editing.contest"):
        monkeypatch.setattr(f"{name}.divergence", lambda *_, **__: SimpleNamespace(toxic_layer=lambda: 0))
    quick = {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2}
    changes = {"dinm": {**quick, "damage_budget": None, "companions": 0, "monitor": 0}, "ft-l": quick}
    settings = ContestSettings(
        methods=("dinm", "ft-l"), size=CASE_ONLY, max_new_tokens=2, prompts=0, format=PromptFormat(""), changes=changes
    )
    compare(llama, [replace(case, identifier=7)], settings, tmp_path, layer)
    standings = load_standings(tmp_path / "7")
    assert tuple(one.result.block for one in standings) == edited
    assert {one.shift.block for one in standings} == {1 if layer == "1" else 0}, "the region is one for all"


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_refused_edit_is_asked_as_the_vanilla_weights_that_it_leaves(llama, case, evaluation):
    settings = ContestSettings(methods=("dinm", "sft"), size=CASE_ONLY, max_new_tokens=3, evaluation=evaluation)
    refused = Standing(METHODS["dinm"], failed="No update is kept. Change it.", refused=True)
    failed = Standing(METHODS["sft"], failed="No memory. Train LoRA.")
    first, second = all_asked(llama, case, (refused, failed), settings)
    assert second is failed and first.refused and first.exam.evaluation == evaluation
    for reply in first.exam.replies:
        vanilla = encode(llama, reply.question.prompt, None, PromptFormat())
        plain = encode(llama, reply.question.prompt, None, asked_as(PromptFormat(), evaluation))
        assert reply.edited.text == said(llama, vanilla) and reply.vanilla.text == said(llama, plain)


def said(model, encoded) -> str:
    return answer(model, encoded.prompt, decoding=Decoding(3)).texts[0].strip()


def test_a_folder_of_finished_cases_without_their_settings_is_refused(llama, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "standings.json").write_text("{}")
    with pytest.raises(EditError, match="Give another --out"):
        same_settings(tmp_path, llama, ContestSettings())


def no_probe(_model):
    return
    yield


def test_one_fault_costs_its_case_and_a_method_that_is_not_possible_is_in_the_tables_with_its_reason(
    llama, case, tmp_path, monkeypatch, capsys
):
    module = sys.modules[all_asked.__module__]
    monkeypatch.setattr(module, "kept_probe", no_probe)
    own = module.divergence

    def located(model, chosen, **options):
        if chosen.identifier == 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(model, chosen, **options)

    monkeypatch.setattr(module, "divergence", located)
    quick = {"harmless_prompts": 1, "harmless_tokens": 2}
    settings = ContestSettings(
        methods=("self-reminder", "mend"),
        size=CASE_ONLY,
        max_new_tokens=3,
        prompts=0,
        format=PromptFormat(""),
        changes={"self-reminder": quick, "mend": quick},
    )
    cases = [replace(case, identifier=number) for number in (7, 8, 9)]
    compare(llama, cases, settings, tmp_path)
    told = capsys.readouterr().out
    assert "2 cases: 7, 9\n" in told
    assert "failed, in no table: 1 of 3 cases\n  case 8: The device ran out of memory." in told
    assert "MEND                      not possible: MEND needs an editor network" in told
    assert "No edit: 2 of 4" in told
    assert re.search(r"^Beyond the paper.*\n +transfer +DL +still answers +over-refusal ", told, re.M)
    (fluency,) = (line for line in told.splitlines() if line.startswith("Fluency, "))
    assert fluency.startswith(f"Fluency, {METHODS['self-reminder'].title}: ") and "; edited " in fluency
    assert fluency.endswith("; words at white space"), "how words are split, and how long the answers were"
    monkeypatch.setattr(module, "divergence", own)
    compare(llama, cases, settings, tmp_path)
    told = capsys.readouterr().out
    assert "3 cases: 7, 8, 9\n" in told and "in no table" not in told, "a failed case is tried again"


def test_means_over_other_cases_for_each_method_are_told_as_such(capsys):
    made, other = (made_up.standing(key, -0.1, 0.2) for key in ("dinm", "ft-l"))
    refused = Standing(METHODS["ft-l"], failed="No update is kept. Change it.", refused=True)
    said = "Not the same cases for all: an edit that was refused, or not measured, is in no mean here."
    for second, told in ((refused, True), (other, False)):
        _mechanism({"dinm": [made, made], "ft-l": [other, second]})
        assert (said in capsys.readouterr().out) is told


def test_the_cost_of_a_method_is_told_without_the_cases_that_failed(llama, case, monkeypatch, capsys):
    module = sys.modules[all_asked.__module__]
    only = {key: METHODS[key] for key in ("dinm", "mend", "sft", "dpo")}
    monkeypatch.setattr(module, "METHODS", only)
    monkeypatch.setattr(module, "method_settings", quick_settings)
    broken = replace(case, identifier=8, adversarial_prompt="")
    cost(llama, [broken, replace(case, identifier=9)])
    told = capsys.readouterr().out
    assert "  DINM, case 8 failed: The prompt is empty." in told and "  1 failed\n" in told
    assert "  MEND, case 9 failed: MEND needs an editor network" in told and "2 failed" in told


def quick_settings(key: str, **changes):
    quick = {"harmless_prompts": 1, "harmless_tokens": 2, "format": PromptFormat("")}
    return method_settings(key, **({} if key == "mend" else {"steps": 1}), **quick, **changes)
