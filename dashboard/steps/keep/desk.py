"""What the parts of the view share: the history, its notes, the line that says how far something is."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from dashboard.kit.bus import Update
from dashboard.kit.room import Context
from dashboard.kit.running.run import echoed
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep import saving
from dashboard.steps.keep.asking import Asked, ask, text_to_ask
from dashboard.steps.keep.history import History
from dashboard.steps.keep.kept import InMemory, Kept, Waiting
from dashboard.steps.keep.ledger import Entry, Ledger, LedgerError
from editing.progress import Preparation
from inspector.errors import CaseError
from inspector.model import Decoding
from inspector.safeedit.exam import ExamResult


class Desk:
    """The history of one page and where its parts say what goes on.

    Args:
        context: The page's.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.bus = context, context.bus
        # Texts of visitors go to disk only into the file that the operator has named, and never in a public demo.
        self.ledger = context.shared(Ledger, lambda: Ledger(context.ledger, prompts=not context.read_only))
        self.history = History(self.ledger, context.example.session, context.label)
        self.clock: Any = None
        context.after.append(self.note)

    def note(self, session: Session) -> None:
        """Write down what has become of the visitor's edits."""
        if session is not self.context.example.session:
            several = self.bus.offered("several edits").call(session)
            verdicts = self.bus.offered("verdicts").call(session)
            self.history.note(session, self.waiting(session), self.exam(session), several, verdicts)

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

    def write(
        self, session: Session, kind: str, rank: str = "exact"
    ) -> Generator[Preparation, None, saving.Saved | None]:
        """Write the live edit as a file that the visitor is handed; ``None`` when cancelled.

        Raises:
            PatchError: See :func:`dashboard.steps.keep.saving.write`.
        """
        model, read_only = self.context.model, self.context.read_only
        made = yield from saving.write(model, session, kind, rank, exam=self.exam(session), read_only=read_only)
        if made is not None:
            session.slot(Kept).saved[kind] = made
        return made

    def ask_two(
        self, session: Session, numbers: tuple[int | None, int | None], choice: str, own: str, decoding: Decoding
    ) -> Iterator[Asked]:
        """Ask two rows and the vanilla weights the same; what is live stays live.

        Args:
            numbers: Of the rows A and B.
            choice: What they are asked, by its name on the screen.
            own: A text of the visitor's own, for that choice.

        Yields:
            The answers so far; the last ones are kept. Where the run is cancelled they are not whole, and say so.

        Raises:
            CaseError: A row is not there, or not in memory, both are the same, or the text, its length or that of the
                answers is not allowed.
        """
        kept, history = session.slot(Kept), self.history
        self.note(session)
        entries = [history.entry(session, number) for number in numbers]
        kept.picks |= {"a": entries[0].number, "b": entries[1].number}
        first, second = (history.held(session, entry.number) for entry in entries)
        if entries[0].number == entries[1].number:
            raise CaseError("A and B are the same row. Pick another one for one of them.")
        session.limits.require_short(own)
        text = text_to_ask((first.edit.case, second.edit.case), choice, own, self.context.read_only)
        session.limits.require_decoding(decoding)
        shown, labels = None, (entries[0].label, entries[1].label)
        rows, cancel = (first.row, second.row), session.cancelled.is_set
        for shown in ask(self.context.model, rows, labels, text, choice, decoding, cancel):
            yield shown
        if shown is not None:
            kept.asked, kept.table = shown, ""

    def redo(self, session: Session) -> Entry:
        """Make the edit live again that Undo has dropped last, acting as it acted, and return its row.

        Raises:
            CaseError: There is none, or its patch is no longer in memory.
        """
        entry = self.history.next_redo(session, self.rows(session))
        if entry is None:
            raise CaseError("There is nothing to redo. Redo brings back what Undo has dropped, until the next edit.")
        self.history.make_live(session, self.history.held(session, entry.number))
        return entry

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
        yield from echoed(run, clock, self.clock)
