"""README and PROGRAMS: Python runs on a tiny model, requests on its page; commands have a file of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import httpx
import pytest
import torch
from dashboard_helpers import SHORT_GATE, free_port, model_at_rest, save_listed, tiny_model
from documents import PROGRAMS, README, blocks, variables
from example_helpers import served_example, short_examples

import app
from dashboard.kit.shelf import Shelf
from dashboard.page import build_app, launch_options
from dashboard.steps.operate import gating
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.mend.store import EditorRecord
from editing.methods.mend.training import MendTraining, new_editor
from inspector.model import Detector
from inspector.safeedit.layouts import read_cases, serves
from inspector.safeedit.questions import CASE_ONLY

ADDRESS = "http://127.0.0.1:7860"


QUICK: dict[str, Any] = {"steps": 1, "learning_rate": 1e-3, "harmless_prompts": 1, "harmless_tokens": 2}
QUICK |= {"own_refusals": 0, "null_space": None, "damage_budget": None}
CHEAP: dict[str, Any] = {
    "dinm": QUICK,
    "sft": {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2},
    "dpo": {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2},
}
"""What makes edits short."""


def test_the_case_of_one_s_own_in_the_readme_can_be_edited_on(tmp_path):
    (block,) = blocks(README, "json")
    path = tmp_path / "my.json"
    path.write_text(block, encoding="utf-8")
    (case,) = read_cases(str(path)).cases
    assert "edit" in serves(case) and case.question in case.adversarial_prompt


def test_files_and_headings_that_are_linked_are_there():
    for name, text in (("README.md", README), ("PROGRAMS.md", PROGRAMS)):
        for path, _, heading in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)):
            target = Path(path or name)
            assert target.exists(), f"{name} links {path}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert heading in [title.lower().replace(" ", "-") for title in titles], f"{name} links #{heading}"


def test_every_program_that_is_named_in_a_sentence_is_there():
    named = {
        (name, module)
        for name in ("README.md", "PROGRAMS.md", "OPERATING.md", "benchmarks/README.md")
        for module in re.findall(r"`[^`\n]*python -m ([\w.]+)", Path(name).read_text(encoding="utf-8"))
        if module != "pip"
    }
    places = {(name, module): Path(*module.split(".")) for name, module in named}
    missing = [
        one
        for one, path in places.items()
        if not (path / "__main__.py").is_file() and not path.with_suffix(".py").is_file()
    ]
    assert len({module for _, module in named}) >= 15 and missing == []


def short(factory: Any, **always: Any) -> Any:
    """Return a maker of settings that are quick whatever else is asked for."""
    return lambda *given, **own: factory(*given, **{**own, **always})


def test_the_lines_of_python_in_the_readme_run(monkeypatch, tmp_path, capsys):
    """One after the other in one program, as they stand; the model is tiny and knows a calibration."""
    from editing import contest as contest_module
    from editing import preset
    from editing.methods.dpo import DpoSettings
    from inspector.token_attribution import token_attribution

    model = tiny_model()
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr("inspector.model.load", lambda *_, **__: model)
    monkeypatch.setattr("editing.calibrating.calibration.load_calibration", lambda _: known)
    monkeypatch.setattr("editing.preset", short(preset, **QUICK))
    monkeypatch.setattr("editing.methods.dpo.DpoSettings", short(DpoSettings, **CHEAP["dpo"]))
    settings = short(contest_module.ContestSettings, size=CASE_ONLY, max_new_tokens=2, prompts=1, changes=CHEAP)
    monkeypatch.setattr("editing.contest.ContestSettings", settings)
    editor = new_editor(model, MendTraining(top_blocks=2, rank=4, alpha=1e-4))
    kept = editor, EditorRecord(model.fingerprint, editor.shape)
    monkeypatch.setattr("editing.methods.mend.edit.load_editor", lambda *_: kept)
    monkeypatch.setattr("inspector.token_attribution.token_attribution", short(token_attribution, steps=2))
    written = [(str(Path("runs") / name), str(tmp_path / name)) for name in ("dpo-adapter", "routed.safetensors")]
    names: dict[str, Any] = {}
    with model_at_rest():
        for block in blocks(README, "python"):
            for there, here in written:
                block = block.replace(there, here)
            exec(compile(block, "README.md", "exec"), names)
    assert names["vanilla"] and names["edited"] and names["result"].patch.norm > 0
    assert names["row"].detector is not None and (tmp_path / "dpo-adapter" / "adapter_config.json").is_file()
    assert "DINM" in capsys.readouterr().out


@pytest.fixture(scope="module")
def page(tmp_path_factory, example_folder) -> Iterator[gr.Blocks]:
    """The tiny model's page, with its tools where the package is there."""
    folder, gradios = served_example(example_folder), gradio.mcp.GradioMCPServer
    with short_examples(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        deeper = save_listed(tmp_path_factory.mktemp("listed"), "deeper", 5)
        shelf = Shelf(tiny_model(), ["tiny-llama", deeper], {"device": "cpu"})
        app = build_app(tiny_model(), example_folder=folder, shelf=shelf)
        options = launch_options(mcp=has_mcp())
        app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **options)
        yield app
        app.server.force_exit = True  # Gradio's client keeps its connections, and closing would wait for them
        app.close(verbose=False)
    gradio.mcp.GradioMCPServer = gradios


def has_mcp() -> bool:
    return find_spec("mcp") is not None


def at(page: gr.Blocks, block: str) -> str:
    return block.replace(ADDRESS, page.local_url.rstrip("/"))


@pytest.mark.parametrize("number", range(len(blocks(PROGRAMS, "python"))))
def test_the_lines_of_python_for_programs_run(page, number, capsys):
    block = at(page, blocks(PROGRAMS, "python")[number])
    if "from mcp" in block and not has_mcp():
        pytest.skip("the package mcp is not installed: pip install -r requirements-mcp.txt")
    exec(compile(block, "PROGRAMS.md", "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert ("['cases', 'prompt', 'locate'" if "from mcp" in block else "DINM · layer") in told


def test_the_lines_of_curl_run_and_the_cookie_names_one_visitor(page):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    (block,) = (block for block in blocks(PROGRAMS, "sh") if "curl" in block)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", at(page, block)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "no_proxy": "127.0.0.1"},
    )
    assert ended.returncode == 0 and "event: error" not in ended.stdout, ended.stdout + ended.stderr
    assert ended.stdout.count("event: complete") == 3 and '"per_token"' in ended.stdout
    (zipped,) = re.findall(r'"url": "(?:http://[^/"]*)?(/gradio_api/file=[^"]*\.zip)"', ended.stdout)
    assert httpx.get(f"{page.local_url.rstrip('/')}{zipped}").content.startswith(b"PK")
    assert '"weights": "DINM' in ended.stdout, "the status is that of a visitor who starts with the example"


def test_the_options_of_the_space_in_the_readme_let_it_start(monkeypatch):
    """A Space listens on every address, so its options have to say that others may come in."""
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    served: list[Any] = []
    monkeypatch.setattr(app, "serve", lambda chosen, *_: served.append(chosen) or 0)
    monkeypatch.setenv("INSPECTOR_OPTIONS", variables(README)["INSPECTOR_OPTIONS"])
    assert app.main([]) == 0 and served[0].read_only
