"""One fault costs one case: refusals count with the vanilla answers that they leave, memory that runs out is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import real_tokenizers
import tiny_models
import torch
from sweep_helpers import BRIEF, SHORT, finished, huge, loader, record, refusing, swept, write_cases

from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.dinm import DinmSettings
from editing.methods.registry import METHODS
from editing.sweep import Store, SweepSettings, engines
from editing.sweep.__main__ import main
from editing.sweep.fitting import fitting
from editing.sweep.work import cases_of, chosen_layer
from inspector.errors import EditError, NotFinite, NoVerdict, OutOfMemory, PromptError, RefusedEdit
from inspector.model import Detector, PromptFormat, encode, from_parts
from inspector.safeedit.questions import QuestionSets, Size
from inspector.safeedit.sets import Fact, HarmlessPrompt

REFUSED, BROKEN = 1, 2
"""Cases whose edit is refused, and in whose edit the fault happens."""


def fault(monkeypatch, error: BaseException) -> None:
    """Make DINM raise on one case, and refuse another."""
    method = METHODS["dinm"]
    own = method.run

    def run(model, case, block, settings, **options):
        if case.identifier == BROKEN:
            raise error
        if case.identifier == REFUSED:
            raise RefusedEdit("This edit would let the unsafe answer gain. Choose another layer.")
        return (yield from own(model, case, block, settings, **options))

    monkeypatch.setitem(METHODS, "dinm", method.__class__(**{**vars(method), "run": run}))


MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_that_runs_out_is_that_case_s_outcome_and_the_others_are_done(tmp_path, monkeypatch, kind):
    fault(monkeypatch, MEMORY[kind])
    found = swept(tmp_path / "out", write_cases(tmp_path, 4))
    assert [result.status for result in found] == ["done", "refused", "failed", "done"]
    assert "ran out of memory" in found[BROKEN].record.error and found[BROKEN].replies == ()


def test_what_stands_against_the_method_itself_is_a_failure_and_no_refusal(tmp_path, capsys):
    """No editor network for this model: vanilla's scores must not pass for MEND's."""
    cases, folder = write_cases(tmp_path, 2), tmp_path / "out"
    arguments = ["--out", str(folder), "--cases", str(cases), "--method", "mend", *SHORT[:-6], "--max-new-tokens", "4"]
    assert main(arguments, loader=loader) == 1
    assert "2 of 2 cases failed: they have no scores" in capsys.readouterr().err
    store = Store(folder)
    assert all("needs an editor network" in result.record.error for result in store.results())
    store.close()

    assert main(["--out", str(folder), "--report"], loader=loader) == 0
    told = capsys.readouterr().err
    assert "0 of 2 cases scored, 2 failed and in no score" in told
    assert "mend is not possible on any of these cases, so there are no scores." in told
    assert told.count("needs an editor network") == 2 and "case 0: MEND needs" in told
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["cases"], scores["failed"], scores["scores"]) == (0, 2, [])


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_a_case_without_the_constraint_that_a_preset_needs_counts_with_the_vanilla_answers(tmp_path, preset):
    cases = write_cases(tmp_path, 1, **{"knowledge constrain": None})
    options = ("--preset", preset, "--layer", "1")
    (result,) = swept(tmp_path / "out", cases, *options)
    assert result.status == "refused" and "no knowledge constraint" in result.record.error
    assert result.replies and all(reply.edited == reply.vanilla for reply in result.replies)


def test_a_failed_case_is_tried_again_when_the_sweep_goes_on(tmp_path, monkeypatch):
    cases, folder = write_cases(tmp_path, 4), tmp_path / "out"
    with monkeypatch.context() as patch:
        fault(patch, MemoryError())
        first = swept(folder, cases)
    again = swept(folder, cases)
    assert [result.status for result in first] == ["done", "refused", "failed", "done"]
    assert [result.status for result in again] == ["done", "refused", "done", "done"]
    assert [a.record for a, b in zip(first, again, strict=True) if a.record != b.record] == [first[BROKEN].record]


def test_a_refused_case_of_the_paper_s_evaluation_is_asked_as_edited_ones_are_and_the_report_says_so(
    tmp_path, monkeypatch, capsys
):
    """The vanilla weights are asked without the suffix, then with it, as an edit's would be."""
    cases, paper = write_cases(tmp_path, 2), ("--evaluation", "paper", "--suffix", " Be kind.")
    monkeypatch.setitem(METHODS, "dinm", replace(METHODS["dinm"], run=refusing))
    (_, refused) = swept(tmp_path / "out", cases, *paper)
    assert any(reply.edited.text != reply.vanilla.text for reply in refused.replies), "the suffix says something"
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "out"), "--report"], loader=loader) == 0
    told = capsys.readouterr().err
    said = "so the vanilla weights' answers, asked with the suffix as an edited model is, count as edited."
    assert f"2 of them refused: no edit was kept, {said}" in told


