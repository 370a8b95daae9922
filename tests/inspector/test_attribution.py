"""Attributions are exact where they claim to be, and else autograd's own; none leaves a trace on the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor, nn

from inspector.attribution import (
    LogitAttribution,
    block_attribution,
    direct_logit_attribution,
    freeze_norm,
    unembedding_direction,
)
from inspector.errors import ArchitectureError, CaseError, NotFinite, PromptError
from inspector.margin import answer_pair, mlp_trace
from inspector.model import Row, from_parts
from inspector.safeedit import Case

# Parts of order 0.1 to 10 from sums of 32 float32 products and differences of states.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def written_by_mlp(network, block: int) -> nn.Module:
    """Return the module whose output the MLP adds to the stream, typed here anew."""
    if network.config.model_type in ("gemma2", "gemma3_text"):
        return network.model.layers[block].post_feedforward_layernorm
    return network.get_submodule(by_hand.down_name(network, block))


def outputs(network, modules: list[nn.Module], ids: list[int]) -> list[Tensor]:
    """Return the output at the last position of each module, from one plain pass."""
    seen: dict[int, Tensor] = {}

    def hook_for(number: int):
        def hook(_module, _args, output):
            found = output[0] if isinstance(output, tuple) else output
            seen[number] = found.detach().reshape(-1, found.shape[-1])[-1].clone()

        return hook

    handles = [module.register_forward_hook(hook_for(number)) for number, module in enumerate(modules)]
    try:
        by_hand.logits(network, ids)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[number] for number in range(len(modules))]


def first_tokens(model, case: Case) -> tuple[list[int], int, int]:
    """Return the ids up to where the answers part, and the two tokens that follow there."""
    safe, unsafe = ([*by_hand.response(model, text), tiny_models.END] for text in (case.safe, case.unsafe))
    shared = next(n for n, (one, two) in enumerate(zip(safe, unsafe, strict=False)) if one != two)
    return by_hand.prompt(model, case.adversarial_prompt) + safe[:shared], safe[shared], unsafe[shared]


@torch.no_grad()
def difference_by_hand(model, network, case: Case) -> float:
    """Return the logit difference before a softcap: for Gemma 2 norm and head are called here one by one."""
    ids, safe, unsafe = first_tokens(model, case)
    if network.config.model_type == "gemma2":
        logits = network.lm_head(network.model.norm(by_hand.states(network, ids)[-1]))[-1]
        capped = by_hand.logits(network, ids)[-1]
        assert (logits - capped).abs().max() > 0.1, "the softcap must bite for this test to mean anything"
    else:
        logits = by_hand.logits(network, ids)[-1]
    return float(logits[safe] - logits[unsafe])


def assert_complete(found: LogitAttribution) -> None:
    parts = [found.embedding, found.bias, *found.attention, *found.mlp]
    assert abs(found.total - sum(parts)) < 1e-9
    assert abs(found.total - found.difference) < 1e-3 * np.abs(parts).max()
    assert np.abs([*found.mlp, found.embedding]).max() > 0.01, "parts must show for this test to mean anything"


def test_the_parts_sum_to_the_difference_of_the_logits(model, case):
    found = direct_logit_attribution(model, case)
    assert_complete(found)
    assert found.difference == pytest.approx(difference_by_hand(model, model.network, case), rel=1e-3, abs=1e-3)
    assert found.attention.shape == found.mlp.shape == (model.blocks,)
    assert (found.safe_token, found.unsafe_token) == ("I", "A")


def test_without_chat_template_the_answers_part_after_a_space(tiny, case):
    model = tiny("llama", chat=False)
    found = direct_logit_attribution(model, case)
    assert_complete(found)
    assert found.difference == pytest.approx(difference_by_hand(model, model.network, case), rel=1e-3, abs=1e-3)
    assert (found.safe_token, found.unsafe_token) == ("I", "A")


@pytest.mark.parametrize(
    ("safe", "unsafe", "tokens"),
    [
        ("I will not.", "I will tell.", ("n", "t")),
        ("I will not", "I will not say no", ("</s>", " ")),  # one answer starts with all of the other
        ("Yes or no", "Yes", (" ", "</s>")),
    ],
)
def test_answers_that_start_alike_are_compared_where_they_part(llama, case, safe, unsafe, tokens):
    changed = replace(case, safe=safe, unsafe=unsafe)
    found = direct_logit_attribution(llama, changed)
    assert (found.safe_token, found.unsafe_token) == tokens
    assert found.difference == pytest.approx(difference_by_hand(llama, llama.network, changed), rel=1e-3, abs=1e-3)
    assert_complete(found)


@torch.no_grad()
def test_for_llama_each_part_is_the_projection_of_what_its_module_wrote(llama, case):
    """Gain times part over the root mean square of the last state, along the difference of two unembedding rows."""
    network = llama.network
    ids, safe, unsafe = first_tokens(llama, case)
    state = by_hand.states(network, ids)
    last = state[-1][-1]
    gain = network.model.norm.weight / (last.square().mean() + network.model.norm.variance_epsilon).sqrt()
    direction = gain * (network.lm_head.weight[safe] - network.lm_head.weight[unsafe])
    blocks = by_hand.blocks(network)
    found = direct_logit_attribution(llama, case)
    mlp = outputs(network, [block.mlp.down_proj for block in blocks], ids)
    attention = outputs(network, [block.self_attn for block in blocks], ids)
    assert np.allclose(found.mlp, [float(part @ direction) for part in mlp], **CLOSE)
    assert np.allclose(found.attention, [float(part @ direction) for part in attention], **CLOSE)
    assert found.embedding == pytest.approx(float(state[0][-1] @ direction), rel=1e-3, abs=1e-4)
    assert found.bias == 0 and found.split


@torch.no_grad()
@pytest.mark.parametrize("family", tiny_models.SCALED)
def test_parts_are_scaled_as_the_family_scales_them(family, case):
    """Granite multiplies what attention and MLP write, and logits have a factor: in float32, as the model adds them."""
    kind, options = tiny_models.SCALED[family]
    network = tiny_models.random_network(kind(**options))
    model = from_parts(network, tiny_models.tokenizer(), family, tiny_models.LLAMA_S_PATHS)
    found = direct_logit_attribution(model, case)
    assert_complete(found)
    assert found.difference == pytest.approx(difference_by_hand(model, network, case), rel=1e-3, abs=1e-3)
    ids, safe, unsafe = first_tokens(model, case)
    frozen = freeze_norm(network.model.norm, by_hand.states(network, ids)[-1][-1])
    direction = (options.get("logit_scale") or 1 / options["logits_scaling"]) * (
        network.lm_head.weight[safe] - network.lm_head.weight[unsafe]
    )
    for parts, name in ((found.mlp, "mlp"), (found.attention, "self_attn")):
        wrote = outputs(network, [getattr(block, name) for block in by_hand.blocks(network)], ids)
        added = [options.get("residual_multiplier", 1.0) * frozen(part) @ direction for part in wrote]
        assert np.allclose(parts, [float(part) for part in added], **CLOSE), name


@torch.no_grad()
def test_for_gpt2_parts_are_centred_and_the_norm_s_bias_stands_apart(tiny, case):
    model = tiny("gpt2")
    network = model.network
    ids, safe, unsafe = first_tokens(model, case)
    norm, head = network.transformer.ln_f, network.lm_head.weight
    last = by_hand.states(network, ids)[-1][-1]
    against = head[safe] - head[unsafe]
    gain = norm.weight / (last.var(unbiased=False) + norm.eps).sqrt()
    blocks = by_hand.blocks(network)
    found = direct_logit_attribution(model, case)
    for parts, modules in ((found.mlp, [b.mlp for b in blocks]), (found.attention, [b.attn for b in blocks])):
        expected = [float((gain * (part - part.mean())) @ against) for part in outputs(network, modules, ids)]
        assert np.allclose(parts, expected, **CLOSE)
    assert found.bias == pytest.approx(float(norm.bias @ against), rel=1e-3, abs=1e-4)
    assert abs(found.bias) > 1e-3


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
@torch.no_grad()
def test_for_gemma_an_mlp_writes_what_its_second_norm_gives(tiny, case, name):
    model = tiny(name)
    network = model.network
    ids, safe, unsafe = first_tokens(model, case)
    last = by_hand.states(network, ids)[-1][-1]
    gain = (1 + network.model.norm.weight) / (last.square().mean() + network.model.norm.eps).sqrt()
    direction = gain * (network.lm_head.weight[safe] - network.lm_head.weight[unsafe])
    blocks = by_hand.blocks(network)
    found = direct_logit_attribution(model, case)
    mlp = outputs(network, [block.post_feedforward_layernorm for block in blocks], ids)
    attention = outputs(network, [block.post_attention_layernorm for block in blocks], ids)
    assert np.allclose(found.mlp, [float(part @ direction) for part in mlp], **CLOSE)
    assert np.allclose(found.attention, [float(part @ direction) for part in attention], **CLOSE)


def test_without_a_final_norm_a_block_is_not_split(tiny, case):
    found = direct_logit_attribution(tiny("opt_post_norm"), case)
    assert not found.split and not found.attention.any() and found.mlp.all()


def test_a_patched_row_is_attributed_as_the_edited_network(model, case):
    patch = by_hand.patch(model, 1)
    copied = by_hand.written(model.network, (1, patch.deltas[0].dense()))
    vanilla, found = direct_logit_attribution(model, case), direct_logit_attribution(model, case, Row(patch))
    assert_complete(found)
    assert found.difference == pytest.approx(difference_by_hand(model, copied, case), rel=1e-3, abs=1e-3)
    assert abs(found.difference - vanilla.difference) > 1e-3
    assert abs(found.mlp[1] - vanilla.mlp[1]) > 1e-3


def test_the_unembedding_direction_is_what_moves_the_logits(model):
    """A step of length one along a state of order 1: the head is linear, so the change is exact."""
    generator = torch.Generator().manual_seed(0)
    width = by_hand.down_weight(model.network, 0).shape[0]
    start, step = torch.randn((2, width), generator=generator)
    decoder = getattr(model.network.model, "decoder", None) if model.network.config.model_type == "opt" else None

    @torch.no_grad()
    def logit(state: Tensor) -> float:
        if decoder is not None and decoder.project_out is not None:
            state = decoder.project_out(state)
        logits = model.network.get_output_embeddings()(state)
        return float(logits[70] - logits[90])

    direction = unembedding_direction(model, 70, 90)
    assert logit(start + step) - logit(start) == pytest.approx(float(direction @ step), rel=1e-3, abs=1e-4)


class HalvesNorm(nn.Module):
    """Norms the two halves of a state apart: no single scale."""

    def forward(self, states: Tensor) -> Tensor:
        halves = states.reshape(*states.shape[:-1], 2, -1)
        return (halves / (halves.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()).reshape(states.shape)


def state_of_unlike_halves() -> Tensor:
    state = torch.randn(32, generator=torch.Generator().manual_seed(5))
    state[:16] *= 7
    return state


@pytest.mark.parametrize("norm", [nn.Tanh(), HalvesNorm(), nn.Softmax(dim=-1)], ids=lambda n: type(n).__name__)
def test_a_norm_without_one_scale_is_refused(norm):
    with pytest.raises(ArchitectureError, match=rf"{type(norm).__name__}.*not a scaled norm.*another locator"):
        freeze_norm(norm, state_of_unlike_halves())


@pytest.mark.parametrize(("norm", "centred"), [(nn.RMSNorm(32, eps=1e-6), False), (nn.LayerNorm(32), True)])
@torch.no_grad()
def test_a_frozen_norm_is_affine_and_gives_the_norm_s_own_output_at_its_state(norm, centred):
    generator = torch.Generator().manual_seed(2)
    for parameter in norm.parameters():
        parameter.copy_(torch.randn(32, generator=generator))
    state = state_of_unlike_halves() + 1
    frozen = freeze_norm(norm, state)
    assert frozen.centred is centred
    assert torch.allclose(frozen(state) + frozen.bias, norm(state), rtol=1e-3, atol=1e-4)
    one, two = state * torch.rand(32, generator=generator), torch.randn(32, generator=generator)
    assert torch.allclose(frozen(one) + frozen(two), frozen(one + two), rtol=1e-4, atol=1e-4)


def test_no_norm_is_the_identity():
    state = state_of_unlike_halves()
    frozen = freeze_norm(None, state)
    assert torch.equal(frozen(state), state) and not frozen.bias.any()


def margin_by_hand(model, network, case: Case) -> Tensor:
    """Return the margin from two unpadded passes, differentiable."""
    prompt = by_hand.prompt(model, case.adversarial_prompt)
    means = []
    for text in (case.safe, case.unsafe):
        answer = by_hand.response(model, text)
        scored = network(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0].log_softmax(dim=-1)
        start = len(prompt) - 1
        means.append(torch.stack([scored[start + n, token] for n, token in enumerate(answer)]).mean())
    return means[0] - means[1]


def gradient_times_activation(model, network, case: Case) -> np.ndarray:
    """Return, block by block, gradient times output of every MLP, summed over both answers' passes."""
    copied = copy.deepcopy(network).requires_grad_(True)
    blocks = range(len(by_hand.blocks(copied)))
    seen: dict[int, list[Tensor]] = {block: [] for block in blocks}
    for block in blocks:
        written_by_mlp(copied, block).register_forward_hook(lambda _m, _a, out, block=block: seen[block].append(out))
    margin = margin_by_hand(model, copied, case)
    flat = [output for block in blocks for output in seen[block]]
    gradients = iter(torch.autograd.grad(margin, flat))
    return np.array([sum(float((next(gradients) * out).detach().sum()) for out in seen[block]) for block in blocks])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt", "opt_post_norm"])
