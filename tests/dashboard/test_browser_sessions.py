"""What only a browser shows of sessions and of the line: a reload, two visitors at once, a press after all is gone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser_helpers import ARTIFACTS, CHROMIUM, MARKS
from dashboard_helpers import SHORT_GATE, finished_example, model_at_rest

from dashboard.kit.visitors import Sessions
from dashboard.page import build_app, launch_options
from dashboard.steps.operate import gating
from editing import descent

WAIT = 240_000
OWN = "How do I cheat at the card game?"

pytestmark = MARKS


@pytest.fixture(scope="module")
def served(example_folder: Path) -> Iterator[Any]:
    """The dashboard on the tiny model: its address and its store of sessions."""
    kept = SimpleNamespace()

    def store(*options: Any) -> Sessions:
        kept.sessions = Sessions(*options)
        return kept.sessions

    with model_at_rest() as model, pytest.MonkeyPatch.context() as patch:
        finished_example(example_folder)
        patch.setattr(gating, "EXAM", SHORT_GATE)
        patch.setattr("dashboard.page.Sessions", store)
        app = build_app(model, example_folder=example_folder)
        _, kept.url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None, **launch_options())
        yield kept
        app.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visitors(chromium, served, request) -> Iterator[Any]:
    """A factory of visitors, each with a browser of their own; nothing may go wrong in any of them."""
    pages: list[Any] = []

    def visit(context: Any = None) -> Any:
        page = (context or chromium.new_context(viewport={"width": 1440, "height": 900})).new_page()
        page.set_default_timeout(WAIT)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(f"{served.url}?__theme=light")
        page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg")
        pages.append(page)
        return page

    yield visit
    ARTIFACTS.mkdir(exist_ok=True)
    problems = []
    for number, page in enumerate(pages):
        page.screenshot(path=ARTIFACTS / f"{request.node.name}-{number}.png")
        problems += page.problems
    for context in {page.context for page in pages}:
        context.close()
    assert problems == []


@pytest.fixture
def slowly(monkeypatch) -> None:
    """Let every step of an edit take long enough to press something meanwhile."""
    decide = descent.stop_reason

    def slow(*values: Any) -> Any:
        time.sleep(0.3)
        return decide(*values)

    monkeypatch.setattr(descent, "stop_reason", slow)


def text_of(page, selector: str) -> str:
    return page.locator(selector).inner_text().strip()


def wait_for(page, selector: str, wanted: str) -> None:
    page.wait_for_function(
        "([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[selector, wanted], timeout=WAIT
    )


def wait_for_value(page, selector: str, wanted: str) -> None:
    page.wait_for_function("([s, t]) => document.querySelector(s)?.value === t", arg=[selector, wanted], timeout=WAIT)


def wait_until_idle(page) -> None:
    page.wait_for_function("() => !document.querySelector('#edit').disabled", timeout=WAIT)


def set_up(page, steps: int) -> None:
    """Make an edit short or long, ended by nothing but its steps, and let any pass the gate."""
    page.get_by_role("button", name="Details").click()
    page.get_by_role("tab", name="Decoding and routing").click()
    longest = page.get_by_label("number input for Longest answer")
    longest.fill("8")
    longest.press("Tab")
    page.get_by_role("tab", name="All settings").click()
    for box, value in (
        (page.get_by_label("number input for Step limit"), steps),
        (page.get_by_label("number input for Harmless prompts"), 2),
        (page.get_by_label("Target P(safe)"), 0),
        (page.get_by_label("Damage budget"), 0),
        *((page.locator(f"#gate-{name} input"), 100) for name in GATE),
    ):
        box.fill(str(value))
        box.press("Tab")


GATE = ("harmless-kl", "over-refusal", "degenerate", "parroting", "lost-defence")
SHOWN = ("#live", "#clock", "#vanilla", "#edited", "#numbers", "#vitals-reading", "#gate", "#origins")


def test_a_reload_in_the_middle_of_the_main_job_finds_everything_again_and_the_job_goes_on(visitors):
    page = visitors()
    example = text_of(page, "#live")
    set_up(page, 4)
    page.locator("#question textarea").fill(OWN)
    wait_for(page, "#attack", "cheat at the card game")
    page.click("#operate")
    page.wait_for_function("() => document.querySelector('#operate').disabled", timeout=WAIT)
    wait_until_idle(page)
    wait_for(page, "#clock", "Ended after")
    before = {part: text_of(page, part) for part in SHOWN}
    assert before["#live"] != example
    page.reload()
    wait_for_value(page, "#question textarea", OWN)
    wait_for(page, "#live", re.search(r"patch (\w+)", before["#live"]).group(1))
    wait_for(page, "#attack", "cheat at the card game")
    page.wait_for_selector("#divergence-figure .js-plotly-plot .main-svg")
    assert {part: text_of(page, part) for part in SHOWN} == before
    assert text_of(page, "#notice") == "" and "DINM" in text_of(page, "#answers .badge.edited")
    page.get_by_role("button", name="Details").click()
    page.get_by_role("tab", name="All settings").click()
    assert page.get_by_label("number input for Step limit").input_value() == "4"
    page.click("#undo")
    wait_for(page, "#live", re.search(r"patch (\w+)", example).group(1))
    wait_until_idle(page)
    wait_for_value(page, "#question textarea", OWN)


@pytest.mark.usefixtures("slowly")
def test_a_reload_while_an_edit_runs_ends_it_says_so_and_leaves_what_was_live(visitors):
    page = visitors()
    before = text_of(page, "#live")
    set_up(page, 100)
    page.click("#edit")
    wait_for(page, "#clock", "of at most 100")
    page.reload()
    wait_for(page, "#notice", "ended because its page lost the connection")
    wait_until_idle(page)
    assert text_of(page, "#live") == before and page.locator("#cancel").is_disabled()
    assert page.locator("#undo").is_enabled()


@pytest.mark.usefixtures("slowly")
def test_two_visitors_at_once_one_waits_in_line_types_locates_and_leaves_the_line(visitors):
    first, second = visitors(), visitors()
    for page in (first, second):
        set_up(page, 100)
    first.click("#edit")
    wait_for(first, "#clock", "of at most 100")
    second.click("#locate")
    wait_for(second, "#locate-reading", "the answers part most")  # short work passes
    before = text_of(second, "#live")
    second.click("#edit")
    wait_for(second, "#clock", "In line, place 2: 1 run is before yours, which starts in about")
    assert second.locator("#cancel").is_enabled() and second.locator("#operate").is_disabled()
    second.locator("#question textarea").fill(OWN)
    wait_for(second, "#attack", "cheat at the card game")  # typing never queues
    assert "of at most 100" in text_of(first, "#clock")
    second.screenshot(path=ARTIFACTS / "waiting-in-line.png")
    second.click("#cancel")
    wait_for(second, "#clock", "Cancelled while it waited in line; nothing was changed")
    wait_until_idle(second)
    assert text_of(second, "#live") == before
    assert "of at most 100" in text_of(first, "#clock"), "the one who runs is not disturbed"
    first.click("#cancel")
    wait_for(first, "#clock", "it was cancelled; nothing was changed")
    wait_until_idle(first)


def test_what_is_gone_is_said_at_the_next_press_and_the_badge_names_the_vanilla_model(visitors, served):
    page = visitors()
    set_up(page, 2)
    page.click("#edit")
    page.wait_for_function("() => document.querySelector('#edit').disabled", timeout=WAIT)
    wait_until_idle(page)
    assert "DINM" in text_of(page, "#live")
    (cookie,) = [one for one in page.context.cookies() if one["name"].startswith("dinm-visitor-")]
    assert cookie["httpOnly"]
    with served.sessions._lock:
        served.sessions._drop(f":{cookie['value']}", "it was not used for 2 hours")
    page.locator("#question textarea").fill(OWN)
    wait_for(page, "#notice", "Your session is gone: it was not used for 2 hours. Live now: vanilla.")
    wait_for(page, "#live", "live weights: vanilla")
    wait_for(page, "#undo", "Nothing to undo")
    wait_for(page, "#vanilla", "No answer yet")
    page.screenshot(path=ARTIFACTS / "session-gone.png")
    assert page.locator("#question textarea").input_value() == OWN
    page.click("#operate")
    wait_for(page, "#live", "DINM")
    wait_until_idle(page)
    assert text_of(page, "#notice") == ""


def test_another_window_of_the_same_visitor_shows_what_is_live_once_it_comes_to_the_front(visitors):
    first = visitors()
    second = visitors(first.context)
    # Gradio writes how long an event takes above what it changes, unseen, while it is under way.
    weights = [text_of(page, "#live").splitlines()[-1] for page in (first, second)]
    assert weights[0] == weights[1] and weights[0].startswith("live weights: DINM")
    first.click("#undo")
    wait_for(first, "#live", "vanilla")
    wait_until_idle(first)
    second.evaluate("() => window.dispatchEvent(new Event('online'))")
    wait_for(second, "#live", "live weights: vanilla")
    wait_for(second, "#undo", "Nothing to undo")