def test_another_error_is_a_defect_and_ends_the_sweep_with_what_is_finished_kept(tmp_path, monkeypatch):
    fault(monkeypatch, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        swept(tmp_path / "out", write_cases(tmp_path, 4))
    store = Store(tmp_path / "out")
    assert [result.status for result in store.results()] == ["done", "refused"]
    store.close()


def test_a_refused_case_counts_with_the_vanilla_answers_that_it_leaves(tmp_path, monkeypatch, capsys):
    cases, words = write_cases(tmp_path, 4), ("--revision", "1")  # weights whose answers have words to be alike in
    whole = swept(tmp_path / "whole", cases, *words)
    fault(monkeypatch, OutOfMemory("The device ran out of memory. Shorten the answers."))
    found = swept(tmp_path / "out", cases, *words)
    refused = found[REFUSED]
    assert refused.record.error.startswith("This edit would let") and refused.record.edit is None
    # A refused edit has taught nothing beside the case's own answer, which stands first.
    asked = [replace(reply.question, taught=reply.question.taught[:1]) for reply in whole[REFUSED].replies]
    assert [reply.question for reply in refused.replies] == asked
    for reply, other in zip(refused.replies, whole[REFUSED].replies, strict=True):
        assert reply.edited == reply.vanilla and reply.vanilla.text == other.vanilla.text
        assert reply.likeness in (None, 1.0) and (reply.kl is None or reply.kl == pytest.approx(0, abs=1e-6))

    capsys.readouterr()
    assert main(["--out", str(tmp_path / "out"), "--report"], loader=loader) == 0
    told = capsys.readouterr().err
    assert "3 of 4 cases scored, 1 failed and in no score" in told
    assert "1 of them refused: no edit was kept, so the vanilla weights' answers count as edited." in told
    assert "Refused:\n  case 1: This edit would let" in told and "Failed:\n  case 2: The device ran out" in told
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["cases"], scores["refused"], scores["failed"]) == (3, 1, 1)
    (defended,) = [score for score in scores["scores"] if score["name"] == "DS"]
    assert defended["edited"]["n"] == 3, "done and refused ones"


def test_an_edit_that_keeps_no_update_is_refused_and_counted(tmp_path):
    options = ("--set", "damage_budget=1e-9", "--set", "learning_rate=1.0", "--set", "target_probability=none")
    (result,) = swept(tmp_path / "out", write_cases(tmp_path, 1), *options)
    assert result.status == "refused" and "kept no update" in result.record.error and result.replies


def test_mistral_s_rate_and_the_format_are_settings_of_a_sweep():
    made = SweepSettings(preset="reference", changes={"learning_rate": 1e-5, "suffix": "Be kind."})
    assert made.method_settings().learning_rate == 1e-5
    assert made.format == PromptFormat("Be kind.", chat=False, turn_end=False)
    assert SweepSettings().format == DinmSettings().format


def test_the_paper_s_evaluation_asks_vanilla_without_the_suffix(tmp_path, capsys):
    cases = write_cases(tmp_path, 1)
    (paper,), (same,), (bare,) = (
        swept(tmp_path / name, cases, *options)
        for name, options in (("paper", ("--evaluation", "paper")), ("same", ()), ("bare", ("--suffix", "")))
    )
    for one, two, three in zip(paper.replies, same.replies, bare.replies, strict=True):
        assert one.edited.text == two.edited.text, "edited and asked with the suffix"
        assert one.vanilla.text == three.vanilla.text, "vanilla as without any suffix"
    assert any(one.vanilla.text != two.vanilla.text for one, two in zip(paper.replies, same.replies, strict=True))
    capsys.readouterr()
    main(["--out", str(tmp_path / "paper"), "--report"], loader=loader)
    assert "Asked: as in the paper: vanilla without the suffix, edited with it." in capsys.readouterr().err


def test_a_sweep_of_another_version_is_refused_by_name(tmp_path):
    store = Store(tmp_path)
    with store._database:
        store._database.execute("INSERT INTO run VALUES (?, ?, ?)", (json.dumps({"suffix": "S"}), "{}", 0.0))
    with pytest.raises(EditError, match=r"another version of this program.*Choose another --out"):
        store.about()
    store.close()


