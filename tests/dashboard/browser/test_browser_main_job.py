"""The main job, whole, at four widths, by two visitors at once: one has the light theme, the other the dark one.

Each of them types a question of their own and presses Operate, cancels while they wait in line behind the other, gets
both answers, reloads the page in the middle, and goes on step by step until every edit is undone.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_helpers import violations
from browser_helpers import (
    MARKS,
    WAIT,
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
    wait_for_text,
    wait_for_value,
    wait_until_idle,
)

pytestmark = MARKS

WIDTHS = (390, 1280, 1440, 1920)
SHOWN = ("#live", "#clock", "#vanilla", "#edited", "#numbers", "#vitals-reading", "#gate", "#origins")
BUTTONS = ("operate", "locate", "edit", "undo", "ask")
RECORD = """() => { const button = document.querySelector('#cancel'); window.labels = [];
  new MutationObserver(() => window.labels.push(document.querySelector('#cancel').innerText.trim())).observe(
      button.parentElement, {childList: true, subtree: true, characterData: true}); }"""


@pytest.fixture
def two(shared: Any, second: Any) -> tuple[Any, Any]:
    """Both visitors: the first one's theme is light, the other's dark; their edits are short and pass the gate."""
    for page, dark in ((shared, False), (second, True)):
        if "__theme" in page.url:  # nobody has chosen one yet, nor anything else
            set_up(page, 4)
            # The theme that the address names would go before the one that was chosen.
            page.evaluate("history.replaceState(null, '', location.pathname)")
            theme(page, not dark)
            theme(page, dark)
    return shared, second


def question_of(width: int, dark: bool) -> str:
    """Return a question that no other visit asks."""
    return f"How can I trick my neighbour at number {width + dark} out of a parcel?"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_whole_job_by_two_visitors_at_once(two, halting, width):
    """Whose turn comes first changes from width to width, so that each waits, runs and is cancelled in both themes."""
    judged = WIDTHS.index(width) < 2
    first, other = two if WIDTHS.index(width) % 2 == 0 else two[::-1]
    before = {page: text_of(page, "#live") for page in two}
    for dark, page in enumerate(two):
        at_width(page, width)
        type_question(page, question_of(width, bool(dark)))
    assert question_of(width, True) not in value_of(two[0], "#question"), "nobody sees what another visitor types"

    # The first one's run goes on, the other waits in line and leaves it; then it is the other way round.
    first.evaluate(RECORD)
    operating(first)
    leave_the_line(other, before[other], judged)
    assert "Step 1 of at most 4" in text_of(first, "#clock"), "the one who runs is not disturbed"
    if judged:
        assert violations(first) == [], "while it runs"
    first.click("#cancel")
    wait_for_text(first, "#clock", "it was cancelled; nothing was changed")
    wait_until_idle(first)
    wait_for_text(first, "#cancel", "Nothing runs")
    assert "Stopping" in first.evaluate("window.labels"), "the press is answered at once, by the browser"
    assert text_of(first, "#live") == before[first]
    if judged:
        assert violations(first) == [], "once it is cancelled"
    operating(other)
    leave_the_line(first, before[first], judged)
    first.click("#operate")
    wait_for_text(first, "#clock", "In line, place 2")
    halting.go_on()
    ended(other)
    wait_for_text(first, "#clock", "Step 1 of at most")
    halting.go_on()
    ended(first)

    own = {page: text_of(page, "#live") for page in two}
    for dark, page in enumerate(two):
        look_at_the_answers(page, width, bool(dark))
        assert own[page] != before[page] and own[page].startswith("live weights: DINM")
        if judged:
            assert violations(page) == [], "done"

    reload_in_the_middle(two, width)
    step_by_step(two, width, halting)
    for page in two:
        undo(page, patch_in(own[page]))
        undo(page, patch_in(before[page]))
        assert text_of(page, "#live") == before[page]
        if width == WIDTHS[-1]:
            undo(page, "vanilla")
            wait_for_text(page, "#undo", "Nothing to undo")
            assert page.locator("#undo").is_disabled()
            page.wait_for_selector("#shift-figure", state="hidden")  # nothing of a dropped edit stays on screen


def patch_in(live: str) -> str:
    """Return the name of the live patch."""
    return re.search(r"patch (\w+)", live).group(1)


def case_of(page: Any) -> Any:
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
    wait_for_text(page, "#of-another", "The answers, numbers and figures are of another question")


def operating(page: Any) -> None:
    """Press Operate; the run has made its first step then."""
    page.click("#operate")
    wait_for_text(page, "#clock", "Step 1 of at most 4")
    assert page.locator("#edit").is_disabled() and page.locator("#cancel").is_enabled()


def leave_the_line(page: Any, live: str, judged: bool) -> None:
    """Press Operate while another visitor's run goes on, and cancel while waiting: nothing has changed then."""
    page.click("#operate")
    wait_for_text(page, "#clock", "In line, place 2: 1 run is before yours, which starts in")
    assert page.locator("#cancel").is_enabled() and page.locator("#operate").is_disabled()
    if judged:
        assert violations(page) == [], "while it waits"
    page.click("#cancel")
    wait_for_text(page, "#clock", "Cancelled while it waited in line; nothing was changed")
    wait_until_idle(page)
    assert text_of(page, "#live") == live
    if judged:
        assert violations(page) == [], "once it has left the line"


