"""What a browser is told of a page at first, and what it is given when that is opened."""

from __future__ import annotations

import asyncio
import secrets
from contextvars import Context
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Page, Visitor
from gradio.components import _Keywords
from gradio.state_holder import SessionState

from dashboard.given_later import GivingBlocks
from dashboard.kit.later import Later, page_with, said_of

COMPONENTS = 123
"""A third of what the first load had when all views came with it."""


@pytest.fixture(scope="module")
def small() -> Any:
    """A page with a view that comes later: its parts by name, and what was read by its events."""
    read: list[Any] = []

    def said(kind: str) -> Any:
        def handle(*values: Any) -> Any:
            read.append((kind, values))
            return "new", 7

        handle.__name__ = kind
        return handle

    with GivingBlocks(analytics_enabled=False) as page:
        told = gr.HTML("first")
        with gr.Column(visible=False) as view:
            number = gr.Number(3, label="Number")
            with gr.Row():
                inner = gr.Button("Inner")
        opener, press = gr.Button("Open"), gr.Button("Press")
        page.load(said("loaded"), number, [told, number])
        press.click(said("pressed"), number, [told, number]).then(said("followed"), number, [told, number])
        inner.click(said("within"), number, [told, number]).then(said("after"), number, [told, number])
        opener.click(lambda: {view: gr.Column(visible=True), number: gr.Number(5, maximum=9)}, None, [view, number])
        page.later.hold(view, opener)
    page.config = page.get_config_file()
    return SimpleNamespace(**locals())


def events(page: Any) -> dict[str, int]:
    return {event.fn.__name__: number for number, event in page.fns.items()}


def call(small: Any, name: str, value: Any, page: str) -> Any:
    """Send an event as a browser does."""
    number = events(small.page)[name]
    given = [value] * len(small.page.fns[number].inputs)
    state = SessionState(small.page)  # Gradio may have forgotten the page meanwhile, as a visitor is
    return asyncio.run(small.page.process_api(block_fn=number, inputs=given, state=state, session_hash=page))


def opened(small: Any) -> str:
    """Return the name of a page that a browser has just opened."""
    page = secrets.token_hex()
    call(small, "loaded", None, page)
    return page


def test_a_browser_is_told_of_the_first_view_and_its_events_alone(small):
    (page,) = small.page.get_config_file()["page"].values()
    told = set(page["components"])
    assert {small.told._id, small.view._id, small.opener._id, small.press._id} <= told
    assert told.isdisjoint({small.number._id, small.inner._id, small.inner.parent._id})
    (view,) = (one for one in page["layout"]["children"] if one["id"] == small.view._id)
    assert view["children"] == []
    named = events(small.page)
    known = {name for name, number in named.items() if number in page["dependencies"]}
    assert known == {"loaded", "pressed", "followed", "<lambda>"}


def test_what_is_read_of_a_part_that_was_not_given_is_what_a_new_page_has_and_none_afterwards(small):
    page = opened(small)
    call(small, "pressed", None, page)
    assert small.read[-1] == ("pressed", (3,))
    call(small, "<lambda>", None, page)
    call(small, "pressed", None, page)
    assert small.read[-1] == ("pressed", (None,)), "its field was emptied"


def test_of_too_few_values_gradio_tells(small):
    with pytest.raises(ValueError, match="didn't receive enough input values"):
        asyncio.run(
            small.page.process_api(block_fn=events(small.page)["pressed"], inputs=[], state=SessionState(small.page))
        )


def test_nothing_is_sent_to_a_part_that_was_not_given(small):
    page = opened(small)
    assert call(small, "pressed", None, page)["data"] == ["new", gr.skip()]
    call(small, "<lambda>", None, page)
    assert call(small, "pressed", 4, page)["data"] == ["new", 7]
    assert call(small, "pressed", 4, "a program's")["data"] == ["new", 7], "nothing was opened"


def test_what_a_page_opens_before_it_is_heard_that_it_opens_is_given_to_it_all_the_same(small):
    page = secrets.token_hex()
    call(small, "<lambda>", None, page)
    assert call(small, "loaded", None, page)["data"] == ["new", 7]
    assert call(small, "pressed", 4, page)["data"] == ["new", 7]
    assert page not in small.page._early


def test_of_a_page_of_which_nothing_is_known_any_more_none_reads_as_on_a_new_page(small):
    call(small, "pressed", None, "opened long ago")
    assert small.read[-1] == ("pressed", (3,))


