"""Whose session a press or a call is about: one that is gone is said, one that is let go is left alone, a tool's is its
own.
"""

from __future__ import annotations

import gc
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import BRIEF, Clock, Page, Visitor, Window, assert_idle, seen
from starlette.requests import Request

from dashboard.kit.door.doors import AGAIN, STARTED, TOOL_HEADER, key_of
from dashboard.kit.limits import Runs
from dashboard.kit.running.reserving import NOT_SHOWN, STARTED_ANEW, Places
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.visitors import Sessions
from inspector.errors import CaseError

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def mortal(page: Page, monkeypatch) -> Clock:
    """Sessions that are gone once the clock says so; the page's others are untouched."""
    clock = Clock()
    monkeypatch.setattr(page.context, "sessions", Sessions(grace=3600, now=clock))
    return clock


def lost(visitor: Visitor, clock: Clock) -> None:
    """Let a visitor's session become too old."""
    visitor.page.context.sessions.leave(visitor.key)
    clock.seconds += 25 * 3600
    visitor.page.context.sessions.sweep()


def test_a_page_that_watches_when_its_session_goes_is_told_and_watches_no_more(visitor, mortal):
    visitor = Visitor(visitor.page, "watches")
    visitor.session.begin()
    again = visitor.reload()
    visitor.session.end()
    lost(visitor, mortal)
    again.do("on_watch")
    assert "Your session is gone" in again.screen["notice"] and not again.active["watch"]


def test_the_first_press_after_a_session_is_gone_says_so_and_does_nothing_and_the_next_one_works(visitor, mortal):
    visitor = Visitor(visitor.page, "lost")
    for press in ("on_edit", "on_locate", "on_texts", "on_undo"):
        visitor.do("on_edit", **BRIEF)
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
    visitor.do("on_operate", **BRIEF)
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
    visitor.do("on_edit", **BRIEF)
    victim, noted = visitor.session, []
    edits = list(victim.edits)
    monkeypatch.setattr(page.context, "after", [noted.append])
    scarce(victim)
    visitor.do(press, **BRIEF)
    assert "Your session is gone: its memory was needed for other visitors." in seen(visitor.screen["notice"])
    assert victim.edits == edits and noted == [] and not victim.busy
    assert visitor.session is not victim and visitor.session.live is None and visitor.is_free
    visitor.do("on_edit", **BRIEF)
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


def test_what_a_page_asks_before_it_has_arrived_waits_for_its_arrival(visitor):
    context, asking = visitor.page.context, types.SimpleNamespace(session_hash="reloaded")
    here = context.sessions.of("reloaded")  # by another window, or before a reload
    late = threading.Timer(0.05, context.arrive, [asking])
    late.start()
    assert context.visit(asking) is here
    late.join()


@pytest.mark.parametrize(
    ("key", "waits"),
    [
        (f"{STARTED}.{'n' * 32}", True),
        (f"{STARTED}.{'r' * 32}{AGAIN}", False),
        (f"00000000.{'o' * 32}", False),
        (f"{STARTED}.{'g' * 32}", False),
    ],
    ids=["new", "of before a restart", "open since before a restart", "whose session is gone"],
)
def test_a_new_visitor_s_page_that_asks_before_it_has_arrived_is_not_told_that_something_is_gone(
    visitor, monkeypatch, key, waits
):
    """As it opens by a link that names a view."""
    context = visitor.page.context
    http = types.SimpleNamespace(cookies={"dinm-visitor-7860": key}, scope={"server": ("localhost", 7860)})
    asking = types.SimpleNamespace(session_hash=f"page of {key}", request=http)
    assert key_of(asking).endswith(key)
    if "g" * 32 in key:
        context.sessions.of(key_of(asking))
        with context.sessions._lock:
            context.sessions._drop(key_of(asking), "it was not used for 2 hours")
    monkeypatch.setattr("dashboard.kit.running.reserving.ARRIVING", 5.0 if waits else 0.0)
    late = threading.Timer(0.05, context.arrive, [asking])
    if waits:
        late.start()
    found = context.visit(asking)
    late.cancel()
    assert (found is not None) is waits


def test_a_page_that_never_arrives_is_gone_and_one_of_nobody_who_is_here_is_so_at_once(visitor, monkeypatch):
    context, looks = visitor.page.context, list[float]()

    def look(seconds: float) -> None:
        looks.append(seconds)
        threading.Event().wait(seconds)

    monkeypatch.setattr(
        "dashboard.kit.running.reserving.time", types.SimpleNamespace(monotonic=time.monotonic, sleep=look)
    )
    monkeypatch.setattr("dashboard.kit.running.reserving.ARRIVING", 0.05)
    asking = types.SimpleNamespace(session_hash="never")
    assert context.visit(asking) is None and looks == []
    context.sessions.of("never")
    assert context.visit(asking) is None and looks


