"""A saved edit is taken in, asked and handed on, and all that was done is told; or it is refused before that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import by_hand
import torch
from command_helpers import CASE, QUICK, ran
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from editing import apply, edit
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.saved import handed_out
from inspector.model import Detector


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


def test_a_saved_edit_that_is_not_whole_is_refused_before_anything_is_touched(words, capsys, tmp_path, budgets, tiny):
    options = [*QUICK, "--case", CASE.identifier, "--layer", "1", "--out", tmp_path / "saved"]
    names = [Path(file).name for file in ran(edit, options, words, capsys)[1]["saved"]]
    for number, (damage, base, match) in enumerate(
        (
            (cut, words, "cut or changed"),
            (flipped, words, "SHA-256"),
            (with_a_path, words, "outside its own folder"),
            (with_more, words, "holds more than a patch"),
            (with_gaps, words, "not finite"),
            (lambda record, _: record, tiny("mistral"), "another base model"),
        )
    ):
        folder = Path(shutil.copytree(tmp_path / "saved", tmp_path / str(number)))
        record, patch = (folder / name for name in names)
        given = [damage(record, patch), "--ask", "Sing?", "--merged", tmp_path / "whole", "--keep-anyway"]
        code, told, errors = ran(apply, given, base, capsys)
        assert code == 2 and told is None and match in errors and not (tmp_path / "whole").exists(), match
