"""The sweep: every case on disk at once, resume after a kill, refusals, the report's numbers."""

from __future__ import annotations

import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
from sweep_helpers import ENDLESS, HERE, PLAIN, SHORT, finished, loader, record, stripped, write_cases

from editing.methods.dinm import ROUTED, preset, to_be_routed
from editing.methods.registry import method_settings, read_settings
from editing.sweep import METHODS, CaseRecord, Finished, Store, SweepSettings, cases_of, only_one
from editing.sweep import __main__ as program
from editing.sweep.__main__ import _settings, main, options
from editing.sweep.paper import COLUMNS, TABLE_1
from editing.sweep.work import chosen_layer
from editing.values import setting_value
from inspector.divergence import divergence
from inspector.errors import EditError
from inspector.safeedit.questions import CASE_PROMPTS


def test_a_sweep_edits_and_scores_every_case_and_reports(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--cases", write_cases(tmp_path, 2), "--out", str(out), "--report", *SHORT]
    assert main(arguments, loader) == 0
    told = capsys.readouterr()
    assert "2 of 2 cases to do" in told.err and "2 of 2: case 1 done" in told.err
    assert "tiny-llama DINM" in told.err and "86.74" in told.err and "Judge: refusal rules. A proxy" in told.err
    results = finished(out)
    assert [(r.number, r.case, r.category) for r in results] == [(0, "0", "mental harm"), (1, "1", "offensiveness")]
    assert [r.question.kind for r in results[0].replies] == [*CASE_PROMPTS, "harmless", "fact"]
    assert results[0].record.edit["updates"] == 2 and len(results[0].record.patch) == 8
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["cases"] == 2 and scores["scores"][0]["name"] == "DS" and scores["scores"][0]["edited"]["n"] == 2
    written = (out / "report.txt").read_text(encoding="utf-8")
    assert told.err.endswith(written)
    assert main(["--out", str(out), "--report"], loader) == 0
    again = capsys.readouterr()
    assert again.err == written and again.out == told.out
    record = json.loads(again.out)
    assert record["cases"] == {"done": 2, "refused": 0, "failed": 0} and record["scores"][0]["name"] == "DS"


def test_a_finished_sweep_has_nothing_left_to_do(tmp_path, capsys):
    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
    assert main(arguments, loader) == 0
    before = finished(tmp_path / "out")
    assert main(arguments, loader) == 0
    assert "0 of 1 cases to do" in capsys.readouterr().err and finished(tmp_path / "out") == before


def test_a_killed_sweep_goes_on_where_it_stopped_and_loses_nothing(tmp_path, capsys, one_thread):
    cases, out = write_cases(tmp_path, 3), tmp_path / "out"
    arguments = ["--cases", cases, "--out", str(out), *SHORT, *PLAIN]
    paths = f"{HERE.parent}{os.pathsep}{HERE}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, ENDLESS: "yes"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "sweep_helpers.py"), *arguments],
        cwd=HERE.parent,
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # a line stands here as soon as the case before it is on disk
        if line.startswith("1 of 3"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    kept = finished(out)
    assert [result.status for result in kept] == ["done"]
    assert main(arguments, loader) == 0
    assert "2 of 3 cases to do" in capsys.readouterr().err
    whole = finished(out)
    assert [result.number for result in whole] == list(range(3)) and whole[:1] == kept
    assert main(["--cases", cases, "--out", str(tmp_path / "again"), *SHORT, *PLAIN], loader) == 0
    assert stripped(whole) == stripped(finished(tmp_path / "again"))


def test_a_cut_transaction_leaves_what_was_committed(tmp_path):
    store = Store(tmp_path)
    store.save(Finished(0, "0", "mental harm", "done", CaseRecord(block=1), 0.5))
    other = sqlite3.connect(tmp_path / "sweep.sqlite")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO results (number) VALUES (1)")
    other.close()  # without a commit
    store.close()
    assert [(r.number, r.record) for r in finished(tmp_path)] == [(0, CaseRecord(block=1))]


def test_a_missing_ray_is_named_with_what_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), "--engine", "ray", *SHORT]
    assert main(arguments, loader) == 2
    assert "requirements-cluster.txt" in capsys.readouterr().err


def test_a_case_that_cannot_be_edited_on_is_kept_as_failed_and_the_others_go_on(tmp_path, capsys):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([record(0, **{"adversarial prompt": "x" * 9000}), record(1)]), encoding="utf-8")
    arguments = ["--cases", str(path), "--out", str(tmp_path / "out"), "--report", *SHORT]
    assert main(arguments, loader) == 1
    results = finished(tmp_path / "out")
    assert [result.status for result in results] == ["failed", "done"]
    assert "tokens" in results[0].record.error and "Failed:\n  case 0:" in capsys.readouterr().err