def test_a_calibrated_model_is_taught_once_before_the_first_case(tmp_path, monkeypatch):
    taught, done = [], []
    layers = Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, ""))
    monkeypatch.setattr(Calibration, "teach", lambda self, model: taught.append((self, model, len(done))))
    monkeypatch.setattr(engines, "calibration_of", lambda _model: known)
    monkeypatch.setattr(engines, "work", lambda model, *_: (done.append(model), ("failed", {"error": "no"}))[1])
    settings = SweepSettings(cases=write_cases(tmp_path, 2), vanilla="paired")
    model, judge = loader(settings)
    assert len(list(engines.local(model, judge, settings, list(enumerate(cases_of(settings)))))) == 2
    assert taught == [(known, model, 0)] and len(done) == 2


def test_a_sweep_whose_patches_act_by_one_detector_does_not_go_on_by_another(tmp_path, monkeypatch, capsys):
    cases, command = write_cases(tmp_path, 1), sys.modules["editing.sweep.__main__"]
    model, _ = loader(SweepSettings(cases=str(cases)))
    first = Detector((0,), torch.ones(1, 32), 0.0, -1.0, model.fingerprint)

    def calibrated(detector) -> None:
        known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), detector)
        for module in (command, sys.modules[chosen_layer.__module__]):
            monkeypatch.setattr(module, "load_calibration", lambda _: known)

    options = ["--out", str(tmp_path / "out"), "--cases", str(cases), *SHORT, "--acts", "detected", "--report"]
    calibrated(first)
    assert main(options, loader=loader) == 0
    assert f"The detector is {first.digest}." in (tmp_path / "out" / "report.txt").read_text("utf-8")
    calibrated(replace(first, threshold=-2.0))
    assert main(options, loader=loader) == 2 and f"detector {first.digest} there" in capsys.readouterr().err
    calibrated(replace(first, about={"questions": 3}))
    assert main(options, loader=loader) == 0, "what decides is the same"


def test_a_case_of_a_sweep_does_not_act_by_a_detector_that_came_while_it_ran(tmp_path, monkeypatch):
    cases = write_cases(tmp_path, 1)
    settings = SweepSettings(cases=str(cases), block="1", acts="detected", **BRIEF)
    model, judge = loader(settings)
    first, later = (Detector((0,), torch.ones(1, 32), 0.0, bound, model.fingerprint) for bound in (-1.0, -2.0))
    known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), later)
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "load_calibration", lambda _: known)
    todo = list(enumerate(cases_of(settings)))
    (same,) = engines.local(model, judge, settings, todo, later.digest)
    assert same.status == "done"
    (other,) = engines.local(model, judge, settings, todo, first.digest)
    assert other.status == "failed" and f"began with the detector {first.digest}" in other.record.error


def test_a_question_that_the_detector_reads_as_no_numbers_refuses_the_edit(tmp_path, monkeypatch):
    settings = SweepSettings(cases=write_cases(tmp_path, 1), block="1", acts="detected", **BRIEF)
    model, judge = loader(settings)
    detector = Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint)
    known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), detector)
    module = sys.modules[chosen_layer.__module__]
    monkeypatch.setattr(module, "load_calibration", lambda _: known)

    def unread(*_given):
        raise NotFinite("The MLP input of these texts is not a finite number.")
        yield

    monkeypatch.setattr(module, "acts_by", unread)
    (found,) = engines.local(model, judge, settings, list(enumerate(cases_of(settings))), "")
    assert found.status == "refused" and found.record.error.startswith("The MLP input")
    assert found.record.edit is None and found.record.patch is None
    assert found.replies and all(reply.edited == reply.vanilla for reply in found.replies)


def test_an_edit_whose_detector_reads_no_finite_score_counts_as_refused(tmp_path, monkeypatch):
    settings = SweepSettings(
        cases=write_cases(tmp_path, 1),
        size=Size(0, 1, 1, 0),
        max_new_tokens=6,
        block="1",
        acts="detected",
        changes={"steps": 2, "harmless_prompts": 1},
    )
    model, judge = loader(settings)
    beyond = Detector((0,), torch.full((1, 32), 3e38), 0.0, 0.0, model.fingerprint)
    known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), beyond)
    monkeypatch.setattr(sys.modules[chosen_layer.__module__], "load_calibration", lambda _: known)
    (found,) = engines.local(model, judge, settings, list(enumerate(cases_of(settings))), "")
    assert found.status == "refused" and "states that are not finite" in found.record.error
    assert "smaller steps" not in found.record.error.lower() and found.record.patch is None
    assert found.replies and all(reply.edited == reply.vanilla for reply in found.replies)


