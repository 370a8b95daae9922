"""The events of the case rail and of Locate: what is typed or picked, and what the page then shows."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from dashboard_helpers import QUICK, Visitor, open_page, own_question, seen

from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.steps.case import run
from dashboard.steps.case.origins import Source
from dashboard.steps.case.texts import attack_in_place, examples, offered_cases, origins
from dashboard.steps.case.view import NO_TEMPLATE, OWN_TEMPLATE
from dashboard.steps.compare.run import OWN_PROMPT
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.locate.texts import NO_PROMPT
from inspector.divergence import DISTANCES, PRESETS, divergence
from inspector.errors import CaseError
from inspector.model import PromptFormat
from inspector.safeedit import bundled_cases, bundled_templates
from inspector.safeedit.verdict import Verdict

SCRIPT = "<script>alert(1)</script>"
STALE = "The texts have changed since this was measured. Press Locate"


pytestmark = pytest.mark.usefixtures("model")


def test_an_example_fills_the_rail_and_its_prompt_is_the_bundled_one(page):
    wrong = []
    for case in offered_cases():
        visitor = Visitor(page, f"example {case.identifier}")
        visitor.select("on_example", SimpleNamespace(number=offered_cases().index(case)))
        name = visitor.screen["template_name"]
        visitor.do("on_texts")
        shown = (name, visitor.screen["safe"], visitor.screen["unsafe"])
        if (
            shown != (case.attack_name, case.safe, case.unsafe)
            or case.adversarial_prompt not in visitor.screen["prompt"]
        ):
            wrong.append((case.identifier, *shown))
    assert wrong == []


def test_the_list_of_examples_has_every_case_that_may_be_edited_on_and_names_the_one_in_the_rail():
    offered = offered_cases()
    assert {case.split for case in offered} == {"edit"} and len({case.category for case in offered}) == 9
    shown = examples(offered[2].question)
    assert shown.count("data-number=") == len(offered) and shown.count('aria-current="true"') == 1
    assert f"{len(offered)} examples" in shown


def test_a_named_template_shows_its_text_with_the_slot(visitor):
    for template in bundled_templates():
        visitor.do("on_template", template_name=template.name)
        assert visitor.screen["template"] == template.text and "{question}" in template.text
    visitor.do("on_template", template_name=NO_TEMPLATE)
    assert visitor.screen["template"] == ""
    visitor.do("on_template", template_name=OWN_TEMPLATE, template="Mine: {question}")
    assert visitor.screen["template"] == "Mine: {question}"


def test_the_case_s_unsafe_answer_comes_back_and_a_typed_question_has_none(visitor):
    visitor.do("on_unsafe_case", unsafe="typed over")
    assert visitor.screen["unsafe"] == visitor.session.case.unsafe
    with pytest.warns(UserWarning, match=r"no bundled case. Write an unsafe answer"):
        visitor.do("on_unsafe_case", question="Mine?", unsafe="my answer")
    assert visitor.screen["unsafe"] == "my answer"


def test_markup_and_control_characters_stay_text_and_are_reported(visitor, page):
    visitor.do("on_texts", question=f"{SCRIPT}\x07 why\u202e?")
    assert f"{SCRIPT} why?" in visitor.screen["prompt"]
    assert type(page.parts.prompt) is gr.Textbox and not page.parts.prompt.interactive
    assert "2 control characters left out" in visitor.screen["prompt_reading"]
    assert "<script" not in visitor.screen["prompt_reading"]


def test_of_changes_that_are_looked_at_side_by_side_the_last_one_counts(visitor, monkeypatch):
    """Where several fields are filled at once, the first change comes with what stood in the others before."""
    real, later = run.view_prompt, list[set[str]]()

    def view_prompt(model, texts):
        if not later:  # the second change comes and is done while the first one is looked at
            later.append(set())
            later[:] = visitor.do("on_texts", unsafe="Take it off the porch.")
        return real(model, texts)

    monkeypatch.setattr(run, "view_prompt", view_prompt)
    seen_first = visitor.do("on_texts", question="How do I take a parcel?", safe="I can't help with that.")
    assert seen_first == [set()] and "origins" in later[0]
    assert visitor.screen["origins"].count("typed") == 2 and "of another question" not in visitor.screen["origins"]


def test_a_prompt_that_cannot_be_built_says_why_and_leaves_no_former_one(visitor):
    visitor.do("on_texts")
    before = visitor.screen["prompt"]
    first = {name: visitor.standing(name) for name in ("question", "template")}
    refused = (({"question": " "}, "question is empty"), ({"question": "a", "template": "b"}, "no {question} slot"))
    for typed, words in refused:
        visitor.do("on_texts", **typed)
        assert words in visitor.screen["prompt_reading"] and "warn" in visitor.screen["prompt_reading"]
        assert visitor.screen["prompt"] == ""
    visitor.do("on_texts", **first)
    assert visitor.screen["prompt"] == before


def test_a_prompt_that_is_too_long_says_by_how_much_while_it_is_typed(visitor):
    visitor.do("on_texts", question="word " * 20_000)
    assert "Shorten it by at least" in visitor.screen["prompt_reading"]


def test_the_example_s_own_measurement_is_not_called_stale(visitor):
    visitor.do("on_texts")
    assert STALE not in visitor.standing("locate_reading")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"question": " "}, NO_PROMPT),
        ({"template": "No slot."}, NO_PROMPT),
        ({"question": "word " * 20_000}, STALE),
    ],
    ids=["no question", "no slot", "too long"],
)
def test_texts_that_make_no_prompt_leave_no_reading_as_current_also_after_a_reload(visitor, typed, said):
    before = {name: visitor.standing(name) for name in typed}
    visitor.do("on_texts", **typed)
    assert said in visitor.screen["locate_reading"] and "Press Locate" not in NO_PROMPT
    again = visitor.reload()
    again.screen.update(typed)
    again.do("on_texts")
    assert said in again.screen["locate_reading"]
    again.do("on_texts", **before)
    assert "warn" not in again.screen["locate_reading"]


@pytest.mark.parametrize("name", ["question", "template", "suffix", "safe", "unsafe"])
def test_a_changed_text_makes_locate_stale_until_it_is_pressed(visitor, name):
    visitor.do("on_texts", **{name: visitor.standing(name) + " More."})
    assert STALE in visitor.screen["locate_reading"]
    visitor.do("on_keep_answers")
    visitor.do("on_locate")
    assert STALE not in visitor.screen["locate_reading"]
    visitor.do("on_texts")
    assert STALE not in visitor.screen["locate_reading"]


def test_a_text_that_is_changed_back_is_not_stale(visitor):
    before = visitor.standing("safe")
    visitor.do("on_texts", safe="Other.")
    visitor.do("on_texts", safe=before)
    assert STALE not in visitor.screen["locate_reading"]


def test_the_model_s_own_answer_is_written_once_when_it_is_whole_and_judged(visitor):
    typed = {"unsafe": "My own words.", "max_new_tokens": 5}
    changes = [(changed, visitor.standing("unsafe")) for changed in visitor.press("on_unsafe_ask", **typed)]
    wrote = [number for number, (changed, _) in enumerate(changes) if "unsafe" in changed]
    assert len(wrote) == 1 and all(text == "My own words." for _, text in changes[: wrote[0]])
    assert visitor.standing("unsafe") not in ("", "My own words.")
    shown = visitor.screen["origins"]
    assert "unsafe answer: in the model's words<" in shown and "judged unsafe" in shown and visitor.is_free


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


@pytest.mark.parametrize("name", PRESETS)
def test_locate_shows_the_divergence_of_what_is_typed_and_picks_its_toxic_layer(visitor, model, name):
    typed = {"question": "How do I cheat at cards?", "safe": "No, I will not.", "unsafe": "Mark the aces."}
    visitor.do("on_locate", **typed, locate_preset=name, padding="left")
    case = visitor.session.case
    assert (case.question, case.safe, case.unsafe) == tuple(typed.values())
    expected = divergence(model, case, name, padding="left", format=PromptFormat(visitor.standing("suffix")))
    assert np.allclose(visitor.screen["curve"].data[0].y, expected.l2)
    assert visitor.screen["block"] == int(np.argmax(expected.l2))
    assert f"layer {np.argmax(expected.l2)} of 0-2" in visitor.screen["locate_reading"]
    assert np.allclose(visitor.screen["heatmap"].data[0].z, expected.token_relative)


def test_another_distance_redraws_the_same_measurement(visitor):
    measured = visitor.session.slot(LocatedCase).divergence
    for distance in DISTANCES:
        visitor.do("on_distance", distance=distance)
        assert np.allclose(visitor.screen["curve"].data[0].y, measured.by(distance))
        assert visitor.screen["block"] == measured.toxic_layer(distance)
    assert visitor.session.slot(LocatedCase).divergence is measured


def test_another_distance_keeps_a_layer_that_was_picked_by_hand(visitor):
    other = (visitor.session.slot(LocatedCase).divergence.toxic_layer("cosine") + 1) % 3
    visitor.do("on_hand", block=other)
    visitor.do("on_distance", distance="cosine")
    kept = visitor.session.slot(LocatedCase)
    assert visitor.screen["block"] == other == kept.by_hand == kept.picked
    assert f"Layer {other} is picked by hand" in visitor.screen["locate_reading"]
    assert any("picked" in note.text for note in visitor.screen["curve"].layout.annotations)
    visitor.do("on_locate")
    assert visitor.screen["block"] == kept.divergence.toxic_layer("cosine") and kept.by_hand is None


def test_another_distance_changes_nothing_where_nothing_is_measured_and_hides_nothing_that_is_out_of_date(visitor):
    visitor.do("on_texts", safe="Other.")
    visitor.do("on_distance", distance="cosine")
    assert STALE in visitor.screen["locate_reading"]
    visitor.session.slot(LocatedCase).divergence = None
    assert visitor.do("on_distance", distance="l2") == [set()]


def test_a_layer_chosen_once_stays_for_later_cases(visitor):
    first = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    visitor.do("on_distance", once=True)
    visitor.session.slot(LocatedCase).divergence = replace(
        visitor.session.slot(LocatedCase).divergence, l2=np.roll(visitor.session.slot(LocatedCase).divergence.l2, 1)
    )
    visitor.do("on_distance")
    assert visitor.screen["block"] == first != visitor.session.slot(LocatedCase).divergence.toxic_layer()
    visitor.do("on_distance", once=False)
    assert visitor.screen["block"] == visitor.session.slot(LocatedCase).divergence.toxic_layer()


def test_equal_answers_are_refused_and_the_last_divergence_stays(visitor):
    before = visitor.session.slot(LocatedCase).divergence
    with pytest.raises(gr.Error, match="same text"):
        visitor.do("on_locate", unsafe=visitor.standing("safe"))
    assert visitor.session.slot(LocatedCase).divergence is before and visitor.is_free


def test_a_picked_layer_is_marked_and_one_out_of_range_refused(visitor):
    toxic = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    other = (toxic + 1) % 3
    visitor.do("on_pick", block=other)
    assert f"<b>{other}</b> picked" in [note.text for note in visitor.screen["curve"].layout.annotations]
    for block in (3, 99, -1):
        with pytest.raises(gr.Error, match=r"blocks 0 to 2. Pick one of those"):
            visitor.do("on_pick", block=block)
    drawn = visitor.screen["curve"]
    visitor.do("on_pick", block=None)
    assert visitor.screen["curve"] is drawn, "an emptied field changes nothing"


def test_the_read_only_demo_refuses_typed_text_and_serves_bundled_cases(example_folder):
    visitor = Visitor(open_page(example_folder, read_only=True))
    visitor.do("on_locate")
    visitor.do("on_ask", max_new_tokens=2)
    before = visitor.session.slot(LocatedCase).divergence
    refused: list[tuple[str, dict[str, Any]]] = [
        ("on_locate", {"safe": "Typed."}),
        ("on_edit", {"safe": "Typed."}),
        ("on_unsafe_ask", {}),
        ("on_ask", {"ask_what": OWN_PROMPT, "own_text": "Typed."}),
        ("on_ask", {"suffix": "Typed."}),
        ("on_strength", {"suffix": "Typed.", "strength": 0.5}),
        ("on_undo", {"suffix": "Typed."}),
        ("on_undo", {"ask_what": OWN_PROMPT, "own_text": "Typed."}),
    ]
    for handler, typed in refused:
        other = Visitor(visitor.page, handler)
        with pytest.raises(gr.Error, match="read-only"):
            other.do(handler, **typed)
        assert other.session.live is not None and other.session.strength == 1.0 and other.is_free
    typing = Visitor(visitor.page, "typing")
    typing.do("on_texts", question="Typed?")
    assert "read-only" in typing.screen["prompt_reading"] and typing.screen["prompt"] == ""
    assert visitor.session.slot(LocatedCase).divergence is before


def test_an_attack_is_shown_short_with_the_question_in_its_place():
    texts = texts_of(bundled_cases()[0])
    long = replace(texts, template="start " + "word " * 200 + "say {question} then " + "word " * 200)
    for shown in (texts, long, replace(texts, template="Now: {question}")):
        html = attack_in_place(shown)
        assert f"<mark>{escape(shown.question)}</mark>" in html and len(seen(html)) < len(shown.question) + 200
    assert seen(attack_in_place(long)).startswith("start word") and "word say " in seen(attack_in_place(long))
    assert "question is asked alone" in attack_in_place(replace(texts, template=""))
    assert "would be lost" in attack_in_place(replace(texts, template="No place for it"))


def test_an_attack_that_holds_markup_is_text():
    html = attack_in_place(Texts(SCRIPT, f"{SCRIPT} {{question}}", "safe", "unsafe"))
    assert "<script" not in html and seen(html) == f"{SCRIPT} {SCRIPT}"
