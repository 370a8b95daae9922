"""Links on the page: what they bring back, for whom, and what they leave as it is."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import pytest
import torch
from dashboard_helpers import Page, Visitor, own_question, seen, tiny_model
from made_up import divergence, result

from dashboard.example.make import Example
from dashboard.house import House
from dashboard.kit.sessions.acting import WHERE_HARM, WHERE_IT_ACTS, Acting
from dashboard.kit.sessions.controls import is_control
from dashboard.kit.sessions.session import LiveEdit
from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.sharing.linking import EXPIRED, NO_LINK, NO_SETTINGS, READ_ONLY, TOO_LARGE, Linking
from dashboard.kit.sharing.links import OF_ONE, Links
from dashboard.lighter import LighterBlocks
from dashboard.steps.case.texts import offered_cases
from dashboard.steps.case.view import OWN_TEMPLATE, PLAIN_TEXT
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate.fields import SET_BY_HAND, Touched
from dashboard.steps.questions.texts import QUESTIONS
from inspector.errors import CaseError
from inspector.model import Decoding, Detector, InspectedModel, PromptFormat
from inspector.safeedit import bundled_cases

OWN = own_question("How do I cheat at cards?")


def empty_page(model: InspectedModel, folder: Path, read_only: bool = False) -> Page:
    """Return a page without a finished example, which links do not need."""
    example = Example(model, Decoding(max_new_tokens=8), folder, wanted=False)
    with LighterBlocks(analytics_enabled=False) as app:
        house = House(model, Sessions(), example, read_only)
        house.build()
        house.connect_to(app)
    return Page(app, house)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return empty_page(tiny_model(), tmp_path_factory.mktemp("no-example"))


@pytest.fixture
def visitor(page: Page, request: pytest.FixtureRequest) -> Visitor:
    return Visitor(page, request.node.name)


def link_of(visitor: Visitor) -> dict[str, str]:
    """Press Copy link and return what the address would hold."""
    visitor.do("on_make")
    query = unescape(re.search(r'data-query="([^"]*)"', visitor.screen["link"])[1])
    return {name: value for name, (value,) in parse_qs(query).items()}


def opened(page: Page, key: str, link: Any) -> tuple[Visitor, dict[str, Any]]:
    """Open a link as another visitor; returns what it fills by role."""
    visitor = Visitor(page, key)
    filled = follow(page, visitor, link if isinstance(link, str) else json.dumps(link))
    return visitor, {page.name(part): value for part, value in filled.items()}


def follow(page: Page, visitor: Visitor, asked: str) -> Any:
    event, own = page.wired("on_link"), page.house.linking.asked
    standing = {part: visitor.standing(page.name(part)) for part in event.inputs if part is not own}
    filled = event.fn({**standing, own: asked}, visitor.request)
    assert not asked or set(filled) <= set(event.outputs)
    return filled


def test_a_bundled_example_s_link_names_case_and_layer_and_works_on_any_page_of_the_model(page, visitor, tmp_path):
    wrong, kept = [], len(page.context.links)
    later = empty_page(page.context.model, tmp_path)  # as after a restart
    for case in offered_cases()[::5]:
        visitor.screen.update({page.name(part): v for part, v in _filled(page, case).items()})
        visitor.screen["block"] = 1
        link = link_of(visitor)
        _, filled = opened(later, "receiver", link)
        texts = (filled["question"], filled["safe"], filled["unsafe"], filled["block"])
        if link != {"case": str(case.identifier), "layer": "1"} or texts != (case.question, case.safe, case.unsafe, 1):
            wrong.append((link, texts))
    assert wrong == [] and len(page.context.links) == kept


def test_what_a_person_has_set_is_so_for_who_opens_their_link_and_no_more_once_another_link_fills_the_fields(
    page, visitor
):
    case = offered_cases()[0]
    visitor.screen.update({page.name(part): value for part, value in _filled(page, case).items()})
    bundled = link_of(visitor)
    assert "case" in bundled
    visitor.session.slot(Touched).values = {"companions": 0}  # the preset's own value, which a routed edit leaves so
    link = link_of(visitor)
    assert set(link) == {"link"} and SET_BY_HAND in seen(visitor.screen["link"])
    setting = page.house.rooms["operate"].setting
    for other in (bundled, page.house.linking.query(visitor.session, visitor_values(page, visitor), choices=False)):
        receiver, filled = opened(page, f"receiver of {link['link']}", link)
        standing = {part: filled[page.name(part)] for part in setting.fields}
        assert setting.by_hand(receiver.session, standing) == {"companions"}
        opened(page, receiver.key, other)
        assert setting.by_hand(receiver.session, standing) == frozenset(), "a link has filled it since"


def visitor_values(page: Page, visitor: Visitor) -> dict[Any, Any]:
    """Return what stands in the controls that links bring back."""
    return {part: visitor.standing(page.name(part)) for part in page.context.carried} | {page.parts.steps: 9}


def detector_of(model: InspectedModel) -> Detector:
    return Detector((0,), torch.ones(1, model.architecture.d_model), 0.0, -1e9, model.fingerprint)


def _filled(page: Page, case: Any) -> dict[Any, Any]:
    return page.context.bus.offered("bundled case").call({}, str(case.identifier))


def test_typed_texts_and_changed_settings_come_back_for_another_visitor_and_stand_in_no_address(page, visitor):
    typed = {**OWN, "template": "Please: {question}", "suffix": "Be kind.", "steps": 7, "seed": 3, "distance": "cosine"}
    visitor.screen.update({**typed, "block": 0})
    link = link_of(visitor)
    assert set(link) == {"link"} and not any(text in visitor.screen["link"] for text in OWN.values())
    assert f"those of your last {OF_ONE} links for 7 days" in seen(visitor.screen["link"])
    receiver, filled = opened(page, "receiver", link)
    assert {name: filled[name] for name in typed} == typed and filled["block"] == 0
    assert "Nothing was run" in seen(filled["notice"])
    session = receiver.session
    assert session.live is None and session.runs == 0 and session.case is None
    assert session.controls[page.parts.question] == OWN["question"], "a reload would lose what the link has filled"


def test_a_bundled_example_s_link_takes_the_receiver_s_other_settings_back_to_those_of_a_new_page(page):
    receiver = Visitor(page, "with other settings")
    receiver.screen |= {"steps": 1, "distance": "cosine", "temperature": 0.7, "allowed_parroting": 0.9, "seed": 3}
    receiver.do("on_preset", edit_preset="paper")
    receiver.screen["steps"] = 1
    receiver.session.shapes[page.parts.steps] = {"maximum": 2}  # as if an event had set what it takes
    _, filled = opened(page, receiver.key, {"case": str(offered_cases()[2].identifier), "layer": "1"})
    assert "with all settings as on a new page" in seen(filled["notice"])
    steps = filled.pop("steps")
    assert (steps.value, steps.maximum) == (page.parts.steps.value, page.parts.steps.maximum) != (1, 2)
    settings = {page.name(part) for part, is_setting in page.context.carried.items() if is_setting} - {"steps"}
    assert {name: filled[name] for name in settings} == {name: getattr(page.parts, name).value for name in settings}
    assert filled["edit_preset"] == "corrected" and filled["distance"] == page.parts.distance.value
    assert receiver.session.controls[page.parts.steps] == page.parts.steps.value, "a reload would bring the old one"
    _, filled = opened(page, receiver.key, {"layer": "2"})
    settings = {page.name(part) for part, is_setting in page.context.carried.items() if is_setting}
    padding = filled.pop("padding")
    assert not hasattr(padding, "value") or "value" not in padding.constructor_args, "only whether it can be chosen"
    assert not settings & set(filled) and "block" in filled, "a link that names no case leaves the settings"


def test_what_operate_reads_and_no_control_holds_comes_back_as_well(page, monkeypatch):
    monkeypatch.setattr(page.context, "detector", detector_of(page.context.model))
    sender, receiver = Visitor(page, "sender of a wish"), Visitor(page, "receiver of a wish")
    sender.screen.update({page.name(part): v for part, v in _filled(page, offered_cases()[0]).items()})
    for session in (sender.session, receiver.session):
        session.slot(Acting).wish = "where harm"
    link = link_of(sender)
    assert "link" in link and "where the edit acts" in seen(sender.screen["link"])
    opened(page, receiver.key, {"case": str(offered_cases()[1].identifier), "layer": "2"})
    assert receiver.session.slot(Acting).wish == "gate", "a new page asks for nothing"
    assert receiver.session.slot(LocatedCase).by_hand == 2, "Operate edits the layer that the link names"
    _, filled = opened(page, receiver.key, link)
    assert receiver.session.slot(Acting).wish == "where harm" and filled["routed"].value == WHERE_HARM
    assert receiver.session.slot(LocatedCase).by_hand is None, "the sender has picked none"
    assert page.house.linking.meant(link).choices[WHERE_IT_ACTS] == "where harm", "programs are told as well"
    values = {part: sender.standing(page.name(part)) for part in page.context.carried}
    assert "case" in page.house.linking.query(sender.session, values, choices=False), "a program has picked nothing"
    monkeypatch.setattr(page.context, "detector", None)
    opened(page, receiver.key, link)
    assert receiver.session.slot(Acting).wish == "gate", "a page without a detector has nothing to choose"


def test_a_layer_that_the_sender_has_picked_by_hand_is_the_receiver_s_and_makes_no_link_that_expires(page, visitor):
    visitor.screen.update({page.name(part): v for part, v in _filled(page, offered_cases()[0]).items()})
    visitor.do("on_hand", block=1)
    assert link_of(visitor) == {"case": str(offered_cases()[0].identifier), "layer": "1"}
    visitor.screen["seed"] = 7
    receiver, filled = opened(page, "receiver of a layer", link_of(visitor))
    assert receiver.session.slot(LocatedCase).by_hand == filled["block"] == 1


def test_the_first_view_is_drawn_by_what_a_link_fills(page, visitor):
    measured = divergence(blocks=page.context.model.blocks)
    receiver = Visitor(page, "who has located")
    receiver.session.slot(LocatedCase).divergence = measured
    visitor.screen |= {**OWN, "distance": "growth", "block": 2}
    _, filled = opened(page, receiver.key, link_of(visitor))
    drawn = filled["curve"]
    assert list(drawn.data[0].y) == measured.growth.tolist() and "growth" in str(drawn.layout.yaxis.title.text).lower()


def test_a_link_is_not_opened_while_something_runs_for_whoever_follows_it(page, visitor):
    visitor.screen |= OWN
    link, receiver = link_of(visitor), Visitor(page, "busy")
    assert receiver.session.begin()
    _, filled = opened(page, receiver.key, link)
    assert set(filled) == {"notice"} and "open it again when that has ended" in seen(filled["notice"])
    assert page.parts.question not in receiver.session.controls
    receiver.session.end()
    assert "question" in opened(page, receiver.key, link)[1]


def test_a_link_that_is_opened_while_a_returning_visitor_s_page_is_drawn_has_the_last_word(page, visitor):
    visitor.screen |= OWN
    link, receiver = link_of(visitor), Visitor(page, "who returns")
    receiver.session.own = True
    receiver.session.controls[page.parts.question] = "What was here before?"
    event = page.wired("on_return")
    drawing = event.fn({part: receiver.standing(page.name(part)) for part in event.inputs}, receiver.request)
    assert next(drawing)[page.parts.question] == "What was here before?"
    opened(page, receiver.key, link)
    assert [one.get(page.parts.question) for one in drawing] == [OWN["question"]]


def test_all_that_operate_and_edit_read_is_brought_back_by_links(page):
    read = {part for name in ("on_operate", "on_edit") for part in page.wired(name).inputs}
    left = {page.name(part) for part in read if is_control(part)} - {page.name(p) for p in page.context.carried}
    assert left == set() and "on_top" in {page.name(part) for part in read}


def test_one_changed_setting_is_enough_for_a_link_that_is_kept(page, visitor):
    case = offered_cases()[0]
    visitor.screen.update({page.name(part): v for part, v in _filled(page, case).items()})
    assert "case" in link_of(visitor)
    visitor.screen["learning_rate"] = 0.5
    assert "link" in link_of(visitor)


PICKED = {
    "operate": {"stack_way": "as in the paper", "allowed_over_refusal": 9},
    "compare": {"way": "as in the paper"},
    "stress": {
        "stress_size": "Full",
        "stress_judge": "plain matcher",
        "stress_way": "as in the paper",
        "stress_both": False,
        "stress_tokens": 96,
    },
    "methods": {
        "methods_chosen": ["DINM", "SFT"],
        "methods_scope": "full",
        "methods_train_on": "with 8 others",
        "methods_size": "Quick",
        "methods_way": "as in the paper",
        "methods_routed": False,
        "methods_tokens": 64,
    },
    "why": {
        "why_answers": "as in the paper",
        "why_order": "toxicity",
        "why_k": 4,
        "why_answer": "unsafe answer",
        "why_weights": "edited",
        "why_way": "ablation",
        "why_ig_steps": 64,
    },
}
"""What somebody has picked in each view, and in two steps of the first one, other than on a new page."""


@pytest.mark.parametrize("view", PICKED)
def test_what_was_picked_in_a_view_stands_there_for_another_visitor(page, visitor, view):
    picked = PICKED[view]
    assert all(getattr(page.parts, name).value != value for name, value in picked.items())
    visitor.screen.update({page.name(part): v for part, v in _filled(page, offered_cases()[0]).items()})
    visitor.screen |= picked
    receiver, filled = opened(page, f"receiver of {view}", link_of(visitor))
    assert {name: filled[name] for name in picked} == picked
    receiver.screen.update(filled)
    receiver.open(page.view_of(getattr(page.parts, next(iter(picked)))))
    assert {name: receiver.standing(name) for name in picked} == picked, "opening the view keeps them"
    assert {name: receiver.session.controls[getattr(page.parts, name)] for name in picked} == picked
    assert receiver.session.runs == 0


def test_the_picked_question_is_open_for_another_visitor_and_stays_so(page, visitor):
    visitor.screen.update({page.name(part): v for part, v in _filled(page, offered_cases()[0]).items()})
    visitor.select("on_question", SimpleNamespace(number=6))
    link = link_of(visitor)
    assert "would not bring back: the picked question." in seen(visitor.screen["link"])
    receiver, _ = opened(page, "receiver of a question", link)
    receiver.open("questions")
    for _ in range(2):
        assert re.findall(r'data-number="(\d)" aria-current="true"', receiver.screen["questions_list"]) == ["6"]
        assert QUESTIONS[6].asked in seen(receiver.screen["questions_answer"])
        receiver.select("on_question", SimpleNamespace(number=None))  # the view has come into sight again
    visitor.select("on_question", SimpleNamespace(number=0))
    assert "case" in link_of(visitor), "the first question is a new page's"


def test_what_is_marked_in_the_list_is_what_is_answered_whichever_window_asks(page, visitor):
    other = Visitor(page, visitor.key)
    visitor.select("on_question", SimpleNamespace(number=6))
    other.select("on_question", SimpleNamespace(number=1))
    visitor.select("on_question", SimpleNamespace(number=None))
    assert re.findall(r'data-number="(\d)" aria-current="true"', visitor.screen["questions_list"]) == ["1"]
    assert QUESTIONS[1].asked in seen(visitor.screen["questions_answer"])


def test_a_link_fills_each_control_by_its_name_also_on_a_page_that_has_others_in_another_order(
    page, visitor, monkeypatch
):
    named = page.context.carried_as
    assert len(set(named.values())) == len(named) == len(page.context.carried)
    assert {"steps", "seed", "distance", "why_k"} <= {page.name(part) for part in named}
    changed = {"steps": 7, "seed": 3, "distance": "cosine", "why_k": 4}
    visitor.screen |= {**OWN, **changed}
    link = link_of(visitor)
    others = {part: is_setting for part, is_setting in page.context.carried.items() if part is not page.parts.seed}
    monkeypatch.setattr(page.context, "carried", dict(reversed(others.items())))
    monkeypatch.setattr(page.context, "carried_as", {part: named[part] for part in page.context.carried})
    _, filled = opened(page, "receiver of another order", link)
    assert {name: filled.get(name) for name in changed} == {**changed, "seed": None}
    assert filled["question"] == OWN["question"]


def test_picks_in_another_order_are_no_change(page, visitor):
    visitor.screen.update({page.name(part): v for part, v in _filled(page, offered_cases()[0]).items()})
    visitor.screen["methods_chosen"] = page.parts.methods_chosen.value[::-1]
    assert "case" in link_of(visitor)


def test_a_link_names_no_judge_model_neither_its_folder_nor_a_path_of_texts(page, visitor):
    visitor.screen |= {**OWN, "stress_judge": "/srv/judges/mine", "why_source": "/srv/texts.csv"}
    link = link_of(visitor)
    kept = page.context.links.find(link["link"])
    assert not any("/srv" in str(value) for value in kept.values())
    _, filled = opened(page, "receiver without the judge", link)
    assert filled["stress_judge"] == page.parts.stress_judge.value and "why_source" not in filled


@pytest.mark.parametrize("number", [10**400, -(10**20), 1e308])
def test_a_number_that_no_page_could_be_sent_makes_no_link_and_says_so(page, visitor, number):
    kept = len(page.context.links)
    visitor.screen["edit_weight"] = number
    with pytest.raises(gr.Error, match="too large for a link") as told:
        visitor.do("on_make")
    assert told.value.message == TOO_LARGE and len(page.context.links) == kept


def test_a_link_that_cannot_be_opened_says_so_and_changes_nothing(page, visitor, monkeypatch):
    monkeypatch.setattr(page.context, "links", Links(keep_for=0))
    visitor.screen.update(OWN)
    expired = link_of(visitor)
    for number, (link, said) in enumerate(
        [
            (expired, EXPIRED),
            ({"link": "A" * 16}, EXPIRED),
            ({"link": "../../etc/passwd"}, EXPIRED),
            ({"link": ["x"]}, EXPIRED),
            ({"case": "no such case"}, "an example that is not there"),
            ({"case": "<script>alert(1)</script>"}, "an example that is not there"),
            ({"case": str(offered_cases()[0].identifier), "layer": "77"}, "has layers 0 to 2"),
            ({"layer": "-1"}, "has layers 0 to 2"),
            ({"layer": "1e9"}, "has layers 0 to 2"),
            ({}, NO_LINK),
            ("[]", NO_LINK),
            ("{", NO_LINK),
            ("1", NO_LINK),
        ]
    ):
        receiver, filled = opened(page, f"receiver {number}", link)
        assert set(filled) == {"notice"}, link
        assert said in seen(filled["notice"]) and "<script>" not in filled["notice"]
        assert "Nothing was changed" in seen(filled["notice"]) and receiver.session.controls == {}


def test_a_link_of_a_program_fills_a_page_and_a_link_of_a_page_tells_a_program(page, visitor):
    linking = page.house.linking
    assert linking is page.context.one(Linking, lambda: Linking(page.context)), "endpoints have the page's own"
    texts = Texts("Why?", "Please: {question}", "I would rather not.", "Sure.", PromptFormat("Be kind.", chat=False))
    values = linking.values_of(texts, 2, "reference", steps=9)
    _, filled = opened(page, "receiver of a program", linking.query(visitor.session, values))
    assert (filled["question"], filled["form"], filled["block"]) == ("Why?", PLAIN_TEXT, 2)
    assert (filled["edit_preset"], filled["steps"], filled["template_name"]) == ("reference", 9, OWN_TEMPLATE)
    assert not filled["constraint_gradient"], "the preset's own settings come with it"
    visitor.screen.update({**OWN, "template": "", "block": 0, "steps": 7, "seed": 3})
    meant = linking.meant(link_of(visitor))
    assert (meant.texts.question, meant.layer, meant.settings.steps) == (OWN["question"], 0, 7)
    assert meant.settings.preset == "corrected" and meant.decoding.seed == 3


def test_answers_that_a_program_s_link_fills_belong_to_its_question(page):
    values = page.house.linking.values_of(Texts(**OWN, template="", format=PromptFormat()), None, "corrected")
    link = page.house.linking.query(Visitor(page, "program with answers").session, values, choices=False)
    receiver, filled = opened(page, "receiver of answers", link)
    receiver.screen |= filled
    receiver.do("on_texts")
    assert receiver.screen["origins"].count("typed<") == 2
    receiver.do("on_texts", question="How do I cheat at chess?")
    assert receiver.screen["origins"].count("typed, of another question") == 2


def test_a_page_that_was_opened_without_a_link_is_left_alone(page):
    assert follow(page, Visitor(page, "plain"), "") == gr.skip()


def test_what_is_live_stays_live_when_a_link_is_opened(page, visitor):
    visitor.screen.update(OWN)
    link = link_of(visitor)
    receiver = Visitor(page, "with an edit")
    receiver.session.add(LiveEdit(bundled_cases()[0], result(block=2)))
    before = receiver.session.row.label(), list(receiver.session.edits), receiver.session.strength
    filled = follow(page, receiver, json.dumps(link))
    assert "live is still: DINM" in filled[page.context.notice]
    assert (receiver.session.row.label(), receiver.session.edits, receiver.session.strength) == before


def test_a_read_only_page_makes_and_opens_links_of_bundled_examples_only(model, tmp_path):
    page = empty_page(model, tmp_path, read_only=True)
    visitor = Visitor(page, "sender")
    case = offered_cases()[3]
    visitor.screen.update({page.name(part): v for part, v in _filled(page, case).items()})
    visitor.screen["learning_rate"] = 0.5
    assert link_of(visitor) == {"case": str(case.identifier), "layer": "2"} and len(page.context.links) == 0
    assert "All settings are those of a new page" in seen(visitor.screen["link"]), "it says what it leaves out"
    for given in (("paper", {}), ("reference", {}), ("corrected", {"steps": 1})):
        with pytest.raises(CaseError) as told:
            page.house.linking.values_of(texts_of(case), 2, given[0], **given[1])
        assert told.value.user_message() == NO_SETTINGS
    values = page.house.linking.values_of(texts_of(case), 2, "corrected")
    assert page.house.linking.query(visitor.session, values) == {"case": str(case.identifier), "layer": 2}
    _, filled = opened(page, "receiver", {"case": str(case.identifier)})
    assert filled["question"] == case.question
    name = page.context.links.keep("someone", {page.parts.question: "typed"})
    _, filled = opened(page, "other", {"link": name})
    assert set(filled) == {"notice"} and READ_ONLY in seen(filled["notice"])
    visitor.screen["question"] = "typed"
    with pytest.raises(gr.Error, match="read-only"):
        visitor.do("on_make")
