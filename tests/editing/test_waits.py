"""A step waits for its device at most once, whatever the method; going ahead of the numbers changes none of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from waits import FromLists, counted_waits

from editing import Step, dinm, preset, run
from editing.methods.mend.store import save_editor
from editing.methods.mend.top import TopBlocks, gradient_factors
from editing.methods.mend.training import MendTraining, new_editor
from editing.methods.registry import METHODS, method_settings
from editing.optimising.descent import Descent
from editing.optimising.training import encode_pair
from editing.values import setting_names
from inspector.errors import RefusedEdit
from inspector.model import PromptFormat

BLOCK = 1
SMALL = {"steps": 4, "harmless_prompts": 2, "harmless_tokens": 4, "target_probability": None, "damage_budget": None}
CHANGES = {
    "dinm": {"null_space": None, "own_refusals": 0, "harmless_at_once": 1, "stop_below": 0.0},
    "dpo": {"warm_up": 0},
    "gated": {"texts": 30, "longest_text": 400, "false_alarms": 0.5, "further_prompts": 2},
    "delman": {"position": "prompt", "context_weight": 1.0, "weight_decay": 0.0, "contexts": 1},
    "ext-sub": {"anti_steps": 2},
}
MEASURED = 5
"""Most waits of a step that is measured and does not descend, MEND's choice of the tokens that count among them; an
edit of every matrix has more matrices than that."""


@pytest.fixture
def editor(llama, tmp_path) -> str:
    """The file of an untrained editor network of the tiny model, for MEND."""
    path = tmp_path / "editor.safetensors"
    made = new_editor(llama, MendTraining(top_blocks=2, rank=4))
    save_editor(made, path, {"fingerprint": llama.fingerprint})
    return str(path)


@pytest.mark.parametrize("key", METHODS)
def test_a_step_waits_for_its_device_once(llama, case, monkeypatch, editor, key):
    """Whatever the method; one that is measured alone, before and after an edit in one pass, waits a few times."""
    method = METHODS[key]
    wanted = {**SMALL, "editor": editor, **CHANGES.get(key, {})}
    known = setting_names(method.settings)
    settings = method_settings(key, **{name: value for name, value in wanted.items() if name in known})
    monkeypatch.setattr(Descent, "_goes_ahead", True)

    def events():
        with suppress(RefusedEdit):  # what an untrained editor does may be refused, after its last step
            yield from method.run(llama, case, BLOCK, settings)

    for _ in events():  # what is asked and read once a model is known from here on
        pass
    with counted_waits(monkeypatch) as waits:
        descending, measured = [], []
        for event in events():
            found = waits.since()
            if not isinstance(event, Step) or event.step == 0:  # before that an edit prepares
                continue
            if event.gradient_norm is None:
                measured.append(found)
            elif event.step >= 3:  # the terms of a turn are prepared when it first comes
                descending.append(found)
    assert set(descending) == ({1} if "steps" in known else set())
    assert measured and max(measured) <= MEASURED


@pytest.mark.parametrize("key", [key for key in METHODS if "steps" in setting_names(METHODS[key].settings)])
def test_a_step_copies_nothing_to_its_device(llama, case, key):
    """What a turn asks is there once it has come round."""
    method = METHODS[key]
    wanted = {**SMALL, **CHANGES.get(key, {})}
    known = setting_names(method.settings)
    settings = method_settings(key, **{name: value for name, value in wanted.items() if name in known})
    copied = []
    with FromLists() as made:
        for event in method.run(llama, case, BLOCK, settings):
            if isinstance(event, Step) and event.step >= 3 and event.gradient_norm is not None:
                copied.append(made.count)
            made.count = 0
    assert copied and not any(copied)


def test_what_a_gradient_is_made_of_is_read_off_the_device_at_once(llama, case, monkeypatch):
    editor = new_editor(llama, MendTraining(top_blocks=2, rank=4))
    top = TopBlocks(llama, [encode_pair(llama, case, PromptFormat()).wanted], editor.shape.first)
    names = [name for name, _ in editor.shape.matrices]
    with counted_waits(monkeypatch) as waits:
        gradient_factors(top, names)
    assert len(names) == 6 and waits.since() == 2, "whether it is finite, and which tokens have one"


@pytest.mark.parametrize("name", ["reference", "corrected"])
def test_going_ahead_of_the_numbers_gives_the_same_edit_and_trace(llama, case, monkeypatch, name):
    settings = preset(name, **{**SMALL, "steps": 6, **(CHANGES["dinm"] if name == "corrected" else {})})
    first = run(dinm(llama, case, BLOCK, settings))
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    ahead = run(dinm(llama, case, BLOCK, settings))
    assert torch.equal(first.patch.deltas[0].dense(), ahead.patch.deltas[0].dense())
    assert [replace(s, seconds=0) for s in first.trace] == [replace(s, seconds=0) for s in ahead.trace]


def test_going_ahead_stops_and_undoes_at_the_same_step(llama, case, monkeypatch):
    settings = preset("corrected", **{**SMALL, **CHANGES["dinm"], "learning_rate": 3e-2, "damage_budget": 0.05})
    first = run(dinm(llama, case, BLOCK, settings))
    assert first.stop_reason == "damage budget" and first.kept >= 1
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    ahead = run(dinm(llama, case, BLOCK, settings))
    assert (ahead.stop_reason, ahead.kept) == (first.stop_reason, first.kept)
    assert torch.equal(first.patch.deltas[0].dense(), ahead.patch.deltas[0].dense())
