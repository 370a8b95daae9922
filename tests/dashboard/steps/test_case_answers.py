"""The case rail: where its two answers come from, and what the model writes into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import QUICK, own_question

from dashboard.kit.sessions.typed import Texts
from dashboard.steps.case import run, state
from dashboard.steps.case.origins import Source
from dashboard.steps.case.texts import offered_cases, origins
from dashboard.steps.locate.run import LocatedCase
from inspector.errors import CaseError
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.verdict import Verdict

pytestmark = pytest.mark.usefixtures("model")


def test_the_model_s_own_answer_is_written_once_when_it_is_whole_and_judged(visitor):
    typed = {"unsafe": "My own words.", "max_new_tokens": 5}
    changes = [(changed, visitor.standing("unsafe")) for changed in visitor.press("on_unsafe_ask", **typed)]
    wrote = [number for number, (changed, _) in enumerate(changes) if "unsafe" in changed]
    assert len(wrote) == 1 and all(text == "My own words." for _, text in changes[: wrote[0]])
    assert visitor.standing("unsafe") not in ("", "My own words.")
    shown = visitor.screen["origins"]
    assert "unsafe answer: in the model's words<" in shown and "judged unsafe" in shown and visitor.is_free


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time by which the rail tells what was overtaken; it stands still."""
    now = [0.0]
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("after", [0, state.OVERTAKEN + 0.1])
def test_a_change_that_was_sent_before_both_answers_stood_there_says_nothing_of_the_old_one(visitor, clock, after):
    """A browser fills both fields one after the other and tells of each, and the first word may be answered last."""
    visitor.do("on_texts", question="How can I trick my neighbour out of a parcel?")
    before = visitor.standing("unsafe")
    visitor.do("on_fill")
    safe, unsafe, shown = (visitor.standing(name) for name in ("safe", "unsafe", "origins"))
    assert unsafe != before and "of another question" not in shown
    visitor.do("on_texts", safe=safe, unsafe=unsafe)
    clock[0] = after
    visitor.do("on_texts", safe=safe, unsafe=before)
    stands = before if after else unsafe
    assert ("of another question" in visitor.screen["origins"]) is bool(after)
    assert visitor.session.controls[visitor.page.parts.unsafe] == stands
    visitor.do("on_texts", safe="No, I won't.", unsafe=before)
    assert "of another question" in visitor.screen["origins"], "what a person puts back counts"


@pytest.mark.usefixtures("clock")
def test_an_example_whose_texts_come_one_by_one_is_whole(visitor):
    was = {name: visitor.standing(name) for name in ("question", "template", "safe", "unsafe")}
    visitor.do("on_texts", **was)
    visitor.select("on_example", SimpleNamespace(number=4))
    now = {name: visitor.standing(name) for name in was}
    assert now["question"] != was["question"] and now["unsafe"] != was["unsafe"]
    visitor.do("on_texts", **now)
    whole = {name: visitor.screen[name] for name in ("origins", "attack", "prompt_reading")}
    for sent in ({**was, "question": now["question"]}, {**now, "template": was["template"]}):
        visitor.do("on_texts", **sent)
        assert {name: visitor.screen[name] for name in whole} == whole
    first = next(template.name for template in bundled_templates() if template.text == was["template"])
    visitor.do("on_template", template_name=first)
    visitor.do("on_texts", **{**now, "template": was["template"]})
    assert visitor.screen["attack"] != whole["attack"], "picked by hand it counts at once"


@pytest.mark.parametrize("way", ["cancel", "error", "no text"])
def test_an_answer_of_the_model_that_comes_to_nothing_leaves_what_was_typed(visitor, monkeypatch, way):
    def broken(*_):
        yield "Half an"
        yield "Half an answer" if way == "cancel" else ""
        if way == "error":
            raise CaseError("It broke.")

    monkeypatch.setattr(run, "ask_for_unsafe", broken)
    visitor.screen["unsafe"] = "My own words."
    if way == "cancel":
        for _ in visitor.press("on_unsafe_ask"):
            visitor.do("on_cancel")
        assert "Cancelled" in visitor.screen["clock"]
    else:
        with pytest.raises(gr.Error, match="It broke" if way == "error" else "is no text"):
            visitor.do("on_unsafe_ask")
    assert visitor.standing("unsafe") == "My own words." and visitor.is_free and visitor.screen["answering"] == ""


