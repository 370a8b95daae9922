"""The run as a script and as a notebook: both give the visit's own numbers, on a model that is loaded from a folder."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import shlex
from dataclasses import replace
from html import unescape
from importlib import import_module
from typing import Any

import made_up
import pytest
import torch
from dashboard_helpers import SHORT_GATE, tiny_model
from made_up import OWN

from dashboard.house import REPORTERS
from dashboard.kit.sessions.acting import route
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sharing.parts import Hidden, Visit
from dashboard.report import again
from dashboard.report.document import Report, make_report
from dashboard.report.operation import operate
from dashboard.report.provenance import commands
from dashboard.steps.compare.run import Measured
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate import gating
from editing import run
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.budgets import Budgets
from editing.gate.gate import RECORD, GateSettings
from editing.knock_out import KnockOutSettings
from editing.methods.dinm import preset, to_be_routed
from editing.methods.registry import METHODS, method_of, method_settings, read_settings
from editing.saved.record import digest_of
from editing.stacking import STACK
from inspector.command import add_model, load_model
from inspector.errors import CaseError
from inspector.model import Decoding, Detector, InspectedModel, PromptFormat, load, read_paths
from inspector.presets import PRESETS
from inspector.safeedit import Case, bundled_cases

QUICK: dict[str, Any] = {"steps": 2, "harmless_prompts": 2, "harmless_tokens": 2, "own_refusals": 0, "safe_answers": 1}
QUICK |= {"learning_rate": 0.01, "null_space": None, "monitor": 0, "contexts": 0, "target_probability": None}
FORMAT = PromptFormat()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> InspectedModel:
    """The tiny model as it comes out of a folder, which a script can name."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().network.save_pretrained(folder)
    tiny_model().tokenizer.save_pretrained(folder)
    return load(str(folder), device="cpu", dtype="float32")


def visit(model: InspectedModel, case: Case, preset: str = "corrected", format: PromptFormat = FORMAT) -> Session:
    """Operate on a case as the command does; the edit is live whatever the gate says."""
    quick = {name: value for name, value in QUICK.items() if preset == "corrected" or name == "steps"}
    settings = method_settings("dinm", preset, **quick, suffix=format.suffix)  # type: ignore[arg-type]
    session = Session()
    decoding = Decoding(max_new_tokens=6, temperature=0.7, seed=11)
    operate(model, session, case, 1, settings, format, decoding, keep_anyway=True)
    return session


