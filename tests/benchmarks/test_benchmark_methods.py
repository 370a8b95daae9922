"""The benchmark of the methods goes on in its own folder only, and a fault costs one case of it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import made_up
import numpy as np
import pytest
import torch

from benchmarks.erasing import Written, keep_written, kept_written, mechanism_told, writing_told, written_of
from benchmarks.methods import OF_HARMLESS, all_asked, compare, cost, main, routed_too, same_settings
from dashboard.steps.questions import results
from editing import run
from editing.calibrating.trial_edits import Layers, Trial
from editing.contest import ROUTED, ContestSettings, examine_routed
from editing.methods.dinm import ROUTED as LEARNS_MORE
from editing.methods.registry import METHODS, method_settings
from editing.standing import Standing
from editing.standing_file import load_standings
from inspector.errors import EditError
from inspector.model import Decoding, Detector, PromptFormat, answer, encode
from inspector.model.patches.rounded import COMPUTED, ROUNDED
from inspector.safeedit.exam import EVALUATIONS, asked_as
from inspector.safeedit.questions import CASE_ONLY, Size
from inspector.safeedit.records import exam_from
from inspector.writing import region_writing


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
    with pytest.raises(EditError, match="Give another --out"):
        same_settings(tmp_path / "out", model, settings, detector=never(model))
    same_settings(tmp_path / "routed", model, settings, detector=never(model))
    for other in (None, replace(never(model), threshold=0.5)):
        with pytest.raises(EditError, match="Give another --out"):
            same_settings(tmp_path / "routed", model, settings, detector=other)


def never(model) -> Detector:
    """A detector that fires for no prompt."""
    return Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, 1.0, model.fingerprint)


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


QUICK = {"steps": 1, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2}
SMALL = ContestSettings(
    methods=("dinm", "self-reminder"),
    size=Size(transfer=0, harmless=3, facts=0, passages=0),
    max_new_tokens=3,
    prompts=0,
    changes={
        "dinm": {**QUICK, "damage_budget": None, "companions": 0, "monitor": 0, "own_refusals": 0, "null_space": None},
        "self-reminder": {"harmless_prompts": 1, "harmless_tokens": 2},
    },
)


def test_the_rounding_row_is_asked_the_harmless_prompts_of_the_exams_once_and_kept(
    llama, case, tmp_path, monkeypatch, capsys
):
    module = sys.modules[all_asked.__module__]
    monkeypatch.setattr(module, "kept_probe", no_probe)
    cases = [replace(case, identifier=number) for number in (7, 9)]
    compare(llama, cases, SMALL, tmp_path)
    told = capsys.readouterr().out
    row = exam_from(json.loads((tmp_path / "rounded.json").read_text()))
    (exam, *_) = (standing.exam for standing in load_standings(tmp_path / "7"))
    harmless = [reply for reply in exam.replies if reply.question.kind == "harmless"]
    assert [reply.question.prompt for reply in row.replies] == [reply.question.prompt for reply in harmless]
    assert [reply.vanilla.text for reply in row.replies] == [reply.vanilla.text for reply in harmless]
    assert row.weights in (ROUNDED, COMPUTED) and row.format == exam.format
    (likeness,) = (score.edited.value for score in row.scores if score.name == "DL")
    read = results.scores(told)  # as the view Ten questions will, once it is committed
    assert list(read) == ["vanilla", "DINM", "Self-Reminder", "rounded"]
    assert set(read["rounded"]) == {*OF_HARMLESS} and read["rounded"]["DL"].mean == pytest.approx(likeness, abs=0.01)
    assert f"Rounded: {row.weights}, without an edit, on the 3 harmless prompts that all cases share" in told
    assert "routed" not in told

    def asked_again(*_):
        raise AssertionError("the kept row is read")

    monkeypatch.setattr(module, "row_or_why", asked_again)
    compare(llama, cases, SMALL, tmp_path)
    assert capsys.readouterr().out == told
    (tmp_path / "rounded.json").write_text('{"replies": 3}')
    with pytest.raises(EditError, match=r"rounded.json cannot be read. Delete it, and the same command makes it"):
        compare(llama, cases, SMALL, tmp_path)
    (tmp_path / "rounded.json").unlink()  # as in a folder of before there was such a row
    monkeypatch.undo()
    monkeypatch.setattr(module, "contest", asked_again)
    monkeypatch.setattr(module, "kept_probe", no_probe)
    compare(llama, cases, SMALL, tmp_path)
    assert capsys.readouterr().out == told and (tmp_path / "rounded.json").is_file()


def test_a_run_without_a_rounding_row_says_why(llama, case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[all_asked.__module__], "kept_probe", no_probe)
    compare(llama, [replace(case, identifier=7)], replace(SMALL, methods=("self-reminder",), size=CASE_ONLY), tmp_path)
    told = capsys.readouterr().out
    assert "No rounding row: this run asks no harmless prompt." in told and "\nrounded " not in told
    assert not (tmp_path / "rounded.json").is_file()


def test_routed_rows_are_the_same_edits_where_the_detector_fires_and_one_that_is_made_for_it(
    llama, case, tmp_path, monkeypatch, capsys
):
    module = sys.modules[all_asked.__module__]
    monkeypatch.setattr(module, "kept_probe", no_probe)
    of_cases = [replace(case, identifier=number) for number in (7, 9)]
    compare(llama, of_cases, SMALL, tmp_path, detector=never(llama))
    told = capsys.readouterr().out
    titles = ["DINM", "DINM, routed", "Self-Reminder", "DINM, made to be routed", "DINM, made to be routed, routed"]
    by_title = {one.method.title: one for one in load_standings(tmp_path / "7")}
    assert set(by_title) == set(titles)
    plain, made = by_title["DINM"].result.settings, by_title["DINM, made to be routed"].result.settings
    free = {name: value for name, value in LEARNS_MORE.items() if name not in SMALL.changes["dinm"]}
    assert {name: getattr(made, name) for name in free} == free != {name: getattr(plain, name) for name in free}
    for title in ("DINM", "DINM, made to be routed"):
        everywhere, routed = by_title[title].exam.replies, by_title[f"{title}, routed"].exam.replies
        assert {reply.held_back for reply in routed} == {True, False}, "it knows the question of its case"
        for reply, other in zip(routed, everywhere, strict=True):
            assert reply.question == other.question
            answered = other.vanilla if reply.held_back else other.edited
            assert reply.edited.text == answered.text and reply.reading.fires is not reply.held_back
        assert any(one.edited.text != one.vanilla.text for one in everywhere), "else the detector would change nothing"
        assert by_title[f"{title}, routed"].shift is None, "its weights are those of the row above"
    read = results.scores(told)
    assert list(read) == ["vanilla", *titles, "rounded"]
    assert "Rows that end with ', routed' are the same edit where it acts only where the detector fires" in told
    assert re.search(r"^The detector fires for [\d.]+ % of 10 harmful prompts", told, re.M)
    assert re.search(r"^The detector fires for [\d.]+ % of 6 harmless prompts", told, re.M)


def test_what_is_no_edit_has_a_routed_row_of_the_same_answers_and_a_fault_costs_one_line(llama, case, monkeypatch):
    refused = Standing(METHODS["dinm"], failed="No update is kept. Change it.", refused=True)
    failed = Standing(METHODS["sft"], failed="No memory. Train LoRA.")
    edit = run(METHODS["ft-l"].run(llama, case, 1, method_settings("ft-l", **QUICK)))
    whole = Standing(METHODS["ft-l"], result=edit)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield

    monkeypatch.setattr(sys.modules[examine_routed.__module__], "acts_by", full)
    found = routed_too(llama, case, (refused, failed, whole), SMALL, never(llama))
    assert [one.method.title for one in found] == ["DINM", "DINM, routed", "SFT", "SFT, routed", "FT-L", "FT-L, routed"]
    assert "The device ran out of memory." in found[-1].unmeasured and found[-1].exam is None
    first, second, *others = all_asked(llama, case, found, SMALL)
    assert first.exam == second.exam and second.refused and second.failed == refused.failed
    assert [one.exam for one in others] == [None] * 4 and others[1].failed == failed.failed


def test_routed_rows_take_the_detector_of_the_calibration_and_no_cost_is_timed_of_them(llama, monkeypatch, capsys):
    module = sys.modules[all_asked.__module__]
    given, detector = [], never(llama)
    monkeypatch.setattr(module, "load_model", lambda _options: llama)
    monkeypatch.setattr(module, "load_calibration", lambda _model: SimpleNamespace(detector=detector))
    monkeypatch.setattr(module, "compare", lambda *arguments: given.append(arguments[-1]))
    for words in ([], ["--routed"]):
        monkeypatch.setattr(sys, "argv", ["methods", "--limit", "1", *words])
        main()
    assert given == [None, detector]
    monkeypatch.setattr(sys, "argv", ["methods", "--routed", "--cost"])
    with pytest.raises(EditError, match="Leave out --routed or --cost"):
        main()


def test_means_over_other_cases_for_each_method_are_told_as_such(capsys):
    made, other = (made_up.standing(key, -0.1, 0.2) for key in ("dinm", "ft-l"))
    unmeasured = Standing(METHODS["ft-l"], unmeasured="A score is not a number.")
    said = "Not the same cases for all: an edit that was not measured is in no mean here."
    for second, told in ((unmeasured, True), (other, False)):
        mechanism_told({"DINM": [made, made], "FT-L": [other, second]}, ROUTED)
        printed = capsys.readouterr().out
        assert (said in printed) is told
        read = results.erasing(printed)  # as the view Ten questions will, once it is committed
        assert [round(read[title]["toxicity, %"].mean) for title in ("DINM", "FT-L")] == [-10, -10]


def test_a_refused_edit_is_in_the_means_as_no_change_and_in_those_of_no_routed_row(capsys):
    made, other = (made_up.standing(key, -0.1, 0.2) for key in ("dinm", "ft-l"))
    refused = Standing(METHODS["ft-l"], failed="No update is kept. Change it.", refused=True)
    other = replace(other, parameters_changed=10)
    rows = {"DINM": [made, made], "FT-L": [other, refused], "SFT": [refused, refused], "FT-L, routed": [refused]}
    mechanism_told(rows, ROUTED)
    printed = capsys.readouterr().out
    read = results.erasing(printed)
    assert [round(read[title]["toxicity, %"].mean) for title in ("DINM", "FT-L", "SFT")] == [-10, -5, 0]
    assert re.search(r"^FT-L +2 .* 5$", printed, re.MULTILINE) and "routed" not in printed
    assert not re.search(r"^SFT.*\*", printed, re.MULTILINE), "nothing is so by construction"
    assert "A refused edit leaves the vanilla weights: it counts as no change." in printed
    assert "Not the same cases" not in printed
    mechanism_told({"DINM": [made]}, ROUTED)
    assert "A refused edit" not in capsys.readouterr().out


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


def test_what_the_region_writes_is_measured_of_edits_kept_and_told(llama, case, tmp_path, monkeypatch, capsys):
    direction = np.random.default_rng(0).normal(size=llama.architecture.d_model)
    probe = SimpleNamespace(direction=direction)
    quick = {"ft-l": QUICK, "self-reminder": {name: QUICK[name] for name in ("harmless_prompts", "harmless_tokens")}}
    edited = [
        Standing(METHODS[key], result=run(METHODS[key].run(llama, case, 1, method_settings(key, **changes))))
        for key, changes in quick.items()
    ]
    none = Standing(METHODS["sft"], failed="No memory. Train LoRA.")
    refused = Standing(METHODS["dpo"], failed="No update is kept. Change it.", refused=True)
    path = tmp_path / "7" / "written.json"
    keep_written(path, written_of(llama, case, [*edited, none, refused], probe, 1))
    kept = kept_written(path)
    assert list(kept) == ["FT-L", "DPO"], "the only one with a patch, and one that leaves the vanilla weights"
    assert kept["DPO"].before == kept["DPO"].after and kept["DPO"].answer_before == kept["DPO"].answer_after
    result = edited[0].result
    expected = region_writing(llama, case, result.row(), direction, 1, format=result.settings.format)
    one, size = kept["FT-L"], expected.size[0].mean()
    assert (one.before, one.after) == pytest.approx(expected.shares)
    answers = (one.answer_before, one.answer_after)
    assert answers == pytest.approx([100 * np.nanmean(side) / size for side in expected.answer])
    assert one.before != one.after and one.answer_before != one.answer_after

    other = Written(one.before + 2, one.after, None, None)
    writing_told(["DINM", "FT-L"], [kept, {"FT-L": other}])
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("FT-L")]
    cells = line.split()
    assert cells[1:4] == ["2", f"{one.before + 1:.2f}", f"{one.after:.2f}"]
    assert f"{one.before - one.after + 1:.2f} [" in line and "DINM" not in told
    assert cells[-2:] == [f"{one.answer_before - one.answer_after:.2f}", "(1)"], "of one case there is no interval"

    def broken(*_, **__):
        raise EditError("Not a finite number. Leave it.")

    monkeypatch.setattr(sys.modules[written_of.__module__], "region_writing", broken)
    assert written_of(llama, case, edited, probe, 1) == {}
    assert "FT-L, what the region writes: Not a finite number. Leave it." in capsys.readouterr().err
    assert kept_written(tmp_path / "9" / "written.json") == {}
    writing_told(["FT-L"], [{}])
    assert capsys.readouterr().out == "", "a folder of before has none"
    path.write_text('{"FT-L": {"before": "much"}}')
    with pytest.raises(EditError, match=r"written.json cannot be read. Delete its folder"):
        kept_written(path)
