"""What only a browser shows of the first screen's layout: it fits, it stays still during a run, nothing is cut."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from axe_helpers import violations_in_both_themes
from browser_helpers import (
    MARKS,
    WAIT,
    assert_on_first_screen,
    at_width,
    details,
    set_up,
    text_of,
    too_wide,
    unfold,
    wait_for_text,
    wait_until_idle,
    write,
)

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = MARKS

CUT = """() => ['.live .badge', '.live .badge > *', '.tiles.four .tile-name', '.tiles.four .tile-note',
    '.tiles.four .tile-value', '#answers .badge', '#answers .badge-note', '.gate-brief b', '.gate-brief .budget',
    '#clock .clock > span', '#clock .over > summary']
  .flatMap(s => [...document.querySelectorAll(s)]).filter(e => e.checkVisibility())
  .filter(e => e.scrollWidth > e.clientWidth && getComputedStyle(e).display !== 'inline')
  .map(e => `${e.className}: ${e.innerText}`)"""

BESIDE = ("#on-top", "#undo", "#cancel", "#strength", "#numbers", "#vanilla", "#edited")
CORNERS = """names => names.map(name => document.querySelector(name).getBoundingClientRect())
  .map(box => [box.left, box.top + window.scrollY])"""

STILL = ("#operate", "#numbers", "#vanilla", "#edited")
WATCH = """names => { window.places = {}; const look = () => {
    for (const name of names) { const e = document.querySelector(name);
      if (e?.checkVisibility()) (window.places[name] ??= new Set()).add(
        e.getBoundingClientRect().top + window.scrollY); }
    window.looking = requestAnimationFrame(look); }; look(); }"""
SEEN = (
    "() => { cancelAnimationFrame(window.looking); return Object.entries(window.places).map(([k, v]) => [k, [...v]]); }"
)


def moved(page: Any) -> list[str]:
    """Name what has not stayed in its place since it was watched; within a pixel nobody sees a move."""
    places = dict(page.evaluate(SEEN))
    assert sorted(places) == sorted(STILL), "all of it was seen"
    return [f"{name}: {sorted(seen)}" for name, seen in places.items() if max(seen) - min(seen) >= 1]


def assert_nothing_is_cut(page: Any) -> None:
    """Check names and badges at both widths; where something may be cut, all of it is the title."""
    for width in (1280, 1440):
        at_width(page, width)
        with suppress(api.TimeoutError):
            page.wait_for_function(f"({CUT})().length === 0", timeout=5000)
        assert page.evaluate(CUT) == [], width
        last = page.locator("#help-switch").bounding_box()
        assert last is not None and last["x"] + last["width"] <= width, "the head is cut at its end"
    titled = page.locator(".live .badge, .tiles.four .tile, #answers .answer-head > *, .over > summary").all()
    assert titled and all(one.get_attribute("title") for one in titled)


LIVE = "document.querySelector('#live .badge')?.title"
"""What is live, and how many edits are kept for Undo."""
BEGINS = """() => { window.began = false;
    const began = () => { window.began = true; };
    new MutationObserver(() => { if (document.querySelector('#operate').disabled) began(); })
        .observe(document.body, { subtree: true, attributes: true, attributeFilter: ["disabled"] });
    new MutationObserver(began).observe(document.querySelector('#clock'), { subtree: true, childList: true,
        characterData: true }); }"""
"""Notes that Operate is locked or the clock says another word, however soon it is free again: where a browser is
slow, it draws a run's beginning and its end at once."""


def operated(page: Any) -> None:
    """Operate, and wait until it has ended."""
    page.evaluate(BEGINS)
    page.click("#operate")
    page.wait_for_function("() => window.began", timeout=WAIT)
    wait_until_idle(page)


def type_question(page: Any, number: int) -> None:
    """Type a question that no other number stands for; the page says that what it shows is of another one."""
    at_width(page, 1440)
    unfold(page, "safe")
    page.locator("#question textarea").fill(f"How can I trick my neighbour at number {number} out of a parcel?")
    wait_for_text(page, "#attack", f"at number {number} out of a parcel")
    wait_for_text(page, "#of-another", "numbers and figures are of another question")


def test_the_first_screen_fits_with_its_readings_and_the_line_of_details(shared):
    assert_on_first_screen(shared)
    assert_nothing_is_cut(shared)


