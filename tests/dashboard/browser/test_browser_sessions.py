"""What only a browser shows of sessions: a reload in a run, a press after all is gone, another window."""

from __future__ import annotations

import pytest
from browser_helpers import (
    MARKS,
    WAIT,
    details,
    pick_cinema,
    set_steps,
    set_up,
    text_of,
    value_of,
    view,
    wait_for_example,
    wait_for_text,
    wait_until_idle,
)

from dashboard.kit.visit import LOOK

OWN = "How do I cheat at the card game?"
COOKIE = "dinm-visitor-"
pytestmark = MARKS


@pytest.mark.usefixtures("halting")
def test_a_reload_while_an_edit_runs_ends_it_says_so_and_leaves_what_was_live(shared):
    before = text_of(shared, "#live")
    shared.click("#edit")
    wait_for_text(shared, "#clock", "Step 1 of at most")
    shared.reload()
    wait_for_text(shared, "#notice", "ended because its page lost the connection")
    wait_until_idle(shared)
    assert text_of(shared, "#live") == before and shared.locator("#cancel").is_disabled()
    assert shared.locator("#undo").is_enabled()


@pytest.mark.usefixtures("halting")
def test_what_is_opened_while_an_edit_of_the_page_runs_leaves_its_last_words_and_what_is_set_meanwhile(shared):
    assert shared.locator("#view-why").count() == 0, "nothing is open but the first view"
    details(shared, "All settings")
    shared.click("#edit")
    wait_for_text(shared, "#clock", "Step 1 of at most")
    view(shared, "why")
    assert shared.locator("#why").is_disabled(), "what is opened is locked"
    view(shared, "operate")
    details(shared, "All settings")
    set_steps(shared, 7)
    shared.click("#cancel")
    wait_for_text(shared, "#clock", "nothing was changed")
    wait_until_idle(shared)
    shared.wait_for_timeout(3000 * LOOK)  # a page that looked for the end would have drawn all anew by then
    assert "nothing was changed" in text_of(shared, "#clock")
    assert shared.get_by_label("number input for Step limit").input_value() == "7"
    view(shared, "why")
    assert shared.locator("#why").is_enabled()
    view(shared, "operate")


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
    second.evaluate("() => window.dispatchEvent(new Event('focus'))")
    wait_for_text(second, "#live", "live weights: vanilla")
    wait_for_text(second, "#undo", "Nothing to undo")
