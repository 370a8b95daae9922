"""The dashboard on the tiny model behind a real server, chromium, and its visitors.

Opening the page costs a browser seconds of a processor, opening it anew in the same tab half of that: all files share
one server and two tabs, in which each file begins with new visitors, and so does a test after one that has failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from axe_helpers import told_if_left_out
from browser_helpers import ARTIFACTS, CHROMIUM, open_anew, opened
from dashboard_helpers import SHORT_GATE, model_at_rest
from example_helpers import finished_example

from dashboard.kit.running.queue import Line
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.shelf import Shelf
from dashboard.page import build_app, launch_options
from dashboard.steps.case import run as case
from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stress
from editing.texts.own_answers import own_answers
from inspector.safeedit.questions import Size

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test has failed, for the screenshot and for the next visitor."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that has passed without the axe-core that it asked for, with the reason."""
    with told_if_left_out():
        return (yield)


@dataclass
class HaltingLine(Line):
    """A line of long runs that stops each edit after its first step, if it is told to, until it may go on.

    What stands in line meanwhile waits, and what passes between steps passes: nothing depends on how fast an edit is.
    """

    halting: bool = False
    _may_go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def halt(self, halting: bool) -> None:
        """Stop edits from now on, or stop none any more."""
        self.halting, self._may_go_on = halting, threading.Semaphore(0)

    def go_on(self) -> None:
        """Let the run whose turn it is go on to its end."""
        self._may_go_on.release()

    def turns(self, run: Any, kind: str, cancelled: Any = lambda: False, *given: Any, **named: Any) -> Any:
        """Run something step by step whenever it is its turn."""
        return super().turns(self._stopping(run, cancelled), kind, cancelled, *given, **named)

    def _stopping(self, run: Any, cancelled: Callable[[], bool]) -> Generator[Any, None, None]:
        stopped = False
        with closing(run):
            for event in run:
                yield event
                if stopped or not _is_first_step(event):
                    continue
                stopped = True
                while self.halting and not cancelled() and not self._may_go_on.acquire(timeout=0.05):
                    pass


def _is_first_step(event: Any) -> bool:
    said = [part for part in event.values() if isinstance(part, str)] if isinstance(event, dict) else []
    return any("Step 1 of at most" in part for part in said)


@pytest.fixture(scope="package")
def served(example_folder: Path) -> Iterator[Any]:
    """The dashboard on the tiny model, with short exams to press: its address, its sessions and its line."""
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
        # How turns end has tests of its own.
        patch.setattr("dashboard.kit.running.reserving.Line", lambda **given: HaltingLine(slice=600.0, **given))
        # A second model is listed, so that its view has what there is to press; nobody loads it.
        app = build_app(model, example_folder=example_folder, shelf=Shelf(model, [model.name, "org/second"]))
        kept.line = app.line
        _, kept.url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None, **launch_options())
        yield kept
        app.close()


@pytest.fixture
def halting(served: Any) -> Iterator[HaltingLine]:
    """The line, which stops each edit after its first step."""
    served.line.halt(True)
    yield served.line
    served.line.halt(False)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Debian's chromium; what is waited for is looked for ten times a second, not at every frame of its screen."""
    from playwright.sync_api import Page, sync_playwright

    looking = partialmethod(Page.wait_for_function, polling=100)
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "wait_for_function", looking)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def tab(chromium: Any, served: Any) -> Iterator[Any]:
    """The tab that all files share."""
    page = opened(chromium, served.url)
    yield page
    page.context.close()


@pytest.fixture(scope="package")
def second_tab(chromium: Any, served: Any) -> Iterator[Any]:
    """The tab of another visitor, who is there at the same time; all files share it, too."""
    page = opened(chromium, served.url)
    yield page
    page.context.close()


@pytest.fixture
def shared(tab: Any, served: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """One visitor of all tests of a file; what one leaves, the next one finds."""
    yield from lent(tab, served.url, request)


@pytest.fixture
def second(second_tab: Any, served: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The other visitor of all tests of a file."""
    yield from lent(second_tab, served.url, request)


def lent(page: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Lend a tab to a test, as the visitor of its file, and look at it afterwards.

    A test that has failed leaves a screenshot and no visitor for the next one.
    """
    if page.visitor not in (None, request.path):
        open_anew(page, url)
    page.visitor = request.path
    yield page
    if request.node.stash.get(FAILED, False):
        page.visitor = "of a test that has failed"
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{request.node.name}-{request.fixturename}.png")
    problems, page.problems[:] = list(page.problems), []
    assert problems == [], "nothing may go wrong in the browser"
    assert page.hosts <= {"127.0.0.1", "localhost", None}, "no request may leave this machine"