def test_block_attribution_is_autograd_s_gradient_times_activation(tiny, case, name):
    model = tiny(name)
    expected = gradient_times_activation(model, model.network, case)
    assert np.abs(expected).max() > 1e-2
    assert np.allclose(block_attribution(model, case), expected, rtol=1e-3, atol=1e-4)


def test_block_attribution_of_a_patched_row_is_that_of_the_edited_network(llama, case):
    patch = by_hand.patch(llama, 1)
    copied = by_hand.written(llama.network, (1, patch.deltas[0].dense()))
    found = block_attribution(llama, case, Row(patch))
    assert np.allclose(found, gradient_times_activation(llama, copied, case), rtol=1e-3, atol=1e-4)
    assert not np.allclose(found, block_attribution(llama, case), rtol=1e-2, atol=1e-3)


def trace_margin(model, case: Case):
    texts = answer_pair(model, case)
    return mlp_trace(model, texts.sequences, texts.counted, texts.margin)


def weight_gradients(model, network, case: Case) -> tuple[float, list[Tensor]]:
    """Return the margin and its gradient ``[out, in]`` in every down-projection of a copy that may be trained."""
    copied = copy.deepcopy(network)
    modules = [copied.get_submodule(by_hand.down_name(copied, n)) for n in range(len(by_hand.blocks(copied)))]
    for module in modules:
        module.weight.requires_grad_(True)
    margin = margin_by_hand(model, copied, case)
    margin.backward()
    grads = [m.weight.grad.T if type(m).__name__ == "Conv1D" else m.weight.grad for m in modules]
    return float(margin.detach()), grads


