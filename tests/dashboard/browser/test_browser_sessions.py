"""What only a browser shows of sessions and of the line: a reload, two visitors at once, a press after all is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser_helpers import (
    ARTIFACTS,
    MARKS,
    WAIT,
    details,
    pick_cinema,
    set_steps,
    set_up,
    text_of,
    value_of,
    wait_for_example,
    wait_for_text,
    wait_until_idle,
)

from editing import descent

OWN = "How do I cheat at the card game?"
COOKIE = "dinm-visitor-"
RECORD = """() => { const button = document.querySelector('#cancel'); window.labels = [];
  new MutationObserver(() => window.labels.push(document.querySelector('#cancel').innerText.trim())).observe(
      button.parentElement, {childList: true, subtree: true, characterData: true}); }"""

pytestmark = MARKS


@pytest.fixture
def slowly(monkeypatch) -> Iterator[None]:
    """Let every step of an edit take long enough to press something meanwhile."""
    decide = descent.stop_reason

    def slow(*values: Any) -> Any:
        time.sleep(1.0)
        return decide(*values)

    monkeypatch.setattr(descent, "stop_reason", slow)
    yield


@pytest.mark.usefixtures("slowly")
def test_two_visitors_at_once_one_waits_in_line_types_locates_and_both_cancel(shared, second):
    """Typing and short work never wait; who leaves the line and who is cancelled keep what was live."""
    first = shared
    for page in (first, second):
        set_up(page, 100)
    kept = text_of(first, "#live")
    first.evaluate(RECORD)
    first.click("#edit")
    wait_for_text(first, "#clock", "of at most 100")
    assert first.locator("#edit").is_disabled() and first.locator("#cancel").is_enabled()
    pick_cinema(second)  # else the example's reading would stand there already
    wait_for_text(second, "#locate-reading", "Press Locate")
    second.click("#locate")
    wait_for_text(second, "#locate-reading", "Answers part most")  # short work passes
    before = text_of(second, "#live")
    second.click("#edit")
    wait_for_text(second, "#clock", "In line, place 2: 1 run is before yours, which starts in")
    assert second.locator("#cancel").is_enabled() and second.locator("#operate").is_disabled()
    second.locator("#question textarea").fill(OWN)
    wait_for_text(second, "#attack", "cheat at the card game")  # typing never queues
    assert "of at most 100" in text_of(first, "#clock")
    assert OWN not in value_of(first, "#question"), "nobody sees what another visitor types"
    second.screenshot(path=ARTIFACTS / "waiting-in-line.png")
    second.click("#cancel")
    wait_for_text(second, "#clock", "Cancelled while it waited in line; nothing was changed")
    wait_until_idle(second)
    assert text_of(second, "#live") == before
    assert "of at most 100" in text_of(first, "#clock"), "the one who runs is not disturbed"
    first.click("#cancel")
    wait_for_text(first, "#clock", "it was cancelled; nothing was changed")
    wait_until_idle(first)
    wait_for_text(first, "#cancel", "Nothing runs")
    assert "Stopping" in first.evaluate("window.labels"), "the press is answered at once, by the browser"
    assert text_of(first, "#live") == kept


@pytest.mark.usefixtures("slowly")
def test_a_reload_while_an_edit_runs_ends_it_says_so_and_leaves_what_was_live(shared):
    before = text_of(shared, "#live")
    details(shared, "All settings")
    set_steps(shared, 100)
    shared.click("#edit")
    wait_for_text(shared, "#clock", "of at most 100")
    shared.reload()
    wait_for_text(shared, "#notice", "ended because its page lost the connection")
    wait_until_idle(shared)
    assert text_of(shared, "#live") == before and shared.locator("#cancel").is_disabled()
    assert shared.locator("#undo").is_enabled()


def test_what_is_gone_is_said_at_the_next_press_and_the_badge_names_the_vanilla_model(second, served):
    """What was typed stays, and the next visit is whole again: Operate with a bundled case."""
    set_up(second, 2)
    second.click("#edit")
    second.wait_for_function("() => document.querySelector('#edit').disabled", timeout=WAIT)
    wait_until_idle(second)
    assert "DINM" in text_of(second, "#live")
    (cookie,) = [one for one in second.context.cookies() if one["name"].startswith(COOKIE)]
    assert cookie["httpOnly"]
    with served.sessions._lock:
        served.sessions._drop(f":{cookie['value']}", "it was not used for 2 hours")
    second.locator("#question textarea").fill(OWN + " Now?")
    wait_for_text(second, "#notice", "Your session is gone: it was not used for 2 hours. Live now: vanilla.")
    wait_for_text(second, "#live", "live weights: vanilla")
    wait_for_text(second, "#undo", "Nothing to undo")
    wait_for_text(second, "#vanilla", "No answer yet")
    second.screenshot(path=ARTIFACTS / "session-gone.png")
    assert value_of(second, "#question") == OWN + " Now?"
    pick_cinema(second)
    second.click("#operate")
    wait_for_text(second, "#live", "DINM")
    wait_until_idle(second)
    assert text_of(second, "#notice") == ""
    wait_for_text(second, "#clock", "Ended after")
    second.wait_for_function("() => document.querySelectorAll('#answers .badge.verdict').length === 2", timeout=WAIT)


def test_another_window_of_the_same_visitor_shows_what_is_live_once_it_comes_to_the_front(shared, second):
    """The second tab becomes a window of the first one's visitor: it has the same cookie."""
    second.context.clear_cookies()
    second.context.add_cookies(shared.context.cookies())
    second.reload()
    wait_for_example(second)
    windows = (shared, second)
    weights = [text_of(page, "#live") for page in windows]
    assert weights[0] == weights[1] and weights[0].startswith("live weights: DINM")
    shared.click("#undo")
    wait_for_text(shared, "#live", "vanilla")
    wait_until_idle(shared)
    second.evaluate("() => window.dispatchEvent(new Event('online'))")
    wait_for_text(second, "#live", "live weights: vanilla")
    wait_for_text(second, "#undo", "Nothing to undo")
