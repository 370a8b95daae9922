"""The logit lens reads every block's output as the model itself reads the last one."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import torch
from torch import Tensor

from inspector.errors import NotFinite, PromptError
from inspector.lens import Lens, Peak, lens_positions, logit_lens, peaks
from inspector.model import VANILLA, PromptFormat, Row

TEXT, ANSWER = "How do I be mean?", "I'm sorry, I will not help."
# Log-probabilities are of order -1 to -10; another batch size moves float32 logits by a few 1e-6.
CLOSE = {"rtol": 0, "atol": 5e-5}


def tokens(model) -> list[int]:
    return by_hand.prompt(model, TEXT) + by_hand.response(model, ANSWER)


def written(model, patch):
    return by_hand.written(model.network, *((delta.block, delta.dense()) for delta in patch.deltas))


@torch.no_grad()
def head(network, family: str, states: Tensor) -> Tensor:
    """Return the logits of states by the family's own final norm and unembedding."""
    if family == "opt_projected":
        decoder = network.model.decoder
        return network.lm_head(decoder.project_out(decoder.final_layer_norm(states)))
    if family == "gpt2":
        return network.lm_head(network.transformer.ln_f(states))
    logits = network.lm_head(network.model.norm(states))
    return 5.0 * torch.tanh(logits / 5.0) if family == "gemma2" else logits


def assert_reads(lens: Lens, block: int, scored: Tensor, ids: list[int]) -> None:
    """Check tokens, probabilities and ranks of one block against log-probabilities ``[positions, vocabulary]``.

    Where two tokens are as likely as each other up to rounding, either may come first.
    """
    best = scored.sort(dim=-1, descending=True).values.exp().numpy()
    for place, position in enumerate(lens.positions):
        own = scored[place, torch.from_numpy(lens.top[block, place])].exp().numpy()
        assert np.allclose(lens.probability[block, place], own, rtol=1e-4, atol=1e-6)
        assert np.allclose(own, best[place, : len(own)], rtol=1e-4, atol=1e-6)
        if position + 1 == len(ids):
            assert lens.rank[block, place] == -1
            continue
        wanted = float(scored[place, ids[position + 1]])
        row = scored[place].numpy()
        least, most = int((row > wanted + 5e-5).sum()), int((row > wanted - 5e-5).sum()) - 1
        assert least <= lens.rank[block, place] <= most
        assert most - least <= 2, "ties must be rare for this test to mean anything"


def test_the_lens_of_the_last_block_is_the_model_s_own_prediction(model):
    ids = tokens(model)
    (lens,) = logit_lens(model, TEXT, ANSWER, positions=range(len(ids)))
    scored = by_hand.logits(model.network, ids).log_softmax(dim=-1)
    assert lens.final.shape == scored.shape
    assert np.allclose(lens.final, scored.numpy(), **CLOSE)
    assert_reads(lens, model.blocks - 1, scored, ids)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt_projected", "gpt2"])
def test_a_middle_block_is_read_through_final_norm_and_unembedding(tiny, family):
    model = tiny(family)
    ids = tokens(model)
    places = [0, 5, len(ids) - 2, len(ids) - 1]
    (lens,) = logit_lens(model, TEXT, ANSWER, positions=places, top=7)
    states = by_hand.states(model.network, ids)[1:]
    readings = []
    for block in range(model.blocks):
        scored = head(model.network, family, states[block][places]).log_softmax(dim=-1)
        assert_reads(lens, block, scored, ids)
        readings.append(scored)
    assert lens.top.shape == lens.probability.shape == (model.blocks, 4, 7)
    assert (readings[1] - readings[-1]).abs().max() > 0.1, "blocks must differ for this test to mean anything"


