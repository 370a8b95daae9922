"""This edit: what is live, and its three forms as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.door.handing import shown_bytes
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import saving
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.saving import ADAPTER, MODEL, PATCH, RANKS
from editing.progress import Preparation

SHORT = {PATCH: "patch", ADAPTER: "adapter", MODEL: "model"}
"""Names of the forms in the names of elements."""


class SavePart(Room):
    """Write the live edit, check it, hand it out.

    Args:
        context: The page's.
        desk: What the view's parts share.
    """

    name = "saving"

    def __init__(self, context: Context, desk: Desk) -> None:
        super().__init__(context)
        self.desk = desk
        self.cards: dict[str, Any] = {}
        self.writers: dict[str, Any] = {}
        self.lines: dict[str, Any] = {}
        self.files: dict[str, Any] = {}

    def build(self) -> None:
        """Lay the three forms out under what is live."""
        session = self.context.example.session
        why_not = saving.why_not(session)
        gr.HTML(words.THIS_EDIT)
        self.this_edit = gr.HTML(words.this_edit(session, why_not, None), elem_id="keep-this")
        with gr.Row(elem_id="keep-forms", equal_height=True):
            for kind, short in SHORT.items():
                with gr.Column(elem_classes="box", min_width=220):
                    self.cards[kind] = gr.HTML(self._card(session, kind), elem_id=f"keep-{short}-card")
                    if kind == ADAPTER:
                        self.adapter_rank = gr.Radio(
                            list(RANKS), value="exact", label="Rank", elem_id="keep-rank", elem_classes="chips"
                        )
                    self.writers[kind] = gr.Button(
                        f"Write the {kind}",
                        size="sm",
                        interactive=self._can(session, kind),
                        elem_id=f"keep-{short}",
                    )
                    self.lines[kind] = gr.HTML("", elem_id=f"keep-{short}-line")
                    self.files[kind] = gr.DownloadButton(
                        "Download", size="sm", visible=False, elem_id=f"keep-{short}-file"
                    )
                for name, parts in (("card", self.cards), ("write", self.writers), ("line", self.lines)):
                    setattr(self, f"{name}_{short}", parts[kind])
                setattr(self, f"file_{short}", self.files[kind])

    def hear(self) -> None:
        """Switch off what cannot be written."""
        for kind, button in self.writers.items():
            self.context.lock(button, partial(self._state_of_writer, kind))

    def connect(self) -> None:
        """Wire the three buttons."""
        for kind, work in (
            (PATCH, self.on_write_patch),
            (ADAPTER, self.on_write_adapter),
            (MODEL, self.on_write_model),
        ):
            self.context.press(
                self.writers[kind].click,
                work,
                clock=self.desk.clock,
                inputs=[self.adapter_rank] if kind == ADAPTER else [],
                outputs=[self.lines[kind], self.files[kind]],
                starting=f"Writing the {kind}",
                brief=kind == PATCH,  # the gate examines a smaller rank
            )

    @property
    def parts(self) -> list[Any]:
        """What other weights change here."""
        return [self.this_edit, *self.cards.values(), *self.lines.values(), *self.files.values()]

    def drawn(self, session: Session) -> Update:
        """Show what is live and what was written."""
        update: Update = {self.this_edit: words.this_edit(session, saving.why_not(session), self.desk.waiting(session))}
        for kind in SHORT:
            update |= {self.cards[kind]: self._card(session, kind), **self._written(session, kind)}
        return update

    def on_write_patch(self, session: Session, _values: Values) -> Iterator[Update]:
        """Write patch and record."""
        yield from self._write(session, PATCH)

    def on_write_adapter(self, session: Session, values: Values) -> Iterator[Update]:
        """Write an adapter, exact or of a smaller rank."""
        yield from self._write(session, ADAPTER, values[self.adapter_rank])

    def on_write_model(self, session: Session, _values: Values) -> Iterator[Update]:
        """Write base and edit as one model."""
        yield from self._write(session, MODEL)

    def _write(self, session: Session, kind: str, rank: str = "exact") -> Iterator[Update]:
        yield {self.desk.clock: message(f"Writing the {kind}, reading it back, asking it")}
        redraw: defaultdict[str, Throttle] = defaultdict(lambda: Throttle(0.2))

        def draw(event: Preparation) -> Update:
            due = redraw[event.message].due()  # the first word of each stage is
            return {self.desk.clock: progress_bar(event.message, event.fraction)} if due else {}

        made = yield from drain(self.desk.write(session, kind, rank), draw)
        if made is None:
            yield {self.desk.clock: message(words.NOT_WRITTEN)}
            return
        yield {
            **self._written(session, kind),
            self.desk.clock: progress_bar(f"The {kind} is there to download, {shown_bytes(made.bytes)}.", 1.0),
        }

    def _written(self, session: Session, kind: str) -> Update:
        made = session.slot(Kept).saved.get(kind)
        if made is None:
            return {self.lines[kind]: "", self.files[kind]: gr.DownloadButton(value=None, visible=False)}
        label = f"Download {shown_bytes(made.bytes)}"
        return {
            self.lines[kind]: words.saved_line(made, session.row) + self._one_way(kind, made.bytes),
            self.files[kind]: gr.DownloadButton(label, value=made.path, visible=True),
        }

    def _one_way(self, kind: str, size: int) -> str:
        """Say that a patch is too large to be brought in again, where that is so."""
        most = saving.largest_upload(self.model, self.context.limits)
        comes_back = kind != PATCH or self.context.read_only or size <= most
        return "" if comes_back else words.one_way(size, most)

    def _card(self, session: Session, kind: str) -> str:
        refused = saving.why_not_so(self.model, session, kind, self.context.read_only) if session.live else None
        return words.card(kind, saving.size(self.model, session.row, kind), refused)

    def _can(self, session: Session, kind: str) -> bool:
        if saving.why_not(session) is not None:
            return False
        return saving.why_not_so(self.model, session, kind, self.context.read_only) is None

    def _state_of_writer(self, kind: str, session: Session) -> Any:
        return gr.Button(interactive=self._can(session, kind))
