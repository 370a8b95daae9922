"""Keep: the live edit as a file, a saved one in, the history of the visit, two edits side by side."""

from __future__ import annotations

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import CANCEL_OFF
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.beside_part import BesidePart
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.history_part import HistoryPart
from dashboard.steps.keep.incoming_part import IncomingPart
from dashboard.steps.keep.report import parts
from dashboard.steps.keep.save_part import SavePart


class KeepRoom(Room):
    """Take edits out and in, and look back at them."""

    name = view = "keep"
    title = "Keep"
    help = "saves the live edit as a file, takes one in, compares the edits of your visit, and writes a report of it."
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.desk = context.one(Desk, lambda: Desk(context))
        self.saving = SavePart(context, self.desk)
        self.incoming = IncomingPart(context, self.desk)
        self.history = HistoryPart(context, self.desk)
        self.beside = BesidePart(context, self.desk)

    def build(self) -> None:
        """Lay the parts out, one below the other."""
        with gr.Row(elem_id="keep-top"):
            gr.HTML(words.HEADING)
            self.clock = self.desk.clock = gr.HTML("", elem_id="keep-clock")
            self.cancel = gr.Button(
                CANCEL_OFF, variant="stop", interactive=False, size="sm", min_width=100, elem_id="keep-cancel"
            )
        with gr.Row(elem_id="keep-files", equal_height=False):
            with gr.Column(scale=3, min_width=420):
                self.saving.build()
            with gr.Column(scale=1, min_width=250):
                self.incoming.build()
        self.history.build()
        self.beside.build()

    def hear(self) -> None:
        """Follow every run: what it has made is written down, then shown."""
        self.context.cancels(self.cancel)
        rows = [*self.saving.parts, *self.history.parts, *self.beside.parts]
        for news in (News.ENDED, News.EXAMPLE):
            self.bus.hear(news, self.on_ended, outputs=rows)
        for part in (self.saving, self.incoming, self.history, self.beside):  # after it: they look at the rows
            part.hear()
        listed = [*self.history.parts, *self.beside.parts]
        self.bus.hear(News.MADE, self.on_made, outputs=listed)
        self.bus.hear(News.BACK, self.on_back, outputs=[*listed, *self.beside.answered])

    def connect(self) -> None:
        """Wire the parts."""
        for part in (self.saving, self.incoming, self.history, self.beside):
            part.connect()

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Show what there is now."""
        if session.own:
            self.desk.note(session)
        return {**self.saving.drawn(session), **self._listed(session)}

    def on_made(self, session: Session, _values: Values) -> Update:
        """Give an edit of a run that goes on its row."""
        self.desk.note(session)
        return self._listed(session)

    def on_back(self, session: Session, _values: Values) -> Update:
        """Show the rows, which a run may add to just now, and the last comparison on a page that opens anew."""
        return {**self._listed(session), **self.beside.back(session)}

    def _listed(self, session: Session) -> Update:
        rows = self.desk.rows(session)
        return {**self.history.drawn(session, rows), **self.beside.drawn(session, rows)}
