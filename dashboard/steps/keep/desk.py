"""What the parts of the view share: the history, its notes, the line that says how far something is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dashboard.kit.bus import Update
from dashboard.kit.room import Context
from dashboard.kit.session import Session
from dashboard.steps.keep.history import History, InMemory, Kept, Waiting
from dashboard.steps.keep.ledger import Entry, Ledger, LedgerError
from inspector.safeedit.exam import ExamResult


class Desk:
    """The history of one page and where its parts say what goes on.

    Args:
        context: The page's.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.bus = context, context.bus
        # Texts of visitors go to disk only into the file that the operator has named, and never in a public demo.
        self.ledger = Ledger(context.ledger, prompts=not context.read_only)
        self.history = History(self.ledger, context.example.session)
        self.clock: Any = None
        context.after.append(self.note)

    def note(self, session: Session) -> None:
        """Write down what has become of the visitor's edits."""
        if session is not self.context.example.session:
            self.history.note(session, self.waiting(session), self.exam(session))

    def waiting(self, session: Session) -> Waiting | None:
        """Return the edit that the gate holds back."""
        made = self.bus.offered("held").call(session)
        if made is None:
            return None
        word = None if made.acceptance is None else made.acceptance.record()
        return Waiting(InMemory(made.edit, made.row.detector, made.row.strength), word)

    def exam(self, session: Session) -> ExamResult | None:
        """Return the visitor's last stress test."""
        return self.bus.offered("exam").call(session)

    def rows(self, session: Session) -> list[Entry]:
        """Return the visit's rows; none where the ledger cannot be read, which is told."""
        try:
            return self.history.shown(session)
        except LedgerError as error:
            session.slot(Kept).trouble = error.user_message()
            return []

    def echoed(self, run: Iterator[Update]) -> Iterator[Update]:
        """Show here as well what another step's clock says."""
        (clock,) = self.bus.offered("clock").outputs
        for update in run:
            yield update | ({self.clock: update[clock]} if clock in update else {})
