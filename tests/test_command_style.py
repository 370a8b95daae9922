"""One style for all commands: what they print where, and how they end."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from documents import PROGRAMS as ABOUT_PROGRAMS
from documents import README

from dashboard.example import make
from editing.sweep.__main__ import _settings, options
from inspector.command import add_layer, finished, tell
from inspector.errors import CaseError, ModelLoadError
from inspector.model import PromptFormat
from inspector.model.embedded import __main__ as embedded_command


def commands_in(package: str) -> list[str]:
    """Return every module of a package that is a command."""
    files = [path for path in Path(package).glob("**/*.py") if '__name__ == "__main__"' in path.read_text("utf-8")]
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__main__") for path in files)


PROGRAMS = tuple(name for package in ("inspector", "editing", "dashboard") for name in commands_in(package))
"""The commands that say what they have found or done as JSON."""


def benchmarks() -> list[str]:
    """Return every benchmark that is a command."""
    return commands_in("benchmarks")


def test_the_commands_are_found():
    assert {"inspector.locate", "inspector.model.embedded", "editing.edit", "dashboard.report"} < set(PROGRAMS)
    assert {"editing.methods.mend", "editing.sweep", "dashboard.example.make"} < set(PROGRAMS)


def source(module: str) -> str:
    path = Path(*module.split("."))
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def file_of(module: str) -> Path | None:
    """Return the file of a module or a package of this project, ``None`` for anything else."""
    path = Path(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return this project's modules that one imports as soon as it is imported, and the packages around it."""
    parts = module.split(".")
    named = {".".join(parts[:count]) for count in range(1, len(parts))}
    file = file_of(module)
    left: list[ast.AST] = [] if file is None else [ast.parse(file.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            named |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            named |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try | ast.With | ast.ExceptHandler):
            left += ast.iter_child_nodes(node)  # what stands in a function is imported when it is called
    return frozenset(name for name in named if file_of(name) is not None)


def imported_with(package: str) -> set[str]:
    """Return all of this project's modules that are there once a package is imported."""
    found: set[str] = set()
    left = {package}
    while left:
        found |= left
        left = {name for module in left for name in imports_of(module)} - found
    return found


def test_no_package_imports_its_own_commands_so_that_python_warns_of_none():
    """``python -m`` warns (RuntimeWarning) of a module that the packages around it have imported before it runs."""
    names = (*PROGRAMS, *benchmarks())
    commands = {f"{name}.__main__" if Path(*name.split(".")).is_dir() else name for name in names}
    around = {command: imported_with(command.rpartition(".")[0]) for command in commands}
    assert "inspector.model.embedded" in around["inspector.model.embedded.__main__"], "once a command itself: found"
    assert {"editing.methods.dinm", "inspector.model.patches.patch"} <= around["editing.edit"]
    assert [command for command, modules in around.items() if command in modules] == []


@pytest.mark.parametrize("module", [*PROGRAMS, *benchmarks()])
def test_every_command_ends_with_the_same_exit_codes(module):
    """Each is ended by ``finished``, whose exit codes are tested below, and hands its code to the shell."""
    tree = ast.parse(source(module))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "finished" in called, "use editing.command.finished or inspector.command.finished"
    last = ast.unparse(tree.body[-1])
    assert last.startswith("if __name__ == '__main__':") and "sys.exit(" in last


@pytest.mark.parametrize("module", PROGRAMS)
def test_what_a_program_prints_is_its_record_and_nothing_else(module):
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert "file" in {word.arg for word in node.keywords}, "words for people go to the error stream: use say"
    assert "tell(" in source(module)


def test_the_options_of_a_file_to_write_have_one_name():
    for module in (*PROGRAMS, *benchmarks()):
        assert '"--output"' not in source(module) and '"-o"' not in source(module), module


class Built(Exception):
    """Raised with a command's parser in the place of its work."""


def run_of(module: str) -> Any:
    """Return the module that runs when a command does."""
    return import_module(f"{module}.__main__" if Path(*module.split(".")).is_dir() else module)


def parsers_of(module: str) -> list[argparse.ArgumentParser]:
    """Return the parser of a command and those of its own commands."""
    run = run_of(module)

    def built(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Built(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Built) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", built)
        patch.setattr(sys, "argv", [module])
        run.main()
    found, left = [], [caught.value.args[0]]
    while left:
        found.append(left.pop())
        groups = [action for action in found[-1]._actions if isinstance(action, argparse._SubParsersAction)]
        left += [one for group in groups for one in group.choices.values()]
    return found


def takers_of(option: str, modules: Iterable[str]) -> set[str]:
    """Return the commands that take an option; one of a program's own commands with its name."""
    found = set()
    for module in modules:
        whole, *own = parsers_of(module)
        for parser in (whole, *own):
            if option in {name for action in parser._actions for name in action.option_strings}:
                found.add(" ".join((module, *parser.prog.removeprefix(whole.prog).split())))
    return found


def named_in(text: str, begins: str, ends: str) -> set[str]:
    """Return the commands that a sentence names; one without a package has that of the one before."""
    sentence = text[text.index(begins) + len(begins) :]
    found: list[str] = []
    for name in re.findall(r"`([a-z_. ]+)`", sentence[: sentence.index(ends)]):
        package = found[-1].partition(".")[0] if found else ""
        found.append(name if "." in name else f"{package}.{name}")
    return set(found)


def test_the_documents_name_the_commands_that_take_the_prompt_format_and_the_way_of_asking():
    readme, programs = (" ".join(text.split()) for text in (README, ABOUT_PROGRAMS))
    formats = takers_of("--plain-text", [*PROGRAMS, *benchmarks()])
    assert formats == takers_of("--suffix-prompt", [*PROGRAMS, *benchmarks()])
    assert named_in(readme, "the commands that take these options are ", ").") == formats
    assert named_in(programs, "`--suffix-prompt` and `--plain-text` are the prompt format in ", ";") == {
        name for name in formats if not name.startswith("benchmarks.")
    }
    evaluations = takers_of("--evaluation", [*PROGRAMS, *benchmarks()])
    asked = named_in(readme, "(both get the same prompts otherwise), here, in ", ";")
    assert asked | {"editing.sweep"} == evaluations, "here: in the section of the sweep"


@pytest.mark.parametrize("module", [*PROGRAMS, *benchmarks()])
def test_every_command_s_help_ends_with_what_it_prints_and_its_exit_codes(module):
    for parser in parsers_of(module):
        said, _, codes = " ".join((parser.description or "").split()).partition("Exit codes: ")
        assert codes.startswith("0") and "2 when it cannot" in codes and parser.epilog is None, parser.prog
        assert "JSON" in said if module in PROGRAMS else re.search("[Pp]rint", said), parser.prog
        assert all(line in parser.format_help() for line in (parser.description or "").splitlines()), "as it is written"


MODEL = {"--model", "--revision", "--device", "--dtype", "--device-map", "--max-memory", "--path"}
"""The options of a model that is loaded."""


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_that_takes_a_model_takes_all_of_its_options(module):
    """``inspector.memory`` loads none: where parts are changes nothing of what it tells."""
    for parser in parsers_of(module):
        named = {name for action in parser._actions for name in action.option_strings}
        if "--model" in named:
            assert named >= (MODEL - {"--path"} if module == "inspector.memory" else MODEL)
        shown = {
            name for action in parser._actions if action.help != argparse.SUPPRESS for name in action.option_strings
        }
        assert not shown & {"--output", "-o", "--folder"}, "what is written is named by --out"


@pytest.mark.parametrize("module", ["app", *PROGRAMS, *benchmarks()])
def test_every_command_says_layer_and_an_old_block_is_a_hidden_other_name_of_it(module):
    for parser in parsers_of(module):
        by_name = {name: action for action in parser._actions for name in action.option_strings}
        for name, action in by_name.items():
            if name.startswith("--block"):
                assert action.help == argparse.SUPPRESS, f"{module} tells of {name}"
                assert by_name[name.replace("block", "layer")].dest == action.dest
        assert "--block" not in parser.format_help()


def test_a_sweep_takes_the_words_of_the_other_commands_and_they_take_its_own():
    """``--suffix`` and ``always`` were a sweep's own words, and what was written with them still runs."""
    swept = ["--out", "x", "--suffix-prompt", "Be good.", "--plain-text", "--acts", "everywhere"]
    settings = _settings(options().parse_args(swept))
    assert settings.format == PromptFormat("Be good.", chat=False) and settings.acts == "always"
    old = _settings(options().parse_args(["--out", "x", "--suffix", "Be good.", "--acts", "always"]))
    assert old.format == PromptFormat("Be good.") and old.acts == settings.acts
    for module in ("editing.edit", "dashboard.report"):
        (parser,) = parsers_of(module)
        assert parser.parse_args(["--out", "x", "--acts", "always"]).acts == "everywhere"


def test_the_embedded_model_s_folder_is_told_as_json_and_an_error_in_its_own_words(monkeypatch, capsys):
    monkeypatch.setattr(embedded_command, "ensure", lambda: Path("/some/where"))
    assert embedded_command.main([]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(Path("/some/where"))

    def unreachable() -> Path:
        raise ModelLoadError("It cannot be downloaded. Go online.")

    monkeypatch.setattr(embedded_command, "ensure", unreachable)
    assert embedded_command.main([]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err == "Error: It cannot be downloaded. Go online.\n"


@pytest.mark.parametrize(
    ("error", "said"), [(CaseError("Do this."), "Do this."), (PermissionError(13, "Permission denied"), "Errno 13")]
)
def test_an_example_is_told_as_json_and_what_stands_against_it_in_words(error, said, monkeypatch, capsys, tmp_path):
    asked: list[argparse.Namespace] = []

    def shipped(model: Any, folder: Path) -> Path:
        (folder / "part").write_bytes(b"1" * 200_000)
        return folder

    monkeypatch.setattr(make, "load_model", lambda chosen: asked.append(chosen))
    monkeypatch.setattr(make, "ship", shipped)
    for folder in ("--out", "--folder"):
        assert make.main(["--ship", folder, str(tmp_path), "--path", "blocks=model.layers"]) == 0
        assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path), "megabytes": 0.2}
    assert [(one.device, one.dtype, one.path) for one in asked] == [("cpu", "float32", ["blocks=model.layers"])] * 2

    def refused(*_: Any) -> Path:
        raise error

    monkeypatch.setattr(make, "ship", refused)
    assert make.main(["--ship", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and said in told.err


def test_what_was_written_with_block_still_names_the_layer():
    parser = argparse.ArgumentParser()
    add_layer(parser, default="auto")
    add_layer(parser, several=True, type=int, nargs="+")
    assert parser.parse_args([]).layer == "auto"
    assert parser.parse_args(["--block", "3"]).layer == parser.parse_args(["--layer", "3"]).layer == "3"
    assert parser.parse_args(["--blocks", "1", "2"]).layers == [1, 2]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (CaseError("Do this."), 2, "Error: Do this.\n"),
        (PermissionError(13, "Permission denied", "/there"), 2, "Error: [Errno 13]"),
        (KeyboardInterrupt(), 130, "\nStopped.\n"),
    ],
)
def test_how_work_ends_is_an_exit_code_and_words(error, code, said, capsys):
    def work() -> None:
        if error is not None:
            raise error

    assert finished(work) == code
    assert finished(lambda: 1) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(said)


def test_a_record_is_json(capsys):
    tell({"layer": 3, "text": "ü", "not there": [float("nan"), (float("inf"), 0.5)]})
    assert json.loads(capsys.readouterr().out) == {"layer": 3, "text": "ü", "not there": [None, [None, 0.5]]}


@pytest.mark.parametrize("module", ["app", *PROGRAMS, *benchmarks()])
def test_bad_usage_ends_with_2_and_prints_nothing(module, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        run_of(module).main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == "" and "usage:" in told.err