def test_opening_gives_parts_as_the_event_has_them_with_their_events_and_once_more_where_that_was_lost(small):
    page = opened(small)
    for _ in range(2):
        answer = call(small, "<lambda>", None, page)
        assert answer["data"] == [{"__type__": "update", "visible": True}, gr.skip()]
        given = answer["render_config"]
        parts = {one["id"]: one["props"] for one in given["components"]}
        form, row = small.number.parent, small.inner.parent
        assert set(parts) == {part._id for part in (small.view, form, small.number, row, small.inner)}
        assert (parts[small.number._id]["value"], parts[small.number._id]["maximum"]) == (5, 9)
        assert parts[small.view._id]["visible"] is True
        assert given["layout"] == {
            "id": small.view._id,
            "children": [
                {"id": form._id, "children": [{"id": small.number._id}]},
                {"id": row._id, "children": [{"id": small.inner._id}]},
            ],
        }
        named = events(small.page)
        assert [one["id"] for one in given["dependencies"]] == [named["within"], named["after"]]
    assert call(small, "pressed", 4, page)["render_config"] is None


def test_what_is_said_of_a_part_on_its_way_is_missed_until_what_follows_has_drawn_it():
    meanwhile: list[str] = []
    missed: list[set[Any]] = []

    def opened_meanwhile() -> Any:
        for name in meanwhile:
            Context().run(call, one, name, None, hash)  # an event of its own, and no part of this one
        return {view: gr.Column(visible=True), number: 1}

    def followed() -> Any:
        missed.append(page.later.missed(view))
        return {number: 5}

    def pressed() -> Any:
        return {told: "new", number: 7}

    with GivingBlocks(analytics_enabled=False) as page:
        told = gr.HTML()
        with gr.Column(visible=False) as view:
            number, other = gr.Number(3), gr.Number(4)
        opener, press = gr.Button(), gr.Button()
        page.load(lambda: "first", None, told)
        opener.click(opened_meanwhile, None, [view, number]).then(followed, None, [number, other])
        press.click(pressed, None, [told, number, other])
        page.later.hold(view, opener)
    page.config = page.get_config_file()
    one, hash = SimpleNamespace(page=page), secrets.token_hex()
    call(one, "<lambda>", None, hash)
    call(one, "pressed", None, hash)
    for found in ((), ("pressed",), ()):
        meanwhile[:] = found
        call(one, "opened_meanwhile", None, hash)
        call(one, "followed", None, hash)
        call(one, "followed", None, hash)
        call(one, "pressed", None, hash)
        call(one, "followed", None, hash)
    drawn_again: list[set[Any]] = [{number}, set(), set()]
    assert missed == [*[set()] * 3, *drawn_again, *[set()] * 3], (
        "once it has come whole, the browser takes it in itself"
    )
    call(one, "opened_meanwhile", None, hash)
    call(one, "pressed", None, hash)
    call(one, "followed", None, hash)
    assert missed[-1] == {number}, "the browser may not have laid it out yet"


def test_an_update_says_something_of_the_parts_that_it_names():
    parts = [object(), object()]
    first, second = parts
    assert said_of({first: 1}, parts) == {first} and said_of(gr.skip(), parts) == set()
    assert said_of([gr.skip(), None], parts) == {second} and said_of(gr.update(value=1), [first]) == {first}
    finished = _Keywords.FINISHED_ITERATING
    assert said_of((finished, finished), parts) == said_of(finished, [first]) == set()


@pytest.mark.parametrize("news", ["a run begins", "a run ends", "a text is typed"])
def test_what_happens_while_the_details_are_on_their_way_is_drawn_when_they_are_there(page: Page, news: str):
    visitor, details = Visitor(page, f"unfolds while {news}"), page.house.details
    visitor.do("on_locate_preset", locate_preset="paper")
    run = visitor.press("on_edit", **QUICK)
    if news == "a run ends":
        next(run)
    coming: dict[int, set[Any]] = {details._id: set()}
    with page_with({details._id}, coming):
        visitor.do("on_open_details")
        if news == "a text is typed":
            said = visitor.do("on_texts", question="Which words would hurt a librarian?")
        else:
            said = [next(run)] if news == "a run begins" else list(run)
        for changed in said:
            page.context.later.note_said({getattr(page.parts, name) for name in changed})
        for name in ("prompt", "measure"):
            visitor.screen.pop(name, None)
            visitor.usable.pop(name, None)
        visitor.screen |= {"steps": 7}
        drawn = visitor.do("on_opened_details")
        assert not any("steps" in roles for roles in drawn), "nothing was said of it"
        if news == "a text is typed":
            assert "Which words would hurt a librarian?" in visitor.screen["prompt"]
        else:
            assert visitor.usable["measure"] is (news == "a run ends")
        assert visitor.do("on_opened_details") == [set()] and coming == {}
    run.close()


