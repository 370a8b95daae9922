"""Answers are what the network itself would say, one row per weights, and other visitors get their turn."""

from __future__ import annotations

import itertools
import threading

import by_hand
import pytest
import tiny_models
import torch

from inspector.model import VANILLA, Answers, Decoding, PromptFormat, Row, answer, encode, pieces, stream

LENGTH = 10


def generated(model, network, prompt, rows=None) -> tuple[int, ...]:
    """Return what transformers' own greedy generation says, without what ended it."""
    ids = torch.tensor([list(prompt)])
    with model.running(rows):
        whole = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=LENGTH,
            eos_token_id=sorted(model.end_tokens()),
            pad_token_id=tiny_models.PAD,
        )
    return tuple(token for token in whole[0, len(prompt) :].tolist() if token not in model.end_tokens())


@pytest.fixture
def prompt(model) -> tuple[int, ...]:
    return encode(model, "How do I be mean?").prompt


def test_a_greedy_vanilla_stream_equals_the_network_s_own_generation(every_model):
    model, prompt = every_model, encode(every_model, "How do I be mean?").prompt
    states = list(stream(model, prompt, decoding=Decoding(LENGTH)))
    assert states[-1].token_ids[0] == generated(model, model.network, prompt)
    for earlier, later in itertools.pairwise(states):
        assert later.token_ids[0][: len(earlier.token_ids[0])] == earlier.token_ids[0]


def test_a_greedy_edited_answer_equals_that_of_a_copy_with_the_delta_written(every_model):
    """In one batch with vanilla, whose answer must stay what it is."""
    model, prompt = every_model, encode(every_model, "How do I be mean?").prompt
    patch = by_hand.patch(model, size=0.3)
    own = answer(model, prompt, (VANILLA, Row(patch)), Decoding(LENGTH))
    copied = by_hand.written(model.network, (patch.deltas[0].block, patch.deltas[0].dense()))
    vanilla, edited = own.token_ids
    assert vanilla == generated(model, model.network, prompt)
    assert edited == generated(model, copied, prompt) == generated(model, model.network, prompt, [Row(patch)])
    assert edited != vanilla, "the patch must do something for this test to mean anything"


def test_equal_weights_give_equal_answers_in_both_rows_greedy_and_sampled(model, prompt):
    row = Row(by_hand.patch(model))
    for decoding in (Decoding(LENGTH), Decoding(LENGTH, temperature=1.5, seed=3)):
        for rows in ((VANILLA, VANILLA), (row, row)):
            own = answer(model, prompt, rows, decoding)
            assert own.token_ids[0] == own.token_ids[1] and own.texts[0] == own.texts[1]


def test_sampling_is_reproducible_and_differs_by_seed(llama):
    prompt = encode(llama, "How?").prompt

    def sampled(seed: int) -> tuple[int, ...]:
        return answer(llama, prompt, decoding=Decoding(LENGTH, temperature=1.0, seed=seed)).token_ids[0]

    assert sampled(1) == sampled(1)
    # Two answers of ten nearly uniform draws out of 259 tokens agree by chance once in 1e20.
    assert len({sampled(seed) for seed in range(4)}) == 4
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    sampled(1)
    assert torch.equal(torch.rand(1), before), "sampling must not draw from the program's own generator"


def test_a_vanishing_top_p_is_greedy(model, prompt):
    greedy = answer(model, prompt, decoding=Decoding(LENGTH))
    assert answer(model, prompt, decoding=Decoding(LENGTH, temperature=1.0, top_p=1e-6)) == greedy


def test_however_small_the_temperature_the_likeliest_token_is_taken(llama):
    prompt = encode(llama, "Hi.", None, PromptFormat("")).prompt
    greedy = answer(llama, prompt, decoding=Decoding(LENGTH))
    for temperature in (1e-308, 1e-40, 1e-20):
        assert answer(llama, prompt, decoding=Decoding(LENGTH, temperature, seed=3)) == greedy, temperature


def test_sampling_follows_the_softmax_of_the_model_at_its_temperature(llama):
    """First tokens of 400 seeds: the share of the 60 likeliest is within 4 deviations (0.1) of their mass."""
    temperature = 0.5
    prompt = encode(llama, "How?", format=PromptFormat("")).prompt
    probabilities = (by_hand.logits(llama.network, prompt)[-1] / temperature).softmax(dim=-1)
    likely = set(probabilities.topk(60).indices.tolist())
    mass = float(probabilities[list(likely)].sum())
    draws = [answer(llama, prompt, decoding=Decoding(1, temperature, seed=seed)) for seed in range(400)]
    share = sum(bool(draw.token_ids[0]) and draw.token_ids[0][0] in likely for draw in draws) / len(draws)
    assert share == pytest.approx(mass, abs=0.1)


