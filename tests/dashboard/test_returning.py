"""A page that opens again, whose session is gone, or whose run stands in line: what its visitor sees of it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Clock, Page, Visitor, assert_idle, own_question, seen
from starlette.requests import Request

from dashboard.kit import visit
from dashboard.kit.doors import STARTED, TOOL_HEADER
from dashboard.kit.reserving import STARTED_ANEW
from dashboard.kit.session import Session
from dashboard.kit.visitors import Sessions
from inspector.errors import CaseError

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def mortal(page: Page, monkeypatch) -> Clock:
    """Sessions that are gone once the clock says so; the page's others are untouched."""
    clock = Clock()
    monkeypatch.setattr(page.context, "sessions", Sessions(grace=3600, now=clock))
    return clock


def reloaded(visitor: Visitor) -> Visitor:
    return visitor.reload()


def lost(visitor: Visitor, clock: Clock) -> None:
    """Let a visitor's session become too old."""
    visitor.page.context.sessions.leave(visitor.key)
    clock.seconds += 25 * 3600
    visitor.page.context.sessions.sweep()


def test_a_new_visitor_s_page_is_as_it_was_built(visitor):
    again = reloaded(visitor)
    assert again.screen == {} and not visitor.session.own


def test_a_reload_draws_texts_settings_badge_answers_and_measurements_of_the_visitor(visitor):
    visitor.do("on_texts", **own_question("How do I cheat at cards?"))
    visitor.do("on_operate", **QUICK)
    again = reloaded(visitor)
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
    again = reloaded(visitor)
    assert "vanilla" in again.screen["live"] and again.shown["figures"] is False
    assert again.screen["vanilla"] == visitor.screen["vanilla"] and "No edit is live" in again.screen["edited"]
    assert "No edit is live" in again.screen["numbers"]
    assert_idle(again)


def test_what_was_asked_last_is_named_after_a_reload(visitor):
    visitor.do("on_ask", ask_what="Question alone", max_new_tokens=4)
    again = reloaded(visitor)
    assert again.screen["ask_what"] == "Question alone" and "question alone" in again.screen["vanilla_head"]
    visitor.do("on_ask", ask_what="Your own text", own_text="Why?")
    again = reloaded(visitor)
    assert (
        "not judged" in again.screen["edited_head"] and again.shown["own_text"] and again.screen["own_text"] == "Why?"
    )


def test_a_preset_and_the_settings_that_it_has_set_come_back_together(visitor):
    visitor.do("on_preset", edit_preset="reference")
    again = reloaded(visitor)
    assert again.screen["edit_preset"] == "reference"
    assert again.screen["chat"] is False and again.screen["steps"] == visitor.screen["steps"]


def test_a_run_whose_page_was_left_is_said_to_have_ended(visitor):
    run = visitor.press("on_edit", **QUICK)
    next(run)
    next(run)
    visitor.page.context.sessions.leave(visitor.key)
    assert visitor.session.cancelled.is_set()
    run.close()
    again = reloaded(visitor)
    assert "ended because its page lost the connection" in again.screen["notice"]
    assert_idle(again)
    assert "notice" not in reloaded(visitor).screen, "it is said once"
    again.do("on_edit", **QUICK)
    assert again.screen["notice"] == "", "the next run takes the line away"


def test_a_page_that_is_opened_while_a_run_goes_on_elsewhere_is_locked_until_it_ends(visitor):
    run = visitor.press("on_edit", **QUICK)
    next(run)
    again = reloaded(visitor)
    assert "goes on in another window" in again.screen["notice"] and again.on["cancel"] and not again.on["edit"]
    assert again.active["watch"] and again.do("on_watch") == [set()]
    list(run)
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
    watching = reloaded(visitor)
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
        watching = [reloaded(visitor) for _ in range(2)]
        assert all(page.active["watch"] and page.do("on_watch") == [set()] for page in watching)
    finally:
        visitor.session.end()
    for page in watching:
        page.do("on_watch")
        page.do("on_over")
        assert_idle(page)


