"""The architecture map finds the parts of every family, checks them, and says what to do where it cannot."""

from __future__ import annotations

from typing import Any

import by_hand
import pytest
import tiny_models
import torch
from torch import nn
from transformers import LlamaConfig, OlmoConfig

from editing.optimising.replay import TailReplay
from inspector.divergence import divergence
from inspector.errors import ArchitectureError, ModelLoadError
from inspector.model import from_parts
from inspector.model.architecture import _require_close, canonical_weight, resolve

IDS = (1, 40, 80, 120, 160, 200, 240, 30)


@pytest.fixture
def model(every_model):
    """Every family: these are numbers of the low-level engine."""
    return every_model


def olmo():
    """A family that is not in the map, built like Llama."""
    return tiny_models.random_network(OlmoConfig(**tiny_models._LLAMA))


def test_every_family_resolves_to_its_sizes(model):
    architecture = model.architecture
    assert model.blocks == len(by_hand.blocks(model.network))
    assert (architecture.d_model, architecture.d_ff, architecture.vocabulary) == (32, 48, tiny_models.VOCABULARY)
    assert architecture.last_block == model.blocks - 1
    for block, name in enumerate(architecture.down_projection_names):
        assert name == by_hand.down_name(model.network, block)
        assert model.network.get_submodule(name) is architecture.down_projections[block]


def test_blocks_of_the_map_give_the_model_s_own_hidden_states(model):
    """Bit for bit: the hidden states of transformers are the same tensors, all but the normed last one."""
    own = model.network(input_ids=torch.tensor([IDS]), output_hidden_states=True, use_cache=False).hidden_states
    hooked = by_hand.states(model.network, IDS)
    assert list(by_hand.blocks(model.network)) == list(model.architecture.blocks)
    for block in range(model.blocks):
        assert torch.equal(hooked[block], own[block][0]), f"entering block {block}"


@torch.no_grad()
def test_the_map_s_head_turns_the_last_block_s_output_into_the_model_s_logits(model):
    """Norm, projection, unembedding and softcap are the same modules in the same order: bit for bit."""
    hooked = by_hand.states(model.network, IDS)[-1]
    assert torch.equal(model.architecture.logits(hooked), by_hand.logits(model.network, IDS))


def test_down_weight_is_out_by_in_for_linear_and_conv1d(model):
    """GPT-2's Conv1D keeps ``[in, out]``; the map hands out ``[d_model, d_ff]``, a view of the same storage."""
    for block in range(model.blocks):
        weight = model.architecture.down_weight(block)
        assert weight.shape == (32, 48)
        assert weight.data_ptr() == model.architecture.down_projections[block].weight.data_ptr()
    inputs, module = torch.randn(5, 48), model.architecture.down_projections[0]
    bias = 0 if getattr(module, "bias", None) is None else module.bias
    # Two orders of summation over 48 float32 terms of order 1.
    assert torch.allclose(inputs @ model.architecture.down_weight(0).T + bias, module(inputs), atol=1e-5)


@pytest.mark.parametrize("block", [-1, 3, 99])
def test_a_block_that_does_not_exist_is_refused_with_the_valid_range(llama, block):
    with pytest.raises(ArchitectureError, match=rf"Block {block} does not exist.*0 to 2"):
        llama.architecture.down_weight(block)


def test_an_unknown_family_works_when_its_paths_are_given():
    network = olmo()
    model = from_parts(network, tiny_models.tokenizer(), "olmo", tiny_models.LLAMA_S_PATHS)
    assert model.architecture.down_projection_names[1] == "model.layers.1.mlp.down_proj"
    hooked = by_hand.states(network, IDS)[-1]
    assert torch.equal(model.architecture.logits(hooked), by_hand.logits(network, IDS))


