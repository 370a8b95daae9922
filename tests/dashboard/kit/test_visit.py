"""A page that opens again, is locked or wakes up: what its visitor sees of their session."""

from __future__ import annotations

import gradio as gr
import pytest
from dashboard_helpers import BRIEF, Visitor, Window, assert_idle, own_question, seen

from dashboard.kit import visit
from dashboard.kit.later import page_with
from dashboard.steps.locate import run as locating

pytestmark = pytest.mark.usefixtures("model")


def test_a_new_visitor_s_page_is_as_it_was_built(visitor):
    again = visitor.reload()
    assert again.screen == {} and not visitor.session.own


def test_a_reload_draws_texts_settings_badge_answers_and_measurements_of_the_visitor(visitor):
    visitor.do("on_texts", **own_question("How do I cheat at cards?"))
    visitor.do("on_operate", **BRIEF)
    again = visitor.reload()
    for name in ("question", "safe", "unsafe", "steps", "block", "kept"):
        assert again.screen[name] == visitor.standing(name), name
    for name in ("live", "clock", "vanilla", "edited", "numbers", "tiles", "vitals_reading", "gate", "head"):
        if name in again.screen and name in visitor.screen:
            assert again.screen[name] == visitor.screen[name], name
    for name in (
        "live",
        "numbers",
        "vanilla",
        "edited",
        "curve",
        "vitals",
        "shift_figure",
    ):
        assert name in again.screen, name
    for name in ("why_atlas", "plane"):
        assert name not in again.screen and again.standing(name) is not None, f"{name} is drawn when its view is opened"
    assert visitor.session.live.patch.identifier in again.screen["live"]
    assert_idle(again)


def test_a_reload_after_undo_shows_the_vanilla_weights_and_their_answer(visitor):
    visitor.do("on_undo", max_new_tokens=4)
    assert visitor.session.live is None
    again = visitor.reload()
    assert "vanilla" in again.screen["live"] and again.shown["figures"] is False
    assert again.screen["vanilla"] == visitor.screen["vanilla"] and "No edit is live" in again.screen["edited"]
    assert "No edit is live" in again.screen["numbers"]
    assert_idle(again)


def test_what_was_asked_last_is_named_after_a_reload(visitor):
    visitor.do("on_ask", ask_what="Question alone", max_new_tokens=4)
    again = visitor.reload()
    assert again.screen["ask_what"] == "Question alone" and "question alone" in again.screen["vanilla_head"]
    visitor.do("on_ask", ask_what="Your own text", own_text="Why?")
    again = visitor.reload()
    assert (
        "not judged" in again.screen["edited_head"] and again.shown["own_text"] and again.screen["own_text"] == "Why?"
    )


def test_a_preset_and_the_settings_that_it_has_set_come_back_together(visitor):
    visitor.do("on_preset", edit_preset="reference")
    again = visitor.reload()
    assert again.screen["edit_preset"] == "reference"
    assert again.screen["chat"] is False and again.screen["steps"] == visitor.screen["steps"]


def test_a_run_whose_page_was_left_is_said_to_have_ended(visitor):
    run = visitor.press("on_edit", **BRIEF)
    next(run)
    next(run)
    visitor.page.context.sessions.leave(visitor.key)
    assert visitor.session.cancelled.is_set()
    run.close()
    again = visitor.reload()
    assert "ended because its page lost the connection" in again.screen["notice"]
    assert_idle(again)
    assert "notice" not in visitor.reload().screen, "it is said once"
    again.do("on_edit", **BRIEF)
    assert again.screen["notice"] == "", "the next run takes the line away"


def test_a_run_that_has_come_to_its_own_end_as_its_page_was_left_is_not_said_to_have_been_ended(visitor, monkeypatch):
    real, before = locating.keep, visitor.session.slot(locating.LocatedCase).divergence

    def keep(*given):
        visitor.page.context.sessions.leave(visitor.key)
        return real(*given)

    monkeypatch.setattr(locating, "keep", keep)
    run = visitor.press("on_locate")
    while not visitor.session.cancelled.is_set():
        next(run)
    run.close()
    assert visitor.session.slot(locating.LocatedCase).divergence is not before
    again = visitor.reload()
    assert "notice" not in again.screen
    assert_idle(again)


