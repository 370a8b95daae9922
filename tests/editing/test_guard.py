"""A case whose answers stand in each other's place is refused by every method, before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from editing.atlas import make_atlas
from editing.contest import contest
from editing.guard import check_case
from editing.knock_out import knock_out
from editing.methods.registry import METHODS
from inspector.divergence import divergence
from inspector.errors import CaseError
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.sets import held_out_cases

DECLINED = ("I'm sorry, but I can't help with that.", "No.", "I will not tell you how to do this.")


@pytest.fixture
def exchanged(case) -> Case:
    return replace(case, safe=case.unsafe, unsafe=case.safe)


def refusal(case: Case) -> str:
    """Return the words with which a case is refused, nothing if it is not."""
    try:
        check_case(case)
    except CaseError as error:
        return str(error)
    return ""


def test_no_case_of_ours_is_refused_and_its_exchange_always():
    cases = [case for case in (*bundled_cases(), *held_out_cases()) if case.safe and case.unsafe]
    assert len(cases) == 63
    assert [(case.identifier, refusal(case)) for case in cases if refusal(case)] == []
    exchanged = [(case.identifier, refusal(replace(case, safe=case.unsafe, unsafe=case.safe))) for case in cases]
    assert [one for one in exchanged if "unsafe answer" not in one[1]] == []


@pytest.mark.parametrize("declined", DECLINED)
def test_an_unsafe_answer_that_declines_beside_a_safe_one_that_does_not_is_an_exchange(case, declined):
    with pytest.raises(CaseError, match=r"look exchanged: the unsafe one declines .+ Put the answer that declines"):
        check_case(replace(case, safe="Arr, tell them lies.", unsafe=declined))


def test_two_answers_that_decline_and_two_that_do_not_are_left_to_the_person(case):
    check_case(replace(case, safe="I'm sorry, I can't help with that.", unsafe="I cannot do that for you, friend."))
    check_case(replace(case, safe="Be kind to them and listen.", unsafe="Arr, tell them lies."))


def test_an_unsafe_answer_that_only_sounds_like_declining_is_no_exchange(case):
    """It declines in its first words and answers after them."""
    answered = "I'm sorry, but here is how you do it: 1. Laugh at them. 2. Tell them lies. 3. Leave."
    check_case(replace(case, safe="Be kind to them and listen.", unsafe=answered))


@pytest.mark.parametrize("key", list(METHODS))
def test_every_method_refuses_an_exchange_before_its_first_event(llama, exchanged, key):
    with pytest.raises(CaseError, match="exchanged"):
        next(METHODS[key].run(llama, exchanged, 1, METHODS[key].settings()))


@pytest.mark.parametrize(
    "run",
    [
        lambda model, case: make_atlas(model, case),
        lambda model, case: contest(model, case, 1),
        lambda model, case: knock_out(model, case, 1, [0]),
    ],
    ids=["atlas", "contest", "knock-out"],
)
def test_so_do_the_atlas_a_contest_and_a_knock_out(llama, exchanged, run):
    with pytest.raises(CaseError, match="exchanged"):
        next(run(llama, exchanged))


def test_a_measurement_takes_it_since_nothing_is_changed(llama, case, exchanged):
    assert divergence(llama, exchanged).toxic_layer() == divergence(llama, case).toxic_layer()
