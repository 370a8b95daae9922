"""What the command lines that edit share, beyond those that read: how an error ends them, how far a run is."""

from __future__ import annotations

import sys
from collections.abc import Callable

from editing.memory import memory_told
from editing.progress import Preparation
from inspector.command import Loader, add_case, add_format, add_model, case_of, format_of, load_model, told_format
from inspector.errors import InspectorError

__all__ = [
    "Loader",
    "add_case",
    "add_format",
    "add_model",
    "case_of",
    "finished",
    "format_of",
    "load_model",
    "teller",
    "told_format",
]


def finished(work: Callable[[], int | None]) -> int:
    """Do a command's work; an error of this program, or too little memory, is told in its own words.

    Returns:
        The exit code: what the work returned, 0 for nothing; 2 when it cannot be done.
    """
    try:
        with memory_told():
            return work() or 0
    except InspectorError as error:
        print(f"Error: {error.user_message()}", file=sys.stderr)
        return 2


def teller() -> Callable[[Preparation], None]:
    """Return what prints a run's progress to the error stream, a line a tenth."""
    said = -1

    def tell(event: Preparation) -> None:
        nonlocal said
        tenth = int(10 * event.fraction)
        if tenth > said:
            said = tenth
            print(f"  {event.message}, {100 * event.fraction:.0f} %", file=sys.stderr, flush=True)

    return tell
