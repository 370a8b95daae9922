"""The rounded copy of a network is what rounding by hand gives, and the network that it was made of stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import by_hand
import pytest
import torch

from inspector.errors import ModelLoadError
from inspector.model import from_parts
from inspector.model.patches.rounded import COMPUTED, ROUNDED, rounded

IDS = [5, 9, 60, 70, 41]


def test_the_copy_computes_what_rounding_by_hand_gives(model):
    plain = copy.deepcopy(model.network).bfloat16().float()
    sums, hooks = by_hand.checksum(model.network), by_hand.hooks(model.network)
    vanilla = by_hand.vanilla_logits(model, IDS)
    with rounded(model) as other:
        assert other.name == ROUNDED and other.dtype == torch.float32
        for ours, theirs in zip(other.network.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        # Buffers (a rotary embedding's) are no weights and stay, so logits are close to, not equal to, the plain ones.
        found = by_hand.running_logits(other, IDS)[0]
        assert not torch.equal(found, vanilla)
        assert torch.allclose(found, by_hand.logits(plain, IDS), atol=0.05)
    assert by_hand.checksum(model.network) == sums
    assert torch.equal(by_hand.vanilla_logits(model, IDS), vanilla)
    by_hand.assert_at_rest(model, hooks)


def test_a_copy_that_computes_in_bfloat16_is_the_model_loaded_so_and_its_buffers_stay(model):
    plain = copy.deepcopy(model.network)
    for parameter in plain.parameters():
        parameter.data = parameter.data.bfloat16()
    with rounded(model) as near, rounded(model, computed=True) as other:
        assert (other.name, other.dtype, near.dtype) == (COMPUTED, torch.bfloat16, torch.float32)
        for ours, theirs in zip(other.network.parameters(), near.network.parameters(), strict=True):
            assert torch.equal(ours.float(), theirs)
        for ours, theirs in zip(other.network.buffers(), model.network.buffers(), strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        found = by_hand.running_logits(other, IDS)[0]
        assert torch.equal(found, by_hand.logits(plain, IDS))
        assert not torch.allclose(found.float(), by_hand.running_logits(near, IDS)[0], rtol=0, atol=1e-6)


def test_a_device_that_does_not_compute_in_bfloat16_is_told(llama, monkeypatch):
    monkeypatch.setattr("inspector.model.patches.rounded.computes", lambda device: False)
    with pytest.raises(ModelLoadError, match="Take another device"), rounded(llama, computed=True):
        pass
    with rounded(llama) as other:
        assert other.name == ROUNDED


def test_the_copy_s_map_leads_into_the_copy(model):
    with rounded(model) as other:
        inside = {id(module) for module in other.network.modules()}
        assert {id(module) for module in other.architecture.blocks} <= inside
        assert {id(module) for module in other.architecture.down_projections} <= inside
        assert not inside & {id(module) for module in model.network.modules()}
        with torch.no_grad():
            other.architecture.down_weight(0).zero_()
        assert model.architecture.down_weight(0).abs().sum() > 0


def test_weights_that_are_bfloat16_already_are_refused(llama):
    already = from_parts(copy.deepcopy(llama.network).bfloat16(), llama.tokenizer, "bfloat16")
    with pytest.raises(ModelLoadError, match="Load it in float32"), rounded(already):
        pass


def test_weights_that_are_not_in_memory_are_refused(llama):
    away = replace(llama, network=copy.deepcopy(llama.network).to("meta"))
    with pytest.raises(ModelLoadError, match="offloaded"), rounded(away):
        pass
