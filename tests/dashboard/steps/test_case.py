"""The case rail: what is typed or picked, and the prompt that it makes."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import Visitor, seen
from example_helpers import open_page

from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.steps.case import run
from dashboard.steps.case.texts import attack_in_place, examples, offered_cases
from dashboard.steps.case.view import NO_TEMPLATE, OWN_TEMPLATE
from dashboard.steps.compare.run import OWN_PROMPT
from dashboard.steps.locate.run import LocatedCase
from inspector.safeedit import bundled_cases, bundled_templates

SCRIPT = "<script>alert(1)</script>"

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
