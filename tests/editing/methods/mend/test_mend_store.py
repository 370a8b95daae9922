"""MEND's editors on disk: what is kept comes back, what is missing, foreign or broken is refused with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from editing import run
from editing.methods.mend import MendSettings, MendTraining, mend
from editing.methods.mend.network import EditorNetwork
from editing.methods.mend.store import load_editor, places, save_editor
from editing.methods.mend.training import new_editor
from editing.saved.record import record_of
from editing.saved.reproduce import reproduce
from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat

UNREADABLE = r"(?s)cannot be read.*Train it again"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    """An empty cache, and no shipped editor."""
    monkeypatch.setattr("editing.methods.mend.store.cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr("editing.methods.mend.store.SHIPPED", tmp_path / "shipped")


def editor_of(model: InspectedModel, alpha: float = 0.01) -> EditorNetwork:
    """Return an untrained editor of the last two blocks' MLPs."""
    return new_editor(model, MendTraining(top_blocks=2, rank=4, alpha=alpha))


def kept(model: InspectedModel, editor: EditorNetwork, **about: Any) -> Path:
    """Keep an editor where the model's own is looked for."""
    path = places(model)[1]
    save_editor(editor, path, {"fingerprint": model.fingerprint, **about})
    return path


def test_a_kept_editor_comes_back_bit_for_bit_and_untrainable(llama):
    editor = editor_of(llama)
    with torch.no_grad():
        for tensor in editor.state_dict().values():
            tensor.add_(torch.randn_like(tensor))
    path = kept(llama, editor, command="train", seed=3)
    read, record = load_editor(llama)
    assert read.shape == editor.shape and (record.command, record.training.seed) == ("train", 3)
    assert list(read.state_dict()) == list(editor.state_dict())
    assert all(torch.equal(tensor, editor.state_dict()[name]) for name, tensor in read.state_dict().items())
    assert not any(parameter.requires_grad for parameter in read.parameters())
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing half-written is left"


def test_a_named_editor_goes_before_the_shipped_one_and_that_before_the_cache(llama, tmp_path):
    assert [path.parent.name for path in places(llama)] == ["shipped", "mend"]
    alphas = {places(llama)[1]: 0.1, places(llama)[0]: 0.2, tmp_path / "named.safetensors": 0.3}
    for path, alpha in alphas.items():
        save_editor(editor_of(llama, alpha), path, {"fingerprint": llama.fingerprint})
        named = path if path.name == "named.safetensors" else None
        assert load_editor(llama, named)[0].shape.alpha == alpha
    assert load_editor(llama)[0].shape.alpha == 0.2


def test_a_missing_editor_names_the_command_that_trains_one(llama, case):
    with pytest.raises(EditError, match=rf"python -m editing\.methods\.mend train --model {llama.name}"):
        run(mend(llama, case, 1))


def test_an_editor_of_another_model_is_refused_with_both_fingerprints(llama, tiny, case):
    other = tiny("qwen2")
    path = kept(other, editor_of(other))
    with pytest.raises(EditError, match=rf"another base model \({other.fingerprint}, this is {llama.fingerprint}\)"):
        run(mend(llama, case, 1, MendSettings(editor=str(path))))


QUICK = {"harmless_prompts": 1, "harmless_tokens": 2}
OLD = {"suffix": "S", "chat": True, "end_of_answer": True}


@pytest.mark.parametrize("about", [{"format": asdict(PromptFormat("S"))}, OLD], ids=["now", "an earlier version"])
def test_an_editor_is_used_only_in_the_prompt_format_of_its_training(llama, case, about):
    kept(llama, editor_of(llama), **about)
    own = PromptFormat("S")
    assert run(mend(llama, case, 1, MendSettings(format=own, **QUICK))).patch is not None
    others = {
        r"\(suffix = 'S'\)": PromptFormat("T"),
        r"\(chat = True\)": replace(own, chat=False),
        r"\(turn_end = True\)": own.open(),
    }
    for told, other in others.items():
        with pytest.raises(EditError, match=rf"another prompt format {told}\. Set that, or train .*mend train --model"):
            run(mend(llama, case, 1, MendSettings(format=other, **QUICK)))


