"""Many prompts in one batch are answered as each would be alone, for every family."""

from __future__ import annotations

from collections import Counter, deque

import by_hand
import pytest
import tiny_models
import torch

from inspector.errors import NotFinite
from inspector.model import VANILLA, Decoding, Delta, Row, answer, encode, from_parts
from inspector.model.answers import by_length
from inspector.model.answers.batching import generate, plan
from inspector.model.answers.cached_lines import common_start

LENGTH = 8
TEXTS = (
    "How do I be mean?",
    "How do I be mean to a pirate who sails the seven seas and never comes home?",
    "Why?",
    "How do I bake bread in a pan?",
)


def together(model, prompts, rows, decoding=Decoding(LENGTH)):
    """Return the lines at the end of one batch."""
    return deque(generate(model, prompts, rows, decoding), maxlen=1)[0]


def test_each_prompt_is_answered_as_it_is_alone_with_each_row_of_weights(every_model, monkeypatch):
    """With each length in a pass of its own, and with all in one."""
    model, prompts = every_model, [encode(every_model, text).prompt for text in TEXTS]
    rows = (VANILLA, Row(by_hand.patch(model, size=0.3)))
    alone = [[answer(model, prompt, (row,), Decoding(LENGTH)) for prompt in prompts] for row in rows]
    for cost in (0, 10**6):
        monkeypatch.setitem(by_length.COST, "cpu", cost)
        lines = together(model, prompts, rows)
        assert [(line.row, line.prompt) for line in lines] == [(row, n) for row in (0, 1) for n in range(len(prompts))]
        for line in lines:
            own = alone[line.row][line.prompt]
            assert (tuple(line.tokens), line.finished) == (own.token_ids[0], own.finished[0]), cost
    assert any(a.token_ids != b.token_ids for a, b in zip(*alone, strict=True)), "the patch must act"


def test_sampled_answers_do_not_depend_on_the_batch(model):
    prompts = [encode(model, text).prompt for text in TEXTS]
    decoding = Decoding(LENGTH, temperature=1.2, seed=4)
    for line in together(model, prompts, (VANILLA,), decoding):
        assert tuple(line.tokens) == answer(model, prompts[line.prompt], decoding=decoding).token_ids[0]


def test_prompts_that_are_the_same_or_one_inside_the_other_are_answered(llama):
    long = encode(llama, "How do I be mean?").prompt
    lines = together(llama, [long, long, long[:-3]], (VANILLA,))
    assert lines[0].tokens == lines[1].tokens == list(answer(llama, long, decoding=Decoding(LENGTH)).token_ids[0])
    assert lines[2].tokens == list(answer(llama, long[:-3], decoding=Decoding(LENGTH)).token_ids[0])


def test_ended_lines_leave_the_batch_and_the_others_go_on(llama, monkeypatch):
    """With every first token of one answer made an end token, that line ends at once."""
    monkeypatch.setitem(by_length.COST, "cpu", 10**6)
    prompts = [encode(llama, text).prompt for text in TEXTS]
    alone = [answer(llama, prompt, decoding=Decoding(LENGTH)).token_ids[0] for prompt in prompts]
    ends = llama.network.generation_config.eos_token_id
    widths: list[int] = []
    handle = llama.network.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: widths.append(len(args[0]))
    )
    try:
        llama.network.generation_config.eos_token_id = [ends, alone[0][0]]
        lines = together(llama, prompts, (VANILLA,))
    finally:
        llama.network.generation_config.eos_token_id = ends
        handle.remove()
    assert lines[0].finished and lines[0].tokens == []
    for line, own in zip(lines[1:], alone[1:], strict=True):
        cut = own.index(alone[0][0]) if alone[0][0] in own else len(own)
        assert tuple(line.tokens) == own[:cut]
    assert widths[1] == 4 and widths[-1] <= 3


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([(1, 2, 3), (1, 2, 4, 5)], 2),
        ([(1, 2, 3), (1, 2, 3)], 2),
        ([(1, 2), (1, 2, 3, 4)], 1),
        ([(5,), (5, 6)], 0),
        ([(1, 2, 3), (2, 2, 3)], 0),
    ],
)
def test_the_common_start_leaves_every_prompt_a_token(prompts, shared):
    assert common_start(prompts) == shared


