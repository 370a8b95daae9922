"""Where an edit acts: what one exam tells of it routed, and which of the two the gate takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from word_models import loud_patch, random_patch, word_model

from editing import gate_choice, preset, run
from editing.gate import Acceptance, Budgets, GateSettings, accept, checks_of, small_exam
from editing.gate_choice import (
    accept_where_best,
    attempts,
    better,
    choose,
    defended,
    routed_acceptance,
    routed_replies,
)
from editing.methods.dinm import ROUTED, to_be_routed
from inspector.errors import EditError, PatchError
from inspector.model import VANILLA, Detector, InspectedModel, PromptFormat, Row
from inspector.model.routing import scores
from inspector.safeedit import bundled_cases
from inspector.safeedit.asking import encoded
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.verdict import Verdict

CASE = bundled_cases()[0]
QUICK = GateSettings(harmless=6, questions=4, max_new_tokens=16)
EXAM = small_exam(CASE, harmless=2, questions=2)


@pytest.fixture(scope="module")
def words() -> InspectedModel:
    return word_model([question.prompt for question in small_exam(CASE)], seed=1)


@pytest.fixture(autouse=True)
def without_a_reading_of_the_case(monkeypatch):
    """What is decided here is decided by the detector that a test gives; the words of this model are few."""
    monkeypatch.setattr(gate_choice, "for_case", lambda _model, given, *_: given)


def detector(model: InspectedModel, threshold: float) -> Detector:
    return Detector((0,), torch.ones(1, 32), 0.0, threshold, model.fingerprint)


def between(model: InspectedModel, questions) -> float:
    """Return a threshold that fires on half of the prompts."""
    prompts = [encoded(model, question, question.prompt, PromptFormat("")) for question in questions]
    found = sorted(scores(model, detector(model, 0.0), prompts))
    return (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2


def marked(text: str, *, safe: bool | None = None, refused: bool = False) -> Marked:
    verdict = None if safe is None else Verdict("safe" if safe else "unsafe", float(safe), "", "hand")
    return Marked(text, True, "", verdict, refused, 1.0, None)


def by_hand(harmful: str, kl: float, weights: str = "patch", budgets: Budgets = Budgets()) -> Acceptance:
    """Return the gate's word on an edit.

    Args:
        harmful: A letter a harmful question: ``s`` where the edited answer is safe; vanilla's is not.
        kl: Of both harmless prompts.
    """
    replies = [
        Reply(EXAM[0], marked("Sure.", safe=False), marked("No." if s == "s" else "Sure.", safe=s == "s"))
        for s in harmful
    ] + [Reply(EXAM[2], marked("Water boils."), marked("Water boils."), 1.0, kl)] * 2
    exam = ExamResult(tuple(replies), weights, "hand", "", PromptFormat(""), "same", 16, False, 1.0)
    return Acceptance(checks_of(replies, budgets), exam, GateSettings(budgets=budgets))


def test_where_the_detector_is_silent_the_vanilla_answer_stands_and_nothing_has_moved():
    first = Reply(EXAM[0], marked("Sure.", safe=False), marked("No.", safe=True))
    second = Reply(EXAM[2], marked("Water boils at noon."), marked("Never.", refused=True), 0.2, 0.7)
    assert routed_replies((first, second), (True, True)) == (first, second)
    for fires in ((True, False), (False, False)):
        found = routed_replies((first, second), fires)
        assert found[0].edited == (first.edited if fires[0] else first.vanilla) and found[0].kl is None
        assert (found[1].edited, found[1].kl, found[1].likeness) == (second.vanilla, 0.0, 1.0)
        assert [reply.held_back for reply in found] == [not fired for fired in fires]
    with pytest.raises(ValueError, match="zip"):
        routed_replies((first, second), (True,))


@pytest.mark.parametrize("patched", ["loud", "random"])
def test_one_exam_tells_what_a_really_routed_exam_would_have_found(words, patched):
    patch = loud_patch(words, "process") if patched == "loud" else random_patch(words, 0.3)
    asked = small_exam(CASE, 6, 4)
    made = detector(words, between(words, asked))
    plain = run(accept(words, Row(patch), CASE, QUICK))
    told = routed_acceptance(words, plain, Row(patch, detector=made))
    really = run(accept(words, Row(patch, detector=made), CASE, QUICK))
    assert 0 < sum(reply.held_back for reply in really.exam.replies) < len(asked)
    assert told.exam.weights == really.exam.weights and told.passed == really.passed
    for one, two in zip(told.exam.replies, really.exam.replies, strict=True):
        assert (one.question, one.vanilla, one.edited, one.held_back, one.likeness) == (
            two.question,
            two.vanilla,
            two.edited,
            two.held_back,
            two.likeness,
        )
        assert one.kl == (None if two.kl is None else pytest.approx(two.kl, abs=1e-6))
    for check, other in zip(told.checks, really.checks, strict=True):
        assert replace(check, value=0.0) == replace(other, value=0.0)
        assert check.value == pytest.approx(other.value, abs=1e-6)


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
    assert said.endswith(f"since {why}.") and f"{defended(by_hand(*plain))[0]} of 2 harmful questions" in said
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


def test_the_gate_takes_a_bad_edit_only_where_harm_is_detected_and_says_so(words):
    row = Row(loud_patch(words, "process"))
    silent = run(accept_where_best(words, row, CASE, QUICK, detector=detector(words, 1e9)))
    assert silent.row.detector is not None and silent.acceptance.passed
    assert "only so it passes" in silent.acceptance.choice
    alone = run(accept_where_best(words, row, CASE, QUICK, detector=None))
    assert alone.row is row and not alone.acceptance.passed and alone.acceptance.choice == ""
    stopped = accept_where_best(words, row, CASE, QUICK, detector=detector(words, 0.0), cancel=lambda: True)
    assert run(stopped) is None


def test_what_was_not_examined_is_not_told(words):
    patch = random_patch(words, 0.1)
    plain = run(accept(words, Row(patch), CASE, QUICK))
    made = detector(words, 0.0)
    for row in (Row(patch), Row(patch, 0.5, detector=made), Row(random_patch(words, 0.2), detector=made)):
        with pytest.raises(EditError, match="Examine those weights"):
            routed_acceptance(words, plain, row)
    with pytest.raises(EditError, match="Give its row unrouted"):
        run(accept_where_best(words, Row(patch, detector=made), CASE, QUICK, detector=made))
    foreign = replace(made, fingerprint="0" * 16)
    with pytest.raises(PatchError, match="another base model"):
        routed_acceptance(words, plain, Row(patch, detector=foreign))


def test_the_edit_that_nothing_holds_back_is_made_first_where_there_is_a_detector(words):
    given, made = preset("corrected"), detector(words, 0.0)
    assert attempts(given, made) == (to_be_routed(given), given) and attempts(given, None) == (given,)
    by_hand_set = preset("corrected", steps=3, companions=2)
    first, second = attempts(by_hand_set, made)
    assert second == by_hand_set and (first.steps, first.companions) == (3, 2) and first.damage_budget is None
    assert attempts(preset("reference"), made) == (preset("reference"),)


def test_a_setting_that_was_asked_for_stays_even_where_it_is_the_presets_own(words):
    given = preset("corrected")
    first, _ = attempts(given, detector(words, 0.0), by_hand=["steps", "damage_budget"])
    assert (first.steps, first.damage_budget) == (given.steps, given.damage_budget)
    assert first.companions == ROUTED["companions"] and to_be_routed(given, ROUTED) == given


def test_of_two_refused_edits_the_one_that_breaks_fewer_budgets_is_the_better_one():
    strict = Budgets(harmless_kl=0.0, lost_defence=0.0)
    one, harmless = by_hand("us", 0.1, budgets=strict), by_hand("us", 0.0, budgets=strict)
    assert better(one, harmless) and not better(harmless, one) and not better(one, one)
