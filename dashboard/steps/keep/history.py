"""The edits of a visit: what is written down of each, which patches are still in memory, undo and redo; no Gradio."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dashboard.kit.drawing.plain import visible
from dashboard.kit.notes import note
from dashboard.kit.sessions.acting import acted_by, make_live
from dashboard.kit.sessions.session import LARGEST_HISTORY, LiveEdit, Session
from dashboard.steps.keep.entries import (
    EXAMPLE,
    HERE,
    IN_METHODS,
    UPLOADED,
    first_entry,
    gate_word,
    other_weights,
    with_scores,
)
from dashboard.steps.keep.kept import InMemory, Kept, Waiting
from dashboard.steps.keep.ledger import Entry, Ledger, LedgerError
from editing.gate.gate import RECORD, reason_for
from inspector.errors import CaseError
from inspector.safeedit.exam import ExamResult

Examined = tuple[LiveEdit, ExamResult | None]
"""An edit that is not live, with the exam that its own run gave it, if it came to that."""
LONGEST_NAME = 60
NO_ROW = (
    "No row is picked, or it was deleted, or it is of another visit. Pick one in the table; a program takes a number "
    "that /history tells it."
)
GONE = "Its patch is no longer in memory. Take its saved file in again, or make it again: python -m editing.edit"


class History:
    """The edits of every visit of one page.

    Args:
        ledger: Where the rows are.
        example: The finished example's session, whose edit nobody has made; nothing is ever noted of it.
        model: The label of the page's model, which all of these edits are of.
        most_bytes: What the patches of one visit's rows may take together.
    """

    def __init__(self, ledger: Ledger, example: Session, model: str, most_bytes: int = LARGEST_HISTORY) -> None:
        self.ledger, self.example, self.model, self.most_bytes = ledger, example, model, most_bytes
        self._lock = threading.Lock()

    def note(
        self,
        session: Session,
        waiting: Waiting | None = None,
        exam: ExamResult | None = None,
        several: Sequence[Examined] = (),
        verdicts: Mapping[str, str] | None = None,
    ) -> list[Entry]:
        """Write down what has changed since it was last asked, and return the visit's rows.

        Args:
            waiting: What the gate holds back.
            exam: The visitor's last stress test.
            several: What the visitor's last run of several methods has made so far.
            verdicts: On both answers to the adversarial prompt of the live edit's case, where it was asked last.
        """
        with self._lock:
            return self._noted(session, waiting, exam, several, verdicts)

    def _noted(
        self,
        session: Session,
        waiting: Waiting | None,
        exam: ExamResult | None,
        several: Sequence[Examined],
        verdicts: Mapping[str, str] | None,
    ) -> list[Entry]:
        kept = session.slot(Kept)
        if not kept.visit:
            kept.visit = visit = secrets.token_hex(8)
            session.closing.append(lambda: self._ended(visit))
        try:
            known = {entry.patch: entry for entry in self.ledger.entries(kept.visit)}
            for made, word in self._present(session, waiting):
                patch = made.edit.patch.identifier
                before = known.get(patch)
                live = session.live is not None and patch == session.live.patch.identifier
                if before is None and patch in kept.deleted and not live:
                    continue
                kept.deleted.discard(patch)
                entry = self._entry(kept, made, word, before, kept.last + 1, live, exam)
                entry = self._judged(kept, entry, made, verdicts if live else None)
                kept.made[entry.number] = made
                if entry != before:
                    self.ledger.put(kept.visit, entry, made.edit.case)
                    kept.last = max(kept.last, entry.number)
                known[patch] = entry
            self._note_several(kept, several, known)
            now = "" if session.live is None else session.live.patch.identifier
            for patch, entry in known.items():
                if entry.live and patch != now:
                    known[patch] = replace(entry, live=False)
                    held = kept.made.get(entry.number)
                    self.ledger.put(kept.visit, known[patch], None if held is None else held.edit.case)
            kept.trouble = ""
        except LedgerError as error:
            if not kept.trouble:
                _warn(error)
            kept.trouble = error.user_message()
            return []
        finally:
            self._follow(session, kept)
            self._make_room(session, kept, waiting)
        kept.rows = tuple(sorted(known.values(), key=lambda entry: entry.number))
        return list(kept.rows)

    def _present(self, session: Session, waiting: Waiting | None) -> list[tuple[InMemory, dict[str, Any] | None]]:
        """Return the edits that are there, what waits last, with how they act and the gate's word."""
        found: list[tuple[InMemory, dict[str, Any] | None]] = []
        for edit in session.edits:
            made = InMemory(edit, acted_by(session, edit), session.strength_of(edit))
            if edit is session.live:
                made = InMemory(edit, session.detector, session.strength)
            found.append((made, edit.patch.settings.get(RECORD)))
        if waiting is not None:
            found.append((waiting.made, waiting.word))
        return found

    def _entry(
        self,
        kept: Kept,
        made: InMemory,
        word: dict[str, Any] | None,
        before: Entry | None,
        number: int,
        live: bool,
        exam: ExamResult | None,
    ) -> Entry:
        if before is None:
            patch = made.edit.patch
            shared = any(patch.deltas is edit.patch.deltas for edit in self.example.edits)
            origin = EXAMPLE if shared else UPLOADED if patch.identifier in kept.uploaded else HERE
            before = first_entry(made, number, origin, self.model)
        entry = replace(
            before,
            strength=made.strength,
            routed=made.detector is not None,
            gate=gate_word(word, made.row),
            reason="" if word is None else reason_for(word, made.row),
            live=live,
            was_live=before.was_live or live,
        )
        return self._scored(kept, entry, made, exam if exam is not None and exam.key == made.row.key else None)

    @staticmethod
    def _scored(kept: Kept, entry: Entry, made: InMemory, exam: ExamResult | None) -> Entry:
        """Return a row with an exam's scores, named where they are of other weights than the row's as it acts now.

        An exam of other weights does not take the place of the scores that are of the row's.
        """
        own = made.row.key
        if exam is not None and (exam.key == own or not entry.scores or kept.scored.get(entry.number) != own):
            entry = with_scores(entry, exam)
            kept.scored[entry.number] = exam.key
        return replace(entry, scores_of=other_weights(kept.scored.get(entry.number, own), made.row))

    @staticmethod
    def _judged(kept: Kept, entry: Entry, made: InMemory, verdicts: Mapping[str, str] | None) -> Entry:
        """Return a row with the verdicts on its answers, without any where its weights act otherwise since."""
        own = made.row.key
        if verdicts is not None:
            kept.judged[entry.number] = own
            return replace(entry, verdicts=dict(verdicts))
        return entry if kept.judged.get(entry.number, own) == own else replace(entry, verdicts={})

    def _note_several(self, kept: Kept, several: Sequence[Examined], known: dict[str, Entry]) -> None:
        """Give each edit of a run of several its row once: one that had a row already gets the scores alone.

        Its exam was of the patch at strength 1, on every prompt; the row may act otherwise.
        """
        for edit, exam in several:
            if any(edit.result is noted for noted in kept.noted):
                continue
            patch = edit.patch.identifier
            before = known.get(patch)
            kept.deleted.discard(patch)
            first = before or first_entry(InMemory(edit), kept.last + 1, IN_METHODS, self.model)
            back = before is not None and first.number not in kept.made
            made = kept.made.setdefault(first.number, InMemory(edit))
            if back:
                first = _as_run(first, made)
            entry = self._judged(kept, self._scored(kept, first, made, exam), made, None)
            if entry != before:
                self.ledger.put(kept.visit, entry, edit.case)
                kept.last = max(kept.last, entry.number)
            known[patch] = entry
        kept.noted = tuple(edit.result for edit, _ in several)

    def shown(self, session: Session) -> list[Entry]:
        """Return the visit's rows as they are; of a page that nobody has used yet, the finished example's.

        Raises:
            LedgerError: They cannot be read.
        """
        live = session.live
        if session.own and session is not self.example:
            return self.ledger.entries(session.slot(Kept).visit)
        if live is None:
            return []
        made = InMemory(live, session.detector, session.strength)
        return [self._entry(Kept(), made, live.patch.settings.get(RECORD), None, 1, True, None)]

    def _ended(self, visit: str) -> None:
        try:
            self.ledger.ended(visit)
        except LedgerError as error:
            _warn(error)

    @staticmethod
    def _follow(session: Session, kept: Kept) -> None:
        """Keep what Redo brings back: what Undo has dropped, until another edit is made."""
        now = tuple(edit.patch.identifier for edit in session.edits)
        if now == kept.stack:
            return
        if kept.stack and now == kept.stack[:-1]:
            kept.undone.append(kept.stack[-1])
        elif kept.undone and now and now[-1] == kept.undone[-1]:
            kept.undone.pop()
        else:
            kept.undone.clear()
        kept.stack = now

    def _make_room(self, session: Session, kept: Kept, waiting: Waiting | None) -> None:
        """Let the patches go that are too much, the oldest first; never one that Undo, the gate or the page needs."""
        needed = {edit.patch.identifier for edit in session.edits}
        if waiting is not None:
            needed.add(waiting.made.edit.patch.identifier)
        for number in sorted(kept.made):
            if sum(made.edit.patch.bytes for made in kept.made.values()) <= self._room(session):
                return
            if kept.made[number].edit.patch.identifier not in needed:
                del kept.made[number]

    def _room(self, session: Session) -> int:
        """Return what the history of a visit may take: half of what its visitor may store, so that work goes on."""
        return min(self.most_bytes, session.limits.stored // 2)

    def entry(self, session: Session, number: int | None) -> Entry:
        """Return a row of the visit.

        Raises:
            CaseError: There is none of that number.
        """
        rows = {entry.number: entry for entry in self.ledger.entries(session.slot(Kept).visit)}
        if number is None or number not in rows:
            raise CaseError(NO_ROW)
        return rows[number]

    def held(self, session: Session, number: int | None) -> InMemory:
        """Return the edit of a row.

        Raises:
            CaseError: There is no such row, or its patch is no longer in memory.
        """
        entry = self.entry(session, number)
        found = session.slot(Kept).made.get(entry.number)
        if found is None:
            raise CaseError(f"{entry.label}: {GONE}.")
        return found

    def rename(self, session: Session, number: int | None, name: str) -> None:
        """Give a row another name.

        Raises:
            CaseError: There is no such row, or the name is too long.
        """
        said = visible(" ".join(name.split()))
        if len(said) > LONGEST_NAME:
            raise CaseError(f"The name has {len(said)} characters. Choose one of at most {LONGEST_NAME}.")
        entry = self.entry(session, number)
        self.ledger.rename(session.slot(Kept).visit, entry.number, said)

    def delete(self, session: Session, number: int | None) -> None:
        """Take a row and its patch away; what is live stays live.

        Raises:
            CaseError: There is no such row, or its edit is live.
        """
        entry, kept = self.entry(session, number), session.slot(Kept)
        if entry.live:
            raise CaseError("This edit is live, and deleting a row never changes what is live. Press Undo first.")
        self.ledger.delete(kept.visit, entry.number)
        session.edits = [edit for edit in session.edits if edit.patch.identifier != entry.patch]
        kept.stack = tuple(patch for patch in kept.stack if patch != entry.patch)
        kept.undone = [patch for patch in kept.undone if patch != entry.patch]
        kept.deleted.add(entry.patch)
        kept.made.pop(entry.number, None)

    def next_redo(self, session: Session, rows: Sequence[Entry]) -> Entry | None:
        """Return the row that Redo brings back, if there is one in memory."""
        kept = session.slot(Kept)
        wanted = kept.undone[-1] if kept.undone else None
        return next((entry for entry in rows if entry.patch == wanted and entry.number in kept.made), None)

    @staticmethod
    def make_live(session: Session, made: InMemory) -> None:
        """Make an edit of a row the live one, acting as it acted when it was live last."""
        make_live(session, made.edit, made.detector)
        session.scale(made.strength)


def _warn(error: LedgerError) -> None:
    """Tell the operator what the visitor is not told: which file it is, and the database's own words."""
    print(f"Warning: {error.operator_message()}", file=sys.stderr)
    note("ledger", logging.WARNING, error=type(error.__cause__).__name__)


def _as_run(entry: Entry, made: InMemory) -> Entry:
    """Return a row whose patch had left memory and is there again as it was run: at strength 1, on every prompt.

    What the gate said, and that it was live, is of how it acted before.
    """
    word = made.edit.patch.settings.get(RECORD)
    routed = made.detector is not None
    return replace(
        entry,
        strength=made.strength,
        routed=routed,
        gate=gate_word(word, made.row),
        reason="" if word is None else reason_for(word, made.row),
        was_live=entry.was_live and (entry.strength, entry.routed) == (made.strength, routed),
    )