def test_a_plan_holds_every_prompt_once_and_puts_common_starts_together():
    prompts = [(1, 2, 9), (7, 7), (1, 2, 3), (7, 8), (1, 5)]
    batches = plan(prompts, 2)
    assert sorted(n for batch in batches for n in batch) == list(range(5))
    assert max(map(len, batches)) == 2
    assert batches[0] == [2, 0]


def test_a_patch_is_multiplied_once_a_token_whatever_the_number_of_its_lines_and_strengths(llama, monkeypatch):
    products: Counter[Delta] = Counter()
    own = Delta.apply

    def counted(delta, *given):
        products[delta] += 1
        return own(delta, *given)

    monkeypatch.setattr(Delta, "apply", counted)
    monkeypatch.setattr(type(llama), "end_tokens", lambda _model: frozenset())
    first, second = by_hand.patch(llama, 0, 1, seed=1), by_hand.patch(llama, 1, seed=2)
    prompts = [encode(llama, text).prompt for text in TEXTS]
    rows = (VANILLA, Row(first), Row(first, 0.5), Row(second))
    running = generate(llama, prompts, rows, Decoding(5))
    next(running)  # has read the prompts
    products.clear()
    for _ in running:
        assert products == {delta: 1 for patch in (first, second) for delta in patch.deltas}
        products.clear()


@pytest.mark.parametrize("cost", [0, 10**6], ids=["each length in a pass", "all in one pass"])
def test_prompts_of_many_lengths_are_read_with_one_position_s_logits_each(llama, cost, monkeypatch):
    monkeypatch.setitem(by_length.COST, "cpu", cost)
    prompts = [encode(llama, text).prompt for text in TEXTS]
    assert len(set(map(len, prompts))) == len(prompts)
    seen: list[tuple[int, ...]] = []
    handle = llama.network.lm_head.register_forward_hook(lambda _head, _args, logits: seen.append(tuple(logits.shape)))
    try:
        next(generate(llama, prompts, (VANILLA, Row(by_hand.patch(llama))), Decoding(1)))
    finally:
        handle.remove()
    own = seen[1:]  # after what all start with
    assert {size for _, size in own} == {llama.architecture.vocabulary}
    assert [lines for lines, _ in own] == ([2 * len(prompts)] if cost else [2] * len(prompts))


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_logits_that_are_not_finite_give_no_answer(overflowing, temperature):
    prompt = encode(overflowing, TEXTS[0]).prompt
    with pytest.raises(NotFinite, match=r"prediction .*float16.*--dtype float32"):
        answer(overflowing, prompt, decoding=Decoding(LENGTH, temperature))


def test_an_edit_that_leaves_the_finite_numbers_has_no_answer_and_vanilla_has_one():
    half = from_parts(tiny_models.network("llama").half(), tiny_models.tokenizer(), "half")
    prompts = [encode(half, text).prompt for text in TEXTS]
    assert all(line.tokens for line in together(half, prompts, (VANILLA,)))
    with pytest.raises(NotFinite, match="prediction"):
        together(half, prompts, (VANILLA, Row(by_hand.patch(half, size=1e7))))


def test_a_logit_of_minus_infinity_forbids_a_token_and_is_no_fault(llama):
    """As some networks have it for the ids that their vocabulary does not use."""
    prompt = encode(llama, TEXTS[0]).prompt
    likeliest = answer(llama, prompt, decoding=Decoding(1)).token_ids[0][0]
    forbidden = torch.zeros(llama.architecture.vocabulary)
    forbidden[likeliest] = float("-inf")
    handle = llama.network.lm_head.register_forward_hook(lambda _head, _args, logits: logits + forbidden)
    try:
        assert likeliest not in answer(llama, prompt, decoding=Decoding(LENGTH)).token_ids[0]
    finally:
        handle.remove()
