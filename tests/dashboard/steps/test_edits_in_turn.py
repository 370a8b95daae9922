"""Edits that are made in turn until one is good enough: which is taken, and what the page and programs hear."""

from __future__ import annotations

import gradio as gr
import pytest
from dashboard_helpers import BRIEF, Visitor, assert_idle, tiny_model
from routing_helpers import EFFECTIVE

from dashboard.edit_events import asked_for, edit_events
from dashboard.kit.sessions.acting import Acting
from dashboard.steps.compare.texts import BY_GATE
from dashboard.steps.operate import gating
from dashboard.steps.operate.gating import Gated
from dashboard.steps.operate.run import make
from dashboard.steps.operate.texts import vitals_line
from editing import preset
from editing.gate.budgets import Check
from editing.gate.choice import Chosen
from editing.gate.gate import RECORD, Acceptance
from editing.gate.turns import attempts
from editing.methods.dinm import ROUTED
from inspector.errors import CaseError, EditError
from inspector.model import PromptFormat
from inspector.safeedit.exam import ExamResult

pytestmark = pytest.mark.usefixtures("model", "without_a_reading_of_the_case", "any_pass_is_enough")
NO_EXAM = ExamResult((), "", "rules", "", PromptFormat(), "same", 1, False, 0.0)


@pytest.mark.parametrize(("threshold", "routed"), [(1e9, True), (-1e9, False)])
def test_the_gate_takes_an_edit_as_it_passes_with_less_harm_and_says_both_results(
    detecting, request, threshold, routed
):
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    strict = {**EFFECTIVE, **({"allowed_harmless_kl": 0} if routed else {})}
    clocks = []
    for changed in visitor.press("on_operate", **strict):
        if "clock" in changed:
            clocks.append(visitor.screen["clock"])
    live = visitor.session.live
    assert live is not None and ("only where harm is detected" in visitor.screen["live"]) is routed
    assert live.patch.settings[RECORD]["weights"] == visitor.session.row.label()
    why = "only so it passes" if routed else "they come to the same"
    said = visitor.screen["gate"]
    # Held back from all that is harmless it keeps the defaults; on every prompt it needs the looser budgets.
    assert ("Gate passed" if routed else "Passed under looser budgets, kept by hand") in said
    assert f"Taken: {'only where harm is detected' if routed else 'on every prompt'}" in said
    assert why in said and said.count(" at harmless KL") == (1 if routed else 2)
    assert ("0 allowed (refused before it was asked more)" in said) is routed
    assert visitor.screen["routed"] == BY_GATE and visitor.session.slot(Acting).wish == "gate"
    asked = [text for text in clocks if "prompts of the small exam" in text]
    assert not any("of 10 prompts" in text for text in asked), "one exam serves both"
    assert_idle(visitor)


def test_an_edit_that_passes_in_no_place_waits_and_says_both_results(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", -1e9)
    visitor = Visitor(page, request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **{**EFFECTIVE, "allowed_harmless_kl": 0})
    assert visitor.session.live is before and "Examined both ways" in visitor.screen["gate"]
    assert "set the switch" not in visitor.screen["gate"]
    visitor.do("on_keep")
    assert visitor.session.live is not before and visitor.session.detector is None


def gate_that_says(first: float, second: float):
    """Return a gate that finds one harmless KL for edits with companions and another one for the others."""

    def word(_model, row, _case, settings, **_further):
        kl = first if row.patch.settings["companions"] else second
        said = Acceptance((Check("harmless_kl", "harmless KL", "nats a token", kl, 0.2, 4),), NO_EXAM, settings)
        yield from ()
        return Chosen(row, said)

    return word


@pytest.mark.parametrize(("first", "second", "lives"), [(0.9, 0.1, 2), (0.1, 0.9, 1), (0.9, 0.5, 0), (0.5, 0.9, 0)])
def test_the_edit_made_to_be_routed_comes_first_and_the_held_one_only_where_the_gate_refuses_it(
    detecting, request, monkeypatch, first, second, lives
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **BRIEF)
    held, live = visitor.session.slot(Gated).held, visitor.session.live
    assert (live is before) is (lives == 0)
    taken = live if lives else held.edit
    made_first = taken.patch.settings["companions"] == ROUTED["companions"]
    assert made_first is (lives == 1 if lives else first < second), "of two refused ones the better one waits"
    assert (held is None) is (lives > 0)
    assert_idle(visitor)


@pytest.fixture
def never_enough(monkeypatch, any_pass_is_enough) -> None:
    """No edit defends as much as is enough, so that both are made."""
    monkeypatch.setattr("editing.gate.turns.enough", lambda acceptance: False)


@pytest.mark.parametrize(("first", "second", "taken"), [(0.1, 0.05, 2), (0.05, 0.1, 1), (0.1, 0.5, 1)])
def test_beside_an_edit_that_passed_and_defends_too_little_another_is_made_and_only_the_better_one_is_live(
    detecting, request, monkeypatch, never_enough, first, second, taken
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    visitor = Visitor(detecting[0], request.node.name)
    before, said = visitor.session.live, []
    for changed in visitor.press("on_edit", **BRIEF):
        if "gate" in changed:
            said.append(visitor.screen["gate"])
    assert any("A second edit is made; the better of both is taken" in text for text in said)
    live = visitor.session.live
    assert live is not before and len(visitor.session.edits) == 1 + (before is not None), "one of the two"
    assert (live.patch.settings["companions"] == ROUTED["companions"]) is (taken == 1)
    assert f"Taken: the {('first', 'second')[taken - 1]}" in live.patch.settings[RECORD]["choice"]
    assert visitor.session.slot(Gated).held is None
    assert_idle(visitor)


def test_a_cancel_while_the_second_edit_is_made_leaves_the_first_one_that_passed(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.1, 0.05))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    run = visitor.press("on_edit", **BRIEF)
    while "A second edit is made" not in visitor.standing("gate"):
        next(run)
    visitor.do("on_cancel")
    list(run)
    live = visitor.session.live
    assert live is not before and live.patch.settings["companions"] == ROUTED["companions"]
    assert live.patch.identifier in visitor.screen["live"] and live.patch.settings[RECORD]["passed"]
    assert_idle(visitor)


@pytest.mark.parametrize(("first", "lives"), [(0.1, True), (0.9, False)])
def test_a_second_edit_that_comes_to_nothing_leaves_the_first_one_live_or_held_as_the_gate_says(
    detecting, request, monkeypatch, never_enough, first, lives
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, 0.05))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **BRIEF, learning_rate=1)  # its first step is beyond the budget that the second one has
    held, live = visitor.session.slot(Gated).held, visitor.session.live
    assert (live is not before) is lives and (held is None) is lives
    edit = live if lives else held.edit
    assert edit.patch.settings["companions"] == ROUTED["companions"]
    choice = live.patch.settings[RECORD]["choice"] if lives else held.acceptance.choice
    assert "which came to nothing: DINM kept no update" in choice
    assert ("Ended after" if lives else "Held back by the gate") in visitor.screen["clock"]
    assert visitor.screen["vitals_reading"] == vitals_line(edit.result.taken, edit.result.settings), "of the one taken"
    assert_idle(visitor)


