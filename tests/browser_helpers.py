"""What the tests in a real browser share: how a page is opened and closed, waited for, and used as a person does."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from dashboard import house

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARTIFACTS = Path(__file__).resolve().parents[1] / "test-artifacts"
WAIT = 120_000
SIZE = {"width": 1280, "height": 900}
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (set CHROMIUM or install it)"),
]
VIEWS = tuple(house.VIEWS)
COUNT_FRAMES = """window.frames_asked = 0; const ask = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = draw => { window.frames_asked += 1; return ask(draw); };"""
STILL = """() => { const seen = window.frames_seen; window.frames_seen = window.frames_asked;
  return seen === window.frames_asked; }"""
"""Whether no picture was asked for since this was asked last."""


def opened(browser, url) -> Any:
    """Return the page of a fresh visitor with the finished example on screen; what it asked for until then is noted."""
    page = browser.new_context(viewport=SIZE).new_page()
    page.set_default_timeout(WAIT)
    page.problems = []
    page.hosts, page.asked_first = set(), set()
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda sent: page.hosts.add(urlparse(sent.url).hostname))
    page.visitor = None
    page.add_init_script(COUNT_FRAMES)
    asks = page.asked_first

    def note(sent) -> None:
        asks.add(urlparse(sent.url).path)

    page.on("request", note)
    page.goto(f"{url}?__theme=light")
    wait_for_example(page)
    page.remove_listener("request", note)
    return page


def open_anew(page, url) -> None:
    """Open the page in a tab as another visitor, who has never been there."""
    forget_visitor(page)
    page.goto(f"{url}?__theme=light")
    wait_for_example(page)


def forget_visitor(page) -> None:
    """Let a tab forget who has used it."""
    page.context.clear_cookies()
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.set_viewport_size(SIZE)


def wait_for_example(page) -> None:
    """Wait until the last figure of the finished example, or of what a visitor has, is drawn."""
    page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg")


def wait_until_still(page) -> None:
    """Wait until the page asks its browser for no further picture: one that is only looked at costs nothing."""
    page.wait_for_function(STILL, polling=250, timeout=WAIT)


def text_of(page, selector: str) -> str:
    """Return an element's text without the time that Gradio writes above it, unseen, while an event is under way."""
    return re.sub(r"\A(?:[^|\n]*\| )?[\d./]+s\s*", "", page.locator(selector).inner_text()).strip()


def value_of(page, selector: str) -> str:
    return page.locator(f"{selector} textarea").input_value()


def answer_of(page, selector: str) -> str:
    return page.locator(f"{selector} .answer").text_content()


def wait_for_text(page, selector: str, wanted: str) -> None:
    page.wait_for_function(
        "([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[selector, wanted], timeout=WAIT
    )


def wait_for_no_text(page, selector: str, unwanted: str) -> None:
    page.wait_for_function(
        "([s, t]) => !document.querySelector(s).innerText.includes(t)", arg=[selector, unwanted], timeout=WAIT
    )


def wait_until_idle(page) -> None:
    page.wait_for_function("() => !document.querySelector('#edit').disabled", timeout=WAIT)


def wait_for_answers(page, same: bool) -> None:
    """Wait until both answers are whole, and equal or different."""
    page.wait_for_function(
        """same => { const [one, two] = ['#vanilla', '#edited'].map(s => document.querySelector(s).textContent.trim());
        return ![one, two].some(text => text === '…' || text.endsWith('▍')) && (one === two) === same; }""",
        arg=same,
        timeout=WAIT,
    )


def wait_for_value(page, selector: str, wanted: str) -> None:
    page.wait_for_function("([s, t]) => document.querySelector(s).value === t", arg=[selector, wanted], timeout=WAIT)


def set_steps(page, steps: int) -> None:
    write(page.get_by_label("number input for Step limit"), steps)


def write(box, value) -> None:
    """Write into a box and leave it, unless that stands there."""
    if box.input_value() != str(value):
        box.fill(str(value))
        box.press("Tab")


def let_pass(page) -> None:
    """Give the gate budgets that even an edit of a random model keeps."""
    for name in ("harmless-kl", "over-refusal", "degenerate", "parroting", "lost-defence"):
        write(page.locator(f"#gate-{name} input"), 100)