def test_another_sweep_in_the_same_folder_is_refused(tmp_path, capsys):
    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
    assert main(arguments, loader) == 0
    before = finished(tmp_path / "out")
    for more, said in (
        (["--max-new-tokens", "7"], "max_new_tokens = 6 there, 7 here"),
        (["--set", "steps=3"], "changes = "),
        (["--revision", "1"], "revision = None there, '1' here"),
    ):
        capsys.readouterr()
        assert main([*arguments, *more], loader) == 2, more
        error = capsys.readouterr().err
        assert said in error and "another --out" in error and finished(tmp_path / "out") == before


def test_other_base_weights_are_refused(tmp_path, capsys):
    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
    assert main(arguments, loader) == 0

    def other(settings: SweepSettings):
        return loader(SweepSettings(revision="5"))

    assert main(arguments, other) == 2
    assert "base weights" in capsys.readouterr().err


def test_the_same_base_weights_in_another_data_type_are_refused(tmp_path, capsys):
    """Both have one fingerprint, and ``--dtype auto`` is either."""
    cases, out = write_cases(tmp_path, 1), str(tmp_path / "out")
    assert main(["--cases", cases, "--out", out, *SHORT], loader) == 0

    def halved(settings: SweepSettings):
        model, judge = loader(settings)
        model.network.bfloat16()
        return model, judge

    assert main(["--cases", cases, "--out", out, *SHORT], halved) == 2
    assert "data type float32 there, bfloat16 here" in capsys.readouterr().err and len(finished(tmp_path / "out")) == 1


