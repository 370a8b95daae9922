"""The example on an open page: how far it is, and its parts as they come, as long as the visitor has done nothing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard.example.make import Example
from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import progress_bar, reading
from dashboard.kit.room import Context
from dashboard.kit.running.run import QUIET
from dashboard.kit.sessions.session import Session
from inspector.errors import InspectorError

EVERY = 2.0
"""Seconds between two looks."""


class Arriving:
    """Draws the parts that have come since the page was built.

    Args:
        context: The page's.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.example: Example = context.example

    def build(self) -> None:
        """Lay the line out that says what is being made, and the clock that looks; at the end, why no edit is live."""
        self.example.drawn = self.example.parts
        if self.example.ended:
            if self.example.said:
                gr.HTML(self.note(), elem_id="example-note")
            return
        self.line = gr.HTML(self.note(), elem_id="example-note")
        self.clock = gr.Timer(EVERY)

    def connect(self, app: gr.Blocks) -> None:
        """Look when the page is opened, and every few seconds until all is there and drawn, or not wanted any more."""
        if not hasattr(self, "clock"):
            return
        bus = self.context.bus
        inputs = [*self.context.bus.offered("typed").inputs, *bus.inputs(News.EXAMPLE, News.ENDED)]
        outputs = [self.line, self.clock, *bus.outputs(News.EXAMPLE, News.ENDED)]

        def standing(session: Session, values: Values) -> Values:
            return self.context.later.standing(values, session.controls)

        def on_example_part(values: Values, request: gr.Request) -> Any:
            session = self.context.visit(request)
            if session is None:
                return gr.skip()
            return self.look(session, standing(session, values), request.session_hash or "")

        def on_opening(values: Values, request: gr.Request) -> Any:
            session = self.context.arrive(request)
            return self.look(session, standing(session, values), request.session_hash or "")

        for event, look in ((app.load, on_opening), (self.clock.tick, on_example_part)):
            event(look, set(inputs), list(dict.fromkeys(outputs)), **QUIET)

    def note(self) -> str:
        """Return the line: what is made now, why it was not finished, or nothing."""
        said, ended = self.example.said, self.example.ended
        if not said:
            return ""
        return reading(said, "warn") if ended else progress_bar(said, self.example.share)

    def look(self, session: Session, values: Values, page: str) -> Update:
        """Return what changes on a visitor's page: the line, and the parts that have come.

        Args:
            page: Which of their pages it is.
        """
        ended, parts, sessions = self.example.ended, self.example.parts, self.context.sessions
        fresh = parts - sessions.seen(page)
        update: Update = {self.line: self.note()}
        over: Update = {self.clock: gr.Timer(active=False)}
        # What comes while something is typed is drawn once the example's texts stand there again, all of it then.
        waits = bool(fresh) and not session.own
        if not waits or not self._untouched(values):
            return update | (over if ended and not waits else {})
        bus = self.context.bus
        with session.drawn_with(fresh):
            if session.own or session.busy:  # another window has done something while this one waited
                return update
            sessions.saw(page, parts)
            self.example.fill(session)
            update |= bus.told(News.ENDED, session, values)
            update |= bus.told(News.EXAMPLE, session, values)
        return update | (over if ended else {})

    def _untouched(self, values: Values) -> bool:
        """Tell whether the rail still shows the example's case."""
        try:
            return self.context.bus.offered("typed").call(values) == self.example.texts
        except InspectorError:
            return False
