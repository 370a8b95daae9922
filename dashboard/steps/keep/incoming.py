"""A saved edit from a file that a visitor has sent: a copy of its own, checked whole, not live yet; no Gradio."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dashboard.kit.door.handing import room_on_disk
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.keep.kept import Kept
from editing.saved.incoming import take_in, unpacked_bytes
from inspector.errors import CaseError
from inspector.model import InspectedModel, Row

SAID = "Checking file, record, base, shapes, numbers; then whether it lowers safety"
"""What goes on in :func:`brought_in`."""
LATER = "Try again later, when files of others are gone."
_KIND = "incoming"


def own_copies(session: Session, given: Sequence[Path]) -> None:
    """Copy what was sent before anything waits: Gradio has one file for all who have sent the same.

    The copies are the visitor's until :func:`brought_in` has read them; what was sent is deleted.

    Raises:
        CaseError: A file is gone: another visitor has sent the same, and theirs was taken in. Or too little of the
            disk is free for the copies and as much again.
    """
    copies: list[Path] = []
    session.slot(Kept).incoming = copies
    if not given:
        return
    with session.next_folder(_KIND) as folder:
        for number, file in enumerate(given):
            copy = folder / str(number) / file.name
            copy.parent.mkdir()
            try:
                with room_on_disk(session, folder, 2 * file.stat().st_size, LATER):
                    shutil.copyfile(file, copy)
            except FileNotFoundError:
                raise CaseError("The file is no longer there. Choose the file again.") from None
            copies.append(copy)
    for file in given:  # Gradio's own, which would lie there for an hour
        file.unlink(missing_ok=True)


def not_read(session: Session) -> None:
    """Drop copies that no run has read: it was cancelled in line, or has met an error before that."""
    session.slot(Kept).incoming = []
    session.drop_folder(_KIND)


def brought_in(model: InspectedModel, session: Session) -> tuple[LiveEdit, Row]:
    """Check the visitor's copies; what they hold is theirs then, and the gate is to be asked about it.

    Returns:
        The edit, and its weights as they were saved.

    Raises:
        CaseError: There are none, too little of the disk is free for what a zip unpacks to, which may be far more than
            it is itself, or the answers of the edit's case look exchanged.
        PatchError: See :func:`editing.saved.incoming.take_in`.
        RefusedEdit: The unsafe answer gains on the safe one.
    """
    kept = session.slot(Kept)
    files, kept.incoming = kept.incoming, []
    if not files:
        raise CaseError("No file is given. Choose a saved edit, or drop one on the field.")
    try:
        with tempfile.TemporaryDirectory(prefix="dinm-inspector-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with room_on_disk(session, folder, unpacked_bytes(files, model), LATER):
                row, record, result = take_in(files, model, folder)
    finally:
        session.drop_folder(_KIND)
    assert row.patch is not None
    kept.uploaded.add(row.patch.identifier)
    return LiveEdit(record.case, result, record.below), row
