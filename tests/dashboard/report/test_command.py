"""``python -m dashboard.report`` on a tiny model: what it writes and prints, and its exit codes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from dashboard_helpers import Page, tiny_model
from sweep_helpers import write_cases

from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM
from dashboard.kit.sessions.session import Session
from dashboard.report import __main__ as command
from dashboard.report import operation
from dashboard.steps.methods import run as contests
from dashboard.steps.stress import run as stressing
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.budgets import Budgets
from inspector.divergence import divergence
from inspector.model import Decoding, Detector, PromptFormat
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import EVALUATIONS
from inspector.safeedit.layouts import read_cases
from inspector.safeedit.questions import Size

CASE = next(case for case in bundled_cases() if case.split == "edit")
SHORT = ("steps=2", "harmless_prompts=2", "harmless_tokens=2", "own_refusals=0", "learning_rate=0.01")
OPTIONS = [part for entry in (*SHORT, "null_space=none", "monitor=0") for part in ("--set", entry)]
OPTIONS += ["--max-new-tokens", "4", "--stress-tokens", "5", "--methods-tokens", "3"]
OPTIONS += ["--layer", "1", "--case", str(CASE.identifier)]


@pytest.fixture(autouse=True)
def lenient(monkeypatch) -> None:
    """Budgets that any edit keeps, and a stress test of a few prompts."""
    monkeypatch.setattr(operation, "Budgets", lambda: Budgets(100.0, 100.0, 100.0, 100.0, 100.0))
    monkeypatch.setitem(stressing.SIZES, "This case", Size(0, 1, 0, 0))


def ran(options: list[Any], capsys) -> tuple[int, Any, str]:
    code = command.main([str(option) for option in options], lambda _: tiny_model())
    told = capsys.readouterr()
    return code, (json.loads(told.out) if told.out else None), told.err


def test_report_script_and_notebook_are_written_and_what_was_done_is_printed(tmp_path: Path, capsys):
    out, script, notebook = (tmp_path / f"r.{ending}" for ending in ("html", "py", "ipynb"))
    stress = ("--stress", "This case", "--evaluation", "paper")
    code, told, errors = ran([*OPTIONS, *stress, "--out", out, "--script", script, "--notebook", notebook], capsys)
    assert "The answers of the stress test have at most 5 tokens (--stress-tokens), not 4." in errors
    assert "of the methods" not in errors, "they are not run"
    assert code == 0 and told["gate"]["passed"] and told["layer"] == told["block"] == 1 and "step 2" in errors
    assert told["toxic_layer"] == divergence(tiny_model(), CASE).toxic_layer()
    assert told["parts"][-2:] == ["Stress test", "Where the numbers come from"] and len(told["digest"]) == 64
    html = out.read_text(encoding="utf-8")
    assert EVALUATIONS["paper"] in html and "Edit, gate by its default budgets, save" in html
    assert "without: the gate&#x27;s budgets of this visit, harmless KL 100 instead of 0.2, " in html
    assert "--max-new-tokens 4 --stress &#x27;This case&#x27; --evaluation paper --stress-tokens 5 --out" in html
    assert told["digest"] in html and told["patch"] in html and told["digest"] in script.read_text(encoding="utf-8")
    assert told["written"] == [str(out), str(script), str(notebook)] and told["digest"] in notebook.read_text()


def test_the_stress_test_of_a_report_stands_beside_the_same_weights_rounded(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(stressing.SIZES, "Quick", Size(0, 2, 0, 0))
    out = tmp_path / "r.html"
    options = [*OPTIONS, "--stress", "Quick", "--out", out]
    code, _, errors = ran(options, capsys)
    assert code == 0 and ">Rounded</" in out.read_text(encoding="utf-8") and "No rounding row" not in errors

    def full(*_given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("editing.rounding.rounding_row", full)
    code, _, errors = ran(options, capsys)
    assert code == 0 and ">Rounded</" not in out.read_text(encoding="utf-8"), "it costs the row, not the report"
    assert "No rounding row: The device ran out of memory." in errors
    monkeypatch.setitem(stressing.SIZES, "Quick", Size(0, 0, 0, 0))
    code, _, errors = ran(options, capsys)
    assert code == 0 and "No rounding row: this stress test asks no harmless prompt" in errors


def test_methods_are_run_on_the_case_and_stand_in_the_report_in_their_order(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(contests.SIZES, "Brief", Size(0, 1, 0, 0))
    out = tmp_path / "r.html"
    asked = [*OPTIONS, "--methods", "self-reminder", "ft-l", "--evaluation", "paper", "--out", out]
    code, told, errors = ran(asked, capsys)
    assert code == 0 and "Methods" in told["parts"] and "No rounding row" not in errors
    html = out.read_text(encoding="utf-8")
    assert html.count(">Rounded</") == 1, "beside vanilla in the table of all scores"
    part = html[html.index("Methods on the same case") :]
    assert part.index("FT-L") < part.index("Self-Reminder"), "in the registry's order"
    assert 'data-title="Erase or suppress, by method"' in html and EVALUATIONS["paper"] in html
    assert "--methods ft-l self-reminder --evaluation paper --methods-tokens 3 --out" in html
    with pytest.raises(SystemExit) as ended:
        ran([*OPTIONS, "--methods", "dinn", "--out", out], capsys)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("options", "edited"),
    [
        (("--layer", "1"), 1),
        (("--layer", "recommended"), 1),
        (("--layer", "auto"), None),
        (("--layer", "1", "--methods-layer", "auto"), None),
    ],
)
def test_methods_edit_the_layer_that_is_named_for_all_or_each_its_own(
    tmp_path: Path, capsys, monkeypatch, options, edited
):
    monkeypatch.setitem(contests.SIZES, "Brief", Size(0, 1, 0, 0))
    detector = Detector((0,), torch.ones(1, tiny_model().architecture.d_model), 0.0, -1e9, tiny_model().fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr(command, "calibration_of", lambda _: known)
    out, toxic = tmp_path / "r.html", divergence(tiny_model(), CASE).toxic_layer()
    chosen = [*OPTIONS, "--acts", "everywhere", *options, "--methods", "ft-l", "--out", out]
    code, told, _ = ran(chosen, capsys)
    html = out.read_text(encoding="utf-8")
    assert code == 0 and told["layer"] == 1 != toxic
    assert (f"FT-L edits layer {toxic}" in html) == (edited is None)
    assert ("--methods-layer auto" in html) == (edited is None), "the report's own command makes the same again"


def test_methods_are_examined_routed_as_well_where_the_command_is_told_to(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(contests.SIZES, "Brief", Size(0, 1, 0, 0))
    out, chosen = tmp_path / "r.html", [*OPTIONS, "--acts", "everywhere", "--methods-routed"]
    code, told, errors = ran([*chosen, "--methods", "ft-l", "--out", out], capsys)
    assert code == 2 and told is None and "Run: python -m editing.calibrate" in errors
    code, told, errors = ran([*chosen, "--out", out], capsys)
    assert code == 2 and told is None and "Name some with --methods" in errors
    model = tiny_model()
    detector = Detector((0,), torch.ones(1, model.architecture.d_model), 0.0, -1e9, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr(command, "calibration_of", lambda _: known)
    code, told, errors = ran([*chosen, "--methods", "ft-l", "--out", out], capsys)
    html = out.read_text(encoding="utf-8")
    assert code == 0 and "FT-L, routed" in html and "--methods ft-l" in html and "--methods-routed" in html
    assert "routed afterwards" not in html


@pytest.mark.parametrize("asked", [[], ["--max-new-tokens", "7", "--stress-tokens", "8", "--methods-tokens", "9"]])
def test_answers_stress_test_and_methods_each_have_a_length_that_of_the_page_where_none_is_given(
    tmp_path: Path, capsys, monkeypatch, page: Page, asked
):
    """Those of the command and of the page's controls are one."""
    lengths: dict[str, int] = {}

    def answers(model: Any, session: Session, *given: Any, **how: Any) -> None:
        lengths["answers"] = given[4].max_new_tokens
        plain(model, session, *given[:4], Decoding(max_new_tokens=4), **how)

    plain = command.operate
    monkeypatch.setattr(command, "operate", answers)
    monkeypatch.setattr(command, "stress", lambda *given: lengths.update(stress=given[4].max_new_tokens))
    monkeypatch.setattr(command, "several", lambda *given, **_: lengths.update(methods=given[5].max_new_tokens))
    start = OPTIONS.index("--max-new-tokens")
    chosen = [*OPTIONS[:start], *OPTIONS[start + 6 :], *asked, "--stress", "This case", "--methods", "ft-l"]
    code, _, errors = ran([*chosen, "--out", tmp_path / "r.html"], capsys)
    parts = page.parts
    own = [part.value for part in (parts.max_new_tokens, parts.stress_tokens, parts.methods_tokens)]
    assert code == 0, errors
    assert lengths == dict(zip(("answers", "stress", "methods"), [7, 8, 9] if asked else own, strict=True))