def test_a_second_process_in_the_same_folder_is_refused(tmp_path, capsys):
    with only_one(tmp_path / "out"):
        arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
        assert main(arguments, loader) == 2
    assert "Another process sweeps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "magic"], f"Unknown method 'magic'. Valid ones: {', '.join(METHODS)}"),
        (["--set", "colour=3"], "DINM has no setting 'colour'. It has learning_rate"),
        (["--set", "steps=many"], "The setting steps = 'many' is out of range: it should be a valid integer"),
        (["--set", "steps"], "is no NAME=VALUE"),
        (["--set", "learning_rate=-1"], "learning_rate = -1 is out of range: it should be greater than 0"),
        (
            ["--layer", "top"],
            "no layer 'top'. Give --layer a layer's number, 'auto', 'toxic', 'recommended', 'once' or 'nowhere'.",
        ),
        (["--limit", "0"], "limit = 0 is out of range: it should be greater than or equal to 1"),
        (["--category", "gloom"], "No case is left"),
        (["--cases", "/nowhere.json"], "There is no file /nowhere.json"),
        (["--attacks", "nobody"], "Unknown source 'nobody'"),
        (["--layer", "recommended"], "tiny-llama is not calibrated, so no layer of it is recommended. Run: python -m"),
        (["--acts", "detected"], "is not calibrated yet. Run: python -m editing.calibrate"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(tmp_path, capsys, more, said):
    assert main(["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT, *more], loader) == 2
    assert said in capsys.readouterr().err


def test_a_report_without_a_sweep_is_refused(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--report"]) == 2
    assert "holds no sweep" in capsys.readouterr().err


def test_a_routed_edit_learns_more_but_for_what_is_set_by_hand_and_older_sweeps_keep_what_they_were():
    routed = SweepSettings(acts="detected")
    assert routed.method_settings() == to_be_routed(preset("corrected")) != SweepSettings().method_settings()
    by_hand = replace(routed, changes={"steps": 3}).method_settings()
    assert (by_hand.steps, by_hand.constraint_weight) == (3, routed.method_settings().constraint_weight)
    as_preset = {"constraint_weight": 1.0, "steps": 24, "damage_budget": 0.2}
    assert preset("corrected", **as_preset) == preset("corrected")
    given = replace(routed, changes=as_preset).method_settings()
    assert {name: getattr(given, name) for name in as_preset} == as_preset and given.companions == ROUTED["companions"]
    assert replace(routed, preset="paper").method_settings() == preset("paper")
    told = json.loads(routed.as_json())
    del told["learns"]
    before = SweepSettings.from_json(json.dumps(told))
    assert before.method_settings() == preset("corrected") and "learns" in routed.difference(before)
    told["acts"] = "always"
    assert SweepSettings.from_json(json.dumps(told)).difference(SweepSettings()) is None


def test_cases_are_located_with_the_padding_that_is_asked_for(tmp_path):
    """With left padding, as the released code has it for Mistral, another layer is found here."""
    answers = {"safe generation": "No.", "unsafe generation": "Yes, I will tell you all of it, and more, day by day."}
    right = SweepSettings(cases=write_cases(tmp_path, 1, **answers), locate="reference", block="once")
    model, cases = loader(right)[0], cases_of(right)
    found = {side: chosen_layer(model, replace(right, padding=side), cases).layer for side in ("left", "right")}
    assert found["left"] != found["right"]
    for side, block in found.items():
        assert int(block) == divergence(model, cases[0], "reference", padding=side).toxic_layer()
    assert _settings(options().parse_args(["--out", "x", "--padding", "left"])).padding == "left"
    told = json.loads(right.as_json())
    del told["padding"]
    assert SweepSettings.from_json(json.dumps(told)).padding == "right", "as in sweeps of before"


def test_settings_come_back_from_json_and_typed_entries_from_text():
    settings = SweepSettings(changes={"steps": 3}, categories=("mental harm",), limit=2)
    assert SweepSettings.from_json(settings.as_json()) == settings and settings.key != SweepSettings().key
    entries = ["steps=3", "clamp=none", "chat=False", "learning_rate=1e-5", "optimiser=descent"]
    assert read_settings("dinm", entries) == {
        "steps": 3,
        "clamp": None,
        "chat": False,
        "learning_rate": 1e-5,
        "optimiser": "descent",
    }
    for wrong, told in (
        ("chat=perhaps", "chat = 'perhaps'"),
        ("steps", "no NAME=VALUE"),
        ("speed=3", "no setting 'speed'"),
        ("steps=0", "steps = 0 is out of range"),
        ("steps=none", "steps = None is out of range"),
        ("optimiser=magic", "optimiser = 'magic' is unknown"),
    ):
        with pytest.raises(EditError, match=told):
            read_settings("dinm", [wrong])


@pytest.mark.parametrize(
    "entries",
    [
        ["chat=false", "constraint=answer"],
        ["constraint=answer", "chat=false"],
        ["loss_positions=reference"],
        ["loss_positions=reference", "constraint=answer", "clamp=0.1"],
    ],
)
def test_entries_that_go_together_with_their_preset_are_read_whatever_each_is_alone(entries):
    """With the preset ``corrected``, and one alone, they are refused."""
    settings = method_settings("dinm", "paper", **read_settings("dinm", entries))
    for entry in entries:
        name, _, value = entry.partition("=")
        assert str(setting_value(settings, name)).lower() == value
    alone = read_settings("dinm", [entry for entry in entries if entry != "chat=false"])
    with pytest.raises(EditError, match=r"plain text|one answer"):
        method_settings("dinm", "corrected", **alone)


def test_the_bundled_sweep_edits_on_no_case_that_is_kept_for_scoring():
    cases = cases_of(SweepSettings())
    assert len(cases) == 27 and all(case.split == "edit" for case in cases)
    assert len(cases_of(SweepSettings(categories=("mental harm",)))) == 3


def test_the_paper_s_averages_are_the_means_of_their_four_columns_but_for_ft_l():
    assert all(len(values) == len(COLUMNS) for values in TABLE_1.values())
    for (_model, method), values in TABLE_1.items():
        four = [value for value in values[1:5] if value is not None]
        assert (abs(sum(four) / 4 - (values[5] or 0)) < 0.011) is (method != "FT-L")


def test_ending_by_hand_says_how_to_go_on(tmp_path, capsys):
    def interrupted(settings: SweepSettings):
        raise KeyboardInterrupt

    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
    assert main(arguments, interrupted) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_report_with_anything_that_asks_for_a_run_runs_first(tmp_path, capsys, monkeypatch):
    asked = []

    def interrupted(settings: SweepSettings):
        asked.append(settings)
        raise KeyboardInterrupt

    assert main(["--out", str(tmp_path / "out"), "--limit", "2", "--report"], interrupted) == 130
    assert asked[0].cases == "bundled" and asked[0].limit == 2


def test_a_folder_that_is_a_file_is_refused_and_the_number_of_failures_is_told(tmp_path, capsys):
    cases = write_cases(tmp_path, 1, **{"adversarial prompt": "x" * 9000})
    assert main(["--cases", cases, "--out", cases, *SHORT], loader) == 2
    assert "Error:" in capsys.readouterr().err
    assert main(["--cases", cases, "--out", str(tmp_path / "out"), *SHORT], loader) == 1
    assert "1 of 1 cases failed" in capsys.readouterr().err


def test_memory_that_runs_out_while_this_process_loads_is_told(tmp_path, capsys):
    def short_of_memory(settings: SweepSettings):
        raise MemoryError

    arguments = ["--cases", write_cases(tmp_path, 1), "--out", str(tmp_path / "out"), *SHORT]
    assert main(arguments, short_of_memory) == 2
    assert "Error: The device ran out of memory." in capsys.readouterr().err


def test_the_driver_of_workers_holds_no_model_while_they_load_theirs(tmp_path, monkeypatch):
    loaded, hired = [], []

    def watched(settings: SweepSettings):
        model, judge = loader(settings)
        loaded.extend((weakref.ref(model), weakref.ref(model.network), (model.fingerprint, model.dtype_name)))
        return model, judge

    def hiring(_settings, todo, _cluster, _loader, identity, *_more):
        gc.collect()
        hired.append((len(todo), identity, loaded[0](), loaded[1]()))
        yield from ()

    monkeypatch.setattr(program, "on_ray", hiring)
    arguments = ["--cases", write_cases(tmp_path, 2), "--out", str(tmp_path / "out"), "--engine", "ray", *SHORT]
    assert main(arguments, watched) == 0
    assert hired == [(2, loaded[2], None, None)]