def slow(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    """Return a visitor on a page whose arrival takes longer than is waited for."""
    again = Visitor(visitor.page, visitor.key)
    del visitor.page.context.sessions._pages[again.key]
    monkeypatch.setattr("dashboard.kit.running.reserving.ARRIVING", 0.0)
    return again


@pytest.mark.parametrize("press", ["on_undo", "on_texts", "on_waking", "on_watch"])
def test_a_page_that_arrives_slowly_is_told_nothing_false_and_is_drawn_as_its_session_is(visitor, monkeypatch, press):
    visitor.do("on_edit", **BRIEF)
    page, live = slow(visitor, monkeypatch), visitor.session.live
    (changed,) = page.do(press)
    assert "notice" in changed and seen(page.screen["notice"]) == NOT_SHOWN and page.session.live is live
    page.do("on_waking")
    assert live.patch.identifier in page.screen["live"] and page.screen["numbers"] == visitor.screen["numbers"]
    assert page.do("on_waking") == [set()], "it is drawn once"
    assert_idle(page)
    page.do("on_undo")
    assert page.session.live is not live, "the next press works"


@pytest.mark.parametrize("edits", [True, False])
def test_a_view_that_is_opened_on_a_page_that_arrives_slowly_is_drawn(visitor, monkeypatch, edits):
    if edits:
        visitor.do("on_edit", **BRIEF)
    page = slow(visitor, monkeypatch)
    page.open("why")
    assert page.shown["why_view"] and "why_atlas" in page.screen and "gone" not in seen(page.screen["notice"])


def test_few_wait_at_once_of_one_visitor_and_of_all_and_the_others_are_answered(visitor, monkeypatch):
    """Else pages that never arrive would hold every thread of the program."""
    context, waiting, go = visitor.page.context, threading.Semaphore(0), threading.Event()

    def look(_seconds: float) -> None:
        waiting.release()
        go.wait(30)

    monkeypatch.setattr(
        "dashboard.kit.running.reserving.time", types.SimpleNamespace(monotonic=time.monotonic, sleep=look)
    )
    asked = [types.SimpleNamespace(session_hash=f"waits {number}") for number in range(17)]
    for one in asked:
        context.sessions.of(one.session_hash)
    threads = [threading.Thread(target=context.visit, args=(one,)) for one in asked[:16]]
    for thread in threads:
        thread.start()
    assert all(waiting.acquire(timeout=30) for _ in threads)
    assert context.visit(asked[16]) is None and not waiting.acquire(blocking=False), "answered at once"
    monkeypatch.setattr("dashboard.kit.running.reserving.ARRIVING", 0.0)
    for one in asked:
        context.arrive(one)
    go.set()
    for thread in threads:
        thread.join(30)
    own = Places(of_all=16, of_one=4)
    with ExitStack() as held:
        assert [held.enter_context(own.taken("one")) for _ in range(5)] == [True] * 4 + [False]
        assert held.enter_context(own.taken("another"))
    with own.taken("one") as free:
        assert free and own._taken.total() == 1


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
    again = visitor.reload()
    assert "What you did here before is gone: it was not used for 60 minutes" in again.screen["notice"]
    assert again.session.live is visitor.page.context.example.session.live


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


def test_every_window_of_before_a_restart_is_told_so(page, mortal):
    asked = program_request(page, f"{'0' * 8}.{'w' * 32}")
    for _ in range(2):
        assert STARTED_ANEW in page.context.gone(asked)[page.context.notice]
    assert page.context.session(asked).live is None


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


@pytest.mark.parametrize("why", ["runs", "room"])
def test_a_refused_first_run_leaves_the_example_on_the_page_and_what_has_no_room_is_not_counted(page, monkeypatch, why):
    visitor, context, counted = Visitor(page, f"refused at first {why}"), page.context, []

    def endpoint(request: Any) -> Iterator[str]:
        yield "done"

    with monkeypatch.context() as patch:
        if why == "runs":
            patch.setattr(context, "runs", Runs(1))
            context.runs.begin(key_of(visitor.request), None)
        else:
            patch.setattr(context.runs, "begin", lambda *given: counted.append(given))
            patch.setattr(visitor.session, "bytes", visitor.session.limits.stored + 1)
        with pytest.raises(gr.Error, match="allowed here"):
            visitor.do("on_edit", **BRIEF)
        with pytest.raises(CaseError, match="allowed here"), context.reserved(visitor.request, room=True):
            pytest.fail("it was refused")
        with pytest.raises(gr.Error, match="allowed here"):
            list(context.in_line(endpoint)(request=gr.Request(session_hash=visitor.key)))
    assert not visitor.session.own and counted == []
    visitor.do("on_edit", **BRIEF)
    assert visitor.session.own


@pytest.mark.parametrize("why", ["runs", "room"])
def test_a_press_that_is_refused_is_no_run_that_another_window_would_have_to_be_drawn_anew_for(page, monkeypatch, why):
    one, two = (Window(page, f"refused {why}".ljust(32, "-"), number=number) for number in (1, 2))
    one.do("on_edit", **BRIEF)
    two.do("on_waking")
    live, runs = one.session.live, one.session.runs
    with monkeypatch.context() as patch:
        if why == "runs":
            patch.setattr(page.context, "runs", Runs(1))
            page.context.runs.begin(key_of(one.request), None)
        else:
            patch.setattr(one.session, "bytes", one.session.limits.stored + 1)
        with pytest.raises(gr.Error, match="allowed here"):
            one.do("on_edit", **BRIEF)
        with pytest.raises(CaseError, match="allowed here"), page.context.reserved(one.request, room=True):
            pytest.fail("it was refused")
    assert one.session.runs == runs and one.is_free
    assert two.do("on_waking") == [set()]
    two.do("on_undo", max_new_tokens=2)
    assert two.session.live is not live, "not refused either"