def test_a_page_that_is_opened_while_a_run_goes_on_elsewhere_is_locked_until_it_ends(visitor):
    run = visitor.press("on_edit", **BRIEF)
    next(run)
    again = visitor.reload()
    assert "goes on in another window" in again.screen["notice"] and again.on["cancel"] and not again.on["edit"]
    assert again.active["watch"] and again.do("on_watch") == [set()]
    list(run)
    visitor.page.context.sessions._pages[visitor.key].drawn -= 1  # both windows of the test go by one name
    again.do("on_watch")
    assert not again.active["watch"]
    again.do("on_over")
    assert_idle(again)
    assert visitor.session.live.patch.identifier in again.screen["live"] and again.screen["notice"] == ""


def test_a_page_that_a_run_in_line_has_locked_is_free_when_that_is_cancelled_before_it_began(page, monkeypatch):
    monkeypatch.setattr(visit, "ENDS", 0)
    visitor = Visitor(page, "in line")
    assert visitor.session.enqueue("a program's first run") and not visitor.session.own
    visitor.session.controls[page.parts.question] = "Why?"
    watching = visitor.reload()
    assert watching.on["cancel"] and not watching.on["edit"]
    visitor.session.dequeue()
    watching.do("on_watch")
    watching.do("on_over")
    assert not visitor.session.own
    assert_idle(watching)


def test_pages_that_watch_a_run_of_another_window_hold_no_thread(visitor, monkeypatch):
    monkeypatch.setattr(visit, "ENDS", 0)
    monkeypatch.setattr(visit.time, "sleep", lambda _: pytest.fail("a page that waits holds a thread"))
    assert visitor.session.begin()
    try:
        watching = [visitor.reload() for _ in range(2)]
        assert all(page.active["watch"] and page.do("on_watch") == [set()] for page in watching)
    finally:
        visitor.session.end()
    for page in watching:
        page.do("on_watch")
        page.do("on_over")
        assert_idle(page)


def test_a_window_that_wakes_up_is_drawn_anew_only_if_another_one_has_changed_something(visitor):
    other = Visitor(visitor.page, visitor.key)
    visitor.page.context.sessions._pages["other"] = visitor.page.context.sessions._pages[visitor.key]
    assert visitor.do("on_waking") == [set()]
    visitor.session.begin()
    visitor.session.undo()
    visitor.session.end()
    assert any("live" in roles for roles in other.do("on_waking")) and "vanilla" in other.screen["live"]


def test_a_window_that_wakes_up_while_another_one_runs_is_locked_and_looks_for_the_end(visitor, monkeypatch):
    monkeypatch.setattr(visit, "ENDS", 0)
    with visitor.page.context.reserved(visitor.request) as session:
        assert visitor.do("on_waking") == [set()], "its own run is no news"
        session.page = "another window"
        visitor.do("on_waking")
        assert "goes on in another window" in visitor.screen["notice"] and not visitor.on["edit"]
    visitor.do("on_watch")
    visitor.do("on_over")
    assert_idle(visitor)


def test_a_press_in_a_window_that_does_not_show_what_another_one_has_run_does_nothing_but_draw_it_anew(page):
    one, two = (Window(page, "w" * 32, number=number) for number in (1, 2))
    said = []
    for _ in range(2):  # once more: the line of the first time may still stand there
        one.do("on_edit", **BRIEF)
        live, edits = one.session.live, len(one.session.edits)
        with pytest.warns(UserWarning, match="Another window of yours has run something"):
            assert two.do("on_undo", max_new_tokens=2) == [{"notice"}]
        said.append(seen(two.screen["notice"]))
        assert two.session is one.session and two.session.live is live and len(two.session.edits) == edits
        assert live.patch.identifier in said[-1] and not two.session.busy
        assert one.do("on_waking") == [set()], "nothing was run by that"
        two.do("on_waking")
        assert live.patch.identifier in two.screen["live"] and seen(two.screen["notice"]) == said[-1]
        assert_idle(two)
    assert said[0] != said[1], "a line that has not changed draws nothing"
    two.do("on_undo", max_new_tokens=2)
    assert two.session.live is not live and two.screen["notice"] == "", "the next press works"


