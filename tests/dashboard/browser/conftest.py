"""The dashboard on the tiny model behind a real server, chromium, and its visitors.

Opening the page costs a browser ten seconds of a processor, opening it anew in the same tab half of that. So all files
share one server and one tab, in which each file begins as a new visitor, and so does a test after one that has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser_helpers import ARTIFACTS, CHROMIUM, closed, open_anew, opened
from dashboard_helpers import SHORT_GATE, finished_example, model_at_rest

from dashboard.kit.queue import Line
from dashboard.kit.shelf import Shelf
from dashboard.kit.visitors import Sessions
from dashboard.page import build_app, launch_options
from dashboard.steps.case import run as case
from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stress
from editing.own_answers import own_answers
from inspector.safeedit.questions import Size

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test has failed, for the screenshot and for the next visitor."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="package")
def served(example_folder: Path) -> Iterator[Any]:
    """The dashboard on the tiny model, with short exams to press: its address and its store of sessions."""
    kept = SimpleNamespace()

    def store(*options: Any, **named: Any) -> Sessions:
        kept.sessions = Sessions(*options, **named)
        return kept.sessions

    with model_at_rest() as model, pytest.MonkeyPatch.context() as patch:
        finished_example(example_folder)
        patch.setattr(gating, "EXAM", SHORT_GATE)
        patch.setitem(stress.SIZES, "Quick", Size(1, 2, 0, 0))
        patch.setitem(methods.SIZES, "Brief", Size(0, 1, 1, 0))
        patch.setattr(case, "own_answers", partial(own_answers, longest=8))
        patch.setattr("dashboard.page.Sessions", store)
        patch.setattr(
            "dashboard.kit.reserving.Line", lambda **given: Line(slice=600.0, **given)
        )  # how turns end has tests of its own
        # A second model is listed, so that its view has what there is to press; nobody loads it.
        app = build_app(model, example_folder=example_folder, shelf=Shelf(model, [model.name, "org/second"]))
        _, kept.url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None, **launch_options())
        yield kept
        app.close()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def tab(chromium, served) -> Iterator[Any]:
    """The tab that all files share."""
    page = opened(chromium, served.url)
    page.opened_for = None
    yield page
    closed(page)


@pytest.fixture
def shared(tab, served, request) -> Iterator[Any]:
    """One visitor of all tests of a file; what one leaves, the next one finds."""
    if tab.opened_for not in (None, request.path):
        open_anew(tab, served.url)
    tab.opened_for = request.path
    yield tab
    ended(tab, request)


@pytest.fixture(scope="module")
def second_tab(chromium, served) -> Iterator[Any]:
    """A tab of another visitor, who is there at the same time."""
    page = opened(chromium, served.url)
    yield page
    closed(page)


@pytest.fixture
def second(second_tab, request) -> Iterator[Any]:
    """The other visitor."""
    yield second_tab
    ended(second_tab, request)


def ended(page, request) -> None:
    """Look at a page after a test; one that has failed leaves a screenshot and no visitor for the next test."""
    if request.node.stash.get(FAILED, False):
        page.opened_for = ""
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{request.node.name}.png")
    problems, page.problems[:] = list(page.problems), []
    assert problems == [], "nothing may go wrong in the browser"
    assert page.hosts <= {"127.0.0.1", "localhost", None}, "no request may leave this machine"
