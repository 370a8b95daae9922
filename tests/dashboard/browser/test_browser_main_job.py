"""The main job, whole, in both themes, by two visitors at once, each at two widths.

Each of them types a question of their own, presses Operate, gets both answers, reloads the page in the middle, cancels
while the other one's run goes on and theirs stands in line, and undoes every edit. One of them goes on step by step in
between. One begins on a phone and in the light theme, the other on a desk and in the dark one; each changes to the
other theme and to another width in the middle, and back to the first width before the end. Each state is looked at in
both themes: while a run goes on, while it waits, once it is cancelled, done, undone. All fits the screen and is in
reach then, and axe finds nothing: in the light theme by all of its rules, in the dark one by those that colours can
break. Of what both visitors come through, the one on a phone shows axe the light theme, the one on a desk the dark one.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_helpers import COLOURS, violations
from browser_helpers import (
    MARKS,
    WAIT,
    assert_on_first_screen,
    at_width,
    details,
    pick_cinema,
    set_up,
    text_of,
    theme,
    too_wide,
    unfold,
    value_of,
    view,
    wait_for_answers,
    wait_for_example,
    wait_for_no_text,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
    wait_until_still,
)

pytestmark = MARKS

WIDTHS, LATER = (390, 1440), (1280, 1920)
"""Widths of both visitors, and those that they change to for a while."""
SHOWN = ("#live", "#clock", "#vanilla", "#edited", "#numbers", "#vitals-reading", "#gate", "#origins")
BUTTONS = ("cancel", "operate", "locate", "edit", "undo", "ask")
FIRST_STEP = "Step 1 of at most 4"
DRAWN = ("#curve", "#vitals")
"""Figures that stand there before and after a run."""
MARK = """names => names.map(name => { const svg = document.querySelector(`${name} .js-plotly-plot .main-svg`);
  const known = svg.dataset.known; svg.dataset.known = 'yes'; return known ?? null; })"""
"""Marks drawings; gives what they were marked with."""
FOOT = """() => { const bar = document.querySelectorAll('#curve .bars .point path')[1].getBoundingClientRect();
  const above = document.querySelector('#curve .nsewdrag').getBoundingClientRect();
  return {x: bar.x + bar.width / 2 - above.x, y: bar.bottom - 2 - above.y}; }"""
"""Where the second bar ends, as seen from what lies above all of them."""
RECORD = """() => { const button = document.querySelector('#cancel'); window.labels = [];
  new MutationObserver(() => window.labels.push(document.querySelector('#cancel').innerText.trim())).observe(
      button.parentElement, {childList: true, subtree: true, characterData: true}); }"""


@pytest.fixture
def two(shared: Any, second: Any) -> tuple[Any, Any]:
    """Both visitors: the first one begins in the light theme, the other in the dark one; their edits are short and pass
    the gate."""
    for page, dark in ((shared, False), (second, True)):
        if "__theme" in page.url:  # nobody has chosen one yet, nor anything else
            set_up(page, 4)
            # The theme that the address names would go before the one that was chosen.
            page.evaluate("history.replaceState(null, '', location.pathname)")
            theme(page, not dark)
            theme(page, dark)
    return shared, second


def question_of(width: int) -> str:
    """Return a question that no other visitor asks."""
    return f"How can I trick my neighbour at number {width} out of a parcel?"


def test_the_whole_job_by_two_visitors_at_once(two, halting):
    """Each edit stops after its first step until it may go on, so that what happens meanwhile depends on no speed."""
    for page, width in zip(two, WIDTHS, strict=True):
        at_width(page, width)
        page.evaluate(MARK, DRAWN)
    first, other = two
    asked = {page: question_of(page.viewport_size["width"]) for page in two}
    before = {page: live_on(page) for page in two}

    type_question(first, asked[first])
    cancel_what_runs(first, before[first])
    operate(first)
    press_and_leave_the_line(other, "#operate", asked[other])
    assert asked[other] not in value_of(first, "#question"), "nobody sees what another visitor types"
    assert FIRST_STEP in text_of(first, "#clock"), "the one who runs is not disturbed"
    assert live_on(other) == before[other]
    other.click("#operate")
    wait_for_text(other, "#clock", "In line, place 2")
    halting.go_on()
    ended(first)
    wait_for_text(other, "#clock", FIRST_STEP)

    own = {first: look_at_the_answers(first, asked[first], before[first])}
    reload_in_the_middle(first, asked[first])
    pick_a_layer_of_another_case(first)
    press_and_leave_the_line(first, "#edit")
    change_theme_and_width(first, LATER[0])
    assert FIRST_STEP in text_of(other, "#clock"), "neither a reload nor what is short disturbs another's run"
    assert live_on(first) == own[first]
    first.click("#edit")
    wait_for_text(first, "#clock", "In line, place 2")
    halting.go_on()
    ended(other)
    wait_for_text(first, "#clock", FIRST_STEP)
    halting.go_on()
    own[other] = look_at_the_answers(other, asked[other], before[other])
    reload_in_the_middle(other, asked[other])
    change_theme_and_width(other, LATER[1])
    look_at_the_edit(first)
    switch_off(first, by_keys=True)
    switch_off(other, by_keys=False)

    undo(first, patch_in(own[first]))
    for page, width in zip(two, WIDTHS, strict=True):
        at_width(page, width)
        undo(page, patch_in(before[page]))
        assert live_on(page) == before[page]
        judge(page, "once it is undone", share_of(page))
        undo(page, "vanilla")
        wait_for_text(page, "#undo", "Nothing to undo")
        assert page.locator("#undo").is_disabled()
        page.wait_for_selector("#shift-figure", state="hidden")  # nothing of a dropped edit stays on screen


def is_dark(page: Any) -> bool:
    """Tell which theme is on."""
    return bool(page.evaluate("document.body.classList.contains('dark')"))


def change_theme_and_width(page: Any, width: int) -> None:
    """Change to the other theme and to another width, and stay there; all fits there as well."""
    theme(page, not is_dark(page))
    at_width(page, width)
    fits(page, "once it is done")


def judge(page: Any, state: str, axe: tuple[bool, ...] = (False, True)) -> None:
    """Look at a page in both themes: axe finds nothing, and all fits. The theme is as it was then.

    In the dark theme axe looks only at what that can break by itself.

    Args:
        axe: The themes that it is shown, ``True`` for the dark one.
    """
    first = is_dark(page)
    for dark in (first, not first):
        theme(page, dark)
        assert dark not in axe or violations(page, COLOURS if dark else None) == [], (state, dark)
        fits(page, state, BUTTONS if dark is first else ())
    theme(page, first)


def share_of(page: Any) -> tuple[bool, ...]:
    """Return in which theme a visitor shows axe what both of them come through."""
    return (page.viewport_size["width"] != WIDTHS[0],)


def fits(page: Any, state: str, buttons: tuple[str, ...] = BUTTONS) -> None:
    """Look at a page as it is: nothing is wider than the screen, no button is out of reach.

    At 1440 x 900 nothing has to be scrolled, unless the page has to say that its numbers are of another question.
    """
    assert too_wide(page) == [], (state, is_dark(page))
    for name in buttons:
        button = page.locator(f"#{name}")
        if button.is_enabled():
            button.click(trial=True)  # in reach, and under nothing else
    if page.viewport_size["width"] == 1440 and not page.locator("#of-another").is_visible():
        assert_on_first_screen(page)


def live_on(page: Any) -> str:
    """Return which weights the page says are live, and how many edits are kept for Undo, at any width."""
    return page.locator("#live .badge").get_attribute("title")


def patch_in(live: str) -> str:
    """Return the name of the live patch."""
    return re.search(r"patch (\w+)", live).group(1)


def case_of(page: Any) -> None:
    """Bring the case into sight: on a phone it stands in a drawer."""
    switch = page.locator("#rail-switch")
    if switch.is_visible() and switch.get_attribute("aria-expanded") != "true":
        switch.click()
        page.wait_for_function("document.querySelector('#rail').getBoundingClientRect().left >= 0")


def type_question(page: Any, question: str) -> None:
    """Type a question of one's own; the page says that what it shows is of another one."""
    case_of(page)
    unfold(page, "safe")
    page.locator("#question textarea").fill(question)
    wait_for_text(page, "#origins", "of another question")
    wait_for_text(page, "#attack", question)
    page.keyboard.press("Escape")
    wait_for_text(page, "#of-another", "numbers and figures are of another question")


