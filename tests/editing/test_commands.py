"""The commands on a tiny model: JSON on the output, reasons on the error stream, exit codes as they are told."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import by_hand
import pytest
import tiny_models
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import OlmoConfig
from word_models import word_model

from editing import apply, dinm, edit, reproduce, run
from editing import locate as locate_both
from editing.calibrating.calibration import Calibration, calibrate_command
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate import budgets as gate_budgets
from editing.gate import choice as gate_choice
from editing.gate import gate
from editing.gate.exam import small_exam
from editing.methods.registry import method_settings, read_settings
from editing.saved import handed_out, load_edit
from editing.stacking import edit_on_top
from inspector import locate
from inspector.divergence import divergence
from inspector.errors import EditError
from inspector.model import Detector, PromptFormat
from inspector.safeedit import bundled_cases

CASE = next(case for case in bundled_cases() if case.split == "edit")
QUICK = [part for entry in ("steps=1", "harmless_prompts=1", "harmless_tokens=2") for part in ("--set", entry)]
QUICK += [part for entry in ("own_refusals=0", "learning_rate=0.01", "null_space=none") for part in ("--set", entry)]
LENIENT = gate_budgets.Budgets(100.0, 100.0, 100.0, 100.0, 100.0)
STRICT = replace(LENIENT, harmless_kl=0.0)


@pytest.fixture(scope="module")
def words():
    texts = [question.prompt for question in small_exam(CASE, 2, 1)]
    return word_model([*texts, CASE.adversarial_prompt, CASE.safe, CASE.unsafe], seed=1)


@pytest.fixture
def budgets(monkeypatch):
    """A short gate whose budgets a test sets."""

    def to(chosen) -> None:
        short = gate.GateSettings(chosen, harmless=2, questions=1, max_new_tokens=2, least_gain=0)

        def given(settings) -> gate.GateSettings:
            """The short gate with what a command was told."""
            return short if settings.budgets == gate_budgets.DEFAULTS else replace(short, budgets=settings.budgets)

        monkeypatch.setattr(apply, "accept", lambda model, row, case: gate.accept(model, row, case, short))
        monkeypatch.setattr(
            edit, "accept", lambda model, row, case, settings: gate.accept(model, row, case, given(settings))
        )
        monkeypatch.setattr(
            handed_out, "accept", lambda model, row, case, _, cancel: gate.accept(model, row, case, short)
        )
        monkeypatch.setattr(
            edit,
            "accept_where_best",
            lambda model, row, case, settings, **how: gate_choice.accept_where_best(
                model, row, case, given(settings), **how
            ),
        )

    to(LENIENT)
    return to


def ran(command, options, model, capsys):
    code = command.main([str(option) for option in options], lambda _: model)
    told = capsys.readouterr()
    return code, (json.loads(told.out) if told.out else None), told.err


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


def test_options_are_looked_at_before_the_gate_and_what_was_done_before_an_error_is_told(
    words, capsys, tmp_path, budgets, monkeypatch
):
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    saved = ran(edit, options, words, capsys)[1]["saved"][0]
    there, whole = tmp_path / "there", tmp_path / "whole"
    there.mkdir()
    (there / "a file").touch()
    asked, plain = [], apply.accept
    with monkeypatch.context() as patched:
        patched.setattr(apply, "accept", lambda *given: asked.append(given) or plain(*given))
        for targets, match in (
            (["--merged", whole, "--adapter", there], "something under that name"),
            (["--merged", there, "--adapter", tmp_path / "small"], "there already"),
            (["--merged", whole, "--adapter", whole / "small"], "lie apart"),
            (["--merged", whole, "--adapter", tmp_path / "small", "--rank", "0"], "rank 0"),
            (["--merged", whole, "--rank", "2"], "with --adapter"),
            (["--ask", "Sing?", "--max-new-tokens", "-1"], "max_new_tokens = -1 is out of range"),
            (["--ask", "Sing?", "--ask", "word " * 20_000], "Shorten it by at least"),
            (["--ask", " "], "The prompt is empty"),
        ):
            code, told, errors = ran(apply, [saved, *targets], words, capsys)
            assert code == 2 and told is None and match in errors
    assert asked == [] and not whole.exists() and not (tmp_path / "small").exists()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handed_out, "save_adapter", full)
    code, told, errors = ran(apply, [saved, "--merged", whole, "--adapter", tmp_path / "small"], words, capsys)
    assert code == 2 and "adapter cannot be written" in errors and whole.is_dir()
    assert told["merged"]["folder"] == str(whole) and "adapter" not in told
    asking = ["--ask", "Sing?", "--ask", "Dance?", "--max-new-tokens", "2", "--adapter", tmp_path / "small"]
    code, told, errors = ran(apply, [saved, *asking], words, capsys)
    assert code == 2 and "adapter cannot be written" in errors and told["gate"]["passed"]
    assert [one["prompt"] for one in told["answers"]] == ["Sing?", "Dance?"], "answers that were made are not lost"

    def interrupted(*given):
        monkeypatch.setattr(apply, "answer", stopped)
        return plain_answer(*given)

    def stopped(*_):
        raise KeyboardInterrupt

    plain_answer = apply.answer
    monkeypatch.setattr(apply, "answer", interrupted)
    code, told, errors = ran(apply, [saved, *asking], words, capsys)
    assert code == 130 and "Stopped" in errors and [one["prompt"] for one in told["answers"]] == ["Sing?"]


@pytest.mark.parametrize("spoilt", ["another edit", "cut"])
def test_an_edit_that_is_not_read_back_as_it_was_made_does_not_stay(
    words, capsys, tmp_path, budgets, monkeypatch, spoilt
):
    def read(path: Path, model):
        if spoilt == "cut":
            cut(path, path.with_suffix(".safetensors"))
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


def test_what_the_gate_refuses_is_not_saved_and_leaves_only_on_the_record(
    words, capsys, tmp_path, budgets, monkeypatch
):
    budgets(STRICT)
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path]
    code, told, _ = ran(edit, options, words, capsys)
    assert code == 1 and told["saved"] is None and "harmless KL" in told["gate"]["reason"]
    assert not list(tmp_path.iterdir())
    code, told, _ = ran(edit, [*options, "--keep-anyway"], words, capsys)
    assert code == 0 and told["gate"]["overridden"]
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
    short = replace(CASE, safe="I will not.", unsafe="Sure!")
    left = divergence(words, short, "reference", padding="left").toxic_layer()
    assert left != divergence(words, short, "reference").toxic_layer(), "or this test says nothing"
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
        patched.setattr(gate_choice, "ENOUGH", 0.0)
        chosen = ran(edit, plain, words, capsys)[1]
    # The gate's word on one that is made in turn is another, so that it has another folder.
    in_turn = [*plain, "--out", tmp_path / "in turn"]
    assert "Taken: on every prompt" in chosen["gate"]["choice"], "it fires on everything: the plain edit is as good"
    everywhere = ran(edit, [*plain, "--acts", "everywhere"], words, capsys)[1]
    assert everywhere["gate"]["choice"] == "" and everywhere["patch"] not in (chosen["patch"], told["patch"])
    _, both, errors = ran(edit, in_turn, words, capsys)
    assert "Another one is made" in errors and "less than 80 %" in errors, "the first one passed and defends nothing"
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


def test_both_answers_are_told_with_what_the_detector_read_and_whether_the_edit_acted(
    words, capsys, tmp_path, budgets, monkeypatch
):
    detector = Detector((0,), torch.zeros(1, 32), 0.0, 1.0, words.fingerprint, about={"auc_unseen": 0.5})
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.25, 1, 4), detector)
    for command in (edit, apply):
        monkeypatch.setattr(command, "calibration_of", lambda _: known)
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--keep-anyway", "--out", tmp_path]
    read = {"score": 0.0, "threshold": 1.0, "fires": False}
    for acts in ("detected", "everywhere"):
        _, made, errors = ran(edit, [*options, "--acts", acts], words, capsys)
        saved = made["saved"][0]
        assert ("Warning: This model's detector is weak" in errors) == (acts == "detected")
        asking = [saved, "--keep-anyway", "--ask", "Sing?", "--max-new-tokens", "3"]
        (answered,) = ran(apply, asking, words, capsys)[1]["answers"]
        assert answered["detector"] == {**read, "routed": acts == "detected"}
        assert answered["held_back"] is (acts == "detected")
        assert acts == "everywhere" or answered["edited"] == answered["vanilla"]


def with_a_path(record: Path, patch: Path) -> Path:
    record.write_text(json.dumps({**json.loads(record.read_text()), "name": "../elsewhere.safetensors"}))
    return record


def with_more(record: Path, patch: Path) -> Path:
    rewritten(patch, lambda tensors: {**tensors, "more": torch.ones(2)})
    return patch


def with_gaps(record: Path, patch: Path) -> Path:
    rewritten(patch, lambda tensors: {**tensors, "0.left": tensors["0.left"] * float("nan")})
    return patch


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "sha256"}
    save_file(change(load_file(path)), path, metadata=metadata)


def cut(record: Path, patch: Path) -> Path:
    patch.write_bytes(patch.read_bytes()[:-8])
    return record


def flipped(record: Path, patch: Path) -> Path:
    by_hand.flip_bit(patch)
    return record


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut, "cut or changed"),
        (flipped, "SHA-256"),
        (with_a_path, "outside its own folder"),
        (with_more, "holds more than a patch"),
        (with_gaps, "not finite"),
        (lambda record, _: record, "another base model"),
    ],
    ids=["cut", "wrong hash", "path in the name", "further tensors", "NaN", "another base"],
)
def test_a_saved_edit_that_is_not_whole_is_refused_before_anything_is_touched(
    words, capsys, tmp_path, budgets, damage, match, tiny
):
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path / "saved"]
    record, patch = map(Path, ran(edit, options, words, capsys)[1]["saved"])
    base = tiny("mistral") if match.startswith("another base") else words
    given = [damage(record, patch), "--ask", "Sing?", "--merged", tmp_path / "whole", "--keep-anyway"]
    code, told, errors = ran(apply, given, base, capsys)
    assert code == 2 and told is None and match in errors and not (tmp_path / "whole").exists()


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


def test_an_edit_on_top_of_a_saved_one_starts_from_it_and_is_saved_as_the_stack(words, capsys, tmp_path, budgets):
    options = [*QUICK, "--layer", "1", "--acts", "everywhere"]
    first = ran(edit, [*options, "--case", CASE.identifier, "--out", tmp_path / "first"], words, capsys)[1]
    assert first["stacked"] == 1
    other = next(case for case in bundled_cases() if case.split == "edit" and case.category != CASE.category)
    on_top = [*options, "--case", other.identifier, "--on-top", first["saved"][0]]
    code, told, _ = ran(edit, [*on_top, "--out", tmp_path / "both"], words, capsys)
    assert code == 0 and told["stacked"] == 2
    (below, _), (both, record) = (load_edit(Path(one["saved"][0]), words) for one in (first, told))
    assert record.stacked and record.case == other
    settings = method_settings("dinm", **read_settings("dinm", QUICK[1::2]), format=PromptFormat())
    made = run(edit_on_top(words, below, lambda carrying: dinm(carrying, other, 1, settings)))
    assert made.patch.identifier == both.patch.identifier
    (sum_of,) = both.patch.deltas
    assert not torch.allclose(sum_of.dense(), below.patch.deltas[0].dense())
    code, told, errors = ran(edit, [*on_top, "--plain-text", "--out", tmp_path / "plain"], words, capsys)
    assert code == 2 and told is None and "made in the chat template" in errors and "step 0" not in errors
