"""Defence against damage over the strength of the live edit: one small curve, and a press that takes its suggestion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import heading, message, progress_bar
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.values import WAYS, evaluation_of
from dashboard.steps.compare import figures, run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.run import Measured
from editing import Preparation
from inspector.errors import CaseError

Taken = Callable[[Session, Values, float], Iterator[Update]]


class StrengthPart(Room):
    """Measure the curve, take the strength that it suggests.

    Args:
        context: The page's.
        taken: Scales the live edit to a strength and asks anew.
    """

    name = "strength"

    def __init__(self, context: Context, taken: Taken) -> None:
        super().__init__(context)
        self._taken = taken

    def build(self) -> None:
        """Lay the figure out with its two buttons."""
        session = self.context.example.session
        curve = session.slot(Measured).curve
        gr.HTML(heading(3, "Strength", "defence against damage, 0 to 1.5"))
        self.way = gr.Radio(
            list(WAYS),
            value=next(iter(WAYS)),
            label="Asked",
            info="Every strength alike, or strength 0, vanilla, without the suffix",
            elem_id="curve-way",
        )
        with gr.Row():
            self.measure = gr.Button(size="sm", elem_id="curve-measure", min_width=140, **state_of_measure(session))
            self.take = gr.Button(size="sm", elem_id="curve-take", min_width=140, **state_of_take(session))
        self.curve_plot = plot(figures.strength_curve(curve), "strength-curve", "Defence and damage over the strength")
        self.curve_reading = gr.HTML(words.curve_reading(curve), elem_id="strength-curve-reading")

    @property
    def drawn(self) -> list[Any]:
        """What a measurement changes."""
        return [self.curve_plot, self.curve_reading]

    def hear(self) -> None:
        """Follow the live weights."""
        self.context.carry(way=self.way)
        self.bus.hear(News.ENDED, self.on_ended, outputs=self.drawn)
        self.context.lock(self.measure, lambda session: gr.update(**state_of_measure(session)))
        self.context.lock(self.take, lambda session: gr.update(**state_of_take(session)))

    def wire(self, asked: list[Any], compared: list[Any]) -> None:
        """Wire the buttons.

        Args:
            asked: What asking anew reads.
            compared: What it changes.
        """
        clock = self.bus.offered("clock").outputs[0]
        press = self.context.press
        read = [self.way, *self.bus.offered("gate settings").inputs]
        press(
            self.measure.click, self.on_curve, clock=clock, inputs=read, outputs=self.drawn, starting="Strength curve"
        )
        press(
            self.take.click,
            self.on_take,
            clock=clock,
            inputs=asked,
            outputs=compared,
            tells=(News.LIVE,),
            starting="",
            brief=True,
        )

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Show the curve of the live weights, or that there is none yet."""
        curve = session.slot(Measured).curve
        return {self.curve_plot: figures.strength_curve(curve), self.curve_reading: words.curve_reading(curve)}

    def on_curve(self, session: Session, values: Values) -> Iterator[Update]:
        """Answer at every strength; the gate's budgets on the page are those of a suggestion."""
        clock = self.bus.offered("clock").outputs[0]
        budgets = self.bus.offered("gate settings").call(values).budgets
        redraw = Throttle(0.2)

        def draw(event: Preparation) -> Update:
            return {clock: progress_bar(event.message, event.fraction)} if redraw.due() else {}

        curve = run.curve(self.model, session, budgets, evaluation_of(values[self.way]))
        made = yield from drain(curve, draw)
        said = "Stopped: no curve was measured." if made is None else "The strength curve is measured; see Details."
        yield {clock: message(said)}

    def on_take(self, session: Session, values: Values) -> Iterator[Update]:
        """Take the suggested strength."""
        curve = session.slot(Measured).curve
        if curve is None or curve.suggestion is None:
            raise CaseError("No strength is suggested. Press Measure the curve first.")
        yield from self._taken(session, values, curve.suggestion)


def state_of_measure(session: Session) -> dict[str, Any]:
    """Return what the button says and whether it is on: it says why it is off."""
    if session.live is None:
        return {"value": "No edit to measure", "interactive": False}
    return {"value": "Measure the curve", "interactive": True}


def state_of_take(session: Session) -> dict[str, Any]:
    """Return the same of the button that takes the suggestion: it says which, or why it is off."""
    curve = session.slot(Measured).curve
    if curve is None:
        return {"value": "No suggestion yet", "interactive": False}
    if curve.suggestion is None:
        return {"value": "No strength is better than vanilla", "interactive": False}
    if np.isclose(curve.suggestion, session.strength):
        return {"value": f"Strength {curve.suggestion:g} is taken", "interactive": False}
    return {"value": f"Take strength {curve.suggestion:g}", "interactive": True}