def test_locators_pad_where_the_command_says_and_the_padding_study_comes_with_them(tmp_path: Path, capsys, monkeypatch):
    asked, plain = [], operation.why.ask_locators
    monkeypatch.setattr(operation.why, "ask_locators", lambda *given: asked.append(given[3]) or plain(*given))
    monkeypatch.setattr(operation, "Budgets", Budgets)
    out = tmp_path / "r.html"
    code, _, _ = ran([*OPTIONS, "--locators", "--padding", "left", "--keep-anyway", "--out", out], capsys)
    html = out.read_text(encoding="utf-8")
    assert code == 0 and asked == ["left"] and 'data-title="The released locator, padded both ways"' in html
    assert "All of it, and a report like this one" in html and "--locators --padding left --out report.html" in html


def test_the_toxic_layer_that_is_edited_is_the_one_that_is_shown(tmp_path: Path, capsys):
    """Padding and prompt format decide both, on a case in which either of them moves it."""
    answers = {"safe generation": "No.", "unsafe generation": "Yes, I will tell you all of it, and more, day by day."}
    cases = write_cases(tmp_path, 1, **answers)
    own, out = read_cases(cases).cases[0], tmp_path / "r.html"
    left = divergence(tiny_model(), own, "reference", padding="left").toxic_layer()
    assert left != divergence(tiny_model(), own, "reference").toxic_layer(), "or this test says nothing"
    located = [*OPTIONS, "--layer", "toxic", "--out", out]
    _, told, _ = ran([*located, "--cases", cases, "--case", "0", "--preset", "reference", "--padding", "left"], capsys)
    assert told["block"] == told["toxic_layer"] == left

    moved = next(case for case in bundled_cases() if case.identifier == 21)
    plain = divergence(tiny_model(), moved, format=PromptFormat("", chat=False)).toxic_layer()
    assert plain != divergence(tiny_model(), moved).toxic_layer(), "or this test says nothing"
    for format in (("--plain-text", "--suffix-prompt", ""), ("--set", "chat=false", "--set", "suffix=")):
        _, told, _ = ran([*located, "--case", "21", *format], capsys)
        assert told["block"] == told["toxic_layer"] == plain, "the edit's format, whichever way it is given"