@pytest.mark.parametrize("family", tiny_models.SCALED)
def test_a_family_that_scales_its_logits_is_read_as_it_answers(family, case):
    kind, options = tiny_models.SCALED[family]
    network = tiny_models.random_network(kind(**options))
    model = from_parts(network, tiny_models.tokenizer(), family, tiny_models.LLAMA_S_PATHS)
    own, states = by_hand.logits(network, IDS), by_hand.states(network, IDS)
    # A division and a product with its inverse round otherwise: float32 logits of order 10.
    assert torch.allclose(model.architecture.logits(states[-1]), own, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(network.lm_head(network.model.norm(states[-1])), own, rtol=0.5)
    # Whole tails: what stands above a changed down-projection gives what the changed network gives.
    weight = by_hand.down_weight(network, 1) + 0.1
    with torch.no_grad():
        replayed = TailReplay(model, 1, [IDS], [range(len(IDS))]).logits(weight)
    assert torch.allclose(
        replayed, by_hand.logits(by_hand.written(network, (1, torch.tensor(0.1))), IDS), rtol=1e-3, atol=1e-3
    )
    safe, unsafe = (
        by_hand.states(network, by_hand.prompt(model, case.adversarial_prompt) + by_hand.response(model, text))
        for text in (case.safe, case.unsafe)
    )
    lengths = [len(by_hand.response(model, text)) for text in (case.safe, case.unsafe)]
    by_layer = [
        float((one[-lengths[0] :].mean(dim=0) - two[-lengths[1] :].mean(dim=0)).norm())
        for one, two in zip(safe[1:], unsafe[1:], strict=True)
    ]
    assert divergence(model, case).by("l2").tolist() == pytest.approx(by_layer, rel=1e-3)


def test_a_family_whose_logits_are_scaled_otherwise_is_refused_with_what_is_known():
    kind, options = tiny_models.SCALED["granite"]
    network = tiny_models.random_network(kind(**options))
    plain = network.forward

    def doubled(**given: Any) -> Any:
        result = plain(**given)
        result.logits = 2 * result.logits
        return result

    network.forward = doubled
    with pytest.raises(ArchitectureError, match="scales of Cohere and Granite is not supported"):
        resolve(network, tiny_models.LLAMA_S_PATHS)


@pytest.mark.parametrize("name", ["blocks", "down_projection", "final_norm", "unembedding", "after_attention"])
def test_a_path_that_leads_nowhere_is_an_error_that_names_the_override(name):
    with pytest.raises(ArchitectureError, match=f"'nowhere'.* for {name}.*--path {name}="):
        resolve(tiny_models.network("llama"), {name: "nowhere"})


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("down_projection", "mlp.up_proj"),  # writes d_ff values
        ("final_norm", "model.layers.0.input_layernorm"),  # a norm, but not the last one
        ("unembedding", "model.layers.0.mlp.up_proj"),  # a matrix that reads the residual stream, but another
    ],
)
def test_a_path_to_a_wrong_part_is_found_out_at_load(name, path):
    with pytest.raises(ArchitectureError, match="path"):
        resolve(tiny_models.network("llama"), {name: path})


def test_blocks_of_different_widths_are_refused():
    network = tiny_models.network("llama")
    network.model.layers[1].mlp.down_proj = nn.Linear(16, 32, bias=False)
    with pytest.raises(ArchitectureError, match=r"different shapes.*\(32, 16\).*\(32, 48\)"):
        resolve(network)


class Quantised(nn.Linear):
    """Stands for a linear layer whose weight is packed integers."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__(inner.in_features, inner.out_features, bias=False)
        self.weight = nn.Parameter(inner.weight.to(torch.int8), requires_grad=False)


class Other(nn.Module):
    """Stands for a projection of a kind of its own."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.weight = inner.weight


@pytest.mark.parametrize("kind", [Quantised, Other])
def test_a_quantised_or_foreign_down_projection_is_refused(kind):
    network = tiny_models.network("llama")
    mlp = network.model.layers[1].mlp
    mlp.down_proj = kind(mlp.down_proj)
    with pytest.raises(ArchitectureError, match=f"{kind.__name__} cannot be edited.*unquantised"):
        resolve(network)


def test_canonical_weight_refuses_a_linear_without_floating_point_weight():
    with pytest.raises(ArchitectureError, match="cannot be edited"):
        canonical_weight(Quantised(nn.Linear(3, 2, bias=False)))


def test_checking_a_model_leaves_no_hook_of_ours():
    """Loading again adds none: transformers' own hooks are there after its first hidden states."""
    network = tiny_models.random_network(LlamaConfig(**tiny_models._LLAMA))
    network(input_ids=torch.tensor([IDS]), output_hidden_states=True)
    before = by_hand.hooks(network)
    resolve(network)
    assert by_hand.hooks(network) == before


def test_states_that_are_not_finite_at_load_name_the_type_and_not_the_map():
    network = tiny_models.out_of_range(tiny_models.network("llama"))
    assert resolve(network).family == "llama"
    with pytest.raises(ModelLoadError, match=r"not a finite number in float16.*--dtype bfloat16 or float32"):
        resolve(network.half())


def test_a_wrong_state_at_one_position_is_seen_beside_a_massive_one():
    """The first token's state is a thousand times longer than all others, as models have it."""
    own = torch.ones(1, 2, 4) * torch.tensor([1000.0, 1.0])[None, :, None]
    _require_close(own + 5e-4, own, "The state")
    wrong = own.clone()
    wrong[0, 1, 2] += 0.1
    with pytest.raises(ArchitectureError, match="The state is not what the model itself reports"):
        _require_close(wrong, own, "The state")