def operate(page: Any) -> None:
    """Press Operate; the run has made its first step then."""
    page.click("#operate")
    wait_for_text(page, "#clock", FIRST_STEP)
    assert page.locator("#edit").is_disabled() and page.locator("#cancel").is_enabled()


def cancel_what_runs(page: Any, live: str) -> None:
    """Cancel a run that has begun: the press is answered at once, by the browser, and nothing has changed then."""
    page.evaluate(RECORD)
    operate(page)
    judge(page, "while it runs")
    page.click("#cancel")
    wait_for_text(page, "#clock", "it was cancelled; nothing was changed")
    wait_until_idle(page)
    wait_for_text(page, "#cancel", "Nothing runs")
    assert "Stopping" in page.evaluate("window.labels")
    assert live_on(page) == live
    judge(page, "once it is cancelled")


def press_and_leave_the_line(page: Any, button: str, question: str = "") -> None:
    """Press Operate or Edit while another visitor's run goes on, and cancel while waiting: nothing has changed then.

    Args:
        question: Typed meanwhile: typing never queues.
    """
    page.click(button)
    wait_for_text(page, "#clock", "In line, place 2: starts in")
    assert page.locator("#cancel").is_enabled() and page.locator("#operate").is_disabled()
    if question:
        type_question(page, question)
    judge(page, "while it waits", share_of(page))
    page.click("#cancel")
    wait_for_text(page, "#clock", "Cancelled while it waited in line; nothing was changed")
    wait_until_idle(page)


