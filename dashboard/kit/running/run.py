"""What every run shares: draining a generator, the throttle, the page's errors, the buttons that a run locks."""

from __future__ import annotations

import errno
import json
import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr
from safetensors import SafetensorError

from dashboard.kit.bus import Update
from dashboard.kit.drawing.html import LINE, message
from dashboard.kit.drawing.plain import escape
from dashboard.kit.notes import note, places
from editing.memory import memory_told
from inspector.errors import CaseError, InspectorError
from inspector.model.tensor_file import as_system_error

Result = TypeVar("Result")
Drawn = TypeVar("Drawn")
CANCEL, CANCEL_SENT, CANCEL_OFF = "Cancel", "Stopping", "Nothing runs"
SENT = f"() => {json.dumps(CANCEL_SENT)}"
"""What the browser does at a press of Cancel: an answer of the server could come after the run's last word and stay."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
"""How events look: without Gradio's own progress, and without the browser counting it.

Hidden alone, it is still kept for every output of every event, and all that was ever kept is written anew into its
component at each answer, which the page's one thread has to do.
"""


def drain(run: Generator[Any, None, Result], draw: Callable[[Any], Drawn | None]) -> Generator[Drawn, None, Result]:
    """Run something to its end, draw each of its events that is worth it, and return its result."""
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            return end.value
        update = draw(event)
        if update:
            yield update


def echoed(run: Iterator[Update], said: Any, clock: Any) -> Iterator[Update]:
    """Show in the clock of the view that started a run as well what the run says in another one's.

    Args:
        said: The clock that the run writes to; where an error ends the run, it says so, too.
        clock: That of the view, to which the error is told by whoever wired the run.
    """
    try:
        for update in run:
            yield update | ({clock: update[said]} if said in update else {})
    except Exception as error:
        yield {said: stopped(error)}
        raise


class Throttle:
    """Lets something through once in a while: a browser redraws a figure in about 0.1 s, faster events are drawn
    together.

    Args:
        seconds: How long a while is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, 0.0

    def due(self) -> bool:
        """Tell whether the time has come, and count from now on if so."""
        now = time.monotonic()
        if now - self._last <= self._seconds:
            return False
        self._last = now
        return True


@contextmanager
def shown_to_user() -> Iterator[None]:
    """Turn the project's errors into what Gradio shows; the one place where that happens."""
    try:
        with memory_told():
            yield
    except InspectorError as error:
        cause = error.__cause__
        if cause is None:
            note("told", error=type(error).__name__)
        else:  # its words may hold a path or a text: the operator gets its kind and the place
            at = places(cause.__traceback__)
            note("told", error=type(error).__name__, cause=_kind(cause), at=at)
        # Quotes stay: the text goes between tags on the page, and to programs as it is.
        told = escape(told_of(error), quote=False)
        raise gr.Error(told, duration=12, print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        if has_no_room(error):
            note("told", logging.ERROR, error="NoRoom", at=places(error.__traceback__))
            raise gr.Error(NO_ROOM_TOLD, duration=20, print_exception=False) from error
        # Its message may quote a text or a path: the visitor gets a number, the operator the place with that number.
        number = secrets.token_hex(4)
        note("defect", logging.ERROR, number=number, error=type(error).__name__, at=places(error.__traceback__))
        raise gr.Error(DEFECT.format(number=number), duration=20, print_exception=False) from error


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NO_ROOM_TOLD = (
    "This machine's disk is full or cannot be written, so no file was made; what was measured is kept. Whoever runs "
    "this page has to make room."
)
DEFECT = (
    "Something went wrong on this machine (error {number}); nothing else was changed. Try again, or give that number "
    "to whoever runs this page."
)


def has_no_room(error: BaseException | None) -> bool:
    """Tell whether an error says that the disk is full or cannot be written, in the system's words or safetensors'."""
    if isinstance(error, SafetensorError):
        error = as_system_error(error)
    return isinstance(error, OSError) and error.errno in NO_ROOM


def told_of(error: InspectorError) -> str:
    """Return what a visitor reads of an error: its words, or those for a disk that is full."""
    return NO_ROOM_TOLD if has_no_room(error.__cause__) else error.user_message()


def files_or_told(write: Callable[[], Result]) -> Result | None:
    """Write files of what was measured, which is shown in any case; ``None`` where that cannot be, which is told."""
    try:
        return write()
    except CaseError as error:
        told = error.user_message()
    except OSError as error:
        note("told", logging.ERROR, error="NoRoom", at=places(error.__traceback__))
        told = NO_ROOM_TOLD
    gr.Warning(told, duration=20)
    return None


def _kind(cause: BaseException) -> str:
    number = errno.errorcode.get(cause.errno or 0) if isinstance(cause, OSError) else None
    return type(cause).__name__ if number is None else f"{type(cause).__name__} {number}"


def stop_line(error: Exception) -> str:
    """Return what a clock says of a run that an error has ended."""
    if isinstance(error, InspectorError):
        return f"Stopped: {told_of(error)}"
    return "Stopped: an error of this program; the message beside has its number."


def stopped(error: Exception) -> str:
    """Return the clock of a run that an error has ended."""
    said = stop_line(error)
    return message(said, said if len(said) > LINE else "")
