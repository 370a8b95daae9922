"""What is written for visitors to take along: how much one may have within an hour; and what of the disk stays free.

A file goes when its visitor writes the next one of its kind, and nobody else can fetch it. What one may have counts by
the hour nevertheless, not by what a visitor's folders hold: each file costs the disk's time, and the line's to whoever
fetches it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dashboard.kit.limits import HOUR
from dashboard.kit.notes import note
from dashboard.kit.sessions.session import Session
from inspector.errors import CaseError


@dataclass
class HandedOut:
    """What was written for a visitor.

    Attributes:
        files: When, in seconds, and how many bytes.
    """

    files: tuple[tuple[float, int], ...] = ()


_PROMISED: dict[object, Callable[[], int]] = {}
"""Bytes of the disk that are kept free just now, for what is written for visitors and for what they send, all of them
together."""
_LOCK = threading.Lock()


@contextmanager
def room_for_files(
    session: Session, folder: Path, size: int, need: int, now: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Keep room on the disk for files that the block writes for a visitor, or refuse them.

    Args:
        folder: Where they are to be written.
        size: Bytes of the files.
        need: Bytes of the disk that they take for a while, copies included.

    Raises:
        CaseError: They are more than the visitor may have within an hour, or leave too little of the disk free. It says
            what to do instead.
    """
    limits, kept = session.limits, session.slot(HandedOut)
    kept.files = tuple(one for one in kept.files if now() - one[0] < HOUR)
    had = sum(count for _, count in kept.files)
    if limits.files is not None and had + size > limits.files:
        note("refused", why="files")
        wait = f", or try again in {max(1, round((HOUR - (now() - kept.files[0][0])) / 60))} min" if had else ""
        share = f"{shown_bytes(had) if had else 'none'} of which you have had"
        raise CaseError(
            f"This file has {shown_bytes(size)}; {shown_bytes(limits.files)} of files an hour are allowed here, "
            f"{share}. Take a smaller form, such as the patch{wait}."
        )
    instead = "Take a smaller form, such as the patch, or try again later, when files of others are gone."
    with room_on_disk(session, folder, need, instead):
        yield


@contextmanager
def room_on_disk(session: Session, folder: Path, need: int, instead: str) -> Iterator[None]:
    """Keep room on the disk for what the block writes, or refuse it where too little would stay free.

    What others are writing meanwhile counts as taken, all of it: as much of it as lies on the disk already counts
    twice, so that too much stays free rather than too little. What they are sending counts until it has come.

    Args:
        folder: Where it is to be written.
        need: Bytes of the disk that it takes for a while, copies included.
        instead: What the error says can be done.

    Raises:
        CaseError: Too little would.
    """
    mine = object()
    if not keep_free(mine, lambda: need, folder, session.limits.free):
        note("refused", why="disk")
        raise CaseError(
            f"This needs {shown_bytes(need)} of disk space for a while, of a disk of which "
            f"{shown_bytes(session.limits.free)} stay free. {instead}"
        )
    try:
        yield
    finally:
        give_back(mine)


def keep_free(whose: object, missing: Callable[[], int], folder: Path | str, free: int) -> bool:
    """Keep room on the disk until :func:`give_back`; ``False``, and nothing is kept, where too little would stay free.

    Args:
        whose: By which it is given back.
        missing: Says how many bytes it is, as often as others ask for some.
        folder: A folder of that disk.
        free: Bytes that have to stay free.
    """
    with _LOCK:
        held = sum(other() for other in _PROMISED.values())
        if shutil.disk_usage(folder).free - held - missing() < free:
            return False
        _PROMISED[whose] = missing
        return True


def give_back(whose: object) -> None:
    """Let others have what was kept."""
    with _LOCK:
        _PROMISED.pop(whose, None)


def promised() -> int:
    """Return the bytes of the disk that are kept free just now."""
    with _LOCK:
        return sum(missing() for missing in _PROMISED.values())


def shown_bytes(count: int) -> str:
    """Return a size for people."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{max(1, round(count / 1e3))} kB"


def handed_out(session: Session, size: int, now: Callable[[], float] = time.monotonic) -> None:
    """Count a file that was written for a visitor."""
    kept = session.slot(HandedOut)
    kept.files = (*kept.files, (now(), size))