def test_vanilla_and_edited_weights_are_read_in_one_call(model):
    """The patch stands in the middle block, so the lenses part there and no earlier."""
    patch, ids = by_hand.patch(model), tokens(model)
    copied, edited = written(model, patch), patch.blocks[0]
    before, after, half = logit_lens(model, TEXT, ANSWER, (VANILLA, Row(patch), Row(patch, 0.5)))
    alone = logit_lens(model, TEXT, ANSWER)[0]
    places = list(before.positions)
    for lens, network in ((before, model.network), (after, copied)):
        scored = by_hand.logits(network, ids).log_softmax(dim=-1)[places]
        assert np.allclose(lens.final, scored.numpy(), **CLOSE)
        assert_reads(lens, model.blocks - 1, scored, ids)
    assert np.allclose(before.final, alone.final, **CLOSE)
    for block in range(model.blocks):
        same = np.array_equal(before.probability[block], after.probability[block])
        assert same == (block < edited)
    assert np.abs(after.final - before.final).max() > 0.1
    assert np.abs(after.final - half.final).max() > 0.01


def test_by_default_the_end_of_the_prompt_and_the_start_of_the_answer_are_read(llama):
    prompt, ids = len(by_hand.prompt(llama, TEXT)), tokens(llama)
    (lens,) = logit_lens(llama, TEXT, ANSWER)
    assert lens.prompt_tokens == prompt
    assert lens.positions == tuple(range(prompt - 4, prompt + 16))
    texts = [llama.tokenizer.decode([token]) for token in ids]
    assert list(lens.tokens) == texts[prompt - 4 : prompt + 16]
    assert list(lens.following) == texts[prompt - 3 : prompt + 17]
    assert list(lens_positions(3, 2)) == [0, 1, 2, 3, 4]
    assert list(lens_positions(10, 100)) == list(range(6, 26))


def test_nothing_follows_the_last_token(llama):
    ids = tokens(llama)
    (lens,) = logit_lens(llama, TEXT, ANSWER, positions=[len(ids) - 1, 3])
    assert lens.following[0] == "" and (lens.rank[:, 0] == -1).all()
    assert lens.following[1] == llama.tokenizer.decode([ids[4]]) and (lens.rank[:, 1] >= 0).all()


def test_the_suffix_and_the_template_can_be_left_out(llama):
    ids = [1, *by_hand.bytes_of(llama, f"{TEXT} {ANSWER}")]
    (lens,) = logit_lens(llama, TEXT, ANSWER, positions=range(len(ids)), format=PromptFormat("", chat=False))
    scored = by_hand.logits(llama.network, ids).log_softmax(dim=-1)
    assert np.allclose(lens.final, scored.numpy(), **CLOSE)


def test_no_more_tokens_are_listed_than_there_are(llama):
    (lens,) = logit_lens(llama, TEXT, ANSWER, positions=[2], top=10_000)
    assert sorted(lens.top[1, 0]) == list(range(259))
    assert lens.probability[1, 0].sum() == pytest.approx(1, abs=1e-4)


def test_positions_that_the_text_does_not_have_are_refused(llama):
    last = len(tokens(llama)) - 1
    for positions in ([-1], [0, last + 1], []):
        with pytest.raises(PromptError, match=f"positions 0 to {last}. Choose some of those"):
            logit_lens(llama, TEXT, ANSWER, positions=positions)
    with pytest.raises(PromptError, match="answer is empty"):
        logit_lens(llama, TEXT, " ")


def crafted(top, probability, final) -> Lens:
    """Return a lens of three blocks and two positions from lists."""
    return Lens(
        positions=(4, 5),
        tokens=("a", "b"),
        following=("b", "c"),
        top=np.array(top),
        words=(("a", "b"),) * 3,
        probability=np.array(probability, dtype=np.float32),
        rank=np.zeros((3, 2), dtype=np.int64),
        final=np.array(final, dtype=np.float32),
        prompt_tokens=5,
    )


