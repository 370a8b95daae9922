"""Report: the visit as one file, and as a script and a notebook that make its run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import reading
from dashboard.kit.room import Room
from dashboard.kit.sessions.session import Session
from dashboard.steps.report import run
from dashboard.steps.report import texts as words
from dashboard.steps.report.run import Reported

FILES = (("html_file", "Report (HTML)"), ("script_file", "Python script"), ("notebook_file", "Notebook"))
"""The downloads: role, and what stands on each."""


class ReportRoom(Room):
    """Write the visit down, hand it out."""

    name, view = "report", "keep"

    def build(self) -> None:
        """Lay the room out; nothing is written before somebody asks."""
        with gr.Column(elem_id="report-room"):
            gr.HTML(words.HEADING)
            gr.HTML(reading(words.ABOUT))
            with gr.Row(elem_id="report-asked"):
                self.make = gr.Button(
                    "Make report", variant="primary", elem_id="report-make", size="md", min_width=140, scale=0
                )
                self.redact = gr.Checkbox(
                    False,
                    label="Redact prompts and unsafe answers",
                    info="Each leaves the number of its words; the script then has gaps to fill",
                    elem_id="report-redact",
                )
            self.clock = gr.HTML("", elem_id="report-clock")
            self.state = gr.HTML(words.state(None, self.context.example.session), elem_id="report-state")
            with gr.Row(elem_id="report-files"):
                for role, title in FILES:
                    part = gr.DownloadButton(
                        title, size="md", min_width=120, interactive=False, elem_id=f"report-{role.split('_')[0]}"
                    )
                    setattr(self, role, part)

    @property
    def _files(self) -> list[Any]:
        return [getattr(self, role) for role, _ in FILES]

    def hear(self) -> None:
        """Say after each run whether the report is still that of the visit."""
        self.context.lock(self.make)
        for news in (News.ENDED, News.CASE):
            self.bus.hear(news, self.on_ended, outputs=[self.state])
        self.bus.hear(News.BACK, self.on_back, outputs=[self.clock, self.state, *self._files])

    def connect(self) -> None:
        """Wire the button."""
        self.context.press(
            self.make.click,
            self.on_report,
            clock=self.clock,
            inputs=[self.redact],
            outputs=[self.state, *self._files],
            starting=words.WRITING,
            brief=True,
        )

    def on_report(self, session: Session, values: Values) -> Iterator[Update]:
        """Write the visit down and hand it out."""
        context = self.context
        run.report(self.model, session, context.reporters, bool(values[self.redact]), context.layers)
        yield {self.clock: "", self.state: self._said(session), **self._handed_out(session)}

    def _said(self, session: Session) -> str:
        return words.state(session.slot(Reported).written, session)

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Say of what the report is."""
        return {self.state: self._said(session)}

    def on_back(self, session: Session, _values: Values) -> Update:
        """Show the visitor's last report, or that there is none."""
        return {self.clock: "", self.state: self._said(session), **self._handed_out(session)}

    def _handed_out(self, session: Session) -> Update:
        written = session.slot(Reported).written
        if written is None or not all(Path(path).is_file() for path in written.files):
            return {part: gr.DownloadButton(value=None, interactive=False) for part in self._files}
        return {
            part: gr.DownloadButton(value=path, interactive=True)
            for part, path in zip(self._files, written.files, strict=True)
        }
