"""What of the answers, numbers and figures is of another case than the one that stands in the rail."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.another import in_rail
from dashboard.kit.room import Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.steps.compare import run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.run import Prompt


class StandingPart(Room):
    """The line over all that was asked and measured."""

    name = "standing"

    def build(self) -> None:
        """Lay the line out; it keeps its room while it is empty, so that nothing moves when it comes or goes."""
        session = self.context.example.session
        self.of_another = gr.HTML(self._line(session, self.context.example.texts), elem_id="of-another")

    @property
    def read(self) -> tuple[Any, ...]:
        """What it reads: the rail."""
        return self.bus.offered("typed").inputs

    def hear(self) -> None:
        """Follow what is typed, and what every run leaves."""
        for news in (News.TYPED, News.ENDED, News.EXAMPLE, News.BACK):
            self.bus.hear(news, self.on_change, inputs=self.read, outputs=[self.of_another])

    def on_change(self, session: Session, values: Values) -> Update:
        """Say what is of another case now."""
        return {self.of_another: self._line(session, in_rail(self.bus, session, values))}

    def asking(self, session: Session, values: Values, asked: Prompt) -> Update:
        """Say what is of another case while something else is asked."""
        return {self.of_another: self._line(session, in_rail(self.bus, session, values), asked)}

    @staticmethod
    def _line(session: Session, texts: Texts | None, asked: Prompt | None = None) -> str:
        shown = run.of_live(session) is not None
        measured = session.live.case if session.live is not None and shown else None
        return words.of_another(asked or run.asked_last(session), measured, texts, words.ask(session))