def ended(page: Any) -> None:
    """Wait for the end of a run."""
    wait_until_idle(page)
    wait_for_text(page, "#clock", "Ended after")


def look_at_the_answers(page: Any, question: str, before: str) -> str:
    """Check what every screen must show of the finished job: all fits, buttons in reach, verdicts, and their covers.

    Returns:
        What the page says is live.
    """
    page.wait_for_selector("#of-another", state="hidden")
    origins = page.locator("#origins").text_content()
    assert "safe answer: from a template" in origins and "unsafe answer: " in origins
    assert "of another question" not in origins and "from the case" not in origins
    assert re.search(r"\d+", question).group() in value_of(page, "#safe")
    assert question in page.locator("#attack").text_content()
    page.wait_for_function("() => document.querySelectorAll('#answers .badge.verdict').length === 2", timeout=WAIT)
    assert page.locator("#answers .badge.edited").inner_text().startswith("DINM")
    assert page.locator("#rail-switch").is_visible() == (page.viewport_size["width"] == 390)
    assert all(page.locator(f"#{name}").is_enabled() for name in BUTTONS[1:])
    verdicts = page.locator("#answers .badge.verdict").all()
    for pane, verdict in zip(("#vanilla", "#edited"), verdicts, strict=True):
        covered = page.locator(f"{pane} .answer").evaluate("e => getComputedStyle(e).filter !== 'none'")
        assert verdict.is_visible() and covered == (verdict.inner_text() != "safe"), "covered unless it is judged safe"
    live = live_on(page)
    assert live != before and live.startswith("live weights: DINM")
    assert page.evaluate(MARK, DRAWN) == ["yes", "yes"], "no figure was drawn anew"
    judge(page, "once it is done", share_of(page))
    return live


