"""A page that is open while the program loads becomes the dashboard: at once, or loaded anew where that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import pytest
from browser_helpers import MARKS, SIZE, WAIT, view, wait_for_example

from dashboard import opening
from dashboard.front_end import BELOW, needed_first

pytestmark = MARKS


class Waiting:
    """A tab in which the waiting page stands until the program is said to be there."""

    def __init__(self, browser: Any, url: str) -> None:
        self.loading, self.missing = True, ""
        self.page = browser.new_context(viewport=SIZE).new_page()
        self.page.set_default_timeout(WAIT)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.url = url

    def answer(self, route: Any) -> None:
        """Answer as the waiting page's server while the program loads, else let the dashboard's answer."""
        path = urlparse(route.request.url).path
        if self.loading and path == "/":
            route.fulfill(status=503, content_type="text/html", body=opening.page())
        elif self.loading and path == opening.STATUS:
            told = {"text": "Loading it", "share": 0.5, "failed": False, "seconds": 1.0}
            route.fulfill(json=told, headers={opening.STATE: "opening"})
        elif self.loading and path == f"{BELOW}{self.missing}":
            route.fulfill(status=503)
        else:
            route.continue_()

    def opened(self) -> Any:
        """Open it, let the program be there a moment later, and return the dashboard."""
        for path in ("/", opening.STATUS, *([f"{BELOW}{self.missing}"] if self.missing else [])):
            self.page.route(f"{self.url.rstrip('/')}{path}", self.answer)
        self.page.goto(self.url)
        self.page.wait_for_function("document.querySelector('#said').textContent === 'Loading it'")
        self.page.evaluate("() => { window.stayed = true; }")
        self.loading = False
        self.page.wait_for_selector("#operate")
        return self.page


@pytest.fixture
def waiting(chromium, served) -> Iterator[Waiting]:
    """A tab that was opened too early."""
    made = Waiting(chromium, served.url)
    yield made
    made.page.context.close()
    assert made.problems == []


def test_the_waiting_page_becomes_the_dashboard_without_being_loaded_anew(waiting):
    page = waiting.opened()
    wait_for_example(page)
    assert page.evaluate("window.stayed") and page.title() == "DINM Inspector"
    assert page.locator("#said, #bar, #early").count() == 0, "nothing is left of what stood there before"
    assert page.context.cookies(), "the visitor has a key"
    view(page, "why")
    page.wait_for_selector("#view-why", state="visible")
    page.reload()
    page.wait_for_selector("#view-why", state="visible")
    assert not page.evaluate("window.stayed")


def test_it_is_loaded_anew_where_a_script_could_not_be_had(waiting):
    waiting.missing = next(name for name in needed_first() if name.startswith("Blocks-"))
    page = waiting.opened()
    assert not page.evaluate("window.stayed") and page.locator("#operate").is_visible()


def test_a_browser_that_cannot_fetch_a_script_beforehand_loads_it_anew(waiting):
    waiting.page.add_init_script("""
      const knows = DOMTokenList.prototype.supports;
      DOMTokenList.prototype.supports = function (name) { return name !== "modulepreload" && knows.call(this, name); };
    """)
    page = waiting.opened()
    assert not page.evaluate("window.stayed") and page.locator("#operate").is_visible()


def test_the_waiting_page_fetches_just_what_the_dashboard_asks_for_when_it_opens(tab):
    asked = {path for path in tab.asked_first if path.startswith(BELOW)}
    assert asked == {f"{BELOW}{name}" for name in needed_first()}
