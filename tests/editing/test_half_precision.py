"""Edits of bfloat16 and float16 models: what is optimised is float32, and the change is that of the float32 model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import by_hand
import pytest
import tiny_models
import torch
from training_helpers import SMALL, small

from editing import dinm, preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.mend.top import TopBlocks, gradient_factors
from editing.methods.sft import SftSettings, sft
from editing.optimising.trainee import TrainedScope, trainee
from inspector.attribution import block_attribution
from inspector.contrast import contrast, mlp_trace
from inspector.divergence import divergence
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, InspectedModel, Row, encode, from_parts
from inspector.model.passes.tails import Tails, with_weight
from inspector.token_attribution import token_attribution

HALVES = (torch.bfloat16, torch.float16)
BLOCK = 1


@cache
def rounded(family: str, dtype: torch.dtype) -> tuple[InspectedModel, InspectedModel]:
    """Return a model in half precision and one in float32 with the same (rounded) weights."""
    half = tiny_models.network(family).to(dtype)
    single = tiny_models.network(family)
    single.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    return tuple(from_parts(network, tiny_models.tokenizer(), f"{family} {dtype}") for network in (half, single))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@pytest.fixture(params=HALVES, ids=["bfloat16", "float16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=tiny_models.FIVE)
def pair(request, dtype) -> tuple[InspectedModel, InspectedModel]:
    return rounded(request.param, dtype)


def test_dinm_s_change_is_float32_and_points_where_the_float32_model_s_does(pair, case):
    """The released code's loss positions are compared on Llama alone."""
    names = ("corrected", "reference") if pair[0].name.startswith("llama") else ("corrected",)
    for name in names:
        same_direction(pair, case, name)


def same_direction(pair: tuple[InspectedModel, InspectedModel], case, name: str) -> None:
    settings = preset(name, steps=1, learning_rate=0.1, optimiser="descent", target_probability=None, **SMALL)
    half, single = (run(dinm(model, case, BLOCK, settings)) for model in pair)
    changes = [result.patch.deltas[0].left for result in (half, single)]
    assert all(change.dtype == torch.float32 for change in changes)
    assert cosine(*changes) > 0.98
    assert float(changes[0].norm()) == pytest.approx(float(changes[1].norm()), rel=0.05), "no scale is left in it"
    assert half.trace[0].edit_loss == pytest.approx(single.trace[0].edit_loss, rel=0.03)


def test_a_measured_step_is_about_as_large_as_the_float32_model_s_and_costs_as_much(pair, case):
    settings = preset("corrected", steps=1, target_probability=None, harmless_at_once=None, **SMALL)
    half, single = (run(dinm(model, case, BLOCK, settings)) for model in pair)
    sizes = [result.patch.settings["learning_rate"] for result in (half, single)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)
    assert half.trace[1].constraint_kl == pytest.approx(settings.step_kl, rel=0.5)


@pytest.mark.parametrize(("edit", "kind"), [(ft_l, FtLSettings), (sft, SftSettings), (dpo, DpoSettings)])
def test_a_step_below_half_a_unit_in_the_last_place_is_not_lost(dtype, case, edit, kind):
    """LoRA's factors are some 0.1 in size, of which bfloat16 keeps steps of 4e-4; DPO's are 1e-4 by default."""
    half, single = rounded("llama", dtype)
    changes = {"learning_rate": 1e-5, "steps": 3}
    if kind is DpoSettings:
        changes |= {"warm_up": 1, "preference_rate": 1e-5}
    results = [run(edit(model, case, BLOCK, small(kind, **changes))) for model in (half, single)]
    norms = [result.patch.norm for result in results]
    assert results[0].kept == results[1].kept > 0 and norms[0] == pytest.approx(norms[1], rel=0.05)
    if kind is not FtLSettings:  # the first factors, which bfloat16 would leave where they were
        drawn = [parameter.detach() for parameter in trainee(half, TrainedScope()).parameters[::2]]
        for delta, before in zip(results[0].patch.deltas, drawn, strict=True):
            assert 0 < float((delta.right - before).abs().max()) < 1e-3


@pytest.mark.parametrize("scope", ["LoRA", "full"])
def test_what_is_trained_is_float32_whatever_the_base(pair, scope):
    model, _ = pair
    student = trainee(model, TrainedScope(scope))
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters)
    before = [parameter.detach().clone() for parameter in student.parameters]
    optimiser = torch.optim.SGD(student.parameters, lr=1e-6)
    student.logits([(1, 40, 80, 120)], [range(4)]).log_softmax(dim=-1)[:, 7].sum().backward()
    optimiser.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, student.parameters, strict=True)]
    # LoRA's second factor is zero, so that the first one has no gradient yet.
    assert all(moved[1::2] if scope == "LoRA" else moved) and all(
        torch.isfinite(parameter).all() for parameter in student.parameters
    )


