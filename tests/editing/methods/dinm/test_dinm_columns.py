"""DINM on the few columns whose neurons carry the difference."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import torch

from editing import preset, run
from editing.methods.dinm import dinm
from editing.optimising.replay import FullReplay
from inspector.errors import EditError
from inspector.model import PromptFormat, Row
from inspector.neurons import neuron_activity

SHORT = {"steps": 3, "learning_rate": 0.01, "suffix": "", "harmless_prompts": 1, "harmless_tokens": 3}


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_only_the_columns_of_the_carrying_neurons_are_edited(tiny, case, name):
    model = tiny(name)
    settings = preset("corrected", neurons_only=5, target_probability=None, **{**SHORT, "steps": 1})
    for block in range(model.blocks):
        result = run(dinm(model, case, block, settings))
        activity = neuron_activity(model, case, format=PromptFormat(""))
        expected = set(np.argsort(np.abs(activity.contribution[block]))[::-1][:5].tolist())
        change = result.patch.deltas[0].dense()
        assert set(torch.nonzero(change.norm(dim=0)).flatten().tolist()) == expected
        assert set(result.patch.settings["neurons"]) == expected
        assert result.trace[-1].edit_loss < result.trace[0].edit_loss
        assert result.trace[-1].delta_norm == pytest.approx(float(change.norm()), rel=1e-4)


def test_the_patch_is_low_rank_and_gives_what_its_dense_form_gives(llama, case):
    result = run(dinm(llama, case, 1, preset("corrected", neurons_only=4, target_probability=None, **SHORT)))
    delta = result.patch.deltas[0]
    assert delta.right is not None and delta.left.shape == (32, 4) and delta.right.shape == (4, 48)
    ids = [1, *range(20, 40)]
    copied = by_hand.written(llama.network, (1, delta.dense()))
    found = by_hand.running_logits(llama, ids, (Row(result.patch),))[0]
    assert torch.allclose(found, by_hand.logits(copied, ids), rtol=1e-4, atol=1e-4)


def test_all_columns_are_the_whole_matrix_and_both_ways_of_replaying_agree(llama, case):
    whole = run(dinm(llama, case, 1, preset("corrected", **SHORT)))
    every = run(dinm(llama, case, 1, preset("corrected", neurons_only=48, **SHORT)))
    assert torch.equal(whole.patch.deltas[0].dense(), every.patch.deltas[0].dense())
    settings = preset("corrected", neurons_only=6, clamp=0.015, null_space=None, **SHORT)
    tail, full = run(dinm(llama, case, 1, settings)), run(dinm(llama, case, 1, settings, replay=FullReplay))
    assert torch.allclose(tail.patch.deltas[0].dense(), full.patch.deltas[0].dense(), atol=1e-4)
    assert float(tail.patch.deltas[0].dense().abs().max()) <= 0.015 * 1.001


def test_a_count_below_one_is_refused():
    with pytest.raises(EditError, match="neurons_only = 0"):
        preset("corrected", neurons_only=0)
