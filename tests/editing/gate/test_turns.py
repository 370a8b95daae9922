"""Which edits are made in turn, until which one, and which of two is taken and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from gate_helpers import EXAM, by_hand, detector, marked

from editing import preset, run
from editing.gate.budgets import Budgets
from editing.gate.gate import Acceptance
from editing.gate.ranking import defended
from editing.gate.turns import ENOUGH, attempts, enough, goes_on, in_turn, of_two
from editing.methods.dinm import ROUTED, to_be_routed
from inspector.errors import NotFinite, OutOfMemory, PatchError, RefusedEdit


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


def test_a_monitor_keeps_the_target_by_which_it_ends_the_edit_that_is_made_to_be_routed():
    given = preset("corrected", monitor=4)
    routed = to_be_routed(given)
    assert (routed.target_probability, routed.damage_budget) == (given.target_probability, None)
    assert routed.monitor == 4 and routed.companions == ROUTED["companions"]
    alone = to_be_routed(preset("corrected"))
    assert alone.target_probability is None and alone.damage_budget is None


@pytest.mark.parametrize(
    ("first", "second", "later", "why"),
    [
        (("su", 0.0), ("ss", 0.1), True, "both pass, and it defends more"),
        (("ss", 0.1), ("su", 0.0), False, "both pass, and it defends more"),
        (("su", 0.1), ("su", 0.0), True, "both pass, they defend as much, and it does less harm"),
        (("su", 0.0), ("su", 0.0), False, "both pass, and they come to the same"),
        (("su", 0.1), ("ss", 0.5), False, "only it passes"),
        (("ss", 0.5), ("su", 0.1), True, "only it passes"),
        (("us", 0.4), ("us", 0.5), False, "neither passes, they defend as much, and it does less harm"),
    ],
)
def test_of_two_edits_that_were_made_in_turn_the_better_one_is_taken_and_both_results_are_told(
    first, second, later, why
):
    if why.startswith("neither"):
        first, second = (first[0], 0.4), (second[0], 0.5)
    one, two = by_hand(*first), replace(by_hand(*second), choice="Examined both ways.")
    taken, word = of_two(one, two)
    assert taken is later and word.checks == (two if later else one).checks
    assert word.choice.count("harmful prompts defended") == 2 and f"since {why}." in word.choice
    assert word.choice.endswith("Examined both ways.") is later, "how the taken one acts is told as well"


def test_of_two_refused_edits_the_one_that_breaks_fewer_budgets_is_the_better_one():
    strict = Budgets(harmless_kl=0.0, lost_defence=0.0)
    one, harmless = by_hand("us", 0.1, budgets=strict), by_hand("us", 0.0, budgets=strict)
    assert of_two(one, harmless)[0] and not of_two(harmless, one)[0] and not of_two(one, one)[0]


def test_another_edit_is_made_only_beside_one_that_is_refused_or_leaves_more_undefended_than_is_stated():
    most = round(10 * ENOUGH)
    assert enough(by_hand("s" * most + "u" * (10 - most), 0.1)) and not enough(by_hand("s" * 10, 0.5))
    fewer = by_hand("s" * (most - 1) + "u" * (11 - most), 0.1)
    assert not enough(fewer)
    assert f"{most - 1} of 10 harmful prompts defended" in goes_on(
        fewer
    ) and f"less than {100 * ENOUGH:g} %" in goes_on(fewer)
    assert "(refused), so it is not taken as it is" in goes_on(by_hand("s" * 10, 0.5))


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit by name, with the gate's word on it."""

    name: str
    acceptance: Acceptance | None

    def worded(self, acceptance: Acceptance) -> Edit:
        return replace(self, acceptance=acceptance)


def made_in_turn(*each: Acceptance | Exception | None) -> Edit | None:
    """Make edits of which the gate says so, or that end in an error."""

    def make(said, first):
        yield first
        if isinstance(said, Exception):
            raise said
        return Edit(f"{each.index(said)}", said)

    return run(in_turn(each, make))


@pytest.mark.parametrize(
    "error",
    [
        RefusedEdit("The safe answer is likely enough already."),
        NotFinite("It left the numbers."),
        OutOfMemory("The device ran out of memory."),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("kl", [0.1, 0.5])
def test_a_second_edit_that_comes_to_nothing_leaves_the_first_and_its_word_says_why(error, kl):
    word = replace(by_hand("su", kl), choice="Examined both ways.")
    made = made_in_turn(word, error)
    assert made.name == "0" and made.acceptance.checks == word.checks
    why = str(error) or "The device ran out of memory."
    assert f"which came to nothing: {why}" in made.acceptance.choice
    assert made.acceptance.choice.endswith("since there is no other. Examined both ways.")
    with pytest.raises(type(error)):
        made_in_turn(error, word)


def test_an_error_that_says_nothing_about_the_second_edit_is_not_hidden():
    for error in (PatchError("Another model."), KeyError("a defect")):
        with pytest.raises(type(error)):
            made_in_turn(by_hand("su", 0.1), error)


def test_edits_are_made_in_turn_until_one_is_enough_or_its_exam_is_cancelled():
    good, poor, better = by_hand("ss", 0.1), by_hand("uu", 0.1), by_hand("su", 0.1)
    assert made_in_turn(good, poor).acceptance is good and made_in_turn(None, good).acceptance is None
    assert made_in_turn(poor, None).acceptance is poor and made_in_turn(poor, better).name == "1"


def test_the_case_s_own_prompts_count_among_what_is_defended():
    own = [replace(by_hand("s", 0.1).exam.replies[0], question=question) for question in EXAM[-5:]]
    word = by_hand("us", 0.1)
    whole = replace(word, exam=replace(word.exam, replies=(*word.exam.replies, *own)))
    assert defended(word) == (1, 2) and defended(whole) == (6, 7)


def test_what_each_edit_defends_stands_beside_what_vanilla_does():
    one, two = by_hand("su", 0.1), by_hand("ss", 0.1)
    told = "2 of 2 harmful prompts defended (vanilla 0) at harmless KL 0.1 nats a token"
    assert told in of_two(one, two)[1].choice and told in goes_on(two)
    known = replace(two.exam.replies[0], vanilla=marked("No.", safe=True))
    beside = replace(two, exam=replace(two.exam, replies=(known, *two.exam.replies[1:])))
    assert "2 of 2 harmful prompts defended (vanilla 1)" in goes_on(beside)
