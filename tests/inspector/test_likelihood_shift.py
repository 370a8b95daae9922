"""Answer probabilities and activation shifts are what plain forward passes give."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import torch

from inspector.columns import neuron_profile
from inspector.errors import NotFinite, PatchError, PromptError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Delta, Patch, PromptFormat, Row, encode
from inspector.shift import activation_shift

TEXT, ANSWER = "How do I be mean?", "I'm sorry, I will not help."
ANSWERS = (ANSWER, "No.", "Arr, tell them lies, and then some more of them until they cry.")
# Log-probabilities here are near -5.5 and come from float32 logits that two correct ways compute up to a few
# 1e-6 apart (another batch size, a cached prompt).
CLOSE = {"rtol": 0, "atol": 3e-5}


def log_probabilities(model, network, answer: str) -> torch.Tensor:
    """Return log P of each answer token from one plain pass over prompt and answer."""
    prompt, ids = by_hand.prompt(model, TEXT), by_hand.response(model, answer)
    scored = by_hand.logits(network, prompt + ids).log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return scored.gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)


def test_log_probabilities_equal_plain_log_softmax_for_every_answer_and_row(model):
    """Answers of unlike length in one padded batch, under vanilla and edited weights."""
    patch = by_hand.patch(model)
    copied = by_hand.written(model.network, (patch.deltas[0].block, patch.deltas[0].dense()))
    result = likelihoods(model, TEXT, ANSWERS, (VANILLA, Row(patch)))
    for of_row, network in zip(result, (model.network, copied), strict=True):
        for text, own in zip(ANSWERS, of_row, strict=True):
            expected = log_probabilities(model, network, text)
            assert np.allclose(own.log_probabilities, expected, **CLOSE)
            assert own.first == pytest.approx(float(expected[0].exp()), rel=1e-4)
            assert own.per_token == pytest.approx(float(expected.mean().exp()), rel=1e-4)
            assert "".join(own.tokens) == text
    change = result[1][0].log_probabilities - result[0][0].log_probabilities
    assert np.abs(change).max() > 0.1, "the patch must do something for this test to mean anything"


def test_without_chat_template_the_same_holds(tiny):
    model = tiny("llama", chat=False)
    ((own,),) = likelihoods(model, TEXT, [ANSWER])
    assert np.allclose(own.log_probabilities, log_probabilities(model, model.network, ANSWER), **CLOSE)


def test_an_answer_s_score_does_not_depend_on_the_other_answers(llama):
    alone = likelihoods(llama, TEXT, ANSWERS[1:2])[0][0]
    among = likelihoods(llama, TEXT, ANSWERS)[0][1]
    assert np.allclose(alone.log_probabilities, among.log_probabilities, **CLOSE)


def test_answers_of_one_token_each_are_scored(llama):
    """Nothing follows the prompt's own position then."""
    ((no, yes),) = likelihoods(llama, "Why do leaves fall?", ["N", "Y"])
    asked = encode(llama, "Why do leaves fall?", "N", PromptFormat().open())
    assert len(asked.response) == 1
    plain = by_hand.vanilla_logits(llama, asked.prompt)[-1].log_softmax(dim=-1)
    assert no.log_probabilities == pytest.approx([float(plain[asked.response[0]])], abs=1e-5)
    assert no.tokens == ("N",) and yes.tokens == ("Y",) and no.first != yes.first


def test_an_empty_answer_is_refused(llama):
    with pytest.raises(PromptError, match="answer is empty"):
        likelihoods(llama, TEXT, [ANSWER, " "])


def test_the_shift_below_the_edited_block_and_at_its_input_is_exactly_zero(model):
    for block in range(model.blocks):
        shift = activation_shift(model, TEXT, ANSWER, Row(by_hand.patch(model, block)))
        assert (shift.by_token[:block] == 0).all()
        assert shift.input_change == 0
        assert (shift.by_block[block:] > 1e-4).all()
        assert shift.blocks_edited == (block,)