def test_what_a_visitor_has_set_counts_where_their_page_has_not_been_given_it():
    with gr.Blocks(analytics_enabled=False):
        with gr.Column() as view:
            held = gr.Number(3)
        other, opener = gr.Number(1), gr.Button()
    later = Later()
    later.hold(view, opener)
    values, kept = {held: 3, other: 1}, {held: 24, other: 2}
    assert later.standing(values, kept) == values, "a page of which nothing was asked"
    for given, lacks in ((set(), True), ({view._id}, False), (None, True)):
        with page_with(given):
            assert later.standing(values, kept) == values, "it was sent"
            assert later.lacks(held) is lacks and not later.lacks(other)
            assert later.standing(values, kept) == {held: 24 if lacks else 3, other: 1}
            assert later.standing(values, {}) == values
    assert later.absent() == frozenset()


def test_the_first_load_of_the_page_is_a_third_and_the_openers_give_the_rest(page: Page):
    config = page.app.get_config_file()
    (first,) = config["page"].values()
    told, later = set(first["components"]), page.context.later
    assert len(told) <= COMPONENTS
    held = [{part._id for part in later.parts(container)} for container in later.containers]
    assert len(held) == 7 and all(told.isdisjoint(one) for one in held)
    assert sum(map(len, held)) == len(set().union(*held)), "nothing is given twice"
    starts = {event["id"]: {one for one, _ in event["targets"] if one} for event in config["dependencies"]}
    for number in first["dependencies"]:
        assert starts[number] <= told | {page.app._id}, "a browser cannot start it"
    for number, pressed in starts.items():
        inside = [one for one in held if pressed & one]
        assert len(inside) <= 1 and (not inside or pressed <= inside[0]), "an event of two places is given by neither"
        assert not inside or number not in first["dependencies"]


def test_the_page_has_a_line_that_is_told_where_each_part_stands_that_comes_later(page: Page):
    lines = [part for part in page.app.blocks.values() if "coming" in (part.elem_classes or [])]
    assert {part.value: part.parent.elem_id for part in lines} == {
        '<p id="view-coming" role="status"></p>': "main",
        '<p id="details-coming" role="status"></p>': "details-line",
    }
    told = page.app.get_config_file()["page"][""]["components"]
    assert {part._id for part in lines} <= set(told), "they are there before what they speak of"


def test_what_a_person_can_change_does_not_depend_on_what_a_browser_is_told_of(page: Page):
    """A browser would take a control that only events of its own view read for one that shows something."""
    told = {one["id"]: one["props"].get("interactive") for one in page.app.get_config_file()["components"]}
    for name in ("row_name", "ask_two_text", "adapter_rank", "report_redact", "why_selected", "question", "strength"):
        assert told[getattr(page.parts, name)._id] is True, name
    assert told[page.parts.prompt._id] is False


def test_the_details_show_what_the_visitor_has_when_they_are_unfolded(page: Page):
    visitor = Visitor(page, "unfolds")
    visitor.do("on_texts", question="Which words would hurt a librarian?")
    visitor.do("on_locate_preset", locate_preset="paper")
    for name in ("prompt", "padding"):
        visitor.screen.pop(name, None)
    again = visitor.reload()
    again.open("details")
    assert "Which words would hurt a librarian?" in again.screen["prompt"]
    assert again.screen["locate_preset"] == "paper"
    outputs = page.wired("on_open_details").outputs
    assert page.parts.note in outputs, "a calibration may have ended since the page was built"
    assert not {page.parts.curve, page.parts.vanilla} & set(outputs), "the first view stays as it is"


def test_a_part_that_is_opened_while_something_runs_is_locked_and_the_page_looks_for_the_end(page: Page):
    visitor = Visitor(page, "runs elsewhere")
    visitor.do("on_texts", question="Which words would hurt a librarian?")
    assert visitor.session.begin()
    try:
        visitor.open("stress")
        assert visitor.usable["stress"] is False and visitor.active["watch"] is True
    finally:
        visitor.session.end()
    visitor.do("on_watch")
    visitor.do("on_over")
    assert visitor.usable["stress"] is True and visitor.active["watch"] is False