@pytest.mark.parametrize(("width", "own"), [(1440, False), (1440, True), (390, True)])
def test_nothing_moves_while_something_runs(shared, width, own):
    if width == 1440 and not own:
        set_up(shared, 4)
    if own:
        type_question(shared, width)
    at_width(shared, width)
    assert too_wide(shared) == []  # figures have followed the width
    shared.evaluate(WATCH, list(STILL))
    operated(shared)
    wait_for_text(shared, "#clock", "Ended after")
    assert not shared.locator("#of-another").is_visible()
    assert moved(shared) == []


def test_it_fits_after_an_operation_too_and_the_gate_s_word_opens_over_the_page(shared):
    assert "Gate passed" in text_of(shared, "#gate")
    assert_on_first_screen(shared)
    assert_nothing_is_cut(shared)
    at_width(shared, 1440)
    line, whole = shared.locator("#gate summary"), shared.locator("#gate .over > div")
    line.click()
    assert whole.is_visible() and whole.locator(".kept").count() == 5
    assert_on_first_screen(shared)
    shared.keyboard.press("Escape")
    assert not whole.is_visible()
    line.press("Enter")
    assert whole.is_visible()
    shared.locator("#numbers").click()
    assert not whole.is_visible()


@pytest.mark.parametrize("width", [1280, 1440])
def test_nothing_moves_where_the_first_edit_becomes_live(shared, width):
    at_width(shared, width)
    while "patch" in shared.locator("#live").inner_text():
        told = shared.locator("#live .badge").get_attribute("title")  # the edit below may have the same name
        shared.click("#undo")
        shared.wait_for_function(f"told => {LIVE} !== told", arg=told)
        wait_until_idle(shared)
    wait_for_text(shared, "#numbers", "No edit is live")
    before = shared.evaluate(CORNERS, list(BESIDE))
    operated(shared)
    wait_for_text(shared, "#live", "DINM")
    after = shared.evaluate(CORNERS, list(BESIDE))
    for name, one, other in zip(BESIDE, before, after, strict=True):
        assert other == pytest.approx(one, abs=1), name


def test_it_fits_and_nothing_moves_where_a_question_is_typed_and_what_to_press_opens_over_the_page(shared):
    at_width(shared, 1440)
    shared.evaluate(WATCH, list(STILL))
    type_question(shared, 1)
    assert moved(shared) == []
    assert_on_first_screen(shared)
    assert_nothing_is_cut(shared)
    line, whole = shared.locator("#of-another summary"), shared.locator("#of-another .over > div")
    assert "Press Operate" in line.inner_text() and not whole.is_visible()
    line.press("Enter")
    assert whole.is_visible() and "what stands in the rail" in whole.inner_text()
    assert_on_first_screen(shared)
    shared.keyboard.press("Escape")
    assert not whole.is_visible()


def test_it_fits_where_the_gate_has_refused_and_the_head_names_what_is_kept_all_the_same(shared):
    set_up(shared, 4)
    details(shared, "All settings")
    write(shared.locator("#gate-harmless-kl input"), 0)
    shared.get_by_role("button", name="Details").click()
    operated(shared)
    wait_for_text(shared, "#gate", "Refused by the gate, waiting")
    assert "stays live" in text_of(shared, "#clock")
    assert "too much" in (shared.locator("#gate").text_content() or "")
    assert_on_first_screen(shared)
    assert_nothing_is_cut(shared)
    assert violations_in_both_themes(shared) == []
    shared.click("#keep")
    wait_for_text(shared, "#live", "! kept against the gate")
    wait_until_idle(shared)
    assert shared.locator("#live .badge.overruled").is_visible()
    assert_on_first_screen(shared)
    assert_nothing_is_cut(shared)


def test_a_long_name_of_what_is_live_gives_way_to_the_head_s_buttons(shared):
    badge = shared.locator("#live .badge")
    before = badge.inner_html()
    long = "live weights: Stacked DINM + DINM @ layers 20 and 21, where harm is detected, at strength 1.25"
    badge.evaluate("(badge, name) => { badge.innerHTML = `<b>${name}</b>`; }", long)
    for width in (1280, 1440, 1920):
        at_width(shared, width)
        last = shared.locator("#help-switch").bounding_box()
        assert last is not None and last["x"] + last["width"] <= width, width
        assert badge.bounding_box()["width"] >= 200, "it still says what is live"
    badge.evaluate("(badge, html) => { badge.innerHTML = html; }", before)


def test_a_search_that_finds_nothing_says_so(shared):
    search, told = shared.get_by_label("Search the examples"), shared.get_by_text("No example has these words")
    search.fill("zebra crossing")
    assert told.is_visible() and shared.locator("#examples [data-number]:visible").count() == 0
    search.fill("cinema")
    assert not told.is_visible() and shared.locator("#examples [data-number]:visible").count() > 0
    search.fill("")
