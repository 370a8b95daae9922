"""What the tests in a real browser share: how a page is opened and closed, waited for, and used as a person does."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from dashboard import heading

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARTIFACTS = Path(__file__).resolve().parents[1] / "test-artifacts"
WAIT = 120_000
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (set CHROMIUM or install it)"),
]
VIEWS = tuple(heading.VIEWS)


def opened(browser, url) -> Any:
    """Return the page of a fresh visitor with the finished example on screen."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(WAIT)
    page.problems = []
    page.hosts = set()
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda sent: page.hosts.add(urlparse(sent.url).hostname))
    page.goto(f"{url}?__theme=light")
    page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg", timeout=WAIT)
    return page


def closed(page, name: str) -> None:
    """Keep a screenshot; nothing may have gone wrong in the browser, and no request may have left this machine."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png")
    page.context.close()
    assert page.problems == [] and page.hosts <= {"127.0.0.1", "localhost", None}


def text_of(page, selector: str) -> str:
    """Return an element's text without the time that Gradio writes above it, unseen, while an event is under way."""
    return re.sub(r"\A[^|\n]*\| [\d./]+s\s*", "", page.locator(selector).inner_text())


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
    box = page.get_by_label("number input for Step limit")
    box.fill(str(steps))
    box.press("Tab")


def let_pass(page) -> None:
    """Give the gate budgets that even an edit of a random model keeps."""
    for name in ("harmless-kl", "over-refusal", "degenerate", "parroting", "lost-defence"):
        box = page.locator(f"#gate-{name} input")
        box.fill("100")
        box.press("Tab")


def pick_cinema(page) -> None:
    page.get_by_label("Search the examples").fill("cinema")
    page.locator("#examples button:visible", has_text="sneak into the cinema").click()
    page.wait_for_function("() => document.querySelector('#question textarea').value.includes('cinema')", timeout=WAIT)


def details(page, tab: str) -> None:
    """Unfold one of the details."""
    if not page.get_by_role("tab", name=tab).is_visible():
        page.get_by_role("button", name="Details").click()
    page.get_by_role("tab", name=tab).click()


def unfold(page, part: str) -> None:
    """Unfold a part of the case."""
    if not page.locator(f"#{part} textarea").is_visible():
        page.locator(f"#{part}-fold button").first.click()
        page.wait_for_selector(f"#{part} textarea", state="visible")


def theme(page, dark: bool) -> None:
    """Switch to a theme as a person does."""
    if page.evaluate("document.body.classList.contains('dark')") != dark:
        page.click("#theme-switch")


def fits(page) -> bool:
    """Tell whether nothing on the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def view(page, name: str) -> None:
    """Go to a view as a person does."""
    page.locator(f"nav.views a[data-view={name}]").click()
    page.wait_for_selector(f"#view-{name}", state="visible")
