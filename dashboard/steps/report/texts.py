"""What the report's room says."""

from __future__ import annotations

from dashboard.kit.drawing.html import heading, reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import Session
from dashboard.steps.report.run import Written

HEADING = heading(2, "Report", "this visit as one file that opens without a network, and as code that repeats it")
ABOUT = (
    "Whatever this visit holds is written down: case, figures, both answers under their verdicts, stress test, "
    "methods, settings, versions and hashes. Nothing is measured anew. Answers that are not known to be safe stay "
    "covered until a reader uncovers them, and on paper. Each figure, there and on this page, gives its numbers as "
    "CSV and itself as SVG or PNG: the sign in its corner."
)
WRITING = "Writing the report"
NO_REPORT = "No report of this visit yet."


def state(written: Written | None, session: Session) -> str:
    """Say what was written and of which weights, and whether something was done since."""
    if written is None:
        return reading(NO_REPORT)
    left_out = "; prompts and answers that are not known to be safe left out" if written.redacted else ""
    # What runs now is counted when it ends.
    stale = session.runs + session.busy > written.runs
    size, at = f"{written.size / 1e6:.1f} MB", f"{written.made:%H:%M}"
    since = reading("Something was done since: make it anew to have it in.", "warn") if stale else ""
    return reading(f"Written at {at}, {size}{left_out}. Live weights: {written.weights}.") + since + contents(written)


def contents(written: Written) -> str:
    """List the parts of a report."""
    chips = "".join(f"<li>{escape(title)}</li>" for title in written.titles)
    return f'<ol class="contents" aria-label="Parts of the report">{chips}</ol>'