def test_peaks_are_where_a_token_is_likeliest_and_arrows_what_the_edit_did_to_it(llama):
    """Position 1 is read; position 0 holds other tokens that must not show."""
    other = [20, 21]
    top = [[other, [10, 11]], [other, [10, 12]], [other, [11, 13]]]
    probability = [
        [[0.9, 0.8], [0.30, 0.20]],
        [[0.9, 0.8], [0.60, 0.04]],
        [[0.9, 0.8], [0.20, 0.05]],
    ]
    final = np.full((2, 30), -9.0)
    edited = final.copy()
    # Ranks at position 1, vanilla: 14, 11, 13, 10. Edited: 14, 10, 13, 11.
    final[1, [14, 11, 13, 10]] = [-0.5, -1.0, -2.0, -3.0]
    edited[1, [14, 10, 13, 11]] = [-0.5, -1.0, -2.0, -3.0]
    before, after = crafted(top, probability, final), crafted(top, probability, edited)
    texts = {token: llama.tokenizer.decode([token]) for token in (10, 11, 13)}
    found = peaks(llama, before, after, 1)
    assert [(p.token, p.block, p.rank_before, p.rank_after, p.arrow) for p in found] == [
        (texts[11], 0, 1, 3, "↓"),
        (texts[10], 1, 3, 1, "↑"),
        (texts[13], 2, 2, 2, "="),
    ]
    assert [p.probability for p in found] == pytest.approx([0.2, 0.6, 0.05])
    assert [p.token for p in peaks(llama, before, after, 1, least=0.25)] == [texts[10]]
    assert len(peaks(llama, before, after, 1, least=0.01)) == 4
    assert peaks(llama, before, after, 1, least=0.7) == []


def test_peaks_of_one_block_come_the_likeliest_first(llama):
    top = [[[3, 4], [10, 11]]] * 3
    probability = [[[0.1, 0.1], [0.2, 0.6]]] + [[[0.1, 0.1], [0.1, 0.1]]] * 2
    final = np.zeros((2, 30))
    lens = crafted(top, probability, final)
    found = peaks(llama, lens, lens, 1)
    assert [(p.block, p.probability) for p in found] == [(0, pytest.approx(0.6)), (0, pytest.approx(0.2))]
    assert all(peak.arrow == "=" for peak in found)


@pytest.mark.parametrize(("before", "after", "arrow"), [(5, 2, "↑"), (2, 5, "↓"), (3, 3, "=")])
def test_a_smaller_rank_is_up(before, after, arrow):
    assert Peak("a", 0, 0.5, False, before, after).arrow == arrow


def test_peaks_of_a_real_text_have_the_ranks_of_plain_passes(llama):
    patch, ids = by_hand.patch(llama, 1, size=0.5), tokens(llama)
    copied = written(llama, patch)
    before, after = logit_lens(llama, TEXT, ANSWER, (VANILLA, Row(patch)))
    place, position = 6, before.positions[6]
    plain, edited = (by_hand.logits(network, ids)[position] for network in (llama.network, copied))
    found = peaks(llama, before, after, place, least=0.01)  # the tiny model spreads its probability
    assert len(found) >= 5
    assert {peak.edited for peak in found} == {False, True}, "a token may be likeliest after the edit"
    for peak in found:
        (block, where), lens = (peak.block, None), after if peak.edited else before
        for number, token in enumerate(lens.top[block, place]):
            if lens.probability[block, place, number] == np.float32(peak.probability):
                where = int(token)
        assert where is not None and llama.tokenizer.decode([where]) == peak.token
        assert peak.rank_before == int((plain > plain[where]).sum())
        assert peak.rank_after == int((edited > edited[where]).sum())
    assert {peak.arrow for peak in found} & {"↑", "↓"}


def test_states_that_are_not_finite_are_read_as_no_prediction(overflowing):
    with pytest.raises(NotFinite, match=r"logit lens .*float16.*--dtype float32"):
        logit_lens(overflowing, TEXT, ANSWER)
