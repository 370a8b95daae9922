"""Methods' plane: the region's toxicity, or what it writes, against the activation shift, a point a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.drawing.html import heading, progress_bar
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Room
from dashboard.kit.running.run import drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.methods import figures, further
from dashboard.steps.methods import texts as words
from dashboard.steps.methods.state import Compared
from editing import Preparation

COSINE, WRITTEN = "mean cosine of the region", "what the region writes"
"""What stands upright on the plane; the second one is measured with the example, and of other runs when asked for."""


class PlanePart(Room):
    """The plane, and the switch of what stands upright on it."""

    name = "plane"

    def build_plane(self) -> None:
        """Lay the plane out."""
        gr.HTML(heading(3, "Erase or suppress?"))
        self.upright = gr.Radio(
            [COSINE, WRITTEN], value=COSINE, show_label=False, elem_classes="chips", elem_id="methods-upright"
        )
        self.plane = plot(None, "methods-plane", "Erase or suppress, by method")
        self.plane_reading = gr.HTML()

    @property
    def parts(self) -> list[Any]:
        """What another run, method or choice changes."""
        return [self.upright, self.plane, self.plane_reading]

    def drawn(self, session: Session) -> Update:
        """Draw what stands upright now, and let the switch say so: the three always agree."""
        kept = session.slot(Compared)
        standings = kept.contest.standings if kept.contest is not None else ()
        written = kept.shown_writing
        return {
            self.upright: COSINE if written is None else WRITTEN,
            self.plane: figures.plane(standings, kept.method, written),
            self.plane_reading: words.plane_reading(standings, written),
        }

    def hear(self) -> None:
        """Switch it off while something runs; afterwards it says what is shown, however the run has ended."""
        self.context.lock(self.upright, state_of_upright)

    def wire(self, clock: Any, picked: Any) -> None:
        """Wire the switch.

        Args:
            clock: The step's.
            picked: The field of the picked method.
        """
        self._clock = clock
        self.context.press(
            self.upright.input,
            self.on_upright,
            clock=clock,
            inputs=[self.upright, picked],
            outputs=self.parts,
            starting="",
        )

    def on_upright(self, session: Session, values: Values) -> Iterator[Update]:
        """Show the region's mean cosine or what it writes on the plane; the latter is measured at first sight."""
        kept = session.slot(Compared)
        wanted = values[self.upright] == WRITTEN
        if wanted and kept.written is None:

            def draw(event: Preparation) -> Update:
                return {self._clock: progress_bar(event.message, event.fraction)}

            yield from drain(further.write_regions(self.model, session), draw)
        kept.shows_writing = wanted and kept.written is not None
        yield {**self.drawn(session), self._clock: words.ended(kept.contest, session.cancelled.is_set())}


def state_of_upright(session: Session) -> Any:
    """Return the switch's state: what the plane shows."""
    written = session.slot(Compared).shown_writing
    return gr.Radio(value=COSINE if written is None else WRITTEN, interactive=True)
