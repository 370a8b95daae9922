"""DINM's further options: heavier first tokens, random contexts, and a monitor that says when it is enough."""

from __future__ import annotations

import math
from dataclasses import replace

import by_hand
import pytest
import torch
from torch import Tensor

from editing import DinmSettings, preset, run
from editing.methods.dinm import FURTHER_ANSWERS, dinm, prepare_terms, term_values, to_be_routed
from editing.optimising.monitor import LOOK_ALIKES, make_monitor, monitored
from editing.optimising.objectives import falling_weights
from editing.optimising.replay import TailReplay, master_weight
from editing.texts.contexts import TOKENS, after_context, random_contexts
from editing.texts.harmless import (
    companions,
    further_harmless_texts,
    harmless_texts,
    known_answer,
    own_refusals,
    refusal_texts,
)
from editing.values import LONGEST_COMPANION
from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat, Taught, encode
from inspector.safeedit import Case
from inspector.safeedit.cases import bundled_cases, bundled_templates
from inspector.safeedit.sets import contrasts, false_alarm_prompts, harmful_questions

BLOCK = 1
LOSS = 2e-5


def small(**changes) -> DinmSettings:
    quick = {"harmless_prompts": 2, "harmless_tokens": 4, "harmless_at_once": None, "own_refusals": 0}
    plain = {"learning_rate": 1e-3, "safe_answers": 1, "null_space": None, "target_probability": None}
    return preset("corrected", **{**quick, **plain, "damage_budget": None, "watch_unsafe": False, **changes})


