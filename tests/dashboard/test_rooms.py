"""Who knows whom in the house: no step imports another one, and the kit imports no step.

Here the sources themselves are read, so that an import within a function, or one for types alone, is seen as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for room in ("steps", "kit") for path in (ROOT / "dashboard" / room).rglob("*.py"))

ALLOWED = {
    ("dashboard/steps/report/run.py", "dashboard.report.document"): (
        "a report is also made without a page, so it has a room beside the steps, which reads what some of them keep"
    ),
}
"""What a step or the kit imports of the dashboard beside its own folder and the kit, with the reason."""


def imported(source: str) -> Iterator[str]:
    """Yield the whole name of each module that a source imports, wherever in it; a relative one begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            for name in node.names:
                inner = f"{start}.{name.name}"
                place = ROOT / inner.replace(".", "/")
                yield inner if place.is_dir() or place.with_suffix(".py").is_file() else start


def strangers(path: Path, source: str) -> set[str]:
    """Return what a step or the kit imports of the dashboard that is neither its own folder nor the kit."""
    room = ".".join(path.relative_to(ROOT).parts[:3])
    known = ("dashboard.kit.", f"{room}." if room.startswith("dashboard.steps.") else "dashboard.kit.")
    return {
        name for name in imported(source) if name.startswith((".", "dashboard")) and not f"{name}.".startswith(known)
    }


def test_steps_know_their_own_folder_and_the_kit_which_knows_no_step_or_the_reason_is_named_here():
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for name in strangers(path, path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED), "hear of another step by the bus; what is imported no more leaves the list"


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("from dashboard.kit.bus import News", True),
        ("from dashboard.kit import tables", True),
        ("from dashboard.steps.why import run as why_run", True),
        ("from dashboard.steps.why.state import Looked", True),
        ("import gradio as gr\nfrom editing import dinm", True),
        ("from dashboard.steps.whys import run", False),
        ("from dashboard.steps.locate.run import LocatedCase", False),
        ("from dashboard.steps import locate", False),
        ("import dashboard.steps.locate.run", False),
        ("def look():\n    from dashboard.steps.locate import run", False),
        ("from dashboard.house import STEPS", False),
        ("from dashboard import page", False),
        ("from ..locate import run", False),
    ],
)
def test_another_room_is_known_from_the_step_s_own_and_the_kit(source, known):
    assert (strangers(ROOT / "dashboard/steps/why/view.py", source) == set()) is known


def test_the_kit_knows_no_step_by_whatever_name():
    for source in ("from dashboard.steps.case import run", "import dashboard.steps", "from dashboard import steps"):
        assert strangers(ROOT / "dashboard/kit/bus.py", source), source