@pytest.fixture(scope="module")
def known(loaded) -> Session:
    """A visit of a case of one's own, for tests that only write it down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        return visit(loaded, OWN)


@pytest.fixture
def again_known(known) -> Session:
    """The same, for tests that change it."""
    session = Session()
    session.start_from(known)
    return session


def written(model: InspectedModel, session: Session, redact: bool = False) -> Report:
    found = make_report(model, Visit(session, Hidden(redact)), REPORTERS)
    assert found is not None
    return found


def executed(script: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script, "run.py", "exec"), namespace)
    return namespace


def notebook_lines(content: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    ("case", "preset", "format"),
    [
        (bundled_cases()[3], "corrected", FORMAT),
        (OWN, "paper", PromptFormat("Please be 'kind'.", chat=False)),
    ],
    ids=["bundled", "own, as in the paper, plain text"],
)
def test_script_and_notebook_give_the_numbers_of_the_visit(loaded, capsys, case, preset, format):
    session = visit(loaded, case, preset, format)
    report = written(loaded, session)
    measured, answers = session.slot(LocatedCase).divergence, session.slot(Measured).answers
    assert measured is not None and answers is not None and session.live is not None
    ran = executed(report.script)
    notebook: dict[str, Any] = {}
    for lines in notebook_lines(report.notebook):
        exec(compile(lines, "cell", "exec"), notebook)
    for names in (ran, notebook):
        assert names["case"].safe == case.safe and names["case"].adversarial_prompt == case.adversarial_prompt
        assert names["measured"].l2.tolist() == measured.l2.tolist()
        assert names["measured"].toxic_layer() == measured.toxic_layer()
        assert digest_of(names["patch"]) == digest_of(session.live.patch)
        assert tuple(names["texts"]) == answers.texts
        assert names["numbers"] == names["report"]
    told = capsys.readouterr().out
    assert told.count(": the same") == 8 and "in the report" not in told
    assert 30 <= len(report.script.splitlines()) <= 65
    assert all(text not in report.script for text in answers.texts), "answers are written down as hashes only"
    assert all(hashlib.sha256(text.encode()).hexdigest() in report.script for text in answers.texts)


def test_a_script_says_that_another_model_is_another_one(loaded, known):
    other = written(loaded, known).script.replace(loaded.fingerprint, "0" * 16)
    with pytest.raises(AssertionError, match="another model"):
        executed(other)


def test_a_routed_edit_an_examples_half_patch_and_a_visit_without_an_edit_are_written_so(loaded, again_known):
    session = again_known
    live = session.live
    assert live is not None
    detector = Detector((0,), loaded.network.get_input_embeddings().weight[:1] * 0, 0.0, -1.0, loaded.fingerprint)
    route(session, detector)
    assert "detector=known.detector" in written(loaded, session).script
    deltas = tuple(replace(d, left=d.left.half().float()) for d in live.patch.deltas)
    half = replace(live.result, patch=replace(live.patch, deltas=deltas))
    session.edits = [LiveEdit(live.case, half)]
    session.detector = None
    ran = executed(written(loaded, session).script)
    assert digest_of(ran["patch"]) == digest_of(half.patch) != digest_of(live.patch)
    session.edits = []
    ran = executed(written(loaded, session).script)
    assert ran["numbers"]["toxic layer"] == ran["report"]["toxic layer"] and "patch" not in ran


def test_script_and_notebook_of_a_routed_edit_that_reads_its_case_s_question_give_the_numbers_of_the_visit(
    loaded, capsys, monkeypatch
):
    monkeypatch.setattr(gating, "EXAM", SHORT_GATE)
    weights = torch.randn(1, loaded.architecture.d_model, generator=torch.Generator().manual_seed(3))
    detector = Detector((0,), weights, 0.0, 1e9, loaded.fingerprint)  # of harm in general it finds none
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr("editing.calibrating.calibration.calibration_of", lambda model: known)
    known.teach(loaded)
    session, settings = Session(), method_settings("dinm", "corrected", **QUICK)
    decoding = Decoding(max_new_tokens=6)
    operate(loaded, session, OWN, 1, settings, FORMAT, decoding, calibration=known, acts="where harm", keep_anyway=True)
    assert session.detector is not None and len(session.detector.case_biases) == 1
    answers = session.slot(Measured).answers
    assert answers is not None and session.live is not None
    report = written(loaded, session)
    assert "run(acts_by(model, known.detector, case, patch.format))" in report.script
    notebook: dict[str, Any] = {}
    for lines in notebook_lines(report.notebook):
        exec(compile(lines, "cell", "exec"), notebook)
    for names in (executed(report.script), notebook):
        assert names["row"].key == session.row.key and names["row"].detector.digest == session.detector.digest
        assert tuple(names["texts"]) == answers.texts and names["numbers"] == names["report"]
    assert "in the report" not in capsys.readouterr().out


def test_what_cannot_be_made_in_one_go_is_said_and_not_written():
    session = Session()
    result = made_up.result()
    assert result.patch is not None
    stacked = replace(result, patch=replace(result.patch, settings={STACK: "two"}))
    session.edits = [LiveEdit(OWN, stacked)]
    report = written(tiny_model(), session)
    assert "on top of another one" in report.html and "METHODS" not in report.script


def test_what_learnt_from_further_cases_is_not_made_again_without_them():
    made = made_up.result()
    assert made.patch is not None
    model, session, settings = tiny_model(), Session(), METHODS["sft"].settings()
    for further in (0, 8):
        patch = replace(made.patch, method="SFT", settings={"companions": further})
        session.edits = [LiveEdit(OWN, replace(made, settings=settings, patch=patch))]
        report, lines = written(model, session), commands(model, session, {}, Hidden(False))
        alone = further == 0
        assert ["METHODS['sft']" in content for content in (report.script, report.notebook)] == [alone] * 2
        assert any("editing.edit" in line for _, line in lines) is alone
        assert ("trained on 8 further cases, which neither script" in unescape(report.html)) is not alone
    session.edits = [LiveEdit(OWN, replace(made, patch=replace(made.patch, settings={"companions": 12})))]
    assert again.why_not_again(session.live) is None, "DINM finds its own companions by its settings"


@pytest.mark.parametrize(("told", "again_alone"), [({"companions": 8}, False), ({}, False), ({"companions": 0}, True)])
def test_an_edit_of_a_version_that_kept_no_further_cases_is_not_sent_to_its_record(told, again_alone):
    made = made_up.result()
    assert made.patch is not None
    patch = replace(made.patch, method="SFT", settings=told)
    session = Session()
    session.edits = [LiveEdit(OWN, replace(made, settings=METHODS["sft"].settings(), patch=patch, learnt_from=None))]
    said = again.why_not_again(session.live)
    assert said is None if again_alone else said is not None and "did not keep which further cases" in said


def test_settings_of_every_method_and_preset_are_written_so_that_they_are_read_the_same():
    presets = [method_settings("dinm", name, steps=7, suffix="Be kind.", chat=False) for name in PRESETS]
    for settings in [*presets, *(method.settings() for method in METHODS.values())]:
        key, changes = method_of(settings), again.changes_of(settings)
        assert key is not None
        assert method_settings(key, getattr(settings, "preset", "corrected"), **changes) == settings
        assert eval(repr(changes)) == changes
    assert again.changes_of(METHODS["dpo"].settings()) == {}


def test_a_knock_out_names_its_neurons():
    session = Session()
    result = replace(made_up.result(), settings=KnockOutSettings((3, 5)))
    session.edits = [LiveEdit(OWN, result)]
    script = written(tiny_model(), session).script
    compile(script, "run.py", "exec")
    assert "knock_out(model, case, 1, [3, 5], format=PromptFormat(turn_end=False))" in script


def test_a_redacted_script_has_gaps_and_no_word_of_the_texts(loaded, known):
    report = written(loaded, known, redact=True)
    own = re.sub(r"<script>.*?</script>", "", report.html, flags=re.S)
    for content in (report.script, report.notebook, own):
        assert "[redacted, 6 words]" in content
        assert all(text not in content for text in ("pirate", "brother", "Arr", "tell him"))
    compile(report.script, "run.py", "exec")


def test_a_redacted_script_leaves_the_constraint_s_texts_out(loaded, known):
    whole = written(loaded, known)
    assert OWN.constraint is not None and "Why do leaves fall" in whole.script
    redacted = written(loaded, known, redact=True)
    assert "constraint=Constraint('[redacted, 4 words]', '[redacted, 4 words]')" in redacted.script
    for content in (redacted.script, redacted.notebook, redacted.html):
        assert not [text for text in (OWN.constraint.prompt, OWN.constraint.answer) if text in content]


def test_a_model_of_a_revision_is_named_with_it_wherever_the_run_is_made_again(loaded, known, monkeypatch):
    monkeypatch.setattr(loaded, "revision", "v1.2")
    assert load(loaded.name, device="cpu", dtype="float32", revision="v1.2").revision == "v1.2"
    report = written(loaded, known)
    assert "revision='v1.2')" in report.script and "Its revision" in report.html
    lines = [line for line in report.html.split("<pre>") if " -m " in line.split("</pre>")[0]]
    assert len(lines) == 4 and all("--revision v1.2" in line for line in lines)


def test_what_completed_the_architecture_map_is_named_wherever_the_run_is_made_again(loaded, known, monkeypatch):
    paths = {"final_norm": "model.norm", "blocks": "model.layers"}
    monkeypatch.setattr(loaded, "paths", load(loaded.name, device="cpu", dtype="float32", paths=paths).paths)
    report = written(loaded, known)
    assert f"paths={paths!r})" in unescape(report.html) and f"paths={paths!r})" in report.script
    lines = [shlex.split(unescape(found)) for found in re.findall(r"<pre>(\S+ -m .*?)</pre>", report.html, flags=re.S)]
    assert len(lines) == 4
    for line in lines:
        given = [value for name, value in itertools.pairwise(line) if name == "--path"]
        assert read_paths(given) == paths


@pytest.mark.parametrize(
    "placed",
    [
        {"device": "cpu"},
        {"device": "cuda:1"},
        {"device": "cpu", "device_map": "auto"},
        {"device_map": "auto", "max_memory": {0: 70 * 2**30, 1: 3_500_000_001, "cpu": 1536 * 2**10}},
    ],
)
def test_a_model_whose_place_was_named_or_that_is_spread_is_loaded_so_wherever_the_run_is_made_again(
    loaded, known, monkeypatch, placed
):
    monkeypatch.setattr(loaded, "placed", placed)
    monkeypatch.setattr("inspector.command.load", lambda _name, **how: how)
    report = written(loaded, known)
    lines = [shlex.split(unescape(found)) for found in re.findall(r"<pre>(\S+ -m .*?)</pre>", report.html, flags=re.S)]
    assert len(lines) == 4
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_model(parser)
    untold = {"device": "auto", "device_map": None, "max_memory": None}
    for line in lines:
        read = load_model(parser.parse_known_args(line[3:])[0])
        assert {name: read[name] for name in untold} == untold | placed, line[2]
    (call,) = re.findall(r"^model = (load\(.*?\))  #", report.script, flags=re.M)
    told = eval(call, {"load": lambda _name, **how: how})
    assert {name: told[name] for name in untold if name in told} == placed


def test_the_notebook_is_one_of_format_4_5(loaded, known):
    content = json.loads(written(loaded, known).notebook)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    identifiers = [cell["id"] for cell in content["cells"]]
    assert len(set(identifiers)) == len(identifiers) and all(len(one) <= 64 for one in identifiers)
    for cell in content["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and isinstance(cell["source"], list)
        assert ("outputs" in cell and "execution_count" in cell) == (cell["cell_type"] == "code")


def test_calibrated_models_teach_the_script_what_the_page_knew(loaded, known, monkeypatch):
    """The command teaches the model its calibration; the script does the same before it edits."""
    layers = Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4)
    detector = Detector((0,), loaded.network.get_input_embeddings().weight[:1] * 0, 0.0, -1.0, loaded.fingerprint)
    calibration = Calibration(layers, detector)
    taught = []
    monkeypatch.setattr("editing.calibrating.calibration.calibration_of", lambda model: calibration)
    monkeypatch.setattr(Calibration, "teach", lambda self, model: taught.append(model.fingerprint))
    executed(written(loaded, known).script)
    assert taught == [loaded.fingerprint]


@pytest.mark.parametrize("settings", [preset("corrected", steps=7), to_be_routed(preset("corrected"))])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize(
    ("line", "program"),
    [("Edit, gate, save", "editing.edit"), ("All of it, and a report like this one", "dashboard.report")],
)
def test_the_command_that_makes_an_edit_again_makes_it_with_its_settings_wherever_it_acts(
    settings, routed, line, program
):
    """What is said on the command line stays; what is not becomes that of an edit to be routed."""
    model, session = tiny_model(), Session()
    result = made_up.result()
    session.edits = [LiveEdit(OWN, replace(result, settings=settings))]
    session.scale(0.5)
    if routed:
        session.detector = Detector((0,), torch.zeros(1, 4), 0.0, 0.0, model.fingerprint)
    made = dict(commands(model, session, {}, Hidden()))
    options = shlex.split(made[line].split(f"{program} ")[1])
    given = [value for name, value in itertools.pairwise(options) if name == "--set"]
    read = method_settings("dinm", "corrected", **read_settings("dinm", given))
    taken = to_be_routed(read, read_settings("dinm", given)) if "detected" in options else read
    assert taken == settings and ("detected" in options) == routed
    assert options[options.index("--strength") + 1] == "0.5" and "--acts" in options


@pytest.mark.parametrize(
    "settings",
    [
        preset("paper", constraint="answer"),
        preset("paper", loss_positions="reference", suffix=""),
        preset("reference", constraint="harmless", loss_positions="aligned", chat=True, clamp=0.1),
        preset("corrected", chat=False, constraint="answer", null_space=None),
    ],
)
@pytest.mark.parametrize("program", ["editing.edit", "dashboard.report"])
def test_the_commands_of_an_edit_are_read_by_their_own_parsers_to_its_settings(
    settings, program, monkeypatch, tmp_path
):
    """Where what is changed goes together with its preset alone, too."""
    session = Session()
    session.edits = [LiveEdit(OWN, replace(made_up.result(), settings=settings))]
    made = (line for _, line in commands(tiny_model(), session, {}, Hidden()) if f" {program} " in line)
    options = shlex.split(next(made).split(f"{program} ")[1])
    options[options.index("--out") + 1] = str(tmp_path / "out")
    command = import_module("dashboard.report.__main__" if program == "dashboard.report" else program)
    read = []

    def no_model(chosen):
        read.append((command.settings_of(chosen, "dinm"), command.case_of(chosen)))
        raise CaseError("Read.")

    assert command.main(options, no_model) == 2 and read == [(settings, OWN)], "its constraint is named, too"


def refused_again(model: InspectedModel, session: Session) -> None:
    """Examine the live edit again under budgets that no edit keeps; it stays live."""
    settings = GateSettings(Budgets(harmless_kl=0), harmless=2, questions=1, max_new_tokens=3, least_gain=0)
    run(gating.examine_now(model, session, settings))


def with_word(session: Session, **changes: Any) -> None:
    """Change the gate's word on the live edit; without changes there is none."""
    live = session.live
    assert live is not None
    settings = {name: value for name, value in live.patch.settings.items() if name != RECORD}
    if changes:
        settings[RECORD] = {**live.patch.settings[RECORD], **changes}
    session.edits = [replace(live, result=replace(live.result, patch=replace(live.patch, settings=settings)))]


