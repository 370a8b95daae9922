"""Side by side: two rows of the history and the vanilla weights, asked the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.drawing.panes import build_trio
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import Throttle, files_or_told
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.asking import OWN, PROMPTS, Asked
from dashboard.steps.keep.comparison import write_table
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.ledger import Entry


class BesidePart(Room):
    """Ask two edits the same.

    Args:
        context: The page's.
        desk: What the view's parts share.
    """

    name = "beside"

    def __init__(self, context: Context, desk: Desk) -> None:
        super().__init__(context)
        self.desk = desk

    def build(self) -> None:
        """Lay the choices and the three answers out."""
        rows = self.desk.rows(self.context.example.session)
        first, second = defaults(rows, {})
        gr.HTML(words.BESIDE)
        with gr.Row(elem_id="keep-beside"):
            listed: dict[str, Any] = {"interactive": True, "min_width": 200}
            choices = choices_of(rows)
            self.row_a = gr.Dropdown(choices, value=first, label="A", elem_id="keep-row-a", **listed)
            self.row_b = gr.Dropdown(choices, value=second, label="B", elem_id="keep-row-b", **listed)
            self.ask_two_what = gr.Dropdown(
                [*PROMPTS, *([] if self.context.read_only else [OWN])],
                value=next(iter(PROMPTS)),
                label="Asked",
                elem_id="keep-ask-what",
                **listed,
            )
            self.ask_two = gr.Button(
                words.NO_PAIR_SHORT, size="sm", interactive=False, min_width=110, elem_id="keep-ask"
            )
            self.beside_csv = gr.DownloadButton(
                "CSV", size="sm", interactive=False, min_width=70, elem_id="keep-beside-csv"
            )
        self.ask_two_text = gr.Textbox(
            "",
            label="Your own text",
            placeholder="For example a harmless question, to see whether both still answer it",
            lines=2,
            visible=False,
            elem_id="keep-own-text",
        )
        self.trio = build_trio("beside-", words.NO_ANSWER)
        (self.head_vanilla, self.head_a, self.head_b) = self.trio.heads
        (self.pane_vanilla, self.pane_a, self.pane_b) = self.trio.panes

    def hear(self) -> None:
        """Switch the button off where there are no two rows."""
        self.context.lock(self.ask_two, self._state_of_ask)

    def connect(self) -> None:
        """Wire the choices and the button."""
        react = self.context.react
        react(self.ask_two_what.input, self.on_ask_two_what, inputs=[self.ask_two_what], outputs=[self.ask_two_text])
        for part in (self.row_a, self.row_b):
            react(part.input, self.on_rows_chosen, inputs=[self.row_a, self.row_b])
        decoding = self.bus.offered("decoding")
        self.context.press(
            self.ask_two.click,
            self.on_ask_two,
            clock=self.desk.clock,
            inputs=[self.row_a, self.row_b, self.ask_two_what, self.ask_two_text, *decoding.inputs],
            outputs=self.answered,
            starting="Asking",
            brief=True,
        )

    @property
    def parts(self) -> list[Any]:
        """What another row changes here."""
        return [self.row_a, self.row_b]

    @property
    def answered(self) -> list[Any]:
        """What asking changes."""
        return [*self.trio.parts, self.beside_csv]

    def drawn(self, session: Session, rows: Sequence[Entry]) -> Update:
        """Offer the rows as they are."""
        first, second = defaults(rows, session.slot(Kept).picks)
        choices = choices_of(rows)
        return {
            self.row_a: gr.Dropdown(choices=choices, value=first),
            self.row_b: gr.Dropdown(choices=choices, value=second),
        }

    def back(self, session: Session) -> Update:
        """Show the last answers on a page that opens anew, or none."""
        asked = session.slot(Kept).asked
        if asked is None:
            empty = words.NO_ANSWER, words.NO_ANSWER, words.NO_ANSWER
            shown = self.trio.show(empty, ("", "", ""), (False, False, False), compared=False)
        else:
            shown = self._shown(asked)
        return {**shown, **self._handed_out(session)}

    def on_ask_two_what(self, _session: Session, values: Values) -> Update:
        """Show the field for a text of one's own where it is asked."""
        return {self.ask_two_text: gr.Textbox(visible=values[self.ask_two_what] == OWN)}

    def on_rows_chosen(self, session: Session, values: Values) -> Update:
        """Remember which two are to be asked."""
        session.slot(Kept).picks |= {"a": values[self.row_a], "b": values[self.row_b]}
        return {}

    def on_ask_two(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask both edits and vanilla; what is live stays live."""
        numbers, own = (values[self.row_a], values[self.row_b]), values[self.ask_two_text] or ""
        decoding = self.bus.offered("decoding").call(values)
        shown, redraw = None, Throttle(0.15)
        yield {self.desk.clock: message("Vanilla, A and B answer in one batch")}
        for asked in self.desk.ask_two(session, numbers, values[self.ask_two_what], own, decoding):
            if shown is None:
                yield self._shown(asked)
            elif redraw.due():
                yield self.trio.growing(asked.texts)
            shown = asked
        if shown is not None:
            kept = session.slot(Kept)
            kept.table = files_or_told(partial(write_table, session, shown)) or ""
            yield {**self._shown(shown), **self._handed_out(session)}
        said = "Stopped." if shown is None or shown.cancelled else "Asked."
        yield {self.desk.clock: progress_bar(f"{said} Live is still {session.row.label()}.", 1.0)}

    def _shown(self, asked: Asked) -> Update:
        return self.trio.show(asked.texts, words.heads(asked), asked.covered)

    def _handed_out(self, session: Session) -> Update:
        table = session.slot(Kept).table
        there = bool(table) and Path(table).is_file()
        return {self.beside_csv: gr.DownloadButton(value=table if there else None, interactive=there)}

    def _state_of_ask(self, session: Session) -> Any:
        enough = len(self.desk.rows(session)) > 1
        return gr.Button("Ask both" if enough else words.NO_PAIR_SHORT, interactive=enough)


def defaults(rows: Sequence[Entry], picks: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return which two rows are asked: those that were picked, else the live one and the last of the others."""
    numbers = [row.number for row in rows]
    live = next((row.number for row in rows if row.live), numbers[-1] if numbers else None)
    first = picks.get("a") if picks.get("a") in numbers else live
    others = [number for number in numbers if number != first]
    second = picks.get("b") if picks.get("b") in numbers else None
    return first, second or (others[-1] if others else None)


def choices_of(rows: Sequence[Entry]) -> list[tuple[str, int]]:
    """Return the rows for a list, the newest first."""
    return [(row.label, row.number) for row in reversed(rows)]