def test_a_measurement_of_an_edit_that_is_not_finite_counts_as_refused(tmp_path, monkeypatch):
    cases = write_cases(tmp_path, 3)
    fault(monkeypatch, NotFinite("The gradient of these texts is not a finite number."))
    results = swept(tmp_path / "out", cases)
    assert [result.status for result in results] == ["done", "refused", "refused"]
    assert "not a finite number" in results[BROKEN].record.error and results[BROKEN].replies


@pytest.mark.parametrize("vanilla", ["shared", "paired"])
def test_an_edit_with_which_the_model_predicts_no_numbers_counts_as_refused(tmp_path, monkeypatch, vanilla):
    def half(settings):
        model, judge = loader(settings)
        model.network.half()
        return model, judge

    arguments = ["--cases", write_cases(tmp_path, 1), *SHORT, "--layer", "1", "--vanilla", vanilla]
    assert main(["--out", str(tmp_path / "whole"), *arguments], loader=half) == 0
    monkeypatch.setitem(METHODS, "overflowing", replace(METHODS["dinm"], run=huge))
    arguments += ["--method", "overflowing"]
    assert main(["--out", str(tmp_path / "out"), *arguments], loader=half) == 0
    (whole,), (found,) = finished(tmp_path / "whole"), finished(tmp_path / "out")
    assert (whole.status, found.status) == ("done", "refused") and found.record.patch is None
    assert "With this edit (DINM · layer 1" in found.record.error
    assert [reply.vanilla.text for reply in found.replies] == [reply.vanilla.text for reply in whole.replies]
    assert all(reply.edited == reply.vanilla for reply in found.replies)


def test_a_judge_without_a_verdict_of_an_edit_s_answer_refuses_no_edit(tmp_path, monkeypatch):
    judging, own = sys.modules["inspector.safeedit.judges"].EmbeddedJudge, []

    def judge(self, pairs):
        own.append(pairs)
        raise NoVerdict("The judge reads an answer as no finite number.")

    monkeypatch.setattr(judging, "judge", judge)
    (found,) = swept(tmp_path / "out", write_cases(tmp_path, 1))
    assert found.status == "failed" and "The judge reads" in found.record.error and len(own) == 1


def test_a_model_that_predicts_no_numbers_fails_its_cases_and_scores_nothing(tmp_path, capsys):
    def overflowing(settings):
        model, judge = loader(settings)
        tiny_models.out_of_range(model.network.half())
        return model, judge

    arguments = ["--out", str(tmp_path / "out"), "--cases", write_cases(tmp_path, 2), *SHORT, "--layer", "1"]
    assert main(arguments, loader=overflowing) == 1
    assert "2 of 2 cases failed: they have no scores" in capsys.readouterr().err
    store = Store(tmp_path / "out")
    for result in store.results():
        assert "prediction of these texts is not a finite number in float16" in result.record.error
        assert result.replies == ()
    store.close()


def test_a_case_whose_own_prompt_is_too_long_fails_before_its_edit_is_made(tmp_path, monkeypatch):
    edits = []
    monkeypatch.setitem(METHODS, "dinm", replace(METHODS["dinm"], run=lambda *given, **_: edits.append(given)))
    tests = {**record(0)["generalization test"], "test input of other attack prompt input": "word " * 2000}
    (result,) = swept(tmp_path / "out", write_cases(tmp_path, 1, **{"generalization test": tests}))
    assert result.status == "failed" and "reads at most 8,192" in result.record.error and edits == []


@pytest.mark.parametrize("method", ["dinm", "self-reminder"])
def test_what_fits_is_measured_on_the_prompt_as_the_edited_weights_get_it(tmp_path, method):
    """A question that just fits without the reminder does not fit with it."""
    settings = SweepSettings(method=method, max_new_tokens=20)
    model, _ = loader(settings)
    room = model.context_length - 20 - len(encode(model, "x", format=settings.format).prompt) + 1
    texts = fitting(model, settings, QuestionSets((), (HarmlessPrompt("x" * room, False),), (), ()))
    assert len(texts.left_out) == (method == "self-reminder")


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [("STRICT", "harmless", "refuses a user's question"), ("THINKING", "fact", "otherwise")],
)
def test_a_chat_template_in_which_nothing_can_be_asked_is_not_told_as_too_long_a_question(template, kind, said):
    tokenizer = real_tokenizers.byte_level(getattr(real_tokenizers, template))
    model = from_parts(tiny_models.network("llama"), tokenizer, template)
    settings = SweepSettings(method="self-reminder", max_new_tokens=4, changes={"suffix": ""})
    texts = QuestionSets((), (HarmlessPrompt("Q?", False),), (Fact("Q?", ("A",)),), ())
    with pytest.raises(PromptError, match=f"kind '{kind}' cannot be asked. .*{said}.*Turn the chat template off"):
        fitting(model, settings, texts)
