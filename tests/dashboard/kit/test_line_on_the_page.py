"""Runs that stand in line, of pages and of programs: what the others see, who is refused, what passes."""

from __future__ import annotations

import threading
import time
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Visitor, assert_idle, seen
from starlette.requests import Request

from inspector.errors import CaseError

pytestmark = pytest.mark.usefixtures("model")


def iter_of(*events: str) -> Any:
    yield from events
    yield "more"


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
        assert "In line, place 2: starts in " in seen(second.screen["clock"])
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