def test_a_page_that_watches_when_its_session_goes_is_told_and_watches_no_more(visitor, mortal):
    visitor = Visitor(visitor.page, "watches")
    visitor.session.begin()
    again = reloaded(visitor)
    visitor.session.end()
    lost(visitor, mortal)
    again.do("on_watch")
    assert "Your session is gone" in again.screen["notice"] and not again.active["watch"]


def test_the_first_press_after_a_session_is_gone_says_so_and_does_nothing_and_the_next_one_works(visitor, mortal):
    visitor = Visitor(visitor.page, "lost")
    for press in ("on_edit", "on_locate", "on_texts", "on_undo"):
        visitor.do("on_edit", **QUICK)
        assert visitor.session.live.patch.identifier in visitor.screen["live"]
        lost(visitor, mortal)
        visitor.screen.pop("live")
        assert visitor.do(press) == [{"notice"}], press
        said = seen(visitor.screen["notice"])
        assert said.startswith("Your session is gone: it was not used for 60 minutes. Live now: vanilla."), press
        assert visitor.session.live is None and visitor.session.edits == [], "never the example's patch"
    visitor.do("on_waking")
    assert "vanilla" in visitor.screen["live"] and "No edit is live" in visitor.screen["numbers"]
    assert_idle(visitor)
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live is not None and visitor.session.live.patch.identifier in visitor.screen["live"]


@pytest.fixture
def scarce(page: Page, monkeypatch) -> Callable[[Session], None]:
    """Sessions of which only the one that is asked for may hold something.

    Returns:
        Lets another visitor be asked for in the moment after a session was looked up and before it is reserved.
    """
    monkeypatch.setattr(page.context, "sessions", Sessions(most_bytes=1))

    def needed_by_another(victim: Session) -> None:
        for name in ("begin", "enqueue"):
            monkeypatch.setattr(victim, name, partial(late, victim, getattr(victim, name)), raising=False)

    def late(victim: Session, reserve: Callable[..., bool], *given: Any) -> bool:
        if not victim.cancelled.is_set():
            page.context.sessions.of("another visitor")
            assert victim.cancelled.is_set(), "it was let go"
        return reserve(*given)

    return needed_by_another


@pytest.mark.parametrize("press", ["on_edit", "on_undo"])
def test_what_is_pressed_while_its_session_is_let_go_is_told_so_and_nothing_runs_in_it(
    page, scarce, monkeypatch, press
):
    visitor = Visitor(page, f"pressed {press}")
    visitor.do("on_edit", **QUICK)
    victim, noted = visitor.session, []
    edits = list(victim.edits)
    monkeypatch.setattr(page.context, "after", [noted.append])
    scarce(victim)
    visitor.do(press, **QUICK)
    assert "Your session is gone: its memory was needed for other visitors." in seen(visitor.screen["notice"])
    assert victim.edits == edits and noted == [] and not victim.busy
    assert visitor.session is not victim and visitor.session.live is None and visitor.is_free
    visitor.do("on_edit", **QUICK)
    assert visitor.session.live is not None and noted, "the next press works"


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("long", [True, False], ids=["in line", "at once"])
def test_a_program_whose_session_is_let_go_as_it_calls_is_told_what_went_or_goes_on_in_a_new_one(
    page, scarce, edited, long
):
    request, context = gr.Request(session_hash="program"), page.context
    used: list[Session] = []

    def endpoint(request: Any) -> Iterator[str]:
        with context.reserved(request) as session:
            used.append(session)
            yield "done"

    with context.reserved(request) as victim:
        victim.controls["kept"] = "something"
        victim.edited = edited
    scarce(victim)
    call = context.in_line(endpoint) if long else endpoint
    if edited:
        with pytest.raises((CaseError, gr.Error), match=r"session is gone: its memory was needed"):
            list(call(request=request))
        assert used == []
    else:
        assert list(call(request=request)) == ["done"]
        assert used == [context.sessions.of("program")]
    assert victim not in used and not victim.busy and not context.sessions.of("program").busy


