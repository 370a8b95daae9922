"""Measurements, tails and gradients of bfloat16 and float16 models, beside those of the float32 model."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import tiny_models
import torch
from half_precision_helpers import HALVES, cosine, rounded

from inspector.attribution import block_attribution
from inspector.divergence import divergence
from inspector.likelihood import likelihoods
from inspector.margin import answer_pair, mlp_trace
from inspector.model import VANILLA, Row, from_parts
from inspector.model.passes.tails import Tails, with_weight
from inspector.token_attribution import token_attribution


def test_gradients_that_float16_cannot_hold_come_through_the_scale(case):
    """The mean loss over many tokens has gradients far below float16's smallest number in early blocks."""
    half, single = rounded("llama", torch.float16)
    texts = answer_pair(half, case)
    traces = [mlp_trace(m, texts.sequences, texts.counted, lambda x: 1e-3 * texts.margin(x)) for m in (half, single)]
    assert half.gradient_scale > 1 == single.gradient_scale
    for block in range(half.blocks):
        assert cosine(*(trace.weight_gradient(block) for trace in traces)) > 0.99, block
    bare = mlp_trace(half, texts.sequences, texts.counted, lambda x: 1e-3 * texts.margin(x) / half.gradient_scale)
    lost = [float((trace.gradients[0] == 0).float().mean()) for trace in (traces[0], bare)]
    assert lost[0] < lost[1], "without the scale entries vanish, or this test says nothing"


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