def test_a_refused_edit_is_reported_as_refused_and_goes_on_only_by_hand(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(operation, "Budgets", lambda: Budgets(0.0, 100.0, 100.0, 100.0, 100.0))
    out = tmp_path / "r.html"
    code, told, _ = ran([*OPTIONS, "--out", out], capsys)
    assert code == 1 and told["weights"] == "vanilla" and not told["gate"]["passed"]
    assert "Refused by the gate" in out.read_text(encoding="utf-8") and "Both answers" not in told["parts"]
    code, told, _ = ran([*OPTIONS, "--keep-anyway", "--redact", "--out", out], capsys)
    html = out.read_text(encoding="utf-8")
    assert code == 0 and told["gate"]["overridden"] and "kept by hand" in html and "[redacted, " in html


def test_where_no_layer_helps_the_answer_is_no_with_its_reason_and_nothing_is_written(
    tmp_path: Path, capsys, monkeypatch
):
    model = tiny_model()
    detector = Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, -1.0, model.fingerprint)
    nowhere = Calibration(Layers((Trial(1, 0.0, 0.1, 1.0),), 0.5, 1, 4), detector)
    monkeypatch.setattr(command, "calibration_of", lambda _: nowhere)
    code, told, errors = ran([*OPTIONS, "--layer", "auto", "--out", tmp_path / "r.html"], capsys)
    assert code == 1, "as python -m editing.edit ends"
    assert "No layer helps" in told["refused"] and told["refused"] in errors
    assert (told["layer"], told["block"], told["weights"], told["written"]) == (None, None, "vanilla", [])
    assert told["patch"] is told["digest"] is told["gate"] is None and told["parts"] == []
    assert told["recommended_layer"] is None and not list(tmp_path.iterdir())
    _, edited, _ = ran([*OPTIONS, "--out", tmp_path / "r.html"], capsys)
    assert list(told) == list(edited), "one list of names, whatever came of it"
    marks = ("model", "fingerprint", "toxic_layer", "toxic_reason", "recommended_layer", "recommended_reason")
    assert [told[name] for name in marks] == [edited[name] for name in marks]
    assert told["toxic_layer"] == divergence(tiny_model(), CASE).toxic_layer() and edited["refused"] is None


