"""Where an edit acts: what one exam tells of it routed, and which of the two the gate takes."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
from gate_helpers import CASE, by_hand, detector, marked
from word_models import loud_patch, random_patch, word_model

from editing import run
from editing.calibrating.calibration import FORMATS
from editing.gate import answers as gate_answers
from editing.gate import choice as gate_choice
from editing.gate.answers import vanilla_answers
from editing.gate.budgets import Budgets, checks_of
from editing.gate.choice import accept_where_best, choose, format_told, gated_instead
from editing.gate.exam import HARMLESS, QUESTIONS, small_exam
from editing.gate.gate import GateSettings, accept
from editing.gate.ranking import defended
from inspector.errors import EditError, PatchError
from inspector.model import SUFFIX, VANILLA, InspectedModel, PromptFormat, Row
from inspector.model.answers.batching import generate, generate_each
from inspector.model.patches.routing import MOST_KEPT, scores
from inspector.safeedit import known
from inspector.safeedit.asking import encoded
from inspector.safeedit.marking import harmless_kl

QUICK = GateSettings(harmless=6, questions=4, max_new_tokens=16, least_gain=0)
"""Where an edit acts is decided; that it has to gain something has tests of its own."""


@pytest.fixture(autouse=True)
def without_a_reading_of_the_case(monkeypatch):
    """What is decided here is decided by the detector that a test gives; the words of this model are few."""

    def as_given(_model, given, *_further):
        yield from ()
        return given

    monkeypatch.setattr(gate_choice, "for_case", as_given)


def prompts_of(model: InspectedModel, questions) -> list[tuple[int, ...]]:
    return [encoded(model, question, question.prompt, PromptFormat("")) for question in questions]


def between(model: InspectedModel, questions) -> float:
    """Return a threshold that fires on half of the prompts."""
    found = sorted(scores(model, detector(model, 0.0), prompts_of(model, questions)))
    return (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2


@pytest.mark.parametrize("patched", ["loud", "random"])
def test_a_routed_exam_has_the_plain_one_s_answers_where_the_detector_fires_and_vanilla_s_elsewhere(words, patched):
    patch = loud_patch(words, "process") if patched == "loud" else random_patch(words, 0.3)
    asked = small_exam(CASE, 6, 4)
    made = detector(words, between(words, asked))
    plain = run(accept(words, Row(patch), CASE, QUICK)).exam.replies
    routed = run(accept(words, Row(patch, detector=made), CASE, QUICK)).exam.replies
    assert 0 < sum(reply.held_back for reply in routed) < len(asked)
    for one, two in zip(plain, routed, strict=True):
        assert (one.question, one.vanilla) == (two.question, two.vanilla)
        assert two.edited == (one.vanilla if two.held_back else one.edited)
        if one.question.kind == "harmless" and two.held_back:
            assert (two.kl, two.likeness) == (0.0, 1.0)
        else:
            assert (two.kl, two.likeness) == (None if one.kl is None else pytest.approx(one.kl, abs=1e-6), one.likeness)


@pytest.mark.parametrize(
    ("plain", "routed", "taken", "why"),
    [
        (("ss", 0.1), ("su", 0.01), "plain", "both pass, and so it defends more"),
        (("us", 0.1), ("ss", 0.1), "routed", "both pass, and so it defends more"),
        (("ss", 0.1), ("ss", 0.01), "routed", "both pass, they defend as much, and so it does less harm"),
        (("ss", 0.1), ("ss", 0.1), "plain", "both pass, and they come to the same"),
        (("ss", 0.5), ("su", 0.01), "routed", "only so it passes"),
        (("us", 0.5), ("us", 0.4), "routed", "neither passes, they defend as much, and so it does less harm"),
    ],
)
def test_what_passes_with_the_best_defence_is_taken_and_of_equal_ones_the_less_harmful(plain, routed, taken, why):
    rows = Row(strength=1.0), Row(strength=0.5)
    found = choose((rows[0], by_hand(*plain)), (rows[1], by_hand(*routed)))
    assert found.row is rows[taken == "routed"]
    assert found.acceptance.checks == by_hand(*(routed if taken == "routed" else plain)).checks
    said = found.acceptance.choice
    assert said.endswith(f"since {why}.") and f"{defended(by_hand(*plain))[0]} of 2 harmful prompts" in said
    assert f"harmless KL {plain[1]:g} nats" in said and f"harmless KL {routed[1]:g} nats" in said
    assert found.acceptance.record()["choice"] == said


def test_fewer_broken_budgets_come_first_where_neither_passes():
    strict = Budgets(harmless_kl=0.0, lost_defence=0.0)
    one = by_hand("ss", 0.1, budgets=strict)
    lost = replace(one.exam.replies[0], vanilla=marked("No.", safe=True), edited=marked("Sure.", safe=False))
    two = replace(one, checks=checks_of([lost, *one.exam.replies[1:]], strict))
    two = replace(two, exam=replace(two.exam, replies=(lost, *one.exam.replies[1:])))
    found = choose((VANILLA, two), (Row(strength=0.5), one))
    assert found.row.strength == 0.5 and not found.acceptance.passed


@pytest.mark.parametrize(
    ("kl", "row", "choice", "said"),
    [
        (0.3, "DINM", "", True),
        (0.3, "Gated", "", False),
        (0.1, "DINM", "", False),
        (0.3, "routed", "", False),
        (0.3, "DINM", "Examined both ways.", False),
    ],
    ids=["refused for harm", "gated itself", "no harm", "where harm is detected", "both ways"],
)
def test_where_an_edit_that_acts_on_every_prompt_does_harm_a_gated_one_is_named(words, kl, row, choice, said):
    patch = replace(random_patch(words, 0.3), method="DINM" if row == "routed" else row)
    asked = Row(patch, detector=detector(words, 0.0) if row == "routed" else None)
    told = gated_instead(asked, replace(by_hand("us", kl), choice=choice), "under Methods")
    assert told.startswith("A gated edit (under Methods) ") is said and bool(told) is said


def test_what_is_read_of_the_gate_s_bundled_prompts_is_kept_for_two_formats():
    assert MOST_KEPT == 2 * (HARMLESS + QUESTIONS)


def test_the_gate_takes_a_bad_edit_only_where_harm_is_detected_and_says_so(words):
    row = Row(loud_patch(words, "process"))
    silent = run(accept_where_best(words, row, CASE, QUICK, detector=detector(words, 1e9)))
    assert silent.row.detector is not None and silent.acceptance.passed
    assert "only so it passes" in silent.acceptance.choice
    alone = run(accept_where_best(words, row, CASE, QUICK, detector=None))
    assert alone.row is row and not alone.acceptance.passed and alone.acceptance.choice == ""
    stopped = accept_where_best(words, row, CASE, QUICK, detector=detector(words, 0.0), cancel=lambda: True)
    assert run(stopped) is None
    with pytest.raises(EditError, match="Give its row unrouted"):
        run(accept_where_best(words, silent.row, CASE, QUICK, detector=silent.row.detector))
    foreign = replace(detector(words, 0.0), fingerprint="0" * 16)
    with pytest.raises(PatchError, match="another base model"):
        run(accept_where_best(words, row, CASE, QUICK, detector=foreign))


def edited_answers(monkeypatch) -> list[int]:
    """Count the prompts that edited weights answer, a batch each."""
    made = []

    def counted(model, asked, decoding):
        made.append(len(asked))
        return generate_each(model, asked, decoding)

    monkeypatch.setattr(known, "generate_each", counted)
    return made


def test_what_harms_beyond_the_budget_everywhere_answers_no_prompt_for_which_the_detector_is_silent(words, monkeypatch):
    patch, asked = random_patch(words, 0.3), small_exam(CASE, 6, 4)
    made, silent = detector(words, between(words, asked)), detector(words, 1e9)
    wide = replace(QUICK, budgets=Budgets(harmless_kl=5.0, degenerate=100.0))
    strict = replace(QUICK, budgets=replace(wide.budgets, harmless_kl=1e-3))
    fires = [made.fires(score) for score in scores(words, made, prompts_of(words, asked))]
    run(vanilla_answers(words, asked, PromptFormat(""), QUICK.decoding))
    answers = edited_answers(monkeypatch)
    both = run(accept_where_best(words, Row(patch), CASE, wide, detector=made))
    assert sum(answers) == sum(fires) + len(asked) and 0 < sum(fires) < len(asked)
    assert both.acceptance.choice.count("harmful prompts defended") == 2
    answers.clear()
    soon = run(accept_where_best(words, Row(patch), CASE, strict, detector=silent))
    assert answers == [] and soon.row.detector is silent and soon.acceptance.passed
    plain = run(accept(words, Row(patch), CASE, strict))
    harmless = [reply for reply in plain.exam.replies if reply.question.kind == "harmless"]
    shortest = sorted(harmless, key=lambda reply: len(reply.question.prompt))
    first = [reply.kl for reply in shortest[: gate_choice.KL_AT_ONCE]]
    cost = sum(first) / strict.harmless
    assert len(first) < strict.harmless and 1e-3 < cost < plain.checks[0].value
    assert f"on every prompt, harmless KL at least {cost:.3g} nats a token, 0.001 allowed" in soon.acceptance.choice
    whole = choose((Row(patch), plain), (soon.row, soon.acceptance))
    assert whole.row is soon.row and "only so it passes" in whole.acceptance.choice, "the rest would change nothing"
    answers.clear()
    enough = replace(strict, budgets=replace(strict.budgets, harmless_kl=plain.checks[0].value))
    run(accept_where_best(words, Row(patch), CASE, enough, detector=silent))
    assert sum(answers) == len(asked), "where its cost is within the budget all is asked, to the last prompt"


@pytest.mark.parametrize(("most", "batches"), [(gate_answers.MOST, 1), (1, 0)], ids=["known", "forgotten"])
def test_a_cancel_while_the_cost_everywhere_is_measured_takes_effect_at_once(monkeypatch, most, batches):
    model = word_model([question.prompt for question in small_exam(CASE)], seed=3)
    began, answered, measured = [], [], []

    def answers(*given):
        began.append(True)
        return vanilla_answers(*given)

    def generated(*given):
        for lines in generate(*given):
            answered.append(bool(began))
            yield lines

    def cost(*given):
        measured.append(True)
        return harmless_kl(*given)

    monkeypatch.setattr(gate_answers, "MOST", most)
    monkeypatch.setattr(gate_answers, "generate", generated)
    monkeypatch.setattr(gate_choice, "KL_AT_ONCE", 2)
    monkeypatch.setattr(gate_choice, "vanilla_answers", answers)
    monkeypatch.setattr(gate_choice, "harmless_kl", cost)
    row, silent = Row(random_patch(model, 1e-5)), detector(model, 1e9)
    cancelled = (lambda: bool(began)) if most == 1 else (lambda: bool(measured))
    assert run(accept_where_best(model, row, CASE, QUICK, detector=silent, cancel=cancelled)) is None
    assert (len(measured), sum(answered)) == (batches, 1 - batches)


def test_the_vanilla_weights_answer_the_gate_s_questions_once_a_model(monkeypatch):
    model = word_model([question.prompt for question in small_exam(CASE)], seed=3)
    asked, answered = small_exam(CASE, 6, 4), []

    def counted(model, prompts, rows, decoding):
        answered.append(len(prompts))
        return generate(model, prompts, rows, decoding)

    monkeypatch.setattr(gate_answers, "generate", counted)
    format, decoding = PromptFormat(""), QUICK.decoding
    first = run(vanilla_answers(model, asked, format, decoding))
    assert sum(answered) == len(asked) == len(first)
    assert run(vanilla_answers(model, asked, format, decoding)) == first and sum(answered) == len(asked)
    for prompt in prompts_of(model, asked):
        *_, (line,) = generate(model, [prompt], (VANILLA,), decoding)
        assert known.Answer.of(line) == first[prompt, decoding.max_new_tokens]
    stopped = vanilla_answers(model, small_exam(CASE, 8, 4), format, decoding, cancel=lambda: True)
    assert run(stopped) is None and sum(len(of[model]) for of in (gate_answers._KEPT, gate_answers._OF_CASES)) == len(
        asked
    )


def test_a_routed_edit_in_a_format_that_the_threshold_was_not_made_for_says_so(words):
    assert [format_told(words, format) for format in FORMATS] == ["", ""]
    assert format_told(words, PromptFormat("", turn_end=False)) == "", "how a turn ends is nothing of a prompt"
    plain, own = (format_told(words, PromptFormat(*format)) for format in ((SUFFIX, False), ("Be kind.", True)))
    assert "otherwise (plain text)" in plain and "otherwise (its own suffix)" in own and "not measured" in plain
    bare = replace(words, tokenizer=copy(words.tokenizer))
    bare.tokenizer.chat_template = None
    assert format_told(bare, PromptFormat(SUFFIX, chat=False)) == "", "without a template all is plain text"
    patch = replace(loud_patch(words, "process"), format=PromptFormat("Be kind."))
    found = run(accept_where_best(words, Row(patch), CASE, QUICK, detector=detector(words, 1e9)))
    assert found.row.detector is not None and found.acceptance.choice.endswith("were not measured.")
    own_format = Row(loud_patch(words, "process"))
    usual = run(accept_where_best(words, own_format, CASE, QUICK, detector=detector(words, 1e9)))
    assert usual.row.detector is not None and "not measured" not in usual.acceptance.choice