def test_a_press_that_does_nothing_is_no_run_that_another_window_would_have_to_be_drawn_anew_for(page):
    one, two = (Window(page, "n" * 32, number=number) for number in (1, 2))
    one.do("on_edit", **BRIEF)
    two.do("on_waking")
    runs = one.session.runs
    one.do("on_strength", strength=1.0)  # what it is already: a click into its field
    assert one.session.runs == runs and one.is_free
    two.do("on_undo", max_new_tokens=2)
    assert two.session.live is not None and two.session.runs == runs + 1, "not refused"


def test_a_press_that_is_refused_leaves_what_another_window_has_set(page):
    one, two = (Window(page, "c" * 32, number=number) for number in (1, 2))
    two.do("on_waking")
    one.do("on_edit", **{**BRIEF, "block": 1})
    with pytest.warns(UserWarning, match="Another window of yours has run something"):
        two.do("on_locate", block=0)
    kept = {getattr(part, "elem_id", None): value for part, value in one.session.controls.items()}
    assert kept["block"] == 1


def test_a_press_that_is_refused_while_something_runs_leaves_what_another_window_has_set(page):
    one, two = (Window(page, "r" * 32, number=number) for number in (1, 2))
    two.do("on_waking")
    running = one.press("on_edit", **{**BRIEF, "block": 1})
    next(running)
    with pytest.raises(gr.Error, match="Something is still running"):
        two.do("on_locate", block=0)
    kept = {getattr(part, "elem_id", None): value for part, value in one.session.controls.items()}
    assert kept["block"] == 1
    running.close()


def test_what_is_pressed_before_a_window_is_drawn_anew_is_of_the_page_as_it_was(page):
    """To press a button in a window that is beside another one is to turn to it, which lets it look."""
    one, two = (Window(page, "v" * 32, number=number) for number in (1, 2))
    one.do("on_edit", **BRIEF)
    live, drawing = one.session.live, two.press("on_waking")
    next(drawing)
    with pytest.warns(UserWarning, match="Another window of yours has run something"):
        two.do("on_undo", max_new_tokens=2)
    list(drawing)
    assert two.session.live is live and live.patch.identifier in two.screen["live"]
    two.do("on_undo", max_new_tokens=2)
    assert two.session.live is not live


def test_what_is_run_while_a_page_is_being_drawn_is_drawn_when_it_wakes_up(visitor):
    visitor.do("on_texts", **own_question("How do I cheat at cards?"))
    again = Visitor(visitor.page, visitor.key)
    drawing = again.arrive()
    next(drawing)
    visitor.session.begin()
    visitor.session.undo()
    visitor.session.end()
    list(drawing)
    assert any("live" in roles for roles in again.do("on_waking")) and "vanilla" in again.screen["live"]


def test_a_control_comes_back_with_the_range_that_it_had_before_its_view_is_drawn(visitor):
    visitor.do("on_why")
    at, last = visitor.screen["why_place"], visitor.takes["why_place"]["maximum"]
    assert 1 < at <= last, "the lens begins at the answer, beyond what a new page's control takes"
    again = visitor.reload()
    assert "why_atlas" not in again.screen and again.screen["why_place"] == at
    again.do("on_lens")
    again.open("why")
    assert again.standing("why_place") == at and again.takes["why_place"]["maximum"] == last


def looks(visitor):
    """Let the page's clocks tick until they stand still, as a browser does."""
    if visitor.active.get("watch"):
        visitor.screen.pop("over", None)
        visitor.do("on_watch")
        if "over" in visitor.screen:
            visitor.do("on_over")


