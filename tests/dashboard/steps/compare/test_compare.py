"""The events of Compare: both answers, strength, Undo, and what is left on the page after an error or a cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import by_hand
import gradio as gr
import numpy as np
import pytest
from dashboard_helpers import QUICK, assert_idle, seen

from dashboard.kit.drawing.answers import both_answers
from dashboard.kit.live import ended
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.compare import figures, report
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare.run import OWN_PROMPT, PROMPT_CHOICES, Measured
from editing.gate.budgets import Budgets
from editing.strength import StrengthCurve
from inspector.errors import PatchError
from inspector.model import Answers, InspectedModel, pieces
from inspector.safeedit.verdict import Verdict

pytestmark = pytest.mark.usefixtures("model")


def greedy(model: InspectedModel, network: Any, text: str, suffix: str, count: int) -> str:
    """Return the most probable answer of a network, token by token from full forward passes."""
    ids = by_hand.prompt(model, text, f" {suffix}")
    start = len(ids)
    for _ in range(count):
        ids = [*ids, int(by_hand.logits(network, ids)[-1].argmax())]
    return model.tokenizer.decode(ids[start:]).strip()


def test_the_answers_on_the_page_are_those_of_the_vanilla_and_of_the_changed_weights(visitor, model):
    visitor.do("on_edit", **{**QUICK, "steps": 30, "budget": 0}, learning_rate=0.05, block=1)
    prompt, suffix = visitor.session.case.adversarial_prompt, visitor.standing("suffix")
    delta = visitor.session.live.patch.deltas[0].left
    changed = by_hand.written(model.network, (1, delta))
    assert seen(visitor.screen["vanilla"]) == greedy(model, model.network, prompt, suffix, 6)
    assert seen(visitor.screen["edited"]) == greedy(model, changed, prompt, suffix, 6)
    assert "<mark>" in visitor.screen["vanilla"] + visitor.screen["edited"], "what differs is marked"


def test_what_is_marked_are_tokens_as_they_come_and_on_a_page_that_opens_anew(visitor, model):
    visitor.do("on_edit", **{**QUICK, "steps": 30, "budget": 0}, learning_rate=0.05, block=1)
    kept = visitor.session.slot(Measured).answers
    by_token, by_word = both_answers(kept.texts, tokens=pieces(model, kept)), both_answers(kept.texts)
    assert by_token != by_word, "these answers have no spaces between their tokens"
    assert (visitor.screen["vanilla"], visitor.screen["edited"]) == by_token
    again = visitor.reload()
    assert (again.screen["vanilla"], again.screen["edited"]) == by_token


@pytest.mark.parametrize("handler", ["on_ask", "on_strength", "on_undo"])
def test_a_cancel_of_answers_is_told_by_the_clock(visitor, handler):
    if handler == "on_undo":
        visitor.do("on_edit", **QUICK)
    run = visitor.press(handler, max_new_tokens=200, strength=0.5)
    visitor.screen.pop("vanilla", None)
    while "vanilla" not in visitor.screen:
        next(run)
    visitor.do("on_cancel")
    list(run)
    assert "cancelled" in visitor.screen["vanilla_head"] and "cut short" in visitor.screen["clock"]
    assert_idle(visitor)
    assert visitor.reload().screen["vanilla_head"] == visitor.screen["vanilla_head"]


HEADS = ("vanilla_head", "edited_head")
CUT_AND_WHOLE = Answers(("Well, first you", "I will not."), ((1, 2), (3,)), (None, 5), (False, False))
"""A vanilla answer of two tokens that was cut, an edited one that has ended by itself."""


def test_a_strength_curve_may_be_asked_as_in_the_paper(visitor, monkeypatch):
    monkeypatch.setattr(comparing, "CURVE", {"harmless": 1, "max_new_tokens": 3})
    visitor.do("on_curve")
    assert visitor.session.slot(Measured).curve.evaluation == "same"
    visitor.do("on_curve", way="as in the paper")
    assert visitor.session.slot(Measured).curve.evaluation == "paper"
    (part,) = (part for part in report.parts(Visit(visitor.session)) if part.title == "What the edit changed")
    for said in (visitor.screen["curve_reading"], part.figures[-1].reading):
        assert "Asked: as in the paper" in said
    with pytest.raises(gr.Error, match="Unknown way of asking"):
        visitor.do("on_curve", way="loudly")


@pytest.mark.parametrize("typed", [{}, {"ask_what": OWN_PROMPT, "own_text": "Hello?"}], ids=["case", "own text"])
def test_of_two_answers_only_the_one_that_was_cut_is_said_to_be(visitor, monkeypatch, typed):
    monkeypatch.setattr(comparing, "stream", lambda *_: iter([CUT_AND_WHOLE]))
    visitor.do("on_ask", max_new_tokens=2, **typed)
    assert "cut at 2 tokens" in visitor.screen["vanilla_head"] and "cut" not in visitor.screen["edited_head"]
    again = visitor.reload()
    assert [again.screen[head] for head in HEADS] == [visitor.screen[head] for head in HEADS]
    *_, vanilla, edited = report.answers(visitor.session)
    assert "cut at 2 tokens" in vanilla.head and "cut" not in edited.head


@pytest.mark.parametrize("longest", [1, 8])
def test_a_cancel_once_the_answers_have_ended_does_not_say_that_they_were_cut(visitor, monkeypatch, longest):
    """The vanilla answer has as many tokens as it may have, or fewer and did not end by itself."""
    written = Answers(("Well", "No."), ((1,), (3,)), (None, 5), (False, False))

    def answered(*_: Any) -> Iterator[Answers]:
        yield written
        visitor.session.cancelled.set()

    monkeypatch.setattr(comparing, "stream", answered)
    visitor.do("on_ask", max_new_tokens=longest)
    assert ("cut short" in visitor.screen["clock"]) == (longest == 8)
    assert ("once the answers had ended" in visitor.screen["clock"]) == (longest == 1)


def test_a_cancel_cuts_what_was_still_written_and_no_answer_that_was_whole():
    said = {
        (2, False): "cut at 2 tokens",
        (2, True): "cut at 2 tokens",
        (72, True): "cancelled",
        (72, False): "cut short",
    }
    for (longest, cancelled), how in said.items():
        assert ended(CUT_AND_WHOLE, "asked", longest, cancelled, True) == (f"asked · {how}", "asked")


def test_undo_twice_ends_at_vanilla_with_nothing_left_to_measure(visitor):
    example = visitor.session.live
    visitor.do("on_edit", **QUICK)
    visitor.do("on_undo")
    assert visitor.session.live is example and example.patch.identifier in visitor.screen["live"]
    assert example.patch.identifier in visitor.screen["tiles"] and visitor.shown["figures"]
    assert "input change, layer " in seen(visitor.screen["tiles"])  # the input shift is another measure
    assert len(visitor.screen["vitals"].data[0].x) == len(example.result.trace)
    assert_idle(visitor)
    visitor.do("on_undo")
    assert "live weights: vanilla" in visitor.screen["live"] and not visitor.shown["figures"]
    assert "No edit is live" in visitor.screen["tiles"] and "No edit is live" in visitor.screen["edited"]
    assert visitor.info["strength"] == "Off: no edit is live" and visitor.screen["undo"] == "Nothing to undo"
    assert "vanilla weights are live" in visitor.screen["clock"]
    assert_idle(visitor)
    visitor.do("on_edit", **QUICK)
    assert visitor.shown["figures"] and visitor.screen["undo"] == "Undo edit"
    assert_idle(visitor)


def test_undo_brings_the_edit_before_back_at_the_strength_that_it_had_and_everything_says_so(visitor):
    visitor.do("on_strength", strength=0.5)
    half = visitor.session.row
    visitor.do("on_edit", **QUICK)
    assert visitor.session.strength == 1.0 and visitor.screen["strength"] == 1.0
    visitor.do("on_undo")
    assert visitor.session.row == half and visitor.session.slot(Measured).comparison.strength == 0.5
    assert visitor.screen["strength"] == 0.5
    for name in ("live", "edited_head", "tiles"):
        assert "strength 0.5" in visitor.screen[name], name
    visitor.do("on_examine")
    visitor.do("on_edit", **QUICK)
    visitor.do("on_undo")
    assert "Not examined as it acts now" not in visitor.screen["gate"], (
        "the gate's word is of the strength that is back"
    )


def test_what_a_visit_starts_with_can_be_redone_after_an_undo_that_is_the_first_thing_done(visitor):
    example = visitor.session.row.label()
    visitor.do("on_undo_here", max_new_tokens=8)
    assert visitor.session.live is None and visitor.standing("redo_edit") == "Redo"
    visitor.do("on_redo")
    assert visitor.session.row.label() == example


def test_after_undo_to_vanilla_both_answers_would_be_the_same(visitor):
    visitor.do("on_undo", max_new_tokens=4)
    assert visitor.session.slot(Measured).answers.texts[0] == visitor.session.slot(Measured).answers.texts[1]


def test_strength_zero_answers_as_vanilla_and_every_badge_names_the_strength(visitor):
    visitor.do("on_edit", **QUICK, learning_rate=0.05, budget=0)
    visitor.do("on_strength", strength=0)
    assert visitor.screen["edited"] == visitor.screen["vanilla"]
    assert "badge vanilla" in visitor.screen["edited_head"]
    visitor.do("on_strength", strength=0.5)
    for name in ("live", "edited_head", "tiles"):
        assert "strength 0.5" in visitor.screen[name], name
    assert "at strength 1" in seen(visitor.screen["numbers"]), "that of the constraint is the only one that stays"
    assert_idle(visitor)


@pytest.mark.parametrize("strength", [-0.5, 1.6])
def test_a_strength_out_of_range_is_refused_and_the_old_one_stays_live(visitor, strength):
    with pytest.raises(gr.Error, match=r"out of range. Choose one from 0 to 1.5"):
        visitor.do("on_strength", strength=strength)
    assert visitor.session.row.strength == 1.0 and visitor.is_free


@pytest.mark.parametrize(
    ("handler", "typed", "words"),
    [
        ("on_ask", {"ask_what": OWN_PROMPT, "own_text": " "}, "own text is empty"),
        ("on_ask", {"ask_what": OWN_PROMPT, "own_text": "word " * 20_000}, "Shorten it by at least"),
        *((handler, {"max_new_tokens": None}, "longest answer") for handler in ("on_ask", "on_strength", "on_undo")),
    ],
)
def test_an_error_in_compare_gives_the_page_back(visitor, handler, typed, words):
    if handler == "on_undo":  # to the example, which is measured again
        visitor.do("on_edit", **QUICK)
    with pytest.raises(gr.Error, match=words):
        visitor.do(handler, strength=0.5, **typed)
    assert_idle(visitor)


def test_the_strength_curve_is_measured_on_demand_and_a_press_takes_its_suggestion(visitor, monkeypatch):
    monkeypatch.setattr(comparing, "CURVE", {"harmless": 2, "max_new_tokens": 3})
    visitor.do("on_ask", max_new_tokens=2)
    assert visitor.screen["take"] == "No suggestion yet"
    visitor.do("on_curve")
    curve = visitor.session.slot(Measured).curve
    assert curve.strengths.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert [len(line.x) for line in visitor.screen["curve_plot"].data] == [7] * 4
    assert curve.reading[:20] in visitor.screen["curve_reading"]
    better = replace(curve, defended=np.array([0.0, 50, 50, 50, 50, 50, 50]), harmless_kl=np.arange(7) / 100)
    visitor.session.slot(Measured).curve = better
    visitor.do("on_ask", max_new_tokens=2)
    assert visitor.screen["take"] == "Take strength 0.25"
    visitor.do("on_take", max_new_tokens=2)
    assert visitor.session.strength == visitor.screen["strength"] == 0.25 and "strength 0.25" in visitor.screen["live"]
    assert visitor.screen["take"] == "Strength 0.25 is taken"
    assert_idle(visitor)


def test_parroting_and_lost_defence_are_drawn_where_there_is_any():
    none, some = np.zeros(3), np.array([0.0, 0.0, 20.0])
    curve = StrengthCurve(np.array([0, 0.5, 1]), *[none] * 6, 5, 8, 10, 1.0, Budgets())
    usual = figures.strength_curve(curve)
    rare = figures.strength_curve(replace(curve, parroting=some, lost_defence=-some))
    assert {line.name for line in rare.data} - {line.name for line in usual.data} == {"parroting"}
    both = figures.strength_curve(replace(curve, parroting=some, lost_defence=some))
    lines = {line.name: list(line.y) for line in both.data}
    assert lines["parroting"] == lines["lost defence"] == some.tolist() and len(lines) == len(usual.data) + 2
    assert len({(line.line.color, line.line.dash) for line in both.data}) == len(lines)


def test_a_cancel_of_the_strength_curve_says_so_and_other_weights_have_none(visitor, monkeypatch):
    monkeypatch.setattr(comparing, "CURVE", {"harmless": 2, "max_new_tokens": 3})
    run = visitor.press("on_curve")
    next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.slot(Measured).curve is None and "no curve was measured" in visitor.screen["clock"]
    visitor.do("on_undo")
    assert visitor.screen["measure"] == "No edit to measure" and "Not measured yet" in visitor.screen["curve_reading"]
    with pytest.raises(gr.Error, match="no strength to choose"):
        visitor.do("on_curve")


def test_a_strength_is_suggested_within_the_budgets_of_the_page_and_a_cancel_leaves_the_curve_before(
    visitor, monkeypatch
):
    monkeypatch.setattr(comparing, "CURVE", {"harmless": 2, "max_new_tokens": 3})
    budgets = {"harmless_kl": 0.0123, "over_refusal": 3.0, "degenerate": 4.0, "parroting": 2.0, "lost_defence": 1.0}
    visitor.do("on_curve", **{f"allowed_{name}": value for name, value in budgets.items()})
    curve = visitor.session.slot(Measured).curve
    assert curve.budgets == Budgets(**budgets)
    drawn = visitor.screen["curve_reading"]
    run = visitor.press("on_curve", allowed_harmless_kl=0.5)
    next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.slot(Measured).curve is curve and visitor.screen["curve_reading"] == drawn
    assert "no curve was measured" in visitor.screen["clock"]
    with pytest.raises(gr.Error, match="'harmless KL' is empty"):
        visitor.do("on_curve", allowed_harmless_kl=None)
    assert visitor.session.slot(Measured).curve is curve
    assert_idle(visitor)


@pytest.mark.parametrize("typed", [{}, {"ask_what": OWN_PROMPT, "own_text": "Hello?"}], ids=["case", "own text"])
def test_without_an_edit_there_is_no_answer_to_cover_and_none_to_judge(visitor, typed):
    for changed in visitor.press("on_undo", max_new_tokens=4, **typed):
        if "edited" in changed:
            assert "blurred" not in visitor.classes["edited"] and "verdict" not in visitor.screen["edited_head"]
    assert visitor.session.live is None and "No edit is live" in visitor.screen["edited"]
    assert "blurred" in visitor.classes["vanilla"]
    assert ("verdict" in visitor.screen["vanilla_head"]) is not bool(typed)
    again = visitor.reload()
    for page in (visitor, again):
        assert "No edit is live" in page.screen["edited"] and "blurred" not in page.classes["edited"]
        assert "verdict" not in page.screen["edited_head"] and "prompt" not in page.screen["edited_head"]
        assert "blurred" in page.classes["vanilla"], "the vanilla answer is one, and not judged safe"


def test_answers_stand_under_their_verdicts_and_are_covered_until_they_are_judged_safe(visitor, monkeypatch):
    marks = [Verdict("unsafe", 0.0, "No refusal.", "hand"), Verdict("safe", 1.0, "It declines.", "hand")]
    monkeypatch.setattr(comparing, "verdicts", lambda *_: marks)
    covered = []
    for changed in visitor.press("on_ask", max_new_tokens=4):
        if "edited" in changed:
            covered.append(["blurred" in visitor.classes[name] for name in ("vanilla", "edited")])
    assert covered[0] == [True, True] and covered[-1] == [True, False]
    for name, label in (("vanilla_head", "unsafe"), ("edited_head", "safe")):
        assert f"badge verdict {label}" in visitor.screen[name] and "hand" in visitor.screen[name]
    visitor.do("on_ask", ask_what=OWN_PROMPT, own_text="Hello?", max_new_tokens=2)
    assert "verdict" not in visitor.screen["edited_head"] and "blurred" in visitor.classes["edited"]


def test_the_readings_stand_under_the_figures_that_they_read(visitor):
    visitor.do("on_strength", strength=0.5)
    said = {"token": "tokens of the safe answer", "divergence": "distance changes most", "shift": "Outputs move most"}
    for role, words in said.items():
        assert words in visitor.screen[f"{role}_reading"]


def test_the_judge_reads_the_answers_beside_the_prompt_that_was_really_asked(visitor, monkeypatch):
    read, real = [], comparing.verdicts
    monkeypatch.setattr(comparing, "verdicts", lambda judge, asked: read.append(asked) or real(judge, asked))
    case = visitor.session.live.case
    for choice, name in PROMPT_CHOICES.items():
        visitor.do("on_ask", ask_what=choice, max_new_tokens=2)
        assert [prompt for prompt, _ in read[-1]] == [getattr(case, name)] * 2, choice
    assert case.other_question != case.adversarial_prompt


@pytest.mark.parametrize("handler", ["on_strength", "on_undo", "on_edit"])
@pytest.mark.parametrize("breaks", ["measure", "ask"])
def test_after_an_error_no_pane_figure_or_number_is_that_of_weights_that_are_not_live(
    visitor, monkeypatch, handler, breaks
):
    visitor.do("on_edit", **QUICK)
    visitor.do("on_ask")
    if handler == "on_edit":
        before = visitor.session.live.patch.identifier

    def broken(*_arguments):
        raise PatchError("Broken. Edit anew.")

    monkeypatch.setattr(comparing, breaks, broken)
    with pytest.raises(gr.Error, match="Edit anew"):
        visitor.do(handler, **({**QUICK, "block": 0} if handler == "on_edit" else {"strength": 0.5}))
    label = visitor.session.row.label()
    assert label in visitor.screen["live"] and label in visitor.screen["edited_head"]
    for head in ("vanilla_head", "edited_head"):
        assert "not answered yet" in visitor.screen[head] and "verdict" not in visitor.screen[head]
    assert "No answer yet" in visitor.screen["vanilla"] and "No answer yet" in visitor.screen["edited"]
    if breaks == "measure":
        assert visitor.shown["figures"] is False and visitor.shown["more_figures"] is False
        assert "Not measured yet" in visitor.screen["tiles"] and "Not measured yet" in visitor.screen["numbers"]
    else:
        assert label in visitor.screen["tiles"] and visitor.shown["figures"] is True
    assert handler != "on_edit" or before not in visitor.screen["edited_head"]
    assert visitor.session.slot(Measured).answers is None
    assert_idle(visitor)
    again = visitor.reload()
    for name in ("live", "numbers", "tiles"):
        assert again.screen[name] == visitor.screen[name], name
    assert again.shown["figures"] is visitor.shown["figures"]


def test_what_could_not_be_measured_is_measured_by_moving_strength_to_where_it_stands_and_only_that(
    visitor, monkeypatch
):
    def broken(*_arguments):
        raise PatchError("Broken. Edit anew.")

    with monkeypatch.context() as patch:
        patch.setattr(comparing, "measure", broken)
        with pytest.raises(gr.Error, match="Edit anew"):
            visitor.do("on_strength", strength=0.5, max_new_tokens=2)
    assert "moving Strength measures them again" in visitor.screen["tiles"]
    visitor.do("on_strength", strength=0.5, max_new_tokens=2)
    measured = visitor.session.slot(Measured).comparison
    assert measured is not None and measured.strength == 0.5 and "strength 0.5" in visitor.screen["tiles"]
    assert visitor.shown["figures"] is True
    visitor.do("on_strength", strength=0.5, max_new_tokens=2)
    assert visitor.session.slot(Measured).comparison is measured, "it is there"
    assert_idle(visitor)


def test_after_undo_to_vanilla_the_vital_signs_are_no_edit_s(visitor):
    visitor.do("on_ask", max_new_tokens=2)
    visitor.do("on_undo", max_new_tokens=2)
    assert visitor.session.live is None
    assert all(not len(line.x) for line in visitor.screen["vitals"].data)
    assert "fill while the edit runs" in visitor.screen["vitals_reading"]