def test_after_a_restart_a_page_that_goes_on_is_told_so(visitor, monkeypatch):
    visitor.open("stress")
    monkeypatch.setattr(visitor.page.context, "sessions", Sessions())
    visitor.do("on_stress")
    assert "Your session is gone: the program was started anew since." in visitor.screen["notice"]
    assert visitor.session.live is None
    with_nothing = visitor.do("on_cancel")
    assert with_nothing == []


def test_a_page_that_is_opened_after_its_visitor_s_edits_are_gone_says_so_over_the_example(visitor, mortal):
    visitor = Visitor(visitor.page, "late")
    visitor.do("on_undo", max_new_tokens=4)
    lost(visitor, mortal)
    again = reloaded(visitor)
    assert "What you did here before is gone: it was not used for 60 minutes" in again.screen["notice"]
    assert again.session.live is visitor.page.context.example.session.live


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


def test_a_second_visitor_waits_in_line_sees_it_at_once_and_short_work_passes(page, visitor):
    second = Visitor(page, "second")
    line = page.context.line
    line.rest, rest = 60.0, line.rest
    try:
        run = visitor.press("on_edit", **QUICK)
        next(run)
        next(run)
        waiting = second.press("on_edit", **QUICK)
        next(waiting)
        assert not second.on["edit"] and second.on["cancel"]
        next(waiting)
        assert "In line, place 2: 1 run is before yours, which starts in " in seen(second.screen["clock"])
        third = Visitor(page, "third")
        third.do("on_locate")
        third.do("on_ask", max_new_tokens=4)
        assert "the answers part most" in third.screen["locate_reading"] and "edited" in third.screen
        second.do("on_cancel")
        list(waiting)
        assert "Cancelled while it waited in line; nothing was changed" in second.screen["clock"]
        assert_idle(second)
        list(run)
        assert visitor.session.live is not second.session.live
        second.do("on_edit", **QUICK)
        assert second.session.live is not page.context.example.session.live, "the line is free"
    finally:
        line.rest = rest


def test_a_program_s_long_runs_stand_in_the_same_line(page, visitor):
    request = gr.Request(session_hash="program")
    begun: list[str] = []

    def endpoint(request: Any) -> Any:
        begun.append("begun")
        yield {"done": True}

    endpoint_in_line = page.context.in_line(endpoint)
    assert list(endpoint_in_line(request=request)) == [{"done": True}] and begun == ["begun"]
    assert page.context.in_line(len) is len, "short work does not stand in line"
    assert len(page.context.line) == 0 and not page.context.session(request).busy


def test_runs_of_one_address_have_so_many_places_in_line_whether_a_page_or_a_program_asks(page, monkeypatch):
    context, begun = page.context, []
    monkeypatch.setattr(context.line, "of_one", 1)

    def endpoint(request: Any) -> Any:
        begun.append(request)
        yield "begun"

    def asks(key: str, address: str) -> gr.Request:
        asked = Request({"type": "http", "headers": [], "server": ("127.0.0.1", 7860), "client": (address, 5)})
        return gr.Request(request=asked, session_hash=key)

    ahead = context.line.turns(iter_of("ahead"), "edit", address="1.2.3.4")
    assert next(ahead) == "ahead"
    with pytest.raises(gr.Error, match="1 runs from your address stand in line"):
        next(context.in_line(endpoint)(request=asks("a program of theirs", "1.2.3.4")))
    visitor = Visitor(page, "a page of theirs")
    monkeypatch.setattr(Visitor, "request", property(lambda self: asks(self.key, "1.2.3.4")))
    with pytest.raises(gr.Error, match="from your address"):
        visitor.do("on_edit", **QUICK)
    assert "from your address" in seen(visitor.screen["clock"]) and not begun
    assert_idle(visitor)
    ahead.close()
    assert list(context.in_line(endpoint)(request=asks("a program of theirs", "1.2.3.4"))) == ["begun"]