def losses(model, text: str, response: str) -> Tensor:
    """Return the NLL of every token of a response, ``[tokens]``, from one plain forward pass."""
    own = encode(model, text, response)
    logits = by_hand.vanilla_logits(model, own.tokens)[len(own.prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(own.response), reduction="none")


def first_loss(model, case: Case, settings: DinmSettings) -> tuple[float, float]:
    base = master_weight(model, BLOCK)
    terms = run(prepare_terms(model, case, BLOCK, settings, base, TailReplay, lambda: False))
    loss, probability, *_ = term_values(terms, base, settings, gradient=False)
    return float(loss), probability


def test_first_tokens_weigh_more_and_fall_to_the_tail_s_weight():
    weights = falling_weights(9, 5.0)
    assert weights[:5].tolist() == pytest.approx([5, 1 + 4 * 0.5**0.5, 3, 1 + 4 * 0.5**1.5, 2])
    assert (weights.diff() < 0).all() and weights[-1] > 1
    assert falling_weights(4, 1.0).tolist() == [1, 1, 1, 1]


def test_the_loss_is_the_mean_weighted_so_in_five_families(model, case):
    each = losses(model, case.adversarial_prompt, case.safe)
    weights = 1 + 3 * 0.5 ** (torch.arange(len(each)) / 2)
    loss, probability = first_loss(model, case, small(first_token_weight=4.0))
    assert loss == pytest.approx(float((weights * each).sum() / weights.sum()), abs=LOSS)
    assert probability == pytest.approx(math.exp(-float(each.mean())), abs=LOSS)


def test_by_default_nothing_of_this_is_on(llama, case):
    settings = DinmSettings()
    assert (settings.first_token_weight, settings.contexts, settings.monitor) == (1.0, 0, 0)
    plain, same = (
        run(dinm(llama, case, BLOCK, small(steps=2, **changes))).patch.identifier
        for changes in ({}, {"first_token_weight": 1.0, "contexts": 0})
    )
    assert plain == same


def test_the_case_s_own_answer_is_learnt_after_contexts_of_the_model_s_own(llama, case):
    contexts = random_contexts(llama, 3)
    assert contexts
    every = [losses(llama, case.adversarial_prompt, case.safe)]
    every += [losses(llama, after_context(context, case.adversarial_prompt), case.safe) for context in contexts]
    loss, probability = first_loss(llama, case, small(contexts=3))
    assert loss == pytest.approx(float(torch.cat(every).mean()), abs=LOSS)
    assert probability == pytest.approx(math.exp(-float(every[0].mean())), abs=LOSS)


def test_contexts_are_short_the_same_every_time_and_different_from_each_other(llama):
    first = random_contexts(llama, 4)
    assert first == random_contexts(llama, 4) and random_contexts(llama, 2) == first[: len(random_contexts(llama, 2))]
    assert len(set(first)) == len(first)
    assert all(len(llama.tokenizer(context)["input_ids"]) <= 4 * TOKENS for context in first)
    assert after_context("It rained.", "How?") == "It rained. How?"


def test_a_monitor_reads_the_target_in_templates_that_the_edit_is_not_made_with(llama, case):
    asked = monitored(case, 3)
    assert len(asked) == 3 and all(case.question in text for text in asked)
    unseen = math.exp(-float(torch.cat([losses(llama, text, case.safe) for text in asked]).mean()))
    own = math.exp(-float(losses(llama, case.adversarial_prompt, case.safe).mean()))
    assert own != pytest.approx(unseen, rel=1e-3)
    between = math.sqrt(own * unseen)
    # It is reached at once where it is read, and not at all where it is not.
    high = small(monitor=3, steps=2, learning_rate=1e-6, target_probability=between)
    alone = small(monitor=0, steps=2, learning_rate=1e-6, target_probability=between)
    reached = "monitor" if unseen > own else "own prompt"
    for name, chosen in (("monitor", high), ("own prompt", alone)):
        if name == reached:
            with pytest.raises(EditError, match="likely enough already"):
                run(dinm(llama, case, BLOCK, chosen))
        else:
            assert run(dinm(llama, case, BLOCK, chosen)).stop_reason == "step limit"


def test_a_monitor_holds_the_budget_for_harmless_prompts_that_the_edit_is_not_constrained_on(llama, case):
    free = run(dinm(llama, case, BLOCK, small(monitor=2, steps=4, constraint_weight=0.0, damage_budget=1e6)))
    plain = run(dinm(llama, case, BLOCK, small(steps=4, constraint_weight=0.0)))
    assert [s.edit_loss for s in free.trace] == pytest.approx([s.edit_loss for s in plain.trace], abs=LOSS)
    assert all(a.constraint_kl >= b.constraint_kl - 1e-9 for a, b in zip(free.trace, plain.trace, strict=True))
    watched = further_harmless_texts(16, LOOK_ALIKES)
    constrained = set(harmless_texts(case, 512)) | set(harmless_texts(case, 512, 1.0))
    assert not set(watched) & constrained and len(set(watched)) == 16
    labelled = {one.prompt for one in contrasts() if not one.harmful}
    labelled |= {one.prompt for one in false_alarm_prompts("detector") if one.look_alike}
    assert sum(text in labelled for text in watched) == 8 and not set(further_harmless_texts(16)) & labelled
    asked = []
    making = make_monitor(llama, case, BLOCK, 2, 2, PromptFormat(), "vanilla to edited", TailReplay, lambda: False)
    run(making, asked.append)
    assert "1 to 2 of 2" in asked[0].message
    assert all(known_answer(llama, text, 2, PromptFormat()) for text in further_harmless_texts(2, LOOK_ALIKES))


def test_without_a_limit_there_is_no_monitor_and_the_edit_is_that_without_one(llama, case):
    told = []
    free = run(dinm(llama, case, BLOCK, small(monitor=2, steps=2)), told.append)
    plain = run(dinm(llama, case, BLOCK, small(steps=2)))
    assert any("No monitor: it ends an edit by target" in getattr(event, "message", "") for event in told)
    assert torch.equal(free.patch.deltas[0].dense(), plain.patch.deltas[0].dense())
    assert [step.safe_probability for step in free.trace] == [step.safe_probability for step in plain.trace]


def test_a_monitor_s_templates_are_those_of_no_case_and_of_no_exam(case):
    used = {template.text for split in ("edit", "development", "score") for template in bundled_templates(split)}
    assert not {template.text for template in bundled_templates("detector")} & used
    prompts = {bundled.adversarial_prompt for bundled in bundled_cases()}
    assert all(not prompts & set(monitored(bundled, 4)) for bundled in bundled_cases() if bundled.split == "edit")


def test_what_does_not_fit_is_refused_by_name(llama, case):
    for wrong in ({"first_token_weight": 2.0}, {"contexts": 1}):
        with pytest.raises(EditError, match="know one answer to one prompt"):
            preset("reference", **wrong)
    for wrong in ({"first_token_weight": 0.5}, {"contexts": -1}, {"monitor": 17}):
        with pytest.raises(EditError, match=next(iter(wrong))):
            DinmSettings(**wrong)
    with pytest.raises(EditError, match="Set monitor to 0"):
        run(dinm(llama, replace(case, question=""), BLOCK, small(monitor=2, damage_budget=1.0)))


def test_companions_are_bundled_questions_that_fit_most_of_them_in_attacks_and_none_is_scored(llama, monkeypatch):
    monkeypatch.setattr(InspectedModel, "context_length", 4096)
    found = companions(llama, 12, 10_000, "No.", PromptFormat())
    texts = [*found]
    assert [one.response for one in found.values()] == 12 * [encode(llama, "a", "No.").response]
    questions = {one.question for one in harmful_questions("detector")}
    assert len(texts) == len(set(texts)) == 12
    assert [text in questions for text in texts] == [n % 6 == 5 for n in range(12)]
    assert all(any(question in text for question in questions) for text in texts)
    scored = {one.question for split in ("development", "score") for one in harmful_questions(split)}
    assert not any(question in text for question in scored for text in texts)
    middle, frame = sorted(len(one.prompt) for one in found.values())[5], len(encode(llama, "It.").prompt)
    fitting = companions(llama, 12, middle - frame, "No.", PromptFormat())
    assert fitting and all(len(one.prompt) <= middle for one in fitting.values())
    monkeypatch.setattr(InspectedModel, "context_length", middle)
    short = companions(llama, 12, 10_000, "No.", PromptFormat())
    assert short and all(len(one.tokens) <= middle for one in short.values())
    assert companions(llama, 12, 1, "No.", PromptFormat()) == {} == companions(llama, 0, 10_000, "No.", PromptFormat())


def test_the_case_s_own_question_is_among_neither_its_companions_nor_its_refusals(llama, monkeypatch):
    monkeypatch.setattr(InspectedModel, "context_length", 4096)
    case = bundled_cases()[0]
    assert case.question in refusal_texts(12), "or this test says nothing"
    assert any(case.question in text for text in companions(llama, 12, 10_000, "No.", PromptFormat()))
    assert not any(
        case.question in text for text in companions(llama, 12, 10_000, "No.", PromptFormat(), case.question)
    )
    given = []
    for real in (companions, own_refusals):
        monkeypatch.setattr(
            f"editing.methods.dinm.terms.{real.__name__}",
            lambda *options, real=real: given.append(options[-1]) or real(*options),
        )
    run(dinm(llama, replace(case, constraint=None), BLOCK, small(companions=1, own_refusals=1, steps=1)))
    assert given == [case.question, case.question]


def test_however_long_a_suffix_is_it_leaves_out_no_companion_and_what_was_used_is_told(llama, case, monkeypatch):
    monkeypatch.setattr(InspectedModel, "context_length", 8192)
    longest = 400
    without, long = PromptFormat(""), PromptFormat("Be kind to everybody who reads this. " * 40)
    assert len(encode(llama, "It.", None, long).prompt) > 2 * longest, "or this test says nothing"
    texts = [*companions(llama, 12, longest, "No.", without)]
    assert len(texts) == 12 and texts == [*companions(llama, 12, longest, "No.", long)]
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", longest)
    quick = {"companions": 3, "steps": 1, "format": without}
    whole = run(dinm(llama, case, BLOCK, small(**quick)))
    assert (whole.companions, whole.patch.settings["companions_used"], whole.fewer_companions) == (3, 3, "")
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 0)
    alone = run(dinm(llama, case, BLOCK, small(**quick)))
    assert alone.companions == alone.patch.settings["companions_used"] == 0
    for fewer in (alone, replace(whole, companions=2)):
        assert f"longer than {LONGEST_COMPANION} of this model's tokens, suffix and chat" in fewer.fewer_companions
        assert "Use a shorter suffix" not in fewer.fewer_companions, "it is not counted"
    assert "learnt from its one case alone. Set companions to 0" in alone.fewer_companions
    assert "Only 2 of 3 companions were used: the others" in replace(whole, companions=2).fewer_companions
    none = run(dinm(llama, case, BLOCK, small(steps=1)))
    assert none.companions is None and "companions_used" not in none.patch.settings and none.fewer_companions == ""


