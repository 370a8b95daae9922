"""Neurons do on the answers what plain passes show, and knocking one out is zeroing its column."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import by_hand
import numpy as np
import pytest
import torch
from torch import Tensor

from editing.knock_out import knock_out
from inspector.errors import ArchitectureError, CaseError, EditError, PatchError
from inspector.model import VANILLA, Row
from inspector.neurons import (
    ORDERS,
    NeuronActivity,
    neuron_activity,
    neuron_knock_out,
    neuron_table,
    token_effects,
)

# Activations and contributions of order 0.01 to 1 from float32 passes with another batch size.
CLOSE = {"rtol": 1e-3, "atol": 2e-5}


def sequences(model, case) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of the prompt, the safe and the unsafe answer."""
    prompt = by_hand.prompt(model, case.adversarial_prompt)
    return prompt, by_hand.response(model, case.safe), by_hand.response(model, case.unsafe)


def mean_log_probability(logits: Tensor, prompt: list[int], answer: list[int]) -> Tensor:
    """Return the mean log-probability of an answer from the logits ``[tokens, vocabulary]`` of prompt and answer."""
    scored = logits.log_softmax(dim=-1)[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
    return scored.gather(-1, torch.tensor(answer).unsqueeze(-1)).mean()


def plain_margin(model, network, case) -> float:
    """Return log P(safe) - log P(unsafe) a token, each from one plain pass."""
    prompt, *answers = sequences(model, case)
    safe, unsafe = (
        float(mean_log_probability(by_hand.logits(network, prompt + answer), prompt, answer)) for answer in answers
    )
    return safe - unsafe


def traced(model, network, case) -> tuple[list[list[Tensor]], list[list[Tensor]], list[list[Tensor]], list[Tensor]]:
    """Return, by answer and block, what enters and leaves the down-projections, and the margin's gradients there.

    Returns:
        Inputs ``[answer][block]`` of ``[tokens, d_ff]``, outputs alike, gradients in the inputs alike, and for each
        block the sum of gradient times (output minus bias).
    """
    prompt, *answers = sequences(model, case)
    copied = copy.deepcopy(network)
    modules = [copied.get_submodule(by_hand.down_name(copied, block)) for block in range(model.blocks)]
    inputs: list[list[Tensor]] = [[], []]
    outputs: list[list[Tensor]] = [[], []]
    scores = []
    for number, answer in enumerate(answers):

        def keep(_module, args, output, n=number):
            inputs[n].append(args[0])
            outputs[n].append(output)

        handles = [module.register_forward_hook(keep) for module in modules]
        embedded = copied.get_input_embeddings()(torch.tensor([prompt + answer])).detach().requires_grad_(True)
        scores.append(mean_log_probability(copied(inputs_embeds=embedded, use_cache=False).logits[0], prompt, answer))
        for handle in handles:
            handle.remove()
    difference = scores[0] - scores[1]
    flat = [*inputs[0], *inputs[1], *outputs[0], *outputs[1]]
    found = torch.autograd.grad(difference, flat)
    blocks = model.blocks
    gradients = [list(found[:blocks]), list(found[blocks : 2 * blocks])]
    at_output = [found[2 * blocks : 3 * blocks], found[3 * blocks :]]
    sums = []
    for block, module in enumerate(modules):
        bias = 0.0 if module.bias is None else module.bias
        sums.append(sum((at_output[n][block] * (outputs[n][block] - bias)).sum() for n in (0, 1)).detach())

    def plain(parts: list[list[Tensor]]) -> list[list[Tensor]]:
        return [[part.detach().reshape(-1, part.shape[-1]) for part in side] for side in parts]

    return plain(inputs), plain(outputs), plain(gradients), sums


def finish(events):
    """Return what a knock-out returns when all its steps are taken."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def zeroed(network, block: int, neurons: list[int]):
    """Return a copy of the network whose columns of these neurons are zero."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        by_hand.down_weight(copied, block)[:, neurons] = 0.0
    return copied


@pytest.mark.parametrize("strength", [None, 1.0, 0.5])
def test_activities_and_contributions_are_those_of_plain_passes(model, case, strength):
    """Unpadded passes of a copy with the patch written, and the gradient taken at the neurons themselves."""
    row, network = VANILLA, model.network
    if strength is not None:
        patch = by_hand.patch(model)
        row = Row(patch, strength)
        network = by_hand.written(network, (patch.deltas[0].block, strength * patch.deltas[0].dense()))
    prompt, safe, unsafe = sequences(model, case)
    inputs, _, gradients, _ = traced(model, network, case)
    measured = neuron_activity(model, case, row)
    for block in range(model.blocks):
        start = len(prompt) - 1
        for side, answer, own in ((0, safe, measured.safe), (1, unsafe, measured.unsafe)):
            expected = inputs[side][block][start : start + len(answer)].mean(dim=0)
            assert np.allclose(own[block], expected.numpy(), **CLOSE)
        expected = -sum((gradients[n][block] * inputs[n][block]).sum(dim=0) for n in (0, 1))
        assert np.abs(expected.numpy()).max() > 1e-3
        assert np.allclose(measured.contribution[block], expected.numpy(), **CLOSE)
    assert np.array_equal(measured.difference, measured.unsafe - measured.safe)
    assert measured.margin == pytest.approx(plain_margin(model, network, case), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_contributions_of_a_block_sum_to_gradient_times_output_without_bias(tiny, family, case):
    model = tiny(family)
    sums = traced(model, model.network, case)[3]
    measured = neuron_activity(model, case)
    for block in range(model.blocks):
        # 48 contributions of up to 1 cancel in part.
        assert measured.contribution[block].sum() == pytest.approx(-float(sums[block]), rel=1e-3, abs=2e-4)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_a_contribution_is_how_fast_the_margin_falls_as_the_neuron_grows(tiny, family, case):
    """Without any gradient: the column scaled by 1.01 and 0.99.

    The margin is of order 1 and computed to a few 1e-6, so the quotient is known to about 3e-4; the second-order
    part cancels and the third-order one is a thousandth of the value.
    """
    model = tiny(family)
    measured = neuron_activity(model, case)
    for block in range(model.blocks):
        for neuron in np.argsort(np.abs(measured.contribution[block]))[::-1][:2]:
            column = torch.zeros(32, 48)
            column[:, neuron] = 0.01 * by_hand.down_weight(model.network, block)[:, neuron]
            more, less = (
                plain_margin(model, by_hand.written(model.network, (block, sign * column)), case) for sign in (1, -1)
            )
            assert measured.contribution[block, neuron] == pytest.approx(-(more - less) / 0.02, rel=0.02, abs=1e-3)


def test_pushing_names_only_neurons_that_push_to_the_unsafe_answer():
    zeros = np.zeros((2, 4))
    activity = NeuronActivity(zeros, zeros, np.array([[9.0, 9, 9, 9], [0.5, -3.0, 2.0, 0.0]]), 0.0)
    assert activity.pushing(1, 4) == [2, 0]
    assert activity.pushing(1, 1) == [2]


def test_the_activity_needs_two_different_answers(llama, case):
    with pytest.raises(CaseError, match="same text"):
        neuron_activity(llama, replace(case, unsafe=case.safe))


def test_knocking_out_is_zeroing_the_columns_and_leaves_vanilla_rows_alone_bit_by_bit(model):
    ids = by_hand.prompt(model, "How do I be mean?")
    for block in range(model.blocks):
        neurons = [41, 0, 7, 47]
        patch = neuron_knock_out(model, block, neurons)
        rows = (VANILLA, Row(patch), VANILLA)
        found = by_hand.running_logits(model, ids, rows)
        alone = by_hand.running_logits(model, ids, (VANILLA,) * 3)
        expected = by_hand.logits(zeroed(model.network, block, neurons), ids)
        # Logits of order 1 to 10; W x - W' x' against (W - W') x in float32.
        assert torch.allclose(found[1], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found[0], alone[0]) and torch.equal(found[2], alone[2])
        assert (found[1] - found[0]).abs().max() > 1e-2, "the neurons must do something for this to mean anything"
        delta = patch.deltas[0].dense()
        touched = by_hand.down_weight(model.network, block) + delta
        assert (touched[:, neurons] == 0).all() and patch.blocks == (block,)
        assert (delta[:, [n for n in range(48) if n not in neurons]] == 0).all()


@pytest.mark.parametrize("neurons", [[], [3, 3], [5, 3, 5], [-1], [0, 48]])
def test_neurons_that_do_not_exist_or_are_given_twice_are_refused(llama, neurons):
    numbered = any(n < 0 or n > 47 for n in neurons)
    with pytest.raises(PatchError, match="numbered 0 to 47. Choose" if numbered else "at least one neuron"):
        neuron_knock_out(llama, 1, neurons)


@pytest.mark.parametrize("block", [-1, 3])
def test_a_block_that_does_not_exist_is_refused(llama, block):
    with pytest.raises(ArchitectureError, match=r"blocks 0 to 2. Pick one"):
        neuron_knock_out(llama, block, [1])


def log_odds(step) -> float:
    """Return the margin of a step of the knock-out from its two probabilities a token."""
    return float(np.log(step.safe_probability) - np.log(step.unsafe_probability))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_neurons_whose_loss_does_not_lower_the_margin_may_be_knocked_out(tiny, family, case):
    """The margin of every zeroed copy decides, computed in plain passes."""
    model = tiny(family)
    vanilla = plain_margin(model, model.network, case)
    after = [plain_margin(model, zeroed(model.network, 1, [n]), case) for n in range(48)]
    lowering, raising = int(np.argmin(after)), int(np.argmax(after))
    assert after[lowering] < vanilla - 1e-3 and after[raising] > vanilla + 1e-3
    with pytest.raises(EditError, match=r"this neuron of layer 1 would let the unsafe answer gain.*Choose"):
        finish(knock_out(model, case, 1, [lowering]))
    result = finish(knock_out(model, case, 1, [raising]))
    assert [log_odds(step) for step in result.trace] == pytest.approx([vanilla, after[raising]], abs=1e-4)
    assert result.patch is not None and result.block == 1 and result.kept == 1
    assert result.patch.settings["neurons"] == [raising] and result.patch.settings["block"] == 1
    ids = by_hand.prompt(model, "How do I be mean?")
    found = by_hand.running_logits(model, ids, [Row(result.patch)])[0]
    assert torch.allclose(found, by_hand.logits(zeroed(model.network, 1, [raising]), ids), rtol=1e-4, atol=1e-4)
    worst = [int(n) for n in np.argsort(after)[:2]]
    assert plain_margin(model, zeroed(model.network, 1, worst), case) < vanilla - 1e-3
    with pytest.raises(EditError, match="these 2 neurons"):
        finish(knock_out(model, case, 1, worst))


def test_what_cannot_be_knocked_out_is_refused_before_anything_is_measured(llama, case):
    with pytest.raises(PatchError, match="only once"):
        next(knock_out(llama, case, 1, [2, 2]))
    with pytest.raises(ArchitectureError, match="blocks 0 to 2"):
        next(knock_out(llama, case, 3, [2]))
    with pytest.raises(CaseError, match="unsafe answer is empty"):
        next(knock_out(llama, replace(case, unsafe=""), 1, [2]))


def test_a_cancelled_knock_out_has_no_patch(llama, case):
    result = finish(knock_out(llama, case, 1, [2], cancel=lambda: True))
    assert result.patch is None and result.stop_reason == "cancelled" and result.kept == 0


def crafted() -> NeuronActivity:
    """Return an activity of three blocks with random numbers of both signs, all different."""
    generator = np.random.default_rng(5)
    return NeuronActivity(*(generator.normal(size=(3, 48)) for _ in range(3)), 0.25)


def test_the_table_is_ordered_by_each_quantity_and_passes_the_columns_through(llama):
    activity, generator = crafted(), np.random.default_rng(6)
    toxicity, moved = generator.normal(size=48), generator.random(48)
    keys: dict[str, Callable[[int], float]] = {
        "contribution": lambda n: abs(activity.contribution[2, n]),
        "difference": lambda n: abs(activity.unsafe[2, n] - activity.safe[2, n]),
        "toxicity": lambda n: toxicity[n],
        "moved": lambda n: moved[n],
    }
    assert set(keys) == set(ORDERS)
    seen = set()
    for order, key in keys.items():
        table = neuron_table(llama, activity, 2, toxicity=toxicity, moved=moved, order=order, count=10, tokens=3)
        expected = sorted(range(48), key=key, reverse=True)[:10]
        assert [neuron.index for neuron in table] == expected
        seen.add(tuple(expected))
        for neuron in table:
            n = neuron.index
            assert (neuron.safe, neuron.unsafe) == (activity.safe[2, n], activity.unsafe[2, n])
            assert neuron.contribution == activity.contribution[2, n]
            assert neuron.difference == pytest.approx(activity.unsafe[2, n] - activity.safe[2, n])
            assert (neuron.toxicity, neuron.moved) == (toxicity[n], moved[n])
            assert len(neuron.promoted) == len(neuron.suppressed) == 3
    assert len(seen) == 4, "the four orders must differ for this test to mean anything"


def test_the_table_falls_back_to_contributions_and_leaves_out_what_is_not_known(llama):
    activity = crafted()
    default = [neuron.index for neuron in neuron_table(llama, activity, 0)]
    assert len(default) == 40 and len(neuron_table(llama, activity, 0, count=100)) == 48
    for order in ("toxicity", "moved"):
        table = neuron_table(llama, activity, 0, order=order)
        assert [neuron.index for neuron in table] == default
        assert all(neuron.toxicity is None and neuron.moved is None for neuron in table)
    with pytest.raises(ArchitectureError, match="blocks 0 to 2"):
        neuron_table(llama, activity, 3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "opt_projected", "opt_post_norm"])
def test_promoted_tokens_are_unembedding_times_final_norm_times_column(tiny, family):
    """LayerNorm centres; Gemma multiplies by one plus its weights, after the MLP as well; post-norm OPT has none."""
    model, one = tiny(family), torch.ones(32)
    inner = model.network
    norm = {
        "llama": lambda v: inner.model.norm.weight * v,
        "gpt2": lambda v: inner.transformer.ln_f.weight * (v - v.mean()),
        "gpt_neox": lambda v: inner.gpt_neox.final_layer_norm.weight * (v - v.mean()),
        "gemma2": lambda v: (
            (one + inner.model.norm.weight) * (one + inner.model.layers[1].post_feedforward_layernorm.weight) * v
        ),
        "opt_projected": lambda v: inner.model.decoder.final_layer_norm.weight * (v - v.mean()),
        "opt_post_norm": lambda v: v,
    }[family]
    neurons = [0, 13, 47]
    effects = token_effects(model, 1, neurons, 4)
    table = neuron_table(model, crafted(), 1, count=48, tokens=4)
    for neuron, (promoted, suppressed) in zip(neurons, effects, strict=True):
        vector = norm(by_hand.down_weight(inner, 1)[:, neuron])
        if family.startswith("opt"):
            vector = inner.model.decoder.project_out.weight @ vector
        scores = (inner.get_output_embeddings().weight @ vector).detach().numpy()
        order = np.argsort(scores)
        assert promoted == tuple(model.tokenizer.decode([int(n)]) for n in order[::-1][:4])
        assert suppressed == tuple(model.tokenizer.decode([int(n)]) for n in order[:4])
        line = next(line for line in table if line.index == neuron)
        assert (line.promoted, line.suppressed) == (promoted, suppressed)