def test_an_edit_in_another_format_than_its_editor_s_is_not_made_again_and_says_what_can_be_done(llama, case):
    kept(llama, editor_of(llama))  # its record tells of no format, so it edits in any
    result = run(mend(llama, case, 1, MendSettings(format=PromptFormat("T"), **QUICK)))
    record = record_of(llama, case, result, result.row(), method="mend")
    kept(llama, editor_of(llama), format=asdict(PromptFormat("S")))
    with pytest.raises(EditError, match="put that one's file back; else use the saved edit as it is") as wrong:
        run(reproduce(llama, result.patch, record))
    assert "Set that" not in wrong.value.user_message()
    kept(llama, editor_of(llama))
    assert run(reproduce(llama, result.patch, record)).same_bits


def test_without_a_chat_template_it_does_not_matter_whether_the_training_asked_for_one(tiny, case):
    model = tiny("llama", chat=False)
    kept(model, editor_of(model), format=asdict(PromptFormat("S")))
    assert run(mend(model, case, 1, MendSettings(format=PromptFormat("S", chat=False), **QUICK))).patch is not None


@pytest.mark.parametrize("told", ["S", {"suffix": 3}, {"prefix": "S"}])
def test_a_record_whose_prompt_format_is_broken_is_refused_with_a_remedy(llama, case, told):
    kept(llama, editor_of(llama), format=told)
    with pytest.raises(EditError, match=UNREADABLE):
        run(mend(llama, case, 1, MendSettings(**QUICK)))


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"seed": "many"}, "seed"),
        ({"rank": 0}, "rank"),
        ({"heads": 1}, "heads"),
        ({**OLD, "end_of_answer": 3}, "turn_end"),
    ],
)
def test_a_record_whose_training_is_broken_is_refused_with_a_remedy(llama, told, named):
    kept(llama, editor_of(llama), **told)
    with pytest.raises(EditError, match=UNREADABLE) as wrong:
        load_editor(llama)
    assert named in wrong.value.detail


@pytest.fixture
def refused(llama, tmp_path) -> Callable[..., None]:
    """Check that a file is refused; it is made by a function from a good editor's bytes, tensors and metadata."""
    good, bad = kept(llama, editor_of(llama)), tmp_path / "bad.safetensors"
    with safe_open(good, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
    metadata.pop("sha256")  # of an earlier version

    def check(match: str, make: Callable[..., Any]) -> None:
        make(bad, good.read_bytes(), tensors, metadata)
        with pytest.raises(EditError, match=match):
            load_editor(llama, bad)

    return check


@pytest.mark.parametrize(
    "make",
    [
        lambda _bad, *_: None,
        lambda bad, whole, *_: bad.write_bytes(whole[:-100]),
        lambda bad, whole, *_: (bad.write_bytes(whole), by_hand.flip_bit(bad)),
        lambda bad, *_: bad.write_text("no tensors", encoding="utf-8"),
        lambda bad, _, tensors, told: save_file({n: t for n, t in tensors.items() if n != "alphas"}, bad, told),
        lambda bad, _, tensors, told: save_file({**tensors, "alphas": torch.ones(1)}, bad, told),
    ],
    ids=["missing", "cut off", "one bit", "text", "a tensor is missing", "a tensor has another shape"],
)
def test_a_damaged_file_is_refused_with_a_remedy(refused, make):
    refused(UNREADABLE, make)


@pytest.mark.parametrize("record", ["no JSON", "{}", "[]", '{"shape": {}}', '{"shape": {"matrices": [["m", [1]]]}}'])
def test_a_file_with_a_broken_record_is_refused_with_a_remedy(refused, record):
    refused(UNREADABLE, lambda bad, _, tensors, told: save_file(tensors, bad, {**told, "record": record}))


@pytest.mark.parametrize("form", [None, "dinm-inspector patch 1", "dinm-inspector mend 2"])
def test_a_file_of_another_format_is_refused_as_such(refused, form):
    def make(bad: Path, _: bytes, tensors: dict[str, torch.Tensor], told: dict[str, str]) -> None:
        save_file(tensors, bad, None if form is None else {**told, "format": form})

    refused(r"is no editor network.*Choose another file", make)