def test_a_full_disk_leaves_the_report_that_was_there_and_the_exit_code_is_2(tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "r.html"
    out.write_text("the one before", encoding="utf-8")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("inspector.model.whole_file.os.fsync", full)
    code, told, errors = ran([*OPTIONS, "--out", out], capsys)
    assert code == 2 and told is None and "cannot be written (No space left" in errors
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["the one before"]


def test_what_was_written_before_another_file_fails_is_told(tmp_path: Path, capsys, monkeypatch):
    out, script = tmp_path / "r.html", tmp_path / "r.py"
    plain = command.write_whole

    def full(path: Path, content: str) -> None:
        if path == script:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, content)

    monkeypatch.setattr(command, "write_whole", full)
    code, told, errors = ran([*OPTIONS, "--out", out, "--script", script, "--notebook", tmp_path / "r.ipynb"], capsys)
    assert code == 2 and f"{script} cannot be written (No space left" in errors
    assert told["written"] == [str(out)] and told["digest"] in out.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--case", "none such"], "Its ids: 0, 1, 2"),
        (["--layer", "99"], "99"),
        (["--layer", "best"], "neither"),
        (["--layer", "recommended"], "is not calibrated, so no layer of it is recommended. Run: python -m"),
        (["--set", "steps=none such"], "steps"),
        (["--max-new-tokens", "0"], "1 to 1024"),
        (["--stress-tokens", "0"], "Change --stress-tokens"),
        (["--methods-tokens", "1025"], "Change --methods-tokens"),
        (["--out", "/nowhere/at/all.html"], "cannot be written"),
        (["--question", "Sing?"], "needs --question, --safe and --unsafe"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(tmp_path: Path, capsys, options, match):
    code, told, errors = ran([*OPTIONS, "--out", tmp_path / "r.html", *options], capsys)
    assert code == 2 and told is None and match in errors and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--strength", "2"], "Choose one from 0 to 1.5"),
        (["--script", "{}/r.html"], "each its own path"),
        (["--notebook", "{}/../{name}/r.html"], "each its own path"),
        (["--script", "{}/r.py", "--notebook", "{}/r.py"], "each its own path"),
    ],
)
def test_strength_and_targets_are_looked_at_before_the_model_is_loaded(tmp_path: Path, capsys, options, match):
    (tmp_path / "r.html").write_text("the one before", encoding="utf-8")
    given = [option.format(tmp_path, name=tmp_path.name) for option in options]
    loaded: list[Any] = []
    assert command.main([*OPTIONS, "--out", str(tmp_path / "r.html"), *given], loaded.append) == 2  # type: ignore[arg-type]
    assert match in capsys.readouterr().err and loaded == []
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["the one before"]


@pytest.mark.parametrize("option", ["--out", "--script", "--notebook"])
def test_a_folder_that_may_not_be_written_to_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys, monkeypatch, option
):
    closed, may = tmp_path / "closed", os.access
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    loaded: list[Any] = []
    given = [*OPTIONS, "--out", str(tmp_path / "r.html"), option, str(closed / "file")]
    assert command.main(given, loaded.append) == 2  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"another file's path with {option}. ({closed / 'file'})" in told and loaded == []


@pytest.mark.parametrize("acts", ["everywhere", "detected"])
def test_the_command_acts_where_it_is_told_at_its_strength_and_keeps_what_was_set(
    tmp_path: Path, capsys, monkeypatch, acts
):
    """Of an edit that is to be routed the constraint would go, unless somebody has asked for it."""
    model = tiny_model()
    detector = Detector((0,), torch.ones(1, model.architecture.d_model), 0.0, -1e9, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr(command, "calibration_of", lambda _: known)
    made, plain = [], operation.dinm
    monkeypatch.setattr(operation, "dinm", lambda *given: made.append(given[3]) or plain(*given))
    chosen = ["--set", "constraint_weight=1", "--acts", acts, "--strength", "0.5", "--keep-anyway"]
    chosen += ["--stress", "This case"]
    code, told, _ = ran([*OPTIONS, *chosen, "--out", tmp_path / "r.html"], capsys)
    assert code == 0 and "strength 0.5" in told["weights"]
    assert [settings.constraint_weight for settings in made] == [1]
    assert ("only where harm is detected" in told["weights"]) == (acts == "detected")
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"--strength 0.5 --acts {acts}" in html
    heads = html[html.index("<h2>Stress test</h2>") :]
    assert EVERYWHERE in heads and WHERE_HARM in heads, "the stress test is of both ways, as on the page"
    assert "as it acts elsewhere" not in html, "and its own command makes them"
