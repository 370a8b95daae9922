"""What stands beside an edit's scores: what bfloat16 by itself does, and what suffix and weights do alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.stress import rounding, run
from dashboard.steps.stress import texts as words
from dashboard.steps.stress.run import Examined
from editing.rounding import why_not_rounded
from inspector.safeedit.exam import Progress
from inspector.safeedit.known import Known


class YardstickPart(Room):
    """The rounding row, which comes with a test and can be added to an earlier one, and the suffix panel, on demand.

    Args:
        context: The page's.
    """

    name = "yardstick"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.reason = why_not_rounded(self.model)

    def build_rounding(self) -> None:
        """Lay the button of the rounding row out, which stands beside the test's own."""
        self.rounding = gr.Button(
            ROUNDING if self.reason is None else self.reason,
            interactive=self.reason is None,
            size="sm",
            elem_id="stress-rounding",
        )

    def build_suffixes(self) -> None:
        """Lay the suffix panel out."""
        with gr.Accordion("Suffix alone, weights alone, both", open=False, elem_id="stress-suffixes"):
            self.suffixes = gr.Button("Ask with each suffix", size="sm", elem_id="stress-suffixes-run")
            self.study = gr.HTML(elem_id="stress-suffix-table")
            self.study_reading = gr.HTML(elem_id="stress-suffix-reading")

    def hear(self) -> None:
        """Lock the buttons while something runs; say whose study is shown."""
        self.context.lock(self.rounding, self._state_of_rounding)
        self.context.lock(self.suffixes, state_of_suffixes)
        self.bus.hear(News.ENDED, self.on_ended, outputs=[self.study, self.study_reading])

    def wire(self, clock: Any, scored: list[Any], shown: Any) -> None:
        """Wire the buttons.

        Args:
            clock: The stress test's.
            scored: What a rounding row changes.
            shown: Draws them from a session.
        """
        self._clock, self._shown = clock, shown
        press = self.context.press
        press(self.rounding.click, self.on_rounding, clock=clock, outputs=scored, starting="Rounding the weights")
        press(self.suffixes.click, self.on_suffixes, clock=clock, outputs=[self.study, self.study_reading])

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Show the study, and whether it is of the live weights."""
        kept = session.slot(Examined)
        return {
            self.study: words.suffix_table(kept.study),
            self.study_reading: words.suffix_reading(kept, session.row),
        }

    def added(self, session: Session, known: Known) -> Iterator[Update]:
        """Put the rounding row beside a test that has just ended; what it asks of any test is asked once a model.

        Args:
            known: The vanilla answers of the test.
        """
        yield from drain(rounding.with_rounding(self.model, session, known), self._drawing())
        yield self._shown(session)

    def _drawing(self) -> Callable[[Progress], Update]:
        """Return what shows on the clock how far the rounded weights are."""
        redraw = Throttle(0.3)
        return lambda event: {self._clock: words.rounding_runs(event)} if redraw.due() else {}

    def on_rounding(self, session: Session, _values: Values) -> Iterator[Update]:
        """Ask the rounded weights the harmless prompts of the test on screen."""
        made = yield from drain(rounding.rounding(self.model, session), self._drawing())
        yield self._shown(session)
        yield {self._clock: message(words.STOPPED if made is None else words.ROUNDED_SHOWN)}

    def on_suffixes(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask both weights with each suffix."""
        redraw = Throttle(0.3)

        def draw(event: Any) -> Update:
            return {self._clock: progress_bar(event.message, event.fraction)} if redraw.due() else {}

        made = yield from drain(run.suffixes(self.model, session), draw)
        yield self.on_ended(session, values)
        yield {self._clock: message(words.STOPPED if made is None else words.SUFFIXES_SHOWN)}

    def _state_of_rounding(self, session: Session) -> Any:
        if self.reason is not None:
            return gr.Button(self.reason, interactive=False)
        if session.slot(Examined).exam is None:
            return gr.Button("No scores to compare with yet", interactive=False)
        if session.slot(Examined).yardstick:
            return gr.Button("The rounding row is there", interactive=False)
        return gr.Button(ROUNDING, interactive=True)


ROUNDING = "Add the rounding row"


def state_of_suffixes(session: Session) -> Any:
    """Return the state of the suffix panel's button: it says why it is off."""
    if session.live is None:
        return gr.Button("No edit to ask with each suffix", interactive=False)
    return gr.Button("Ask with each suffix", interactive=True)
