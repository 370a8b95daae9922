"""Endpoints for edits as files and rows: examine, write, take in, list, compare, redo, name, delete; as Keep does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from dashboard.edit_events import exam_events, gate_events
from dashboard.endpoints import gives, takes
from dashboard.endpoints.naming import named
from dashboard.kit.room import Context
from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep.asking import PROMPTS
from dashboard.steps.keep.desk import Desk
from dashboard.steps.keep.incoming import SAID, brought_in, not_read, own_copies
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.saving import ADAPTER, MODEL
from dashboard.steps.keep.texts import NOT_WRITTEN
from dashboard.steps.operate import gating
from editing.gate.budgets import Budgets
from editing.progress import run as run_quietly
from inspector.errors import CaseError
from inspector.model import Decoding

NO_FILES = "This demo is read-only: it takes no files in."
NOT_SENT = (
    "A file is none that was sent to this page. Send it with gradio_client's handle_file, or post it to "
    "/gradio_api/upload and give the path that is answered."
)


def connect_files(context: Context) -> None:
    """Register the endpoints; each one's docstring is its help."""
    model, desk = context.model, context.one(Desk, lambda: Desk(context))
    page = gr.context.Context.root_block

    def examine(request: gr.Request | None = None) -> Iterator[gives.Examined]:
        """Ask the gate about the edit that it holds back, else about the live one as it acts now, at its strength.

        A live edit stays live whatever it says; what it has not passed does not leave by /save.
        """
        with shown_to_user(), context.reserved(request) as session:
            run = gating.examine_now(model, session, gating.settings_of(Budgets()), context.detector)
            events: Any = exam_events(run)
            yield from events
            held = session.slot(gating.Gated).held
            if held is None:
                word = gating.record_of(session.live)
            else:
                word = None if held.acceptance is None else held.acceptance.record()
            yield {"done": True, "weights": session.row.label(), "live": held is None, "gate": word}

    def save(
        form: takes.Form = "patch", rank: takes.Rank = "exact", request: gr.Request | None = None
    ) -> gives.SavedEdit:
        """Write the live edit as a file, read it back and compare it with the live edit.

        Only an edit leaves that the gate has passed as it acts now, or that was kept against it on the record.
        """
        # These stand in line on the page as well: a model's check loads a second one, the gate asks a smaller rank.
        whole = form == MODEL or (form == ADAPTER and rank != "exact")
        with shown_to_user(), context.reserved(request, room=whole) as session:
            writing = desk.write(session, form, rank)
            made = context.in_turn(writing, "save", session, request) if whole else run_quietly(writing)
            if made is None:
                raise CaseError(f"{NOT_WRITTEN} Call /save again for the file.")
            return {
                "file": as_file(made.path),
                "bytes": made.bytes,
                "weights": made.weights,
                "largest_logit_difference": made.difference,
                "lost_share_of_norm": made.lost,
            }

    def take_in(files: takes.Files, request: gr.Request | None = None) -> Iterator[gives.EditEvent]:
        """Take a saved edit in: checked whole, then held to the gate like one made here; the last event has its word.

        What the gate refuses is not live until /keep.
        """
        with shown_to_user(), context.reserved(request) as session:
            yield {"done": False, "kind": "preparation", "message": SAID, "fraction": 0.0}
            edit, row = brought_in(model, session)
            made = gating.Made(edit, detector=row.detector, as_saved=row)
            yield from gate_events(context, session, made, edit.result)

    def own_files(session: Session, files: Any, *_given: Any, **_named: Any) -> None:
        if context.read_only:
            raise CaseError(NO_FILES)
        own_copies(session, sent(files, page.upload_file_set))

    def history(request: gr.Request | None = None) -> gives.EditRows:
        """List this client's edits, one a row: those that it made, ran in /methods, took in or started with."""
        with shown_to_user():
            return rows_of(context.asking(request))

    def rows_of(session: Session) -> gives.EditRows:
        memory = session.slot(Kept).made
        told: list[Any] = []
        for row in desk.history.shown(session):
            entry = asdict(row)
            told.append({"row": entry.pop("number"), **entry, "in_memory": row.number in memory or not session.own})
        return told

    def compare(
        a: takes.Row,
        b: takes.Row,
        asked: takes.AskedBoth = next(iter(PROMPTS)),
        text: takes.OwnText = "",
        max_new_tokens: takes.NewTokens = 64,
        request: gr.Request | None = None,
    ) -> gives.ComparedAnswers:
        """Ask two edits of this client and the vanilla weights the same; what is live stays live."""
        with shown_to_user(), context.reserved(request) as session:
            decoding = Decoding(max_new_tokens=session.limits.require_tokens(max_new_tokens))
            shown = list(desk.ask_two(session, (a, b), asked, text, decoding))
            if not shown or shown[-1].cancelled:
                raise CaseError("Cancelled: the answers were cut short, and no edit was changed. Ask again for them.")
            found = shown[-1]
            safe = [None if found.verdicts is None else found.verdicts[at].safe for at in range(3)]
            return [
                {"weights": label, "answer": answer, "note": note, "safe": one}
                for label, answer, note, one in zip(found.labels, found.texts, found.notes, safe, strict=True)
            ]

    def redo(request: gr.Request | None = None) -> gives.Live:
        """Make the edit live again that /undo has dropped last, acting as it acted; another edit ends that."""
        with shown_to_user(), context.reserved(request) as session:
            desk.redo(session)
            return {"weights": session.row.label(), "edits": len(session.edits)}

    def rename(row: takes.Row, name: takes.RowName, request: gr.Request | None = None) -> gives.EditRows:
        """Name an edit of this client, and list its edits as /history does."""
        with shown_to_user(), context.reserved(request) as session:
            if context.read_only:
                raise CaseError("This demo is read-only: free text is off.")
            desk.history.rename(session, row, name)
            return rows_of(session)

    def delete(row: takes.Row, request: gr.Request | None = None) -> gives.EditRows:
        """Take an edit's row and its patch away, and list what is left; the live one has to be undone first."""
        with shown_to_user(), context.reserved(request) as session:
            desk.history.delete(session, row)
            return rows_of(session)

    for function in (examine, save, history, compare, redo, rename, delete):
        named(function, context.in_line(function))
    named(take_in, context.in_line(take_in, own_files, not_read))


def as_file(path: str) -> gives.File:
    """Return a file of this machine as clients are handed it."""
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": gives.FILE}}


def sent(files: Any, known: Iterable[str]) -> list[Path]:
    """Return the paths of files that a client names.

    Args:
        files: As its call has them.
        known: Those that were sent to this page. Nothing else is read, wherever it lies.

    Raises:
        CaseError: One is none of those.
    """
    listed = files if isinstance(files, list) else [files]
    paths = [file.get("path") if isinstance(file, dict) else None for file in listed]
    there = {os.path.abspath(one) for one in list(known)}  # a copy: files come in meanwhile
    if any(not isinstance(path, str) or os.path.abspath(path) not in there for path in paths):
        raise CaseError(NOT_SENT)
    return [Path(str(path)) for path in paths]
