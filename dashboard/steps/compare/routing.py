"""Where the live edit acts: the switch in the row of actions, and what the detector says of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.room import Context, Room
from dashboard.kit.session import Session
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.run import Measured

Changed = Callable[[Session, Values], Iterator[Update]]


class RoutingPart(Room):
    """The switch, and the detector's score and threshold for the prompt that was asked.

    Args:
        context: The page's.
        changed: Asks both weights anew once the edit acts elsewhere.
    """

    name = "routing"

    def __init__(self, context: Context, changed: Changed) -> None:
        super().__init__(context)
        self._changed = changed

    def build(self) -> None:
        """Lay the switch out, which stands in the row of actions."""
        detector = self.context.detector
        self.routed = gr.Dropdown(
            [words.EVERYWHERE, words.WHERE_HARM],
            value=words.EVERYWHERE,
            label="Where the edit acts",
            show_label=False,
            container=False,
            interactive=detector is not None,
            scale=2,
            min_width=150,
            elem_id="routed",
        )

    def build_reading(self) -> None:
        """Lay the line out that says what the detector read."""
        self.detected = gr.HTML(words.detected_line(None, self.context.detector), elem_id="detected")

    def build_note(self) -> None:
        """Lay out what the detector was made of, or how to make one."""
        self.note = gr.HTML(words.routing_note(self.context.detector), elem_id="routing-note")

    def hear(self) -> None:
        """Switch it off where nothing can be routed."""
        self.context.lock(self.routed, self._state)

    def read(self, session: Session) -> Update:
        """Say what the detector read of the prompt that was asked last."""
        return {self.detected: words.detected_line(session.slot(Measured).detected, self.context.detector)}

    def on_routed(self, session: Session, values: Values) -> Iterator[Update]:
        """Let the patch act on every prompt or only where harm is detected, and regenerate."""
        session.slot(Measured).curve = None  # it was measured of an edit that acts elsewhere
        session.detector = self.context.detector if values[self.routed] == words.WHERE_HARM else None
        yield from self._changed(session, values)

    def _state(self, session: Session) -> Any:
        choices, value = words.routes(self.context.detector, session.detector is not None)
        return gr.Dropdown(choices=choices, value=value, interactive=len(choices) > 1)