def test_while_a_program_s_run_waits_its_other_calls_are_refused_and_counted(page, monkeypatch):
    context, counted = page.context, []
    monkeypatch.setattr(context.runs, "begin", lambda visitor, address: counted.append(visitor))
    first, second = gr.Request(session_hash="waits"), gr.Request(session_hash="waits")

    def endpoint(request: Any) -> Any:
        with context.reserved(request):
            yield "begun"

    ahead = context.line.turns(iter_of("ahead"), "edit")
    assert next(ahead) == "ahead"
    monkeypatch.setattr(context.line, "rest", 60)
    waiting = context.in_line(endpoint)(request=first)
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.extend(waiting))
    thread.start()
    session = context.sessions.of("waits")
    while not session.queued:
        time.sleep(0.01)
    with pytest.raises(CaseError, match="still running"), context.reserved(second):
        pass
    assert counted == ["waits", "waits"], "the run in line, and the call that was refused"
    with pytest.raises(gr.Error, match="still running"):
        next(context.in_line(endpoint)(request=second))
    ahead.close()
    thread.join(10)
    assert kept == ["begun"] and counted == ["waits", "waits"] and not session.busy


def program_request(page: Page, key: str) -> gr.Request:
    """Return what a program asks with that sends a cookie of the page."""
    headers = [(b"cookie", f"dinm-visitor-7860={key}".encode())]
    asked = Request({"type": "http", "headers": headers, "server": ("127.0.0.1", 7860), "client": ("1.2.3.4", 5)})
    return gr.Request(request=asked, session_hash=f"one call with {key}")


def test_a_program_with_the_cookie_of_an_earlier_start_is_told_once_and_one_of_this_start_is_not(page, mortal):
    context, random = page.context, "x" * 32
    earlier, new = (program_request(page, f"{start}.{random}") for start in ("0" * 8, STARTED))
    for asked in (new, gr.Request(session_hash="without a cookie")):
        with context.reserved(asked) as session:
            assert session.live is context.example.session.live
    with pytest.raises(CaseError, match=f"{STARTED_ANEW}.*take in the patch"), context.reserved(earlier):
        pass
    for _ in range(2):
        with context.reserved(earlier) as session:
            assert session.live is None and session.own
        mortal.seconds += 25 * 3600
        context.sessions.sweep()
    assert len(context.sessions) == 0


def iter_of(*events: str) -> Any:
    yield from events
    yield "more"


def tool_request(header: tuple[str, str]) -> gr.Request:
    headers = [(header[0].encode(), header[1].encode())]
    asked = Request({"type": "http", "headers": headers, "server": ("127.0.0.1", 7860), "client": ("1.2.3.4", 5)})
    return gr.Request(request=asked, session_hash="of the tools")


def test_a_tool_s_call_has_one_session_with_this_page_s_limits_and_leaves_nothing(page, monkeypatch):
    context, noted = page.context, []
    monkeypatch.setattr(context, "after", [noted.append])
    first, second = tool_request(TOOL_HEADER), tool_request(TOOL_HEADER)
    session = context.session(first)
    assert context.session(first) is session and context.session(second) is not session
    assert session.limits is context.limits and session.case is None
    with context.reserved(first) as reserved:
        assert reserved is session
    assert noted == [] and context.sessions.owner("of the tools") is None
    for guess in (("x-gradio-user", "mcp"), (TOOL_HEADER[0], "mcp"), (TOOL_HEADER[0], "")):
        assert context.session(tool_request(guess)) is context.sessions.of("of the tools")
    del session, reserved, first, second
    gc.collect()
    assert len(context._passing) == 0
