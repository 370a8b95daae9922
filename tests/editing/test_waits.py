"""A step waits for its device at most once, whatever the method; going ahead of the numbers changes none of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from waits import counted_waits

from editing import Step, dinm, preset, run
from editing.descent import Descent
from editing.methods.registry import METHODS, method_settings

BLOCK = 1
SMALL = {"steps": 4, "harmless_prompts": 2, "harmless_tokens": 4, "target_probability": None, "damage_budget": None}
CHANGES = {
    "dinm": {"null_space": None, "own_refusals": 0, "harmless_at_once": 1, "stop_below": 0.0},
    "dpo": {"warm_up": 0},
}


@pytest.mark.parametrize("key", ["dinm", "ft-l", "sft", "dpo"])
def test_a_step_waits_for_its_device_once(llama, case, monkeypatch, key):
    method = METHODS[key]
    settings = method_settings(key, **{**SMALL, **CHANGES.get(key, {})})
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    with counted_waits(monkeypatch) as waits:
        each = []
        for event in method.run(llama, case, BLOCK, settings):
            found = waits.since()
            if isinstance(event, Step) and event.step >= 3:  # the terms of a turn are prepared when it first comes
                each.append(found)
    assert each and set(each) == {1}


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
