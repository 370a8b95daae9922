"""What comes only when it is opened: the page says so while it comes, and asks again where the press was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from browser_helpers import MARKS, view, wait_for_text

pytestmark = MARKS

EVENT = """id => { const {components, dependencies} = window.gradio_config;
  const opener = components.find(one => one.props.elem_id === id).id;
  return dependencies.find(one => one.targets.some(([pressed]) => pressed === opener)).id; }"""
LATER = "() => { const now = Date.now; Date.now = () => now() + 31000; }"
"""Lets half a minute pass for the page."""


LOST = """opener => document.querySelector(opener).addEventListener("click", press => press.stopImmediatePropagation(),
  { once: true, capture: true })"""
"""Loses the next press of a button, as a page does that does not listen yet."""


@contextmanager
def held(page: Any, opener: str) -> Iterator[list[Any]]:
    """Hold the presses of an opener back; gives those that were sent."""
    number, sent = page.evaluate(EVENT, opener), list[Any]()

    def answer(route: Any) -> None:
        if (route.request.post_data_json or {}).get("fn_index") == number and not sent:
            sent.append(route)  # the first one; what comes after it is answered
        else:
            route.continue_()

    page.route("**/queue/join*", answer)
    try:
        yield sent
    finally:
        page.unroute("**/queue/join*")


def test_a_view_that_is_opened_says_that_it_comes_until_it_is_there(shared):
    line = shared.get_by_role("status").and_(shared.locator("#view-coming"))
    assert line.text_content() == ""
    with held(shared, "open-why") as sent:
        shared.click("nav.views a[data-view=why]")
        wait_for_text(shared, "#view-coming", "Opening this view")
        assert line.is_visible()
        view(shared, "operate")
        assert line.text_content() == ""
        shared.click("nav.views a[data-view=why]")
        sent[0].continue_()
        shared.wait_for_selector("#view-why", state="visible")
    assert line.text_content() == ""
    view(shared, "operate")


def test_details_say_that_they_come_and_are_asked_for_again_where_the_press_was_lost(shared):
    line = shared.get_by_role("status").and_(shared.locator("#details-coming"))
    shared.evaluate(LOST, "#open-details")
    shared.get_by_role("button", name="Details").press("Enter")  # shortcuts stand on its middle
    wait_for_text(shared, "#details-coming", "Opening the details")
    assert line.is_visible()
    shared.evaluate(LATER)
    shared.wait_for_selector("#details [role=tab]", state="visible")
    wait_for_text(shared, "#details-coming", "")
    assert line.text_content() == ""
