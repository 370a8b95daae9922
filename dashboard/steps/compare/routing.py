"""Where the live edit acts: the switch in the row of actions, and what the detector says of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import message
from dashboard.kit.room import Choice, Context, Room
from dashboard.kit.sessions.acting import WHERE_IT_ACTS, Acting, Wish, require_detector, wish_of
from dashboard.kit.sessions.session import Session
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.run import Measured
from editing.gate.choice import format_told
from inspector.errors import CaseError

Reroute = Callable[[Session, Values, Wish], Iterator[Update]]


class RoutingPart(Room):
    """The switch, and the detector's score and threshold for the prompt that was asked.

    Args:
        context: The page's.
        reroute: Lets the live edit act elsewhere, and asks both weights anew.
    """

    name = "routing"

    def __init__(self, context: Context, reroute: Reroute) -> None:
        super().__init__(context)
        self._reroute = reroute

    def build(self) -> None:
        """Lay the switch out, which stands in the row of actions."""
        choices, value = self._routes(self.context.example.session)
        self.routed = gr.Dropdown(
            choices,
            value=value,
            label="Where the edit acts",
            show_label=False,
            container=False,
            interactive=len(choices) > 1,
            scale=2,
            min_width=150,
            elem_id="routed",
        )

    def build_reading(self) -> None:
        """Lay the line out that says what the detector read."""
        self.detected = gr.HTML(words.detected_line(None, self.context.detector), elem_id="detected")

    def build_note(self) -> None:
        """Lay out what the detector was made of, or how to make one."""
        self.note = gr.HTML(words.routing_note(self.model, self.context.detector), elem_id="routing-note")

    def hear(self) -> None:
        """Switch it off where nothing can be routed; follow a calibration that ends behind the open page."""
        self.context.lock(self.routed, self._state)
        self.context.carry_choice(Choice(WHERE_IT_ACTS, self._asked, self._ask))
        self.bus.hear(News.BACK, lambda session, _values: {self.routed: self._state(session)}, outputs=[self.routed])
        self.bus.hear(News.BACK, lambda *_: {self.note: self._noted()}, outputs=[self.note])
        self.bus.hear(News.CALIBRATED, self.on_calibrated, outputs=[self.routed, self.note, self.detected])

    def read(self, session: Session) -> Update:
        """Say what the detector read of the prompt that was asked last."""
        detector = session.detector or self.context.detector
        told = "" if session.live is None else format_told(self.model, session.live.format)
        return {self.detected: words.detected_line(session.slot(Measured).detected, detector, told)}

    def _noted(self) -> str:
        return words.routing_note(self.model, self.context.detector)

    def on_calibrated(self, session: Session, _values: Values) -> Update:
        """Offer the switch and say what the new detector was made of."""
        said = {self.note: self._noted()}
        return {self.routed: self._state(session), **said, **self.read(session)}

    def on_routed(self, session: Session, values: Values) -> Iterator[Update]:
        """Keep what the next edit is to do; let the live one act on every prompt or where harm is detected, and ask."""
        wish = words.WISHES.get(values[self.routed])
        if wish is None:
            raise CaseError(f"Unknown choice '{values[self.routed]}'. Choose one of: {', '.join(words.WISHES)}.")
        if wish == "where harm":
            require_detector(self.model, self.context.detector)
        if session.live is not None and wish != "gate" and (wish == "where harm") != (session.detector is not None):
            yield from self._reroute(session, values, wish)
            return
        session.slot(Acting).wish = wish  # the live edit acts so already, and what the gate chooses is the next edit's
        if session.live is None:
            said = message("No edit is live; the next one will act so.", words.nothing_to_route(wish))
            yield {self.bus.offered("clock").outputs[0]: said}

    @staticmethod
    def _asked(session: Session) -> Wish | None:
        wish = wish_of(session)
        return None if wish == "gate" else wish

    def _ask(self, session: Session, wish: Wish | None) -> None:
        """Ask for what a link says of the next edit; a model without a detector has nothing to choose."""
        session.slot(Acting).wish = "gate" if wish is None or self.context.detector is None else wish

    def _routes(self, session: Session) -> tuple[list[tuple[str, str]], str]:
        routed = None if session.live is None else session.detector is not None
        return words.routes(self.context.detector, wish_of(session), routed)

    def _state(self, session: Session) -> Any:
        choices, value = self._routes(session)
        return gr.Dropdown(choices=choices, value=value, interactive=len(choices) > 1)
