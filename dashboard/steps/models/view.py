"""Two models side by side: two choosers, one button, both curves, both answers, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.another import in_rail, of_another
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.drawing.panes import build_pair, unless_safe
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Room
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.running.run import CANCEL_OFF, Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.models import figures, run
from dashboard.steps.models import texts as words
from dashboard.steps.models.figures import DISTANCES
from dashboard.steps.models.report import parts
from dashboard.steps.models.run import Beside, Growing, Kept

COMPARE = "Compare models"


class ModelsRoom(Room):
    """Hold two of the operator's models beside each other; what is live, and the case that is located, stay."""

    name = view = "models"
    title = "Two models"
    help = (
        "holds two models of the operator's list beside each other: where the answers of your case part, and both "
        "answers. The list is made when the page is started (<code>--model A --model B</code>)."
    )
    reports = staticmethod(parts)

    @property
    def several(self) -> bool:
        """Whether more than one model is listed; with one there is nothing to press."""
        return len(self.context.shelf.labels) > 1

    def build(self) -> None:
        """Lay the view out; with one model it says how to list a second one."""
        if not self.several:
            gr.HTML(words.HEADING)
            gr.HTML(words.ALONE, elem_id="models-alone")
            return
        with gr.Row(elem_id="models-top"):
            gr.HTML(words.HEADING)
            self.clock = gr.HTML("", elem_id="models-clock")
            self.cancel = gr.Button(
                CANCEL_OFF, variant="stop", interactive=False, size="sm", min_width=100, elem_id="models-cancel"
            )
        labels = self.context.shelf.labels
        with gr.Row(elem_id="models-choice"):
            listed: dict[str, Any] = {"interactive": True, "min_width": 200}
            own = self.context.label
            other = next(label for label in labels if label != own)
            self.left = gr.Dropdown(labels, value=own, label="Left", elem_id="models-left", **listed)
            self.right = gr.Dropdown(labels, value=other, label="Right", elem_id="models-right", **listed)
            self.compare = gr.Button(COMPARE, variant="primary", size="sm", min_width=130, elem_id="models-compare")
        self.about = gr.HTML(words.ABOUT, elem_id="models-about")
        with gr.Column(visible=False, elem_id="models-measured") as self.measured:
            with gr.Row(elem_id="models-curve-head"):
                gr.HTML(words.CURVES)
                self.distance = gr.Radio(
                    list(DISTANCES),
                    value=next(iter(DISTANCES)),
                    label="Distance of both models",
                    show_label=False,
                    container=False,
                    elem_id="models-distance",
                )
            self.curves = plot(None, "models-curves", "Distance of the answers in two models")
        self.reading = gr.HTML(words.compared(None), elem_id="models-reading")
        self.table = gr.HTML("", elem_id="models-table")
        gr.HTML(words.ANSWERS)
        nothing = words.NO_ANSWER, words.NO_ANSWER
        self.pair = build_pair("models-", nothing, blurred=(False, False), names=("first", "second"))
        (self.left_head, self.right_head), (self.left_answer, self.right_answer) = self.pair.heads, self.pair.panes

    @property
    def _drawn(self) -> list[Any]:
        return [self.measured, self.curves, self.reading, self.table, *self.pair.parts]

    def hear(self) -> None:
        """Show the last comparison on a page that opens anew; links bring the choice back."""
        if not self.several:
            return
        self.context.cancels(self.cancel)
        self.context.lock(self.compare)
        self.context.carry(left=self.left, right=self.right, distance=self.distance)
        self.bus.hear(News.BACK, self.on_back, inputs=[self.distance], outputs=self._drawn)
        for news in (News.TYPED, News.ENDED):
            self.bus.hear(news, self.on_case, inputs=self.bus.offered("typed").inputs, outputs=[self.about])

    def connect(self) -> None:
        """Wire the button and the choice of the distance."""
        if not self.several:
            return
        texts, decoding = self.bus.offered("texts"), self.bus.offered("decoding")
        self.context.press(
            self.compare.click,
            self.on_compare_models,
            clock=self.clock,
            inputs=[*texts.inputs, *decoding.inputs, self.left, self.right, self.distance],
            outputs=self._drawn,
        )
        self.context.react(self.distance.input, self.on_models_distance, inputs=[self.distance], outputs=[self.curves])

    def on_back(self, session: Session, values: Values) -> Update:
        """Show what the session holds, or that it holds nothing."""
        return self._shown(session, values)

    def on_case(self, session: Session, values: Values) -> Update:
        """Say when another case stands in the rail than was compared."""
        texts, beside = in_rail(self.bus, session, values), session.slot(Kept).beside
        case = None if beside is None else beside.case
        return {self.about: words.ABOUT + of_another(texts, case, "Curves, numbers and answers", COMPARE)}

    def on_models_distance(self, session: Session, values: Values) -> Update:
        """Draw the curves of another distance of the same measurement."""
        beside = session.slot(Kept).beside
        return {} if beside is None else {self.curves: self._curves(beside, values)}

    def on_compare_models(self, session: Session, values: Values) -> Iterator[Update]:
        """Borrow both models, measure and ask them; an error or Cancel leaves what was there before."""
        labels = values[self.left], values[self.right]
        texts, decoding = self.bus.offered("texts").call(values), self.bus.offered("decoding").call(values)

        def say(said: str) -> Update:
            return {self.clock: message(said)}

        comparing = run.compare_listed(self.context.shelf, session, labels, texts, decoding, say)
        try:
            beside = yield from drain(comparing, self._growing(labels))
        except Exception:
            yield self._shown(session, values)
            raise
        yield self._shown(session, values)
        yield {self.clock: message(words.STOPPED) if beside is None else progress_bar(words.done(beside), 1.0)}

    def _growing(self, labels: tuple[str, str]) -> Any:
        """Return what draws a comparison that goes on."""
        redraw = Throttle(0.15)
        begun = False

        def draw(event: Growing | Elsewhere) -> Any:
            nonlocal begun
            if isinstance(event, Elsewhere):  # a model is waited for: others go first
                return event
            clock = {self.clock: progress_bar(event.doing, event.fraction)}
            if event.doing != run.ANSWERING:
                return clock
            if not begun:
                begun = True
                return {**clock, **self.pair.show(event.texts, words.growing_heads(labels), empty="…", compared=False)}
            return {**clock, **self.pair.growing(event.texts)} if redraw.due() else None

        return draw

    def _curves(self, beside: Beside, values: Values) -> Any:
        return figures.curves(beside, DISTANCES.get(values[self.distance], "relative"))

    def _shown(self, session: Session, values: Values) -> Update:
        beside = session.slot(Kept).beside
        told = {self.reading: words.compared(beside), self.table: words.table(beside)}
        if beside is None:
            nothing = words.NO_ANSWER, words.NO_ANSWER
            shown = self.pair.show(nothing, ("", ""), compared=False, covered=(False, False))
            return {self.measured: gr.Column(visible=False), **told, **shown}
        told |= {self.measured: gr.Column(visible=True), self.curves: self._curves(beside, values)}
        first, second = beside.sides
        covered = unless_safe(first.verdict, second.verdict)
        return {**told, **self.pair.show((first.answer, second.answer), words.heads(beside), covered=covered)}