def rerouted(model: InspectedModel, session: Session) -> None:
    with_word(session, passed=True)
    route(session, Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, 0.0, model.fingerprint))


@pytest.mark.parametrize(
    ("comes_live", "told"),
    [
        (lambda model, session: with_word(session, passed=True), False),
        (lambda model, session: None, True),
        (lambda model, session: (with_word(session, passed=True), session.scale(0.5)), True),
        (rerouted, True),
        (lambda model, session: with_word(session), True),
    ],
    ids=["passed", "refused when examined again", "scaled by hand", "rerouted by hand", "loaded from Methods"],
)
def test_commands_go_on_with_a_live_edit_that_the_gate_has_not_passed_as_it_acts(loaded, again_known, comes_live, told):
    refused_again(loaded, again_known)
    live = again_known.live
    assert live is not None
    word = live.patch.settings[RECORD]
    assert not word["passed"] and not word["overridden"]
    comes_live(loaded, again_known)
    lines = [line for _, line in commands(loaded, again_known, {}, Hidden()) if "--acts" in line]
    assert len(lines) == 2 and [("--keep-anyway" in shlex.split(line)) for line in lines] == [told] * 2


def test_a_report_says_what_script_and_notebook_repeat_and_what_they_do_not(loaded, known):
    report = written(loaded, known)
    for content in (report.html, report.script, report.notebook):
        words = " ".join(unescape(content).split())
        assert "make the divergence, the patch and both answers again" in words and "neither the gate nor" in words
    nothing = again.repeats([])
    assert "again" not in nothing and "neither the gate nor" in nothing


@pytest.mark.parametrize("preset_name", PRESETS)
def test_the_report_s_own_command_names_the_format_and_padding_of_the_run(preset_name):
    format = PromptFormat("Be kind.", chat=False)
    settings = method_settings("dinm", preset_name, suffix=format.suffix, chat=False)
    session = Session()
    session.format, session.case = format, OWN
    session.edits = [LiveEdit(OWN, replace(made_up.result(), settings=settings))]
    facts = {"locate": {"preset": preset_name, "padding": "left"}}
    line = dict(commands(tiny_model(), session, facts, Hidden()))["All of it, and a report like this one"]
    given = " ".join(shlex.split(line))
    assert "--suffix-prompt Be kind. --plain-text " in given
    assert ("--padding left" in given) == (preset_name != "corrected"), "corrected pads nothing"
