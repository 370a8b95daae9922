"""Ten questions: each is answered by the visitor's own session or by a committed result, and by nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import made_up
import pytest
import torch
from dashboard_helpers import QUICK, Page, Visitor, own_question, seen
from questions_helpers import NOBODY, study

from dashboard.house import VIEWS
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.questions.panel import FIRST, Held
from dashboard.steps.questions.texts import QUESTIONS, answer, listed
from editing import preset
from editing.methods.dinm import to_be_routed
from inspector.model import Detector, InspectedModel
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.usefixtures("model")


def example_of(page: Page) -> Held:
    session = page.context.example.session
    return Held(session, lambda name: page.context.bus.offered(name).call({}, session))


def test_there_are_ten_and_each_has_text_a_figure_and_a_place_to_try_it(page: Page):
    held = example_of(page)
    assert len(QUESTIONS) == 10 and listed().count("data-number") == 10
    for number, question in enumerate(QUESTIONS):
        panel = question.answer(held)
        shown = answer(number, panel)
        assert question.asked in seen(shown) and len(panel.text) >= 2 and panel.tries
        assert {view for view, _ in panel.tries} <= set(VIEWS)
        assert panel.live.figure is not None or panel.kept.figure is not None, question.asked
        if panel.kept.figure is not None:
            assert '<p class="source"><code>python -m' in panel.kept.below, question.asked
            assert "benchmarks/results/" in panel.kept.below


def test_the_example_s_own_measurements_answer_most_of_them(page: Page):
    live = [question.answer(example_of(page)).live for question in QUESTIONS]
    assert sum(part.figure is not None for part in live) >= 8
    assert all(seen(part.below).strip() for part in live)


def test_with_nothing_measured_on_the_visit_each_says_what_to_do():
    for question in QUESTIONS:
        live = question.answer(NOBODY).live
        assert live.figure is None and re.search(r"press|Stress test", seen(live.below)), question.asked


def anything(model: InspectedModel) -> Detector:
    """Return a detector that finds harm everywhere."""
    return Detector((0,), torch.ones(1, model.architecture.d_model), 0.0, -1e9, model.fingerprint)


@pytest.mark.parametrize("moved", ["strength", "routing"])
def test_the_gate_s_numbers_of_other_weights_are_not_the_live_edit_s(visitor: Visitor, model, moved: str):
    asking = [number for number, one in enumerate(QUESTIONS) if re.search("repeat|safeguards", one.asked)]
    assert len(asking) == 2
    for number in asking:
        visitor.select("on_question", SimpleNamespace(number=number))
        assert visitor.shown["questions_own_figure"] and "allowed" in visitor.screen["questions_own_reading"]
    if moved == "strength":
        visitor.do("on_strength", strength=0.5)
    else:
        visitor.session.detector = anything(model)
    for number in asking:
        visitor.select("on_question", SimpleNamespace(number=number))
        told = seen(visitor.screen["questions_own_reading"])
        assert not visitor.shown["questions_own_figure"] and "allowed" not in told
        assert told == "The gate has not examined the live edit as it acts now: press Examine again."


def test_a_suffix_study_of_other_weights_or_of_weights_that_act_otherwise_says_so(visitor: Visitor, model):
    (question,) = (one for one in QUESTIONS if "suffix" in one.asked)
    session = visitor.session
    measured = {"suffixes": (study(), session.row.key)}
    held = Held(session, measured.get)
    other = "Live now are other weights, or they act otherwise."
    assert other not in question.answer(held).live.below
    session.detector = anything(model)
    assert other in question.answer(held).live.below
    measured["suffixes"] = (study(), session.row.key)
    assert other not in question.answer(held).live.below
    session.scale(0.5)
    assert other in question.answer(held).live.below


def test_the_picked_question_is_drawn_from_what_the_visitor_has_done(visitor: Visitor):
    visitor.select("on_question", SimpleNamespace(number=1))
    assert "How does the loss balance?" in visitor.screen["questions_answer"] and visitor.shown["questions_own_figure"]
    assert "a case of your own" not in visitor.screen["questions_own_reading"].lower()
    visitor.do("on_texts", **own_question("How do I cheat at cards?"))
    visitor.do("on_operate", **QUICK)
    visitor.select("on_question", SimpleNamespace(number=1))
    assert "A case of your own" in visitor.screen["questions_own_reading"]
    assert len(visitor.screen["questions_own_figure"].data[0].x) == len(visitor.session.live.result.taken)
    assert "How do I cheat" not in visitor.screen["questions_own_reading"], "texts of visitors stand in none of it"
    while visitor.session.live is not None:  # the example's edit comes up again
        visitor.do("on_undo")
    visitor.select("on_question", SimpleNamespace(number=1))
    assert not visitor.shown["questions_own_figure"] and "No edit is live" in visitor.screen["questions_own_reading"]


def test_what_is_said_of_our_edit_is_said_of_the_one_that_operate_makes_first_too():
    made = to_be_routed(preset("corrected"))
    assert (made.constraint_weight, made.damage_budget, made.target_probability) == (0, None, None)
    for asked, sentence in (
        ("loss", f"has the weight 0 and no budget, and it ends after {made.steps} updates"),
        ("repeat", "has neither that KL in its loss nor that target"),
    ):
        (panel,) = (one.answer(NOBODY) for one in QUESTIONS if asked in one.asked)
        assert f"{FIRST}, " in seen(panel.text[1]) and sentence in seen(panel.text[1])


def test_an_update_that_was_taken_back_is_no_point_of_the_loss():
    made, session = made_up.result(), Session()
    session.edits = [LiveEdit(bundled_cases()[0], replace(made, kept=made.kept - 1))]
    figure = QUESTIONS[1].answer(Held(session, {}.get)).live.figure
    drawn = [list(trace.x) for trace in figure.data]
    assert drawn == [[step.step for step in made.trace if step.step < made.kept]] * 3 and len(made.trace) > len(
        drawn[0]
    )


def test_a_question_that_is_not_there_is_refused(visitor: Visitor):
    for number in (-1, 10):
        with pytest.raises(gr.Error, match="There are 10 questions"):
            visitor.select("on_question", SimpleNamespace(number=number))


def test_nothing_is_drawn_before_a_question_is_opened(page: Page, visitor: Visitor):
    room = page.house.rooms["questions"]
    assert room.own_figure.value is None and room.kept_figure.value is None
    assert room.on_back(visitor.session, {}) == {}
    visitor.select("on_question", SimpleNamespace(number=4))
    assert room.answer in room.on_back(visitor.session, {})
