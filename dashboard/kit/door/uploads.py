"""What visitors have sent as files: how much of it lies there, and pieces of what was broken off.

The server's folder of copies holds what is handed out as well, merged models of a gigabyte among it: not theirs. So
what comes in is counted by name: the files that Gradio has taken whole, and those that it is writing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextvars import ContextVar
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

import gradio.route_utils

PIECE_FOR = 600.0
"""Seconds after the last byte after which a piece of a file, or a file that nobody has read, is deleted."""


class Counting(Protocol):
    """What counts the files of a post."""

    def file(self) -> None:
        """Count one, or refuse it."""


COMING_NOW: ContextVar[Counting | None] = ContextVar("coming", default=None)
"""The post of files that the running task reads."""


class Pieces:
    """The files that Gradio is writing while they come in; it leaves them where they are if the browser hangs up."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, *given: Any, **named: Any) -> Any:
        """Open one: ``tempfile.NamedTemporaryFile``.

        Raises:
            Refused: It is one more than a post may bring.
        """
        post = COMING_NOW.get()
        if post is not None:
            post.file()
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


def still_there(sent: Iterable[set[str]]) -> set[str]:
    """Return the names of the files that have come in whole and are there; the others are taken out of what is given.

    Args:
        sent: Names, of each page of the program. Files come in meanwhile: each set is copied in one step.
    """
    there: set[str] = set()
    for names in sent:
        there |= drop_gone(names)
    return there


def drop_gone(names: set[str]) -> set[str]:
    """Take out of a set the names of files that are gone, and return those that are left."""
    known = names.copy()
    gone = {name for name in known if not os.path.exists(name)}
    names.difference_update(gone)
    # One of them may have come in again since, and its name have been added before it was taken out.
    back = {name for name in gone if os.path.exists(name)}
    names.update(back)
    return (known - gone) | back


def taken(whole: Iterable[str]) -> tuple[int, int]:
    """Return the bytes and the number of all files that visitors have sent and that are still there.

    Args:
        whole: Names of the files that have come in; those that are gone cost nothing.
    """
    sizes = [size for name in PIECES.names() | set(whole) if (size := _size(name)) is not None]
    return sum(sizes), len(sizes)


def _size(name: str) -> int | None:
    try:
        return os.stat(name).st_size
    except FileNotFoundError:
        return None
