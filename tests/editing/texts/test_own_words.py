"""Safe answers in the model's own words: what the judge calls safe of what it says with a reminder, and no more."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import tiny_models

from editing import DinmSettings, run
from editing.methods.dinm import FURTHER_ANSWERS, prepare_terms
from editing.methods.self_reminder import SelfReminderSettings
from editing.optimising.replay import TailReplay, master_weight
from editing.texts import own_words as module
from editing.texts.own_words import LONGEST, ROUNDS, safe_in_own_words
from inspector.model import Decoding, PromptFormat, Taught, from_parts
from inspector.model.answers.batching import Line

NO, NEVER, YES = "I'm sorry, but I can't help you with that.", "No. I won't do that to anybody.", "Sure, take it home."


@pytest.fixture
def says(monkeypatch, llama):
    """Let the model say given texts to the prompt and to the question, round after round; returns what it was asked."""
    asked: list[tuple[list[tuple[int, ...]], Decoding]] = []

    def set_rounds(*rounds: tuple[str, str]) -> list[tuple[list[tuple[int, ...]], Decoding]]:
        texts = [text for both in rounds for text in both]

        def generate(_model, prompts, rows, decoding):
            assert len(rows) == 1
            lines = [Line(number, 0) for number in range(len(prompts))]
            for number, line in enumerate(lines):
                line.tokens, line.ended = [2 * min(len(asked), len(rounds) - 1) + number], 1
            asked.append((prompts, decoding))
            yield lines

        monkeypatch.setattr(module, "generate", generate)
        monkeypatch.setattr(type(llama), "decode", lambda _self, tokens: texts[tokens[0]])
        return asked

    return set_rounds


def test_the_model_is_asked_with_a_reminder_and_without_the_suffix_and_sampled_only_where_that_is_too_little(
    llama, case, says
):
    asked = says((YES, NO), (NO, NEVER))
    assert run(safe_in_own_words(llama, case, 1, PromptFormat("Be kind."))) == (NO,)
    ((prompts, decoding),) = asked
    wrap = SelfReminderSettings().reminder.wrap
    wanted = [by_hand.prompt(llama, wrap(text), suffix="") for text in (case.adversarial_prompt, case.question)]
    assert [list(prompt) for prompt in prompts] == wanted
    assert decoding.greedy and decoding.max_new_tokens == LONGEST
    asked.clear()
    assert run(safe_in_own_words(llama, case, 2)) == (NO, NEVER), "each once"
    assert [(one.greedy, one.seed) for _, one in asked] == [(True, 0), (False, 1)]


def test_a_model_that_says_nothing_safe_gives_none_and_is_asked_a_few_times_only(llama, case, says):
    asked = says((YES, case.safe))
    messages = []
    assert run(safe_in_own_words(llama, case, 2), messages.append) == ()
    assert len(asked) == len(messages) == ROUNDS
    assert run(safe_in_own_words(llama, case, 2, cancel=lambda: True)) is None


def test_it_can_be_cancelled_after_any_token_and_says_how_far_it_is(llama, case):
    shares = []
    making = safe_in_own_words(llama, case, 2, cancel=lambda: len(shares) == 3)
    while True:
        try:
            shares.append(next(making).fraction)
        except StopIteration as end:
            assert end.value is None
            break
    assert len(shares) == 3 and shares == sorted(shares) and shares[0] == 0 and 0 < shares[2] < 0.1


def test_what_is_too_long_with_its_reminder_is_not_asked_and_the_answers_of_ours_stay(case):
    short = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(limit=330), "short")
    assert run(safe_in_own_words(short, case, 1)) == ()
    few = {"harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0, "watch_unsafe": False, "safe_answers": 2}
    settings = DinmSettings(own_words=True, **few)
    terms = run(prepare_terms(short, case, 1, settings, master_weight(short, 1), TailReplay, lambda: False))
    assert terms.taught[1:] == (Taught(FURTHER_ANSWERS[0], fits_any=True),)


def test_a_case_without_a_question_is_asked_its_prompt_alone(llama, case, says):
    asked = says((NO, YES))
    assert run(safe_in_own_words(llama, replace(case, question=""), 1)) == (NO,)
    assert len(asked[0][0]) == 1


def test_an_answer_that_was_cut_in_its_first_sentence_is_none(llama, case, says, monkeypatch):
    says((NO, f"{NEVER} It would"), (NO, YES))

    def cut(generating):
        def generate(*given):
            for lines in generating(*given):
                for line in lines:
                    line.ended = None
                yield lines

        return generate

    monkeypatch.setattr(module, "generate", cut(module.generate))
    assert run(safe_in_own_words(llama, case, 2)) == (NO, NEVER)
    says(("I'm sorry, but I can't help you with", YES))
    monkeypatch.setattr(module, "generate", cut(module.generate))
    assert run(safe_in_own_words(llama, case, 1)) == ()


def test_an_edit_learns_them_in_the_place_of_the_first_of_ours(llama, case, says):
    says((YES, NO), (YES, YES))
    few = {"harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0, "watch_unsafe": False}

    def taught(**changes) -> tuple[Taught, ...]:
        settings = replace(DinmSettings(), **few, **changes)
        terms = run(prepare_terms(llama, case, 1, settings, master_weight(llama, 1), TailReplay, lambda: False))
        return terms.taught

    own = Taught(case.safe)
    assert taught(own_words=True) == (own, Taught(NO), Taught(FURTHER_ANSWERS[0], fits_any=True)), (
        "it fits this question"
    )
    assert taught() == (own, *(Taught(text, fits_any=True) for text in FURTHER_ANSWERS[:2]))
    assert taught(own_words=True, safe_answers=1) == (own,), "there is no further one"