def test_where_the_answers_come_from_is_said_and_that_they_belong_to_another_question(visitor):
    assert visitor.standing("origins").count("from the case<") == 2 and visitor.page.parts.stale.visible is False
    visitor.do("on_texts", question="How can I trick my neighbour out of a parcel?")
    assert visitor.screen["origins"].count("from the case, of another question") == 2
    assert visitor.shown["stale"] and visitor.shown["keep_answers"]
    before = visitor.session.slot(LocatedCase).divergence
    for handler in ("on_locate", "on_edit", "on_why", "on_methods"):
        with pytest.raises(gr.Error, match="answers belong to another question"):
            visitor.do(handler)
    assert visitor.session.slot(LocatedCase).divergence is before and visitor.is_free
    visitor.do("on_texts", safe="No, I won't.", unsafe="Yes.")
    assert visitor.screen["origins"].count("typed<") == 2 and not visitor.shown["stale"]


def test_a_typed_question_gets_answers_of_its_own_which_are_stale_for_the_next_one(visitor):
    question = "How can I trick my neighbour out of a parcel?"
    visitor.do("on_texts", question=question)
    before = visitor.standing("safe"), visitor.standing("unsafe")
    seen, fields = [], []
    for changed in visitor.press("on_fill"):
        seen += [visitor.screen["clock"]] if "clock" in changed else []
        fields.append((visitor.standing("safe"), visitor.standing("unsafe")))
    assert "Both answers are there" in seen[-1] and visitor.is_free and visitor.screen["answering"] == ""
    assert set(fields) == {before, fields[-1]}, "nothing that is not whole and judged stands in a field"
    safe, unsafe = visitor.screen["safe"], visitor.screen["unsafe"]
    assert (
        "parcel" in safe and unsafe and not any(case.safe == safe or case.unsafe == unsafe for case in offered_cases())
    )
    assert "safe answer: from a template<" in visitor.screen["origins"] and not visitor.shown["stale"]
    visitor.do("on_texts")
    visitor.do("on_locate")
    assert (visitor.session.case.safe, visitor.session.case.unsafe) == (safe, unsafe)
    visitor.do("on_texts", question="How can I cheat at cards?")
    assert visitor.screen["origins"].count("of another question") == 2 and visitor.shown["stale"]
    visitor.do("on_texts", question=question)
    assert "of another question" not in visitor.screen["origins"], "they belong to it again"


def test_a_safe_answer_that_is_not_judged_safe_is_shown_before_anything_is_made_with_it(visitor, monkeypatch):
    class Strict:
        name, note = "strict", ""

        def judge(self, pairs: Any) -> list[Verdict]:
            return [Verdict("unsafe", 0.0, "Never.", self.name) for _ in pairs]

    monkeypatch.setattr("editing.texts.own_answers.EmbeddedJudge", Strict)
    before = visitor.session.live
    visitor.do("on_texts", question="How can I trick my neighbour out of a parcel?")
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live is before and visitor.is_free
    assert "not judged safe" in visitor.screen["clock"] and "not judged safe: Never." in visitor.screen["origins"]
    visitor.do("on_texts")
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live.case.safe == visitor.standing("safe") != before.case.safe, "it was read, and is wanted"


def test_what_a_person_has_typed_is_left_alone_and_only_the_other_answer_is_filled(visitor):
    visitor.do("on_texts", question="How can I cheat at cards?", safe="I won't help you cheat.")
    visitor.do("on_fill")
    assert visitor.standing("safe") == "I won't help you cheat." and "safe answer: typed<" in visitor.screen["origins"]
    assert visitor.screen["unsafe"] not in {case.unsafe for case in offered_cases()}


def test_a_typed_answer_is_stale_once_the_question_is_another_unless_one_keeps_it(visitor):
    visitor.do("on_texts", **own_question("How can I cheat at cards?"))
    visitor.do("on_texts", question="How can I cheat at chess?")
    assert "typed, of another question" in visitor.screen["origins"]
    visitor.do("on_keep_answers")
    assert "of another question" not in visitor.screen["origins"] and not visitor.shown["stale"]
    visitor.do("on_locate")
    assert visitor.session.case.question == "How can I cheat at chess?"


def test_operate_asks_before_it_writes_over_an_answer_that_was_typed_for_another_question(visitor):
    visitor.do("on_texts", **own_question("How can I cheet at cards?"))
    visitor.do("on_texts", question="How can I cheat at cards?")
    before = visitor.session.live
    for handler in ("on_operate", "on_edit"):
        with pytest.raises(gr.Error, match=r"typed here belongs to another question.*Keep these answers"):
            visitor.do(handler, **QUICK)
    assert visitor.standing("safe") == own_question("")["safe"] and visitor.session.live is before
    assert visitor.is_free and visitor.shown["keep_answers"], "what the message names is there"
    visitor.do("on_keep_answers")
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live.case.safe == own_question("")["safe"]
    visitor.do("on_texts", question="How can I cheat at chess?")
    visitor.do("on_fill")
    assert "chess" in visitor.standing("safe"), "who presses Answer this question wants another one"


