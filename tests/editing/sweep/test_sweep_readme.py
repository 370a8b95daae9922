"""The commands of README's section on clusters are commands: each program takes its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sweep_helpers import HERE

from editing.calibrating import calibration
from editing.methods.mend import store
from editing.sweep.__main__ import _settings, options

ROOT = HERE.parent


def section(title: str) -> str:
    """Return a section of README without what stands below it."""
    (found,) = re.findall(rf"^### {title}\n(.*?)(?=^#)", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    return found


def commands(text: str) -> list[list[str]]:
    """Return the commands of a text's shell blocks, each as its words without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = commands(section("On a cluster"))


def test_the_section_goes_from_installing_to_the_end():
    said = [words[:3] if "python" in words[0] else words[:2] for words in COMMANDS]
    python, ray = [".venv/bin/python", "-m"], ".venv/bin/ray"
    sweep, token = [*python, "editing.sweep"], ["export", "RAY_AUTH_MODE=token"]
    start = [[ray, "start"]]
    first, others = [token, [ray, "get-auth-token"], *start], [token, *start]
    assert said == [[*python, "pip"], *first, *others, sweep, sweep, [ray, "stop"]]


def test_what_it_installs_is_there_and_has_ray():
    (installing,) = [words for words in COMMANDS if "pip" in words]
    assert installing[3:5] == ["install", "-r"]
    assert re.search(r"^ray==", (ROOT / installing[5]).read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("words", [words for words in COMMANDS if "editing.sweep" in words], ids=lambda w: w[4])
def test_its_sweeps_are_taken_by_the_command_line(words):
    chosen = options().parse_args(words[3:])
    assert chosen.engine == "ray" and chosen.address == "auto" and chosen.workers > 1
    settings = _settings(chosen)
    assert settings.method_settings() and settings.judge == chosen.judge


def test_ray_takes_its_commands():
    scripts = pytest.importorskip("ray.scripts.scripts", reason="ray is not installed (requirements-cluster.txt)")
    for words in COMMANDS:
        if words[0] == ".venv/bin/ray":
            command = scripts.cli.get_command(None, words[1])
            assert command is not None
            command.make_context(
                words[1], [word for word in words[2:] if word not in (">", "/dev/null")]
            )  # parses, and refuses what it does not know


def test_other_commands_of_the_readme_that_sweep_are_taken_too():
    found = [words for words in commands((ROOT / "README.md").read_text("utf-8")) if "editing.sweep" in words]
    assert len(found) >= 5
    for words in found:
        _settings(options().parse_args(words[3:]))


def test_each_command_says_in_which_type_all_its_processes_load_a_model():
    """By itself one with a GPU takes bfloat16 and one without float32, and then no worker may begin."""
    for words in COMMANDS:
        if "editing.sweep" in words:
            chosen = options().parse_args(words[3:])
            assert (chosen.device, chosen.dtype) in (("cpu", "auto"), ("auto", "bfloat16"))
            assert chosen.gpus_per_worker >= 1 or chosen.device == "cpu"
            assert "7b" not in chosen.model.lower() or chosen.dtype == "bfloat16"


def test_the_caches_that_it_names_are_where_the_program_looks(llama, monkeypatch):
    monkeypatch.delenv("DINM_INSPECTOR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    text = section("On a cluster")
    for place in (calibration.places(llama)[0], store.places(llama)[1]):
        assert f"`~/{place.parent.parent.relative_to(Path.home())}`" in text and f"`{place.parent.name}`" in text