def assert_gradients(trace, value: float, expected: list[Tensor]) -> None:
    assert trace.value == pytest.approx(value, rel=1e-4, abs=2e-5)
    for block, gradient in enumerate(expected):
        found, scale = trace.weight_gradient(block), gradient.abs().max()
        assert scale > 1e-4 and found.dtype == torch.float32
        # Sums over at most 200 positions in another order: a few 1e-6 of the largest value.
        assert torch.allclose(found / scale, gradient / scale, rtol=0, atol=5e-5), f"block {block}"


def test_the_weight_gradient_of_a_trace_is_the_trained_parameter_s(model, case):
    assert_gradients(trace_margin(model, case), *weight_gradients(model, model.network, case))


def test_the_trace_of_a_patched_row_is_that_of_the_edited_network(model, case):
    patch = by_hand.patch(model, 1)
    copied = by_hand.written(model.network, (1, patch.deltas[0].dense()))
    texts = answer_pair(model, case)
    trace = mlp_trace(model, texts.sequences, texts.counted, texts.margin, Row(patch))
    assert_gradients(trace, *weight_gradients(model, copied, case))


@pytest.mark.parametrize(
    "measure",
    [block_attribution, direct_logit_attribution, trace_margin],
    ids=lambda measure: measure.__name__,
)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt_post_norm"])
def test_no_parameter_gets_a_gradient_or_another_flag(tiny, case, name, measure: Callable):
    model = tiny(name)
    flags = {name: parameter.requires_grad for name, parameter in model.network.named_parameters()}
    assert torch.is_grad_enabled()
    measure(model, case)
    assert torch.is_grad_enabled()
    assert {name: parameter.requires_grad for name, parameter in model.network.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.network.parameters())