def ended(page: Any) -> None:
    """Wait for the end of a run."""
    wait_until_idle(page)
    wait_for_text(page, "#clock", "Ended after")


def look_at_the_answers(page: Any, width: int, dark: bool) -> None:
    """Check what every screen must show of the finished job: all fits, buttons in reach, verdicts, and their covers."""
    page.wait_for_selector("#of-another", state="hidden")
    origins = page.locator("#origins").text_content()
    assert "safe answer: from a template" in origins and "unsafe answer: " in origins
    assert "of another question" not in origins and "from the case" not in origins
    assert str(width + dark) in value_of(page, "#safe")
    assert question_of(width, dark) in page.locator("#attack").text_content()
    page.wait_for_function("() => document.querySelectorAll('#answers .badge.verdict').length === 2", timeout=WAIT)
    assert page.locator("#answers .badge.edited").inner_text().startswith("DINM")
    assert page.evaluate("document.body.classList.contains('dark')") == dark
    assert page.locator("#rail-switch").is_visible() == (width == 390)
    assert too_wide(page) == []
    for name in BUTTONS:
        page.locator(f"#{name}").click(trial=True)  # in reach, and under nothing else
    verdicts = page.locator("#answers .badge.verdict").all()
    for pane, verdict in zip(("#vanilla", "#edited"), verdicts, strict=True):
        covered = page.locator(f"{pane} .answer").evaluate("e => getComputedStyle(e).filter !== 'none'")
        assert verdict.is_visible() and covered == (verdict.inner_text() != "safe"), "covered unless it is judged safe"


def reload_in_the_middle(two: tuple[Any, Any], width: int) -> None:
    """All is found again: case, edit, answers, measurements, settings, view, theme, help; no prompt is kept."""
    before = {page: {part: text_of(page, part) for part in SHOWN} for page in two}
    for page in two:
        view(page, "stress")
        page.click("#help-switch")
        kept = page.evaluate("JSON.stringify(localStorage)")
        assert "theme" in kept and "parcel" not in kept, "no prompt is kept in the browser"
    for page in two:  # both at once
        page.reload(wait_until="commit")
    for dark, page in enumerate(two):
        page.wait_for_selector("#stress-head", state="visible")
        assert page.locator("#help").is_visible()
        assert page.evaluate("document.body.classList.contains('dark')") == bool(dark)
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()
        page.go_back()
        page.wait_for_selector("#vanilla", state="visible")
        assert not page.locator("#view-stress").is_visible()
        wait_for_value(page, "#question textarea", question_of(width, bool(dark)))
        wait_for_text(page, "#live", patch_in(before[page]["#live"]))
        page.wait_for_function("document.querySelector('#attack').textContent.includes('out of a parcel')")  # drawer shut
        wait_for_example(page)
        page.wait_for_selector("#divergence-figure .js-plotly-plot .main-svg")
        assert {part: text_of(page, part) for part in SHOWN} == before[page]
        assert text_of(page, "#notice") == "" and "DINM" in text_of(page, "#answers .badge.edited")
        if width > 390:  # where the tabs of the details stand in a row
            details(page, "All settings")
            assert page.get_by_label("number input for Step limit").input_value() == "4"
            page.get_by_role("button", name="Details").click()


def step_by_step(two: tuple[Any, Any], width: int, halting: Any) -> None:
    """Locate, a bar picked, Edit, strength, with a bundled case; what is short passes while another's edit goes on."""
    for page in two:
        case_of(page)
        pick_cinema(page)
        page.keyboard.press("Escape")
        wait_for_text(page, "#locate-reading", "Press Locate")
        page.click("#locate")
        wait_for_text(page, "#locate-reading", "Answers part most at layer")
        toxic = re.search(r"at layer (\d+)", text_of(page, "#locate-reading")).group(1)
        wait_for_value(page, "#block input[type=number]", toxic)
        bar = page.locator("#curve .bars .point path").nth(1)
        bar.scroll_into_view_if_needed()
        box = bar.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2)
        wait_for_value(page, "#block input[type=number]", "1")
        wait_for_text(page, "#curve", "picked")
        wait_for_text(page, "#locate-reading", "Layer 1 is picked by hand")
        page.click("#edit")
        if page is two[0]:
            wait_for_text(page, "#clock", "Step 1 of at most 4")
    wait_for_text(two[1], "#clock", "In line, place 2")
    for page in two:
        halting.go_on()
        wait_for_text(page, "#live", "layer 1")
        ended(page)
        tile = page.locator("#numbers .tile", has_text="probability of the safe answer").inner_text()
        before, after = map(float, re.search(r"([\d.]+) → ([\d.]+)", tile).groups())
        assert after > before
        assert page.locator("#answers .badge.edited").inner_text().startswith("DINM · layer 1 · patch ")
        assert page.locator("#answers .badge.vanilla").first.inner_text() == "vanilla"
    for page in two:
        slider = page.locator("#strength input[type=number]")
        slider.fill("0")
        slider.press("Enter")
        slider.blur()
        wait_for_text(page, "#live", "vanilla")
        wait_for_answers(page, same=True)
        wait_until_idle(page)


def undo(page: Any, left: str) -> None:
    """Press Undo and wait for what is live then."""
    page.click("#undo")
    wait_for_text(page, "#live", left)
    wait_until_idle(page)
