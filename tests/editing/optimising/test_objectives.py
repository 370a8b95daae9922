"""The model's own answers to harmless prompts, which ``corrected`` constrains on, and the terms' plain properties."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import tiny_models
import torch

from editing import Preparation, run
from editing.optimising.objectives import LazyTerms, kl_term
from editing.optimising.replay import TailReplay, master_weight
from editing.texts.harmless import answers_by_text, harmless_answers, harmless_texts, own_refusals, refusal_texts
from inspector.model import Decoding, InspectedModel, PromptFormat, answer, encode, from_parts
from inspector.model.encoding import Encoded
from inspector.safeedit import Constraint, bundled_constraint_prompts
from inspector.safeedit.cases import bundled_harmless
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.sets import contrasts, false_alarm_prompts

SUFFIX = by_hand.SUFFIX.strip()


@pytest.fixture
def fresh() -> InspectedModel:
    """A tiny Llama that has answered nothing yet."""
    return from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "fresh")


def asked(model, case, count: int = 3, tokens: int = 4) -> tuple[list[Encoded], list[Preparation]]:
    """Return the answers, and the messages that came while they were made."""
    messages: list[Preparation] = []
    return run(harmless_answers(model, case, count, tokens, PromptFormat()), messages.append), messages


def test_own_answers_are_the_greedy_ones_to_the_constraint_and_the_bundled_prompts(fresh, case):
    own, _ = asked(fresh, case)
    texts = harmless_texts(case, 3)
    assert [list(item.prompt) for item in own] == [by_hand.prompt(fresh, text) for text in texts]
    for item in own:
        assert item.response == answer(fresh, item.prompt, decoding=Decoding(4)).token_ids[0]


def test_every_prompt_is_asked_once_per_model_and_announced(fresh, case):
    first, messages = asked(fresh, case)
    assert [message.fraction for message in messages] == [0] and "1 to 3 of 3" in messages[0].message
    again, silence = asked(fresh, case)
    assert silence == [] and again == first
    _, longer = asked(fresh, case, tokens=5)
    assert len(longer) == 1, "answers of another length are other answers"


def test_what_cases_share_is_encoded_and_asked_once_and_answered_as_for_each_alone(fresh, case, monkeypatch):
    """A calibration asks for many cases; one whose own prompt leaves no room goes without it, as when it is alone."""
    long = replace(case, constraint=Constraint("Why? " * 200, "So."))
    cases = [case, replace(case, constraint=Constraint("Why is it cold?", "It snows.")), long]
    other = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "other")
    alone = {tuple(one.prompt): one.response for each in cases for one in asked(other, each)[0]}
    encoded: list[str] = []

    def counted(model, text, *given, **named):
        encoded.append(text)
        return encode(model, text, *given, **named)

    monkeypatch.setattr("editing.texts.harmless.encode", counted)
    messages: list[Preparation] = []
    found = run(answers_by_text(fresh, cases, 3, 4, PromptFormat()), messages.append)
    assert [*found] == [text for text in dict.fromkeys(encoded) if text != long.constraint.prompt]
    assert all(encoded.count(text) == 2 for text in found), "to see that it fits, and when it is asked"
    assert {tuple(one.prompt): one.response for one in found.values()} == alone and len(messages) == 1
    assert [*found][:3] == harmless_texts(case, 3) and "Why is it cold?" in found


def test_what_the_model_declines_by_itself_is_kept_in_its_own_words(fresh, monkeypatch):
    texts = refusal_texts(2)
    declined = read_refusal("I can't help with that.", texts[1])
    assert declined.refused
    monkeypatch.setattr(
        "editing.texts.harmless.read_refusal",
        lambda said, asked: declined if asked == texts[1] else read_refusal("Gladly.", asked),
    )
    (own,) = run(own_refusals(fresh, 2, 4, PromptFormat()))
    prompt = by_hand.prompt(fresh, texts[1])
    assert own.prompt == tuple(prompt)
    assert own.response[:4] == tuple(answer(fresh, prompt, decoding=Decoding(4)).token_ids[0])
    assert run(own_refusals(fresh, 0, 4, PromptFormat())) == []
    assert run(own_refusals(fresh, 2, 4, PromptFormat(), apart=texts[1])) == []


def test_a_constraint_that_is_bundled_too_is_not_asked_twice(fresh, case):
    bundled = replace(case, constraint=Constraint(harmless_texts(case, 3)[2], "So."))
    own, _ = asked(fresh, bundled)
    assert len({item.prompt for item in own}) == 3


def test_harmless_prompts_are_the_case_s_own_and_bundled_ones_in_one_order_bare(case):
    texts = harmless_texts(case, 100)
    assert texts[0] == case.constraint.prompt and len(set(texts)) == 100
    assert set(texts[1:]) < set(bundled_constraint_prompts())
    assert texts[:24] == harmless_texts(case, 24), "more of them leave the first ones as they are"
    alone = harmless_texts(replace(case, constraint=None), 99)
    assert alone == texts[1:], "another case meets the same ones"


def test_a_share_of_them_sounds_harmful_where_wanted_and_stands_evenly_among_them(case):
    texts = harmless_texts(case, 100, 0.5)
    alike = {one.prompt for one in false_alarm_prompts("detector") if one.look_alike}
    alike |= {one.prompt for one in contrasts() if not one.harmful}
    of_them = [text in alike for text in texts]
    assert texts[0] == case.constraint.prompt and len(set(texts)) == 100 and sum(of_them) == 50
    assert [sum(of_them[start : start + 8]) for start in (0, 8, 88)] == [4, 4, 4]
    assert [text for text in texts if text not in alike] == harmless_texts(case, 50)
    assert texts[:24] == harmless_texts(case, 24, 0.5), "more of them leave the first ones as they are"
    assert sum(text in alike for text in harmless_texts(case, 100, 0.2)) == 20
    scored = {one.prompt for split in ("development", "score") for one in false_alarm_prompts(split)}
    assert not alike & (scored | set(bundled_harmless()))
    every = harmless_texts(case, 10_000, 1.0)
    assert every[0] == case.constraint.prompt and set(every[1 : 1 + len(alike)]) == alike
    assert len(set(every)) == len(every), "no more than there are"


def test_an_edit_is_held_to_the_look_alikes_that_it_is_told_to(fresh, case):
    messages: list[Preparation] = []
    own = run(harmless_answers(fresh, case, 4, 2, PromptFormat(), look_alikes=0.5), messages.append)
    wanted = [by_hand.prompt(fresh, text) for text in harmless_texts(case, 4, 0.5)]
    assert [list(one.prompt) for one in own] == wanted != [by_hand.prompt(fresh, t) for t in harmless_texts(case, 4)]


def test_an_own_answer_that_ended_by_itself_keeps_its_end(fresh, case):
    """Otherwise an edit that makes the model ramble on would not be seen."""
    prompt = by_hand.prompt(fresh, case.constraint.prompt)
    tokens = answer(fresh, prompt, decoding=Decoding(4)).token_ids[0]
    assert tokens[2] not in tokens[:2]
    fresh.network.generation_config.eos_token_id = tokens[2]
    own, _ = asked(fresh, case)
    assert own[0].response == tokens[:3], "the id that ended it, which need not be the tokenizer's"


def test_a_model_that_ends_every_answer_at_once_is_constrained_to_do_so(fresh, case):
    ended = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "ends at once")
    ended.network.generation_config.eos_token_id = list(range(tiny_models.VOCABULARY))
    own, _ = asked(ended, case)
    for item in own:
        assert item.response == (int(by_hand.logits(ended.network, item.prompt)[-1].argmax()),)


@pytest.mark.parametrize("direction", ["vanilla to edited", "edited to vanilla"])
def test_kl_is_zero_at_the_base_weight_and_positive_elsewhere(model, direction):
    spans = [([1, *range(20, 60)], range(10, 40)), ([1, *range(90, 110)], range(5, 20))]
    base, change = master_weight(model, 1), by_hand.patch(model, 1, size=1.0).deltas[0].dense()
    term = kl_term(model, 1, spans, direction, base, TailReplay)
    with torch.no_grad():
        assert float(term(base)) == pytest.approx(0, abs=1e-6)  # float32 rounding of sums over 259 tokens
        values = [float(term(base + size * change)) for size in (0.01, 0.1)]
    assert 1e-6 < values[0] < values[1]


def test_parts_that_take_turns_are_prepared_when_their_turn_comes_and_once(llama):
    spans = [([1, *range(20, 40)], range(3, 9)), ([1, *range(90, 110)], range(5, 20))]
    base, change = master_weight(llama, 1), by_hand.patch(llama, 1, size=1.0).deltas[0].dense()
    prepared = []

    def prepare(part):
        prepared.append(part)
        return kl_term(llama, 1, part, "vanilla to edited", base)

    turns = LazyTerms([spans[:1], spans[1:]], prepare)
    assert len(turns) == 2 and prepared == []
    with torch.enable_grad():
        values = [float(turns[n](base + 0.1 * change)) for n in (1, 1, -1)]
    assert prepared == [spans[1:]] and not turns[1].vanilla.requires_grad
    assert values == [float(kl_term(llama, 1, spans[1:], "vanilla to edited", base)(base + 0.1 * change))] * 3
    assert len(turns[:]) == 2 and len(prepared) == 2
    with pytest.raises(IndexError):
        turns[2]