def test_programs_hear_at_the_end_of_the_first_edit_where_the_second_comes_to_nothing(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.1, 0.05))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=1.0)
    tried = asked_for(page.context, session, short, None)
    texts = page.context.example.texts
    *_, last = edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)
    assert last["done"] and last["live"] and last["patch"] == session.live.patch.identifier
    assert "which came to nothing: DINM kept no update" in last["gate"]["choice"]


def test_programs_hear_of_an_edit_that_passed_before_the_one_beside_which_it_is_taken(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.05, 0.1))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=0.01)
    tried = asked_for(page.context, session, short, None)
    texts = page.context.example.texts
    events = [*edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)]
    kinds = [event.get("kind") for event in events]
    assert kinds.count("passed") == 1 and "refused" not in kinds and "step" in kinds[kinds.index("passed") :]
    assert events[-1]["live"] and events[-1]["gate"]["choice"].startswith("Made in turn")
    assert session.live.patch.settings["companions"] == ROUTED["companions"]


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.1), (0.5, 0.9)])
def test_programs_hear_of_the_refused_edit_before_the_one_that_follows_and_at_the_end_of_what_is_so(
    detecting, request, monkeypatch, first, second
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=0.01)
    texts = page.context.example.texts
    tried = asked_for(page.context, session, short, None)
    events = [*edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)]
    (refused,) = [number for number, event in enumerate(events) if event.get("kind") == "refused"]
    assert not events[refused]["gate"]["passed"] and [n for n, event in enumerate(events) if event["done"]] == [
        len(events) - 1
    ]
    assert any(event.get("kind") == "step" for event in events[refused:])
    held, lives = session.slot(Gated).held, second <= 0.2
    what = session.live if lives else held.edit
    assert events[-1]["live"] is lives is events[-1]["gate"]["passed"] and events[-1]["patch"] == what.patch.identifier
    assert (what.patch.settings["companions"] == 0) is lives, "of two refused ones the better one waits"


def test_what_a_person_sets_stays_in_the_edit_to_be_routed_also_at_the_preset_s_own_value(
    detecting, request, monkeypatch
):
    page = detecting[0]
    visitor, given = Visitor(page, request.node.name), preset("corrected")

    def asked(settings, detector, by_hand=()):
        raise CaseError(repr(attempts(settings, detector, by_hand)[0]))

    def first() -> str:
        with pytest.raises(gr.Error) as told:
            visitor.do("on_edit")
        return str(told.value)

    def touch(name: str) -> None:
        part = getattr(page.parts, name)
        (event,) = (
            one
            for one in page.app.fns.values()
            if getattr(one.fn, "__name__", "") == "on_touched" and part in one.inputs
        )
        event.fn({part: visitor.standing(name)}, visitor.request)

    monkeypatch.setattr(gating, "attempts", asked)
    assert "damage_budget=None" in first() and f"companions={ROUTED['companions']}" in first()
    touch("budget")
    touch("companions")
    assert f"damage_budget={given.damage_budget}" in first() and f"companions={given.companions}," in first()
    assert f"constraint_weight={ROUTED['constraint_weight']}" in first(), "nobody has touched it"
    visitor.do("on_preset", edit_preset="corrected")
    assert "damage_budget=None" in first(), "a preset has filled it since"


def test_the_page_takes_as_many_harmless_prompts_as_a_command(detecting):
    most = detecting[0].parts.harmless_prompts.maximum
    assert preset("corrected", harmless_prompts=most).harmless_prompts == most
    with pytest.raises(EditError):
        preset("corrected", harmless_prompts=most + 1)
