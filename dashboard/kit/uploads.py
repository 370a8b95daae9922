"""What visitors have sent as files: how much of it lies there, and pieces of what was broken off.

The server's folder of copies holds what is handed out as well, merged models of a gigabyte among it: not theirs. So
what comes in is counted by name: the files that Gradio has taken whole, and those that it is writing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from tempfile import NamedTemporaryFile
from typing import Any

import gradio.route_utils

PIECE_FOR = 600.0
"""Seconds after the last byte after which a piece of a file, or a file that nobody has read, is deleted."""


class Pieces:
    """The files that Gradio is writing while they come in; it leaves them where they are if the browser hangs up."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, *given: Any, **named: Any) -> Any:
        """Open one: ``tempfile.NamedTemporaryFile``."""
        made = NamedTemporaryFile(*given, **named)  # noqa: SIM115 - Gradio closes it
        with self._lock:
            self._names.add(made.name)
        return made

    def names(self) -> set[str]:
        """Return those that are still there: what has come in whole has another name."""
        with self._lock:
            self._names = {name for name in self._names if os.path.exists(name)}
            return set(self._names)

    def sweep(self, whole: Iterable[str] = (), older: float = PIECE_FOR) -> None:
        """Delete those to which nothing was added for some time, and files that nobody has read for as long.

        Args:
            whole: Names of the files that have come in: what is read is deleted at once.
            older: Seconds.
        """
        for name in self.names().union(list(whole)):
            try:
                if time.time() - os.stat(name).st_mtime > older:
                    os.unlink(name)
            except FileNotFoundError:  # it has just come in whole, or was read
                continue


PIECES = Pieces()
"""Those of this process."""


def watch() -> None:
    """Let Gradio's uploads be known by name."""
    gradio.route_utils.NamedTemporaryFile = PIECES.begin


def taken(whole: Iterable[str]) -> int:
    """Return the bytes of all that visitors have sent and that is still there.

    Args:
        whole: Names of the files that have come in; those that are gone cost nothing.
    """
    return sum(_size(name) for name in PIECES.names() | set(whole))


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except FileNotFoundError:
        return 0
