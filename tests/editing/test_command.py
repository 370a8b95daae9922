"""What the command lines share: the model and the format that options name, how an error ends them, their progress."""

from __future__ import annotations

import argparse

import pytest

from editing import Preparation, command
from inspector.errors import EditError, ModelLoadError
from inspector.model import SUFFIX, PromptFormat


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_model(parser, "cpu", "float32")
    command.add_format(parser)
    return parser.parse_args(arguments)


def test_the_options_name_a_prompt_format():
    assert command.format_of(parsed()) == PromptFormat() and command.told_format(parsed()) == ""
    given = parsed("--plain-text", "--suffix-prompt", "")
    assert command.format_of(given) == PromptFormat("", chat=False)
    assert command.told_format(given) == " (plain text, no suffix)"
    assert command.format_of(parsed("--plain-text")) == PromptFormat(SUFFIX, chat=False)


def test_the_options_name_a_model_its_device_and_its_type(monkeypatch):
    asked = []
    monkeypatch.setattr("inspector.command.load", lambda name, **options: asked.append((name, options)))
    command.load_model(parsed())
    command.load_model(parsed("--model", "somebody/else", "--revision", "main", "--dtype", "bfloat16"))
    command.load_model(parsed("--device-map", "auto", "--max-memory", "1=70GiB", "--max-memory", "cpu=1.5GB"))
    command.load_model(parsed("--path", "blocks=model.layers", "--path", "final_norm=model.norm"))
    whole = {"device_map": None, "max_memory": None, "paths": None}
    spread = {"device_map": "auto", "max_memory": {1: 70 * 2**30, "cpu": 1_500_000_000}, "paths": None}
    paths = {"blocks": "model.layers", "final_norm": "model.norm"}
    assert asked == [
        (None, {"device": "cpu", "dtype": "float32", "revision": None, **whole}),
        ("somebody/else", {"device": "cpu", "dtype": "bfloat16", "revision": "main", **whole}),
        (None, {"device": "cpu", "dtype": "float32", "revision": None, **spread}),
        (None, {"device": "cpu", "dtype": "float32", "revision": None, **whole, "paths": paths}),
    ]


@pytest.mark.parametrize("entry", ["model.layers", "=model.layers", "blocks="])
def test_a_path_of_another_form_is_refused(entry):
    with pytest.raises(ModelLoadError, match=r"no NAME=DOTTED\.PATH.*blocks=model\.layers"):
        command.load_model(parsed("--path", entry))


@pytest.mark.parametrize("entry", ["70GiB", "0=", "gpu=1GB", "0=-1GB", "0=1TB", "disk=1GB", "0=1GB "])
def test_what_a_device_may_hold_is_refused_in_another_form(entry):
    with pytest.raises(ModelLoadError, match=r"no DEVICE=SIZE.*0=70GiB, cpu=200GiB"):
        command.load_model(parsed("--device-map", "auto", "--max-memory", entry))


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [(None, 0, ""), (EditError("Do this."), 2, "Error: Do this.\n"), (MemoryError(), 2, "Error: ")],
)
def test_an_error_is_told_in_its_own_words_and_is_an_exit_code(error, code, told, capsys):
    def work() -> None:
        if error is not None:
            raise error

    assert command.finished(work) == code
    said = capsys.readouterr().err
    assert said.startswith(told) and (code == 0) is (said == "")


def test_an_error_of_another_kind_is_a_fault_and_not_hidden():
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command.finished(work)


def test_progress_is_a_line_a_tenth(capsys):
    tell = command.teller()
    for share in (0.0, 0.05, 0.1, 0.19, 0.5):
        tell(Preparation("Measuring", share))
    assert capsys.readouterr().err == "  Measuring, 0 %\n  Measuring, 10 %\n  Measuring, 50 %\n"