@pytest.mark.parametrize("measure", [block_attribution, direct_logit_attribution])
def test_gradients_are_found_where_a_caller_has_switched_them_off(llama, case, measure):
    """The dashboard measures with gradients off."""
    expected = measure(llama, case)
    with torch.no_grad():
        found = measure(llama, case)
    same = found if isinstance(found, np.ndarray) else found.mlp
    assert np.array_equal(same, expected if isinstance(expected, np.ndarray) else expected.mlp)


@pytest.mark.parametrize("measure", [block_attribution, direct_logit_attribution])
def test_a_case_that_cannot_be_measured_is_refused(llama, case, measure):
    with pytest.raises(CaseError, match="same text"):
        measure(llama, replace(case, unsafe=case.safe))
    with pytest.raises(CaseError, match="The unsafe answer is empty"):
        measure(llama, replace(case, unsafe=" "))
    with pytest.raises(PromptError, match="at most 512"):
        measure(llama, replace(case, adversarial_prompt="a" * 600))


def test_a_cap_that_bites_leaves_the_difference_alone_in_half_precision(case):
    """Capped logits near 5 are rounded to 5 in bfloat16, and the cap of 5 cannot be undone there."""
    network = tiny_models.network("gemma2").to(torch.bfloat16)
    with torch.no_grad():
        network.lm_head.weight.mul_(400)
    single = copy.deepcopy(network).float()
    half, whole = (from_parts(each, tiny_models.tokenizer(), "capped") for each in (network, single))
    ids, *parting = first_tokens(whole, case)
    assert float(by_hand.logits(network, ids)[-1, parting].abs().max()) == 5.0, "or this test says nothing"
    found = direct_logit_attribution(half, case)
    assert found.difference == pytest.approx(difference_by_hand(whole, single, case), rel=0.05)
    assert found.total == pytest.approx(found.difference, rel=0.05)


def test_states_that_are_not_finite_are_not_split(overflowing, case):
    with pytest.raises(NotFinite, match=r"logit attribution .*float16"):
        direct_logit_attribution(overflowing, case)