def test_an_edit_s_terms_say_every_answer_that_they_teach(llama, case, monkeypatch):
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 10_000)
    monkeypatch.setattr(InspectedModel, "context_length", 4096)
    base = master_weight(llama, BLOCK)

    def taught(**settings) -> tuple[Taught, ...]:
        made = run(prepare_terms(llama, case, BLOCK, small(**settings), base, TailReplay, lambda: False))
        return made.taught

    own, (first, second, _) = Taught(case.safe), (Taught(text, fits_any=True) for text in FURTHER_ANSWERS)
    assert taught(safe_answers=1) == (own,)
    assert taught(safe_answers=1, companions=2) == (own, first) == taught(safe_answers=2, companions=2)
    assert taught(safe_answers=3) == (own, first, second)


def test_half_of_the_loss_is_the_companions_a_few_in_turn(llama, case, monkeypatch):
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 10_000)
    settings = small(companions=6)
    base = master_weight(llama, BLOCK)
    terms = run(prepare_terms(llama, case, BLOCK, settings, base, TailReplay, lambda: False))
    texts = [*companions(llama, 6, 10_000, FURTHER_ANSWERS[0], settings.format)]
    own = losses(llama, case.adversarial_prompt, case.safe).mean()
    assert len(texts) == 6
    for step, part in enumerate((texts[::2], texts[1::2], texts[::2])):
        theirs = torch.cat([losses(llama, text, FURTHER_ANSWERS[0]) for text in part]).mean()
        loss, probability, *_ = term_values(terms, base, settings, gradient=False, number=step)
        assert float(loss) == pytest.approx(float(own + theirs) / 2, abs=LOSS)
        assert float(probability) == pytest.approx(math.exp(-float(own)), abs=LOSS)


def test_an_edit_that_is_made_to_be_routed_learns_from_companions_and_nothing_holds_it_back(llama, case, monkeypatch):
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 10_000)
    settings = to_be_routed(preset("corrected", harmless_prompts=2, harmless_tokens=4, learning_rate=0.05))
    assert settings.companions and settings.damage_budget is None and settings.constraint_weight == 0
    result = run(dinm(llama, case, BLOCK, settings))
    assert result.kept == settings.steps == len(result.trace) - 1 and result.stop_reason == "step limit"
    base = master_weight(llama, BLOCK)
    terms = run(prepare_terms(llama, case, BLOCK, settings, base, TailReplay, lambda: False))
    _, _, kl, total = term_values(terms, base.clone().requires_grad_(True), settings, gradient=True)
    assert total.requires_grad and not kl.requires_grad, "a constraint that weighs nothing costs no backward pass"