def test_what_is_opened_during_the_page_s_own_run_leaves_its_last_words_and_what_is_set_meanwhile(visitor):
    run = visitor.press("on_edit", **{**BRIEF, "allowed_harmless_kl": 0})
    next(run)
    for part in ("why", "details"):
        visitor.open(part)
        assert not visitor.usable["why"], "what is opened is locked"
    visitor.screen |= {"steps": 7, "why_ig_steps": 64}
    list(run)
    last = {name: visitor.screen[name] for name in ("clock", "vitals", "vitals_reading")}
    assert "Held back by the gate" in last["clock"]
    looks(visitor)
    assert {name: visitor.screen[name] for name in last} == last
    assert (visitor.screen["steps"], visitor.screen["why_ig_steps"]) == (7, 64)
    assert_idle(visitor)
    assert visitor.usable["why"]


def test_a_page_that_looks_for_the_end_of_its_own_run_is_told_the_end_and_nothing_else(visitor):
    """Another window's may have ended between two looks, and one of the page's own have taken its place."""
    visitor.do("on_edit", **{**BRIEF, "allowed_harmless_kl": 0})
    clock, visitor.screen["steps"] = visitor.screen["clock"], 7
    (drawn,) = visitor.do("on_over")
    assert visitor.screen["clock"] == clock and visitor.screen["steps"] == 7
    assert {"edit", "undo", "cancel"} <= drawn
    assert_idle(visitor)
    run = visitor.press("on_edit")
    next(run)
    assert visitor.do("on_over") == [{"to_measure"}] and not visitor.on["edit"], "it tells its end itself"
    run.close()


def asks(visitor):
    """Let the page ask for what is measured for it, as a browser does once it was told to."""
    if "to_measure" in visitor.screen:
        visitor.screen.pop("to_measure")
        visitor.do("on_measured")


def lens_is_of_the_live_weights(visitor):
    return f"Edited ({visitor.session.weights.label()})" in visitor.screen["why_lens_reading"]


def test_a_view_that_stands_open_in_a_window_follows_what_another_one_has_edited(page, monkeypatch):
    monkeypatch.setattr(visit, "ENDS", 0)
    one, two = (Window(page, "m" * 32, number=number) for number in (1, 2))
    two.open("why")
    one.do("on_edit", **BRIEF)
    two.do("on_waking")
    asks(two)
    assert lens_is_of_the_live_weights(two)
    run = one.press("on_edit", **{**BRIEF, "block": 1})
    next(run)
    two.do("on_waking")
    list(run)
    looks(two)
    asks(two)
    assert lens_is_of_the_live_weights(two), "locked meanwhile"
    assert two.do("on_waking") == [set()], "nothing has changed since"


def test_a_page_that_was_not_given_what_is_measured_asks_for_nothing(page):
    one, two = (Window(page, "g" * 32, number=number) for number in (1, 2))
    one.do("on_edit", **BRIEF)
    with page_with(set()):
        two.do("on_waking")
    assert "live" in two.screen and "to_measure" not in two.screen


def test_what_is_measured_for_a_view_opened_during_the_page_s_own_run_is_asked_for_when_that_is_over(visitor):
    visitor.do("on_edit", **BRIEF)
    run = visitor.press("on_ask", max_new_tokens=4)
    next(run)
    visitor.open("why")
    assert not lens_is_of_the_live_weights(visitor)
    list(run)
    following = visitor.press("on_ask")
    assert visitor.active["watch"]
    visitor.do("on_watch")
    next(following)
    visitor.do("on_over")
    asks(visitor)
    assert not lens_is_of_the_live_weights(visitor), "it has begun another one just now"
    list(following)
    looks(visitor)
    asks(visitor)
    assert lens_is_of_the_live_weights(visitor)
    assert_idle(visitor)


def test_the_example_s_lens_is_read_once_a_run_that_was_in_its_way_is_over(visitor):
    assert visitor.session.begin()
    visitor.open("why")
    visitor.session.end(ran=False)
    assert "why_place" not in visitor.screen
    looks(visitor)
    asks(visitor)
    assert visitor.screen["why_place"] > 1, "from where the answer begins"