def test_the_shift_equals_that_of_a_copy_with_the_delta_written(model):
    patch = by_hand.patch(model)
    copied = by_hand.written(model.network, (patch.deltas[0].block, patch.deltas[0].dense()))
    ids = by_hand.prompt(model, TEXT) + by_hand.response(model, ANSWER)
    vanilla, edited = (by_hand.states(network, ids)[1:] for network in (model.network, copied))
    expected = [
        ((b - a).norm(dim=-1) / a.norm(dim=-1)).numpy() for a, b in zip(vanilla, edited, strict=True)
    ]  # relative changes of order 0.1 of float32 states
    shift = activation_shift(model, TEXT, ANSWER, Row(patch))
    assert np.allclose(shift.by_token, expected, rtol=1e-4, atol=1e-5)
    assert np.allclose(shift.by_block, np.mean(expected, axis=1), rtol=1e-4, atol=1e-5)
    assert shift.prompt_tokens == len(by_hand.prompt(model, TEXT))
    assert len(shift.tokens) == len(ids)


def test_a_second_edited_block_s_input_does_shift(model):
    """The forced zero is that of the first edited block only, so it is not built into the measurement."""
    patch = by_hand.patch(model, 0, 1)
    only_second = Patch(patch.deltas[1:], model.fingerprint, "second")
    assert activation_shift(model, TEXT, ANSWER, Row(patch)).input_change == 0
    assert activation_shift(model, TEXT, ANSWER, Row(only_second)).input_change == 0
    # Listed as if it stood in block 1, the change of block 0 shows at the input of block 1.
    disguised = Delta(patch.deltas[0].module, 1, patch.deltas[0].left)
    shift = activation_shift(model, TEXT, ANSWER, Row(Patch((disguised,), model.fingerprint, "disguised")))
    assert shift.input_change > 1e-3


def test_a_shift_needs_a_patch_of_this_model(llama, tiny):
    with pytest.raises(PatchError, match="have none"):
        activation_shift(llama, TEXT, ANSWER, VANILLA)
    with pytest.raises(PatchError, match="another base model"):
        activation_shift(llama, TEXT, ANSWER, Row(by_hand.patch(tiny("qwen2"))))


def test_the_neuron_profile_is_the_norm_of_the_delta_s_columns(model):
    delta = torch.zeros(32, 48)
    delta[:, 7] = 3.0
    delta[0, 11] = 4.0
    patch = Patch((Delta(by_hand.down_name(model.network, 1), 1, delta),), model.fingerprint, "two neurons")
    profile = neuron_profile(model, patch)
    assert profile.block == 1 and profile.change.shape == (48,)
    assert profile.change[7] == pytest.approx(3.0 * 32**0.5) and profile.change[11] == pytest.approx(4.0)
    assert np.count_nonzero(profile.change) == 2
    assert profile.top(2) == [7, 11]
    base = by_hand.down_weight(model.network, 1)[:, 11].norm()
    assert profile.relative[11] == pytest.approx(4.0 / float(base), rel=1e-5)


def test_the_neuron_profile_of_a_low_rank_patch_equals_its_dense_one(llama):
    torch.manual_seed(0)
    left, right, name = torch.randn(32, 2), torch.randn(2, 48), by_hand.down_name(llama.network, 2)
    low_rank, dense = Delta(name, 2, left, right), Delta(name, 2, left @ right)
    one, two = (neuron_profile(llama, Patch((d,), llama.fingerprint, "test"), 2) for d in (low_rank, dense))
    assert np.allclose(one.change, two.change)


def test_the_neuron_profile_of_a_block_that_the_patch_leaves_alone_is_refused(llama):
    with pytest.raises(PatchError, match=r"does not change the down-projection of block 2.*touches blocks 0, 1"):
        neuron_profile(llama, by_hand.patch(llama, 0, 1), 2)


def test_what_is_not_finite_is_neither_likely_nor_shifted(overflowing):
    with pytest.raises(NotFinite, match=r"likelihood .*float16"):
        likelihoods(overflowing, TEXT, ANSWERS)
    with pytest.raises(NotFinite, match=r"activation shift .*float16"):
        activation_shift(overflowing, TEXT, ANSWER, Row(by_hand.patch(overflowing)))