def reload_in_the_middle(page: Any, question: str) -> None:
    """All is found again: case, edit, answers, measurements, settings, view, theme, help; no prompt is kept."""
    before, dark = {part: text_of(page, part) for part in SHOWN}, is_dark(page)
    view(page, "stress")
    page.click("#help-switch")
    kept = page.evaluate("JSON.stringify(localStorage)")
    assert "theme" in kept and "parcel" not in kept, "no prompt is kept in the browser"
    page.reload()
    page.wait_for_selector("#stress-head", state="visible")
    assert page.locator("#help").is_visible() and is_dark(page) == dark
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.go_back()
    page.wait_for_selector("#vanilla", state="visible")
    assert not page.locator("#view-stress").is_visible()
    wait_for_value(page, "#question textarea", question)
    wait_for_text(page, "#live", patch_in(before["#live"]))
    page.wait_for_function("document.querySelector('#attack').textContent.includes('out of a parcel')")  # drawer shut
    wait_for_example(page)
    page.wait_for_selector("#divergence-figure .js-plotly-plot .main-svg")
    wait_for_no_text(page, "#origins", "of another question")  # the fields are filled, and looked at, one by one
    assert {part: text_of(page, part) for part in SHOWN} == before
    assert text_of(page, "#notice") == "" and "DINM" in text_of(page, "#answers .badge.edited")
    if page.viewport_size["width"] > 390:  # where the tabs of the details stand in a row
        details(page, "All settings")
        assert page.get_by_label("number input for Step limit").input_value() == "4"
        page.get_by_role("button", name="Details").click()


def pick_a_layer_of_another_case(page: Any) -> None:
    """Locate for a bundled case, which is short and passes while another visitor's edit goes on; pick a bar by hand."""
    case_of(page)
    pick_cinema(page)
    page.keyboard.press("Escape")
    wait_for_text(page, "#locate-reading", "Press Locate")
    page.click("#locate")
    wait_for_text(page, "#locate-reading", "Answers part most at layer")
    toxic = re.search(r"at layer (\d+)", text_of(page, "#locate-reading")).group(1)
    wait_for_value(page, "#block input[type=number]", toxic)
    page.locator("#curve .nsewdrag").click(position=page.evaluate(FOOT))  # plotly hears of clicks above the bars
    wait_for_value(page, "#block input[type=number]", "1")
    wait_for_text(page, "#curve", "picked")
    wait_for_text(page, "#locate-reading", "Layer 1 is picked by hand")


def look_at_the_edit(page: Any) -> None:
    """Check what an edit of the picked layer has done."""
    wait_for_text(page, "#live", "layer 1")
    ended(page)
    tile = page.locator("#numbers .tile", has_text="probability of the safe answer").inner_text()
    before, after = map(float, re.search(r"([\d.]+) → ([\d.]+)", tile).groups())
    assert after > before
    assert page.locator("#answers .badge.edited").inner_text().startswith("DINM · layer 1 · patch ")
    assert page.locator("#answers .badge.vanilla").first.inner_text() == "vanilla"


def switch_off(page: Any, by_keys: bool) -> None:
    """Set the strength to nothing, on its track or in its field: the answers are the vanilla model's then."""
    wait_until_still(page)  # what is live has come to all parts, the strength among them
    if by_keys:
        page.locator("#strength input[type=range]").press("Home")
    else:
        field = page.locator("#strength input[type=number]")
        field.click()  # which starts nothing, so that one can type
        wait_until_still(page)
        field.fill("0")
        field.press("Enter")
        field.blur()
    wait_for_text(page, "#live", "vanilla")
    wait_for_answers(page, same=True)
    wait_until_idle(page)


def undo(page: Any, left: str) -> None:
    """Press Undo and wait for what is live then."""
    page.click("#undo")
    wait_for_text(page, "#live", left)
    wait_until_idle(page)
