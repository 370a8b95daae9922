"""The benchmark of the gate's word runs the command on every case once, goes on where it stopped and counts."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gate_word
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.choice import WHERE_HARM

ROUTED = f"DINM · layer 2 · strength 1 · patch abc · {WHERE_HARM}"


def _told(weights: str, passed: bool, reason: str, choice: str = "") -> dict[str, Any]:
    return {"weights": weights, "gate": {"passed": passed, "reason": reason, "choice": choice}}


WORDS = (
    (0, _told(ROUTED, True, "Passed: all budgets hold.", "Taken: the second.")),
    (1, _told("DINM · layer 2 · strength 1 · patch def", False, "Refused: degenerate.")),
    (0, _told("DINM · layer 2 · strength 1 · patch ghi", True, "Passed: all budgets hold.")),
    (1, {"weights": "vanilla", "gate": None, "refused": "No layer helps."}),
)


@pytest.fixture
def asked(llama, monkeypatch) -> list[list[str]]:
    """What the command is asked, in the place of the command, which tells :data:`WORDS` in turn."""
    known = Calibration(Layers((Trial(2, 1.0, 0.1, 1.0),), 0.0, 1, 4), SimpleNamespace(digest="d"))
    monkeypatch.setattr(gate_word, "load_calibration", lambda _model: known)
    found = list[list[str]]()

    def command(arguments: list[str], loader: Any) -> int:
        assert loader(None) is llama
        code, told = WORDS[len(found)]
        found.append(arguments)
        print(json.dumps(told))
        return code

    monkeypatch.setattr(gate_word.edit, "main", command)
    return found


def test_every_case_is_edited_once_and_what_is_kept_is_counted(llama, asked, tmp_path, capsys):
    arguments = ["--cases", "4", "--set", "steps=1", "--out", str(tmp_path / "out")]
    assert gate_word.main(arguments, lambda _options: llama) == 0
    printed = capsys.readouterr().out
    assert len({one[1] for one in asked}) == 4 and all(one[2:4] == ["--set", "steps=1"] for one in asked)
    for part in (
        f"1 of 4 kept, {WHERE_HARM}",
        "1 of 4 kept, on every prompt",
        "1 of 4 held back",
        "1 of 4 no edit",
        ": held back, 0 s\nRefused: degenerate.\n",
        ": no edit, 0 s\nNo layer helps.\n",
        "Passed: all budgets hold.\nTaken: the second.\n",
    ):
        assert part in printed
    assert gate_word.main(arguments, lambda _options: llama) == 0
    assert len(asked) == 4 and capsys.readouterr().out == printed
    assert gate_word.main([*arguments, "--set", "steps=2"], lambda _options: llama) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_case_that_cannot_be_edited_is_one_of_them_and_an_interrupted_one_is_not(
    llama, asked, monkeypatch, tmp_path, capsys
):
    command, out, codes = gate_word.edit.main, tmp_path / "out", iter((0, 2, 130))

    def ends(*given: Any) -> int:
        code = next(codes)
        print("step 1\nError: No step was found.", file=sys.stderr)
        return code or command(*given)

    monkeypatch.setattr(gate_word.edit, "main", ends)
    assert gate_word.main(["--cases", "3", "--out", str(out)], lambda _options: llama) == 130
    assert len(list(out.iterdir())) == 3, "two cases and the settings"
    capsys.readouterr()
    assert gate_word.main(["--cases", "2", "--out", str(out)], lambda _options: llama) == 0
    printed = capsys.readouterr().out
    assert gate_word.main(["--cases", "0", "--out", str(out)], lambda _options: llama) == 2
    assert "1 of 2 could not be made" in printed and "\nError: No step was found.\n" in printed


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ([], ["--method", "dinm", "--acts", "gate"]),
        (["--acts", "always"], ["--method", "dinm", "--acts", "everywhere"]),
        (["--method", "gated"], ["--method", "gated", "--acts", "everywhere"]),
        (["--method", "gated", "--acts", "gate"], ["--method", "gated", "--acts", "gate"]),
    ],
)
def test_method_and_where_it_acts_are_asked_of_the_command_and_told_in_the_head(
    options, made, llama, asked, tmp_path, capsys
):
    out = ["--cases", "1", "--out", str(tmp_path / "out")]
    assert gate_word.main([*out, *options], lambda _options: llama) == 0
    assert asked[0][2:6] == made and asked[0][6] == "--out"
    assert f"\npython -m editing.edit {' '.join(made)} on 1 cases, all else by default\n" in capsys.readouterr().out
    other = ["--acts", "detected"] if made[1] == "gated" else ["--method", "gated", "--acts", made[3]]
    assert gate_word.main([*out, *other], lambda _options: llama) == 2, "another edit is not counted among these"
    assert "other settings" in capsys.readouterr().err and len(asked) == 1
