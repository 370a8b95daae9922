"""The dashboard on the tiny model behind a real server, chromium, and visitors of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import CHROMIUM, closed, opened
from dashboard_helpers import SHORT_GATE, finished_example, model_at_rest

from dashboard.page import build_app, launch_options
from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stress
from inspector.safeedit.questions import Size


@pytest.fixture(scope="module")
def url(example_folder: Path) -> Iterator[str]:
    """The dashboard on the tiny model, with short exams to press."""
    with model_at_rest() as model, pytest.MonkeyPatch.context() as patch:
        finished_example(example_folder)
        patch.setattr(gating, "EXAM", SHORT_GATE)
        patch.setitem(stress.SIZES, "Quick", Size(1, 2, 0, 0))
        patch.setitem(methods.SIZES, "Brief", Size(0, 1, 1, 0))
        app = build_app(model, example_folder=example_folder)
        _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None, **launch_options())
        yield address
        app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, url, request) -> Iterator[Any]:
    """A fresh visitor, for a test that presses something."""
    page = opened(browser, url)
    yield page
    closed(page, request.node.name)


@pytest.fixture(scope="module")
def shared(browser, url) -> Iterator[Any]:
    """One visitor of all tests that ask for nothing which another one has changed; opening a page takes long."""
    page = opened(browser, url)
    yield page
    closed(page, "shared")