def test_gradients_that_float16_cannot_hold_come_through_the_scale(case):
    """The mean loss over many tokens has gradients far below float16's smallest number in early blocks."""
    half, single = rounded("llama", torch.float16)
    texts = contrast(half, case)
    traces = [mlp_trace(m, texts.sequences, texts.counted, lambda x: 1e-3 * texts.margin(x)) for m in (half, single)]
    assert half.gradient_scale > 1 == single.gradient_scale
    for block in range(half.blocks):
        assert cosine(*(trace.weight_gradient(block) for trace in traces)) > 0.99, block
    bare = mlp_trace(half, texts.sequences, texts.counted, lambda x: 1e-3 * texts.margin(x) / half.gradient_scale)
    lost = [float((trace.gradients[0] == 0).float().mean()) for trace in (traces[0], bare)]
    assert lost[0] < lost[1], "without the scale entries vanish, or this test says nothing"


def test_the_atlas_measures_in_half_precision_what_it_does_in_float32(dtype, case):
    settings = AtlasSettings(learning_rate=0.01, harmless_prompts=2, harmless_tokens=4)
    half, single = (run(make_atlas(model, case, settings)) for model in rounded("llama", dtype))
    gains = [atlas.curve("margin gain") for atlas in (half, single)]
    assert gains[0] == pytest.approx(gains[1], rel=0.15, abs=0.02)


def test_measurements_in_half_precision_are_near_the_float32_ones(pair, case):
    half = pair[0]
    curves = [divergence(model, case).l2 for model in pair]
    assert curves[0] == pytest.approx(curves[1], rel=0.03)
    patch = by_hand.patch(half, size=0.3)
    rows = (VANILLA, Row(patch))
    for one, two in zip(*(likelihoods(m, case.question, [case.safe], (VANILLA,)) for m in pair), strict=True):
        assert one[0].log_probabilities == pytest.approx(two[0].log_probabilities, rel=0.03, abs=0.1)
    assert likelihoods(half, case.question, [case.safe], rows)[1][0].log_probabilities.dtype.name == "float32"


def test_a_tail_is_resumed_in_half_precision_where_the_family_allows_it(pair):
    model, _ = pair
    tails = Tails(model, [(1, 40, 80, 120, 160, 200)], [range(3, 6)])
    resumes = model.architecture.paths.after_attention is not None
    assert tails._resumes is resumes
    last = model.architecture.last_block
    weight = by_hand.down_weight(model.network, last).detach().float()
    own = tails.logits({last: tails.changed(last, with_weight(weight))})[last]
    whole = by_hand.logits(model.network, (1, 40, 80, 120, 160, 200))[3:6].float()
    assert own == pytest.approx(whole, rel=0.05, abs=0.15)


@pytest.mark.parametrize("kind", HALVES)
def test_an_error_at_one_small_position_is_seen_beside_a_massive_one(kind):
    """The first token's state is a thousand times longer than all others, as models have it."""
    network = tiny_models.network("llama").to(kind)
    network.get_input_embeddings().weight.data[tiny_models.BEGIN] *= 1000
    model, other = (from_parts(network, tiny_models.tokenizer(), "massive") for _ in range(2))
    ids, counted = [(tiny_models.BEGIN, 40, 80, 120, 160, 200)], [range(3, 6)]
    assert Tails(other, ids, counted, [1])._resumes

    def unlike(_module, _args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, 3] += 0.5
        assert float(states[:, 0].abs().max()) > 50 * float(states[:, 1:].abs().max())
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = model.architecture.blocks[1].register_forward_hook(unlike)
    try:
        assert not Tails(model, ids, counted, [1])._resumes
    finally:
        handle.remove()


def test_a_scale_that_is_too_much_for_the_atlas_s_first_gradient_backs_off(case, too_large):
    settings = AtlasSettings(learning_rate=0.01, harmless_prompts=2, harmless_tokens=4)
    half, single = (run(make_atlas(model, case, settings)) for model in rounded("llama", torch.float16))
    assert half.curve("margin gain") == pytest.approx(single.curve("margin gain"), rel=0.15, abs=0.02)


def test_a_scale_that_is_too_much_for_mend_s_gradient_backs_off(case, too_large):
    found = []
    for model in rounded("llama", torch.float16):
        name = by_hand.down_name(model.network, BLOCK)
        top = TopBlocks(model, [encode(model, case.adversarial_prompt, case.safe)], BLOCK)
        inputs, gradients = gradient_factors(top, [name])[name]
        found.append(gradients.T @ inputs)
    assert cosine(*found) > 0.99 and float(found[0].norm()) == pytest.approx(float(found[1].norm()), rel=0.03)


def test_a_scale_that_is_too_much_for_a_gradient_times_activation_backs_off(case, too_large):
    found = [block_attribution(model, case) for model in rounded("llama", torch.float16)]
    assert found[0] == pytest.approx(found[1], rel=0.1, abs=0.01)


@pytest.mark.parametrize("way", ["gradient x input", "integrated gradients"])
def test_a_scale_that_is_too_much_for_an_attribution_to_tokens_backs_off(case, too_large, way):
    asked = replace(case, adversarial_prompt="Arr, be mean!", safe="No.", unsafe="Lie.")
    shares: list[float] = []
    found = [
        token_attribution(model, asked, way, steps=3, progress=shares.append)
        for model in rounded("llama", torch.float16)
    ]
    sizes = [torch.from_numpy(each.values) for each in found]
    assert cosine(*sizes) > 0.98 and float(sizes[0].norm()) == pytest.approx(float(sizes[1].norm()), rel=0.1)
    assert found[0].evaluations > found[1].evaluations and min(shares) > 0 and max(shares) <= 1
