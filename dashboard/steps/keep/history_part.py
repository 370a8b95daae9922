"""History: the table of the visit's edits, and what can be done with a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.glossary import columns
from dashboard.kit.drawing.html import message, reading
from dashboard.kit.room import Context, Room
from dashboard.kit.sessions.acting import Wish, switched, wish_of
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.entries import UNSEEN, was_accepted
from dashboard.steps.keep.history import LONGEST_NAME
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.ledger import Entry
from inspector.errors import CaseError


class HistoryPart(Room):
    """List, name, delete, make live again, undo, redo.

    Args:
        context: The page's.
        desk: What the view's parts share.
    """

    name = "history"

    def __init__(self, context: Context, desk: Desk) -> None:
        super().__init__(context)
        self.desk = desk

    def build(self) -> None:
        """Lay the table out with the picked row below it."""
        session = self.context.example.session
        rows = self.desk.rows(session)
        gr.HTML(words.HISTORY)
        if self.context.ledger is not None:
            texts = "." if self.context.read_only else " and the texts of your cases."
            gr.HTML(reading(f"{words.ON_DISK}{texts}", "warn"), elem_id="keep-on-disk")
        self.rows_note = gr.HTML(self._note(session, rows), elem_id="keep-rows-note")
        self.rows_table = gr.Dataframe(
            words.cells(rows, {row.number for row in rows}, ()),
            headers=list(words.HEADERS),
            interactive=False,
            max_height=300,
            wrap=True,
            show_label=False,
            buttons=[],
            column_widths=["5%", "13%", "6%", "13%", "11%", "7%", "16%", "9%", "11%", "9%"],
            elem_id="keep-rows",
        )
        gr.HTML(columns(words.HEADERS))
        with gr.Row(elem_id="keep-row-actions"):
            self.row_picked = gr.Dropdown(
                _choices(rows),
                value=rows[-1].number if rows else None,
                label="Row",
                show_label=False,
                container=False,
                interactive=True,
                scale=3,
                min_width=220,
                elem_id="keep-picked",
            )
            small: dict[str, Any] = {"size": "sm", "min_width": 70}
            again = "It is live" if rows else "Make live again"
            self.again = gr.Button(again, interactive=False, elem_id="keep-again", **small)
            undo = "Undo" if rows else "Nothing to undo"
            self.undo_edit = gr.Button(undo, interactive=bool(rows), elem_id="keep-undo", **small)
            self.redo_edit = gr.Button("Nothing to redo", interactive=False, elem_id="keep-redo", **small)
            self.delete_row = gr.Button("Delete row", interactive=bool(rows), elem_id="keep-delete", **small)
        if not self.context.read_only:
            with gr.Row(elem_id="keep-naming"):
                self.row_name = gr.Textbox(
                    "",
                    label="Name of the row",
                    show_label=False,
                    container=False,
                    placeholder=f"Name of the row, at most {LONGEST_NAME} characters",
                    max_lines=1,
                    scale=3,
                    min_width=220,
                    elem_id="keep-name",
                )
                self.rename_row = gr.Button("Rename", interactive=bool(rows), elem_id="keep-rename", **small)
        picked = rows[-1] if rows else None
        self.row_details = gr.HTML(words.details(picked, True), elem_id="keep-details")

    def hear(self) -> None:
        """Switch off what cannot be done."""
        self.context.lock(self.again, self._state_of_again)
        self.context.lock(self.undo_edit, _state_of_undo)
        self.context.lock(self.redo_edit, self._state_of_redo)
        for button in (self.delete_row, *([] if self.context.read_only else [self.rename_row])):
            self.context.lock(button, lambda session: gr.Button(interactive=bool(self.desk.rows(session))))

    def connect(self) -> None:
        """Wire the table and the buttons."""
        react, press = self.context.react, self.context.press
        own = [self.row_picked, self.row_details, self.again]
        react(self.row_picked.input, self.on_row_picked, inputs=[self.row_picked], outputs=own)
        react(self.rows_table.select, self.on_row_clicked, outputs=own, event=gr.SelectData)
        live: dict[str, Any] = {"clock": self.desk.clock, "tells": (News.LIVE,)}
        gate, undo = self.bus.offered("gate"), self.bus.offered("undo")
        press(
            self.again.click,
            self.on_again,
            inputs=[self.row_picked, *gate.inputs],
            outputs=[*gate.outputs],
            starting="Making it live",
            **live,
        )
        press(self.redo_edit.click, self.on_redo, starting="Redo", brief=True, **live)
        press(
            self.undo_edit.click,
            self.on_undo_here,
            inputs=undo.inputs,
            outputs=undo.outputs,
            starting="Undo",
            brief=True,
            **live,
        )
        brief: dict[str, Any] = {"clock": self.desk.clock, "starting": "", "brief": True}
        press(self.delete_row.click, self.on_delete_row, inputs=[self.row_picked], **brief)
        if not self.context.read_only:
            named = [self.row_picked, self.row_name]
            press(self.rename_row.click, self.on_rename_row, inputs=named, outputs=[self.row_name], **brief)

    @property
    def parts(self) -> list[Any]:
        """What another row changes here."""
        return [self.rows_note, self.rows_table, self.row_picked, self.row_details]

    def drawn(self, session: Session, rows: Sequence[Entry]) -> Update:
        """Show the rows as they are."""
        kept = session.slot(Kept)
        picked = self._picked(session, rows)
        memory = kept.made if session.own else {row.number for row in rows}
        return {
            self.rows_note: self._note(session, rows),
            self.rows_table: words.cells(rows, memory, {edit.patch.identifier for edit in session.edits}),
            self.row_picked: gr.Dropdown(choices=_choices(rows), value=picked.number if picked else None),
            self.row_details: words.details(picked, picked is not None and picked.number in memory),
        }

    def on_row_picked(self, session: Session, values: Values) -> Update:
        """Show the row that was picked in the list."""
        return self._follow(session, values[self.row_picked])

    def on_row_clicked(self, session: Session, _values: Values, event: gr.SelectData) -> Update:
        """Show the row that was clicked."""
        # The table may be sorted: its first cell says which row it is.
        return {**self._follow(session, int(event.row_value[0])), self.row_picked: int(event.row_value[0])}

    def on_again(self, session: Session, values: Values) -> Iterator[Update]:
        """Make the picked row's edit live; one that was never accepted has to pass the gate first."""
        before = wish_of(session)
        entry = self.desk.history.entry(session, values[self.row_picked])
        made = self.desk.history.held(session, entry.number)
        if entry.live:
            raise CaseError("This edit is live already. Pick another row.")
        if not was_accepted(entry):
            yield from self.desk.echoed(self.bus.offered("gate").call(session, values, made.edit, made.row))
            live = session.live is not None and session.live.patch.identifier == entry.patch
            if not live:
                yield {self.desk.clock: message("Held back by the gate. Keep it anyway stands in Operate.")}
                return
        else:
            self.desk.history.make_live(session, made)
            yield from self.bus.tell(News.LIVE, session, values)
        yield {self.desk.clock: _is_back(f"Row {entry.number} is live: {session.row.label()}.", session, before)}

    def on_undo_here(self, session: Session, values: Values) -> Iterator[Update]:
        """Drop the live edit, as Undo in Operate does."""
        before = wish_of(session)
        yield from self.bus.offered("undo").call(session, values)
        said = f"Undone. Live is {session.row.label()}; Redo brings the edit back."
        yield {self.desk.clock: _is_back(said, session, before)}

    def on_redo(self, session: Session, values: Values) -> Iterator[Update]:
        """Make the edit live again that Undo has dropped last."""
        before = wish_of(session)
        self.desk.redo(session)
        yield from self.bus.tell(News.LIVE, session, values)
        yield {self.desk.clock: _is_back(f"Redone: {session.row.label()} is live.", session, before)}

    def on_delete_row(self, session: Session, values: Values) -> Iterator[Update]:
        """Take the picked row away."""
        self.desk.history.delete(session, values[self.row_picked])
        yield {self.desk.clock: message("The row is deleted; nothing that is live has changed.")}

    def on_rename_row(self, session: Session, values: Values) -> Iterator[Update]:
        """Name the picked row."""
        self.desk.history.rename(session, values[self.row_picked], values[self.row_name] or "")
        yield {self.row_name: "", self.desk.clock: message("Renamed.")}

    def _follow(self, session: Session, number: int | None) -> Update:
        session.slot(Kept).picks["row"] = number
        rows = self.desk.rows(session)
        picked = self._picked(session, rows)
        there = picked is not None and (not session.own or picked.number in session.slot(Kept).made)
        return {self.row_details: words.details(picked, there), self.again: self._state_of_again(session)}

    def _picked(self, session: Session, rows: Sequence[Entry]) -> Entry | None:
        by_number = {row.number: row for row in rows}
        wanted = by_number.get(session.slot(Kept).picks.get("row") or 0)
        return wanted or next((row for row in rows if row.live), rows[-1] if rows else None)

    def _note(self, session: Session, rows: Sequence[Entry]) -> str:
        said = words.trouble(session.slot(Kept)) if session is not self.context.example.session else ""
        return said or ("" if rows else reading(words.NOTHING))

    def _state_of_again(self, session: Session) -> Any:
        picked = self._picked(session, self.desk.rows(session))
        if picked is None or picked.live:
            return gr.Button("It is live" if picked else "Make live again", interactive=False)
        if picked.number not in session.slot(Kept).made:
            return gr.Button("Not in memory", interactive=False)
        asks = "Ask the gate" if picked.gate == UNSEEN else "Ask the gate again"
        return gr.Button("Make live again" if was_accepted(picked) else asks, interactive=True)

    def _state_of_redo(self, session: Session) -> Any:
        entry = self.desk.history.next_redo(session, self.desk.rows(session)) if session.own else None
        return gr.Button("Nothing to redo" if entry is None else "Redo", interactive=entry is not None)


def _state_of_undo(session: Session) -> Any:
    return gr.Button("Undo" if session.live else "Nothing to undo", interactive=session.live is not None)


def _choices(rows: Sequence[Entry]) -> list[tuple[str, int]]:
    return [(row.label, row.number) for row in reversed(rows)]


def _is_back(said: str, session: Session, before: Wish) -> str:
    """Say that an edit is live again, and where it acts if the switch has changed with it.

    Args:
        before: Where the visitor's next edit was to act before.
    """
    acts = switched(session, before)
    return message(said, f"{said} It {acts}" if acts else "")