def set_up(page, steps: int) -> None:
    """Make answers short and edits too, ended by nothing but their steps, and let any edit pass the gate."""
    details(page, "Decoding and routing")
    write(page.get_by_label("number input for Longest answer"), 4)
    details(page, "All settings")
    set_steps(page, steps)
    write(page.get_by_label("number input for Harmless prompts"), 2)
    for limit in ("Target P(safe)", "Damage budget"):
        write(page.get_by_label(limit), 0)
    let_pass(page)
    page.get_by_role("button", name="Details").click()


def pick_cinema(page) -> None:
    page.get_by_label("Search the examples").fill("cinema")
    page.locator("#examples button:visible", has_text="sneak into the cinema").click()
    page.wait_for_function("() => document.querySelector('#question textarea').value.includes('cinema')", timeout=WAIT)


def details(page, tab: str) -> None:
    """Unfold one of the details."""
    if page.get_by_role("tab", name=tab).is_visible():
        page.get_by_role("tab", name=tab).click()
    else:
        page.locator("#shortcuts button", has_text=tab).click()
        page.wait_for_function("t => document.activeElement?.textContent.trim() === t", arg=tab, timeout=WAIT)


def unfold(page, part: str) -> None:
    """Unfold a part of the case."""
    if not page.locator(f"#{part} textarea").is_visible():
        page.locator(f"#{part}-fold button").first.click()
        page.wait_for_selector(f"#{part} textarea", state="visible")


def theme(page, dark: bool) -> None:
    """Switch to a theme as a person does; it must have come, and the switch must say so."""
    shown = "document.body.classList.contains('dark')"
    if page.evaluate(shown) != dark:
        page.click("#theme-switch")
    assert page.evaluate(shown) == dark
    assert page.locator("#theme-switch").get_attribute("aria-pressed") == str(dark).lower()


def at_width(page, width: int) -> None:
    """Make the window as wide as this, a phone's a little lower."""
    page.set_viewport_size({"width": width, "height": 844 if width < 400 else 900})


FIRST_SCREEN = (
    "#top",
    "#question",
    "#curve",
    "#locate-reading",
    "#vitals",
    "#vitals-reading",
    "#gate",
    "#operate",
    "#numbers",
    "#vanilla",
    "#edited",
    "#shift-figure",
    "#divergence-figure",
    "#figures",
    "#details",
)
"""What is seen without scrolling; ``#figures`` ends with the readings of the two that stand in it."""


def assert_on_first_screen(page) -> None:
    """Check that all of the operation stands within 1440 x 900, and that the page itself is no longer than that."""
    at_width(page, 1440)
    page.evaluate("window.scrollTo(0, 0)")
    for part in FIRST_SCREEN:
        box = page.locator(part).bounding_box()
        assert box is not None and box["y"] + box["height"] <= 900, (part, box)
    assert page.evaluate("document.documentElement.scrollHeight") <= 900


WIDE = """() => { const page = document.documentElement;
  const plots = [...document.querySelectorAll('.js-plotly-plot:has(.main-svg)')].filter(plot => plot.checkVisibility());
  const width = part => part.getBoundingClientRect().width;
  const scrolls = plot => getComputedStyle(plot.closest('.block')).overflowX === 'auto';
  return [...(page.scrollWidth > page.clientWidth ? ['the page'] : []), ...plots.filter(plot => !scrolls(plot)).filter(
    plot => width(plot.querySelector('.main-svg')) > width(plot.closest('.block')) + 1).map(
    plot => plot.closest('.block').id)]; }"""


NO_HEAD_IS_CUT = """() => [...document.querySelectorAll('th')].filter(head => head.offsetParent).every(
  head => [...head.querySelectorAll('*')].every(e => e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0))"""
"""Whether every head of a table that can be seen, or scrolled to, is whole."""


def too_wide(page, patience: float = 10.0) -> list[str]:
    """Name what is wider than the screen, or as a figure wider than its box, once figures have had time to follow."""
    until = time.monotonic() + patience
    while (found := page.evaluate(WIDE)) and time.monotonic() < until:
        page.wait_for_timeout(200)
    return list(found)


def settled_box(part) -> dict[str, float]:
    """Return where a part stands once nothing above it moves it any more; it is scrolled into sight."""
    before: dict[str, float] = {}
    for _ in range(100):
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        if box == before:
            return box
        before = box
        part.page.wait_for_timeout(200)
    raise AssertionError("it moves all the time")


def view(page, name: str) -> None:
    """Go to a view as a person does."""
    page.locator(f"nav.views a[data-view={name}]").click()
    page.wait_for_selector(f"#view-{name}", state="visible")