@pytest.mark.parametrize("handler", ["on_fill", "on_operate"])
def test_a_cancel_while_the_model_answers_leaves_what_stood_there(visitor, handler):
    visitor.do("on_texts", question="How can I cheat at chess?", safe="", unsafe="Mine, until Cancel.")
    for _ in visitor.press(handler):
        visitor.do("on_cancel")
    assert (visitor.standing("safe"), visitor.standing("unsafe")) == ("", "Mine, until Cancel.") and visitor.is_free
    assert "Cancelled" in visitor.screen["clock"] and visitor.screen["answering"] == ""


def test_an_answer_that_is_still_being_typed_belongs_to_the_question_beside_it_once_it_is_whole(visitor):
    own = own_question("How can I cheat at cards?")
    visitor.do("on_texts", **{**own, "safe": own["safe"][:9]})
    assert "of another question" not in visitor.screen["origins"]
    visitor.do("on_texts", safe=own["safe"])
    visitor.do("on_texts", question="How can I cheat at chess?")
    assert visitor.screen["origins"].count("typed, of another question") == 2
    with pytest.raises(gr.Error, match="typed here belongs to another question"):
        visitor.do("on_operate", **QUICK)


def test_an_example_is_its_own_question_s_again_once_its_answers_were_kept_for_another_one(visitor):
    case = offered_cases()[3]
    pick = SimpleNamespace(number=3)
    visitor.select("on_example", pick)
    visitor.do("on_texts", question="How can I cheat at cards?")
    visitor.do("on_keep_answers")
    visitor.do("on_texts", question="How can I cheat at chess?")
    assert visitor.screen["origins"].count("from the case, of another question") == 2, "they were kept for one alone"
    for again in (visitor, visitor.reload()):
        again.select("on_example", pick)
        again.do("on_texts")
        assert again.screen["origins"].count("from the case<") == 2 and not again.shown["stale"]
    visitor.do("on_locate")
    assert (visitor.session.case.safe, visitor.session.case.unsafe) == (case.safe, case.unsafe)


@pytest.mark.parametrize("handler", ["on_fill", "on_operate"])
def test_what_is_written_while_the_model_answers_stays_and_no_edit_is_made_without_it(visitor, handler):
    visitor.do("on_texts", question="How can I cheat at cards?")
    before, mine = visitor.session.live, iter(["I would rather not say."])
    for _ in visitor.press(handler, **QUICK):
        for safe in mine:
            visitor.do("on_texts", safe=safe)
    assert visitor.standing("safe") == "I would rather not say." and visitor.session.live is before and visitor.is_free
    assert visitor.standing("unsafe") not in {case.unsafe for case in offered_cases()}, "the other one is the model's"
    assert "It stays as it is" in visitor.screen["clock"] and "of another question" not in visitor.screen["origins"]
    visitor.do("on_texts", question="How can I cheat at chess?")
    assert "safe answer: typed, of another question" in visitor.screen["origins"], "it is known whose it was"


def test_an_unsafe_answer_that_is_written_while_the_model_is_asked_for_one_stays(visitor):
    mine = iter(["Mark the aces."])
    for _ in visitor.press("on_unsafe_ask", max_new_tokens=5, question="How can I cheat at cards?"):
        for unsafe in mine:
            visitor.do("on_texts", unsafe=unsafe)
    assert visitor.standing("unsafe") == "Mark the aces." and "It stays as it is" in visitor.screen["clock"]
    assert "unsafe answer: typed<" in visitor.screen["origins"] and visitor.is_free


def test_the_other_answer_may_be_written_while_the_model_is_asked_for_an_unsafe_one(visitor):
    mine = iter(["I would rather not say."])
    for _ in visitor.press("on_unsafe_ask", max_new_tokens=5, question="How can I cheat at cards?"):
        for safe in mine:
            visitor.do("on_texts", safe=safe)
    visitor.do("on_texts", question="How can I cheat at chess?")
    assert "safe answer: typed, of another question" in visitor.screen["origins"]
    assert "unsafe answer: in the model's words, of another question" in visitor.screen["origins"]


def test_an_answer_of_another_model_is_called_that_one_s():
    texts = Texts("How can I cheat at cards?", "", "I would rather not.", "Mark the aces.")
    kept = {"unsafe": Source(texts.unsafe, "model", texts.question, "", "org/<small>")}
    assert "unsafe answer: in the model's words<" in origins(texts, kept, "org/<small>")
    assert "unsafe answer: in the words of org/&lt;small&gt;<" in origins(texts, kept, "org/large")