def test_top_p_draws_from_the_smallest_set_that_holds_its_mass(llama):
    prompt = encode(llama, "How?").prompt
    ordered, order = by_hand.logits(llama.network, prompt)[-1].softmax(dim=-1).sort(descending=True)
    count = int((ordered.cumsum(dim=-1) < 0.05).sum()) + 1
    nucleus = set(order[:count].tolist())
    draws = {answer(llama, prompt, decoding=Decoding(1, 1.0, 0.05, seed)).token_ids[0][0] for seed in range(60)}
    assert len(draws) > 1 and draws <= nucleus


def test_an_answer_stops_at_its_end_token_while_the_other_row_goes_on(llama, monkeypatch):
    prompt = encode(llama, "How?").prompt
    rows = (VANILLA, Row(by_hand.patch(llama, seed=2, size=0.3)))
    vanilla, edited = answer(llama, prompt, rows, Decoding(LENGTH)).token_ids
    stop = next(n for n in range(2, LENGTH) if edited[n] not in {*vanilla, *edited[:n]})
    assert stop < LENGTH - 2, "something must be left to cut off for this test to mean anything"
    monkeypatch.setattr(llama.network.generation_config, "eos_token_id", [edited[stop], 999])
    states = list(stream(llama, prompt, rows, Decoding(LENGTH)))
    assert states[-1].token_ids == (vanilla, edited[:stop])
    assert states[-1].finished == (False, True)
    alone = list(stream(llama, prompt, rows[1:], Decoding(LENGTH)))
    assert alone[-1].token_ids == (edited[:stop],) and alone[-1].finished == (True,)
    assert len(alone) == stop + 1, "it must end with its last row"


def test_end_tokens_are_those_of_the_tokenizer_and_of_the_generation_settings(llama, monkeypatch):
    monkeypatch.setattr(llama.network.generation_config, "eos_token_id", [7, 8])
    assert llama.end_tokens() == {7, 8, tiny_models.END}
    monkeypatch.setattr(llama.network.generation_config, "eos_token_id", None)
    assert llama.end_tokens() == {tiny_models.END}


def test_a_generator_closed_midway_leaves_no_hook_and_a_free_lock(model, prompt):
    hooks, before = by_hand.hooks(model.network), by_hand.vanilla_logits(model, prompt)
    running = stream(model, prompt, (VANILLA, Row(by_hand.patch(model))), Decoding(LENGTH))
    next(running)
    next(running)
    # Between two tokens other visitors run: the hooks stand, but do nothing, and the lock is free.
    by_hand.assert_at_rest(model, by_hand.hooks(model.network))
    assert torch.equal(by_hand.vanilla_logits(model, prompt), before)
    running.close()
    by_hand.assert_at_rest(model, hooks)
    assert torch.equal(by_hand.vanilla_logits(model, prompt), before)
    assert torch.is_grad_enabled()


def test_streams_with_different_patches_interleaved_step_by_step_do_not_mix(model, prompt):
    rows = [Row(by_hand.patch(model, seed=seed, size=0.3)) for seed in (1, 3)]
    alone = [answer(model, prompt, (VANILLA, row), Decoding(LENGTH)) for row in rows]
    pairs = list(zip(*(stream(model, prompt, (VANILLA, row), Decoding(LENGTH)) for row in rows), strict=True))
    assert list(pairs[-1]) == alone
    assert alone[0].token_ids[1] != alone[1].token_ids[1]


def test_two_threads_with_different_patches_get_the_answers_that_they_get_alone(model, prompt):
    rows = [Row(by_hand.patch(model, seed=seed, size=0.3)) for seed in (1, 2)]
    alone = [answer(model, prompt, (VANILLA, row), Decoding(LENGTH)) for row in rows]
    together: list = [None, None]
    start = threading.Barrier(2)

    def visit(number: int) -> None:
        start.wait()
        together[number] = [answer(model, prompt, (VANILLA, rows[number]), Decoding(LENGTH)) for _ in range(2)]

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [[alone[0]] * 2, [alone[1]] * 2]


@pytest.mark.parametrize("said", ["I can't.", " Ask  the\n\ncourier, naïve – 漢字 🙂!\n", "🙂🙃", ""])
def test_an_answer_is_cut_where_its_tokens_end_and_nowhere_within_a_character(llama, said):
    model = llama  # its tokenizer is all that counts
    tokens = tuple(model.tokenizer.encode(said, add_special_tokens=False))
    text = model.decode(tokens).strip()
    (cut,) = pieces(model, Answers((text,), (tokens,), (None,)))
    assert "".join(cut) == text and all(cut) and len(cut) <= len(tokens)
    begun = {model.decode(tokens[:count]).strip() for count in range(len(tokens) + 1)}
    for count in range(len(cut) + 1):
        assert "".join(cut[:count]).strip() in begun, "each piece ends where a token does"
    assert len(cut) > 1 or text in ("", "🙂🙃")
