"""Two edits side by side as a table to take along, a line for each of the three answers; no Gradio."""

from __future__ import annotations

from dashboard.kit.door.handing import handed_out, room_for_files
from dashboard.kit.drawing import tables
from dashboard.kit.sessions.session import Session
from dashboard.steps.keep.asking import Asked
from inspector.model.whole_file import write_whole

COLUMNS = ("row", "weights", "asked", "prompt", "answer", "verdict", "safe_probability", "reason", "judge", "note")
ROWS = ("vanilla", "A", "B")
FILE = "side-by-side.csv"
_KIND = "comparison"


def as_csv(asked: Asked) -> str:
    """Return a comparison as CSV; what nobody judged has no verdict."""
    verdicts = asked.verdicts or (None, None, None)
    return tables.as_csv(
        COLUMNS,
        (
            (
                row,
                weights,
                asked.choice,
                asked.prompt,
                answer,
                "" if mark is None else mark.label,
                "" if mark is None else f"{mark.safe_probability:.4f}",
                "" if mark is None else mark.reason,
                "" if mark is None else mark.judge,
                note,
            )
            for row, weights, answer, mark, note in zip(
                ROWS, asked.labels, asked.texts, verdicts, asked.notes, strict=True
            )
        ),
    )


def write_table(session: Session, asked: Asked) -> str:
    """Write a comparison as CSV into a folder of the visitor's, in the place of the last one, and return its path.

    Raises:
        CaseError: It is more than the visitor may have within an hour, or than the disk has room for.
        OSError: It cannot be written.
    """
    text = as_csv(asked)
    size = len(text.encode())
    with session.next_folder(_KIND) as folder, room_for_files(session, folder, size, size):
        write_whole(folder / FILE, text)
    handed_out(session, size)
    return str(folder / FILE)
