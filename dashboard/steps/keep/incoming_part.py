"""Bring one in: a saved edit from a file, checked and held to the gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.door.handing import shown_bytes
from dashboard.kit.drawing.html import message, progress_bar, reading
from dashboard.kit.room import Context, Room
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.incoming import SAID, brought_in, not_read, own_copies
from dashboard.steps.keep.saving import largest_upload

KINDS = [".zip", ".safetensors", ".json"]


class IncomingPart(Room):
    """Take a saved edit in.

    Args:
        context: The page's.
        desk: What the view's parts share.
    """

    name = "incoming"

    def __init__(self, context: Context, desk: Desk) -> None:
        super().__init__(context)
        self.desk = desk

    def build(self) -> None:
        """Lay the field out; in a public demo, say that there is none."""
        gr.HTML(words.INCOMING)
        if self.context.read_only:
            gr.HTML(reading(words.READ_ONLY), elem_id="keep-incoming-off")
            return
        self.upload = gr.File(
            label="A saved edit",
            file_count="multiple",
            file_types=KINDS,
            height=110,
            elem_id="keep-upload",
        )
        self.take_in = gr.Button("Check and take in", size="sm", elem_id="keep-take-in")
        most = shown_bytes(largest_upload(self.model, self.context.limits))
        gr.HTML(
            reading(
                f"The .zip from here, or its .safetensors and .json, at most {most}. Size, hash, names, base, shapes "
                "and numbers are checked before anything is touched; then the gate asks it, and it is live or held "
                "back like an edit made here."
            )
        )

    def hear(self) -> None:
        """Switch the button off while something runs."""
        if not self.context.read_only:
            self.context.lock(self.take_in)

    def connect(self) -> None:
        """Wire the button."""
        if self.context.read_only:
            return
        gate = self.bus.offered("gate")
        self.context.press(
            self.take_in.click,
            self.on_take_in,
            clock=self.desk.clock,
            inputs=[self.upload, *gate.inputs],
            outputs=[self.upload, *gate.outputs],
            tells=(News.LIVE,),
            starting="Checking the file",
            first=self.own_copies,
            last=not_read,
        )

    def own_copies(self, session: Session, values: Values) -> None:
        """Copy what was uploaded before anything waits."""
        own_copies(session, [Path(str(file)) for file in values[self.upload] or ()])

    def on_take_in(self, session: Session, values: Values) -> Iterator[Update]:
        """Check what was uploaded; then the gate decides as it does on every edit."""
        yield {self.desk.clock: message(SAID)}
        edit, row = brought_in(self.model, session)
        yield {self.upload: gr.File(value=None)}
        yield from self.desk.echoed(self.bus.offered("gate").call(session, values, edit, row))
        live = session.live is not None and session.live.patch.identifier == edit.patch.identifier
        said = (
            f"Taken in: {session.row.label()} is live."
            if live
            else f"Whole, but held back by the gate: {session.row.label()} stays live. Its word stands in Operate."
        )
        yield {self.desk.clock: progress_bar(said, 1.0)}
