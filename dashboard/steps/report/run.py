"""What the report's controls do; no Gradio in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dashboard.kit.door.handing import handed_out, room_for_files
from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.parts import Reporter
from dashboard.report.document import NOTHING, make_report, visit_of, write_report
from editing.calibrating.trial_edits import Layers
from inspector.errors import CaseError
from inspector.model import InspectedModel


@dataclass(frozen=True)
class Written:
    """A report that was made.

    Attributes:
        titles: Its parts.
        weights: The weights that were live, by their label.
        runs: How many runs the visitor had had.
        made: When.
        redacted: Prompts and answers that are not known to be safe were left out.
        size: Bytes of the HTML file.
        files: Paths of report, script and notebook.
    """

    titles: tuple[str, ...]
    weights: str
    runs: int
    made: datetime
    redacted: bool
    size: int
    files: tuple[str, str, str]


@dataclass
class Reported:
    """The visitor's last report."""

    written: Written | None = None


def report(
    model: InspectedModel, session: Session, reporters: Sequence[Reporter], redact: bool, layers: Layers | None = None
) -> Written:
    """Write what a session holds into a folder of its own; the visitor's last report goes once this one is there.

    Args:
        reporters: Those of the steps, in the order of the page.
        redact: Leave prompts and answers out that are not known to be safe.
        layers: What trial edits of the model achieve at each layer, if it is calibrated.

    Raises:
        CaseError: Nothing was measured or edited yet, or the files are more than the visitor may have within an hour,
            or than the disk has room for.
    """
    made = datetime.now().astimezone()
    found = make_report(model, visit_of(session, redact, layers), reporters, made)
    if found is None:
        raise CaseError(NOTHING)
    size = len(found.html.encode())
    together = size + len(found.script.encode()) + len(found.notebook.encode())
    with session.next_folder("report") as folder, room_for_files(session, folder, together, together):
        files = write_report(found, folder)
    handed_out(session, together)
    # The run that makes it counts as well.
    written = Written(found.titles, session.row.label(), session.runs + 1, made, redact, size, files)
    session.slot(Reported).written = written
    return written
