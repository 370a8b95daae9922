"""What is written for visitors to take along: how much one may have within an hour, and what of the disk stays free.

A file goes when its visitor writes the next one of its kind, but the copy that Gradio makes of it to hand it out stays
for an hour. So the sum of an hour counts, not what a visitor's folders hold.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dashboard.kit.limits import HOUR
from dashboard.kit.notes import note
from dashboard.kit.session import Session
from inspector.errors import CaseError


@dataclass
class HandedOut:
    """What was written for a visitor.

    Attributes:
        files: When, in seconds, and how many bytes.
    """

    files: tuple[tuple[float, int], ...] = ()


def require_disk(
    session: Session, folder: Path, size: int, need: int, now: Callable[[], float] = time.monotonic
) -> None:
    """Refuse a file that is more than its visitor may have within an hour, or that leaves too little of the disk free.

    Args:
        folder: Where it is to be written.
        size: Bytes of the file.
        need: Bytes of the disk that it takes for a while, copies included.

    Raises:
        CaseError: It says what to do instead.
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
    instead = "Take a smaller form, such as the patch, or try again in an hour, when older files are gone."
    require_free(session, folder, need, instead)


def require_free(session: Session, folder: Path, need: int, instead: str) -> None:
    """Refuse what leaves too little of the disk free.

    Args:
        folder: Where it is to be written.
        need: Bytes of the disk that it takes for a while, copies included.
        instead: What the error says can be done.

    Raises:
        CaseError: It does.
    """
    if shutil.disk_usage(folder).free - need < session.limits.free:
        note("refused", why="disk")
        raise CaseError(
            f"This needs {shown_bytes(need)} of disk space for a while, of a disk of which "
            f"{shown_bytes(session.limits.free)} stay free. {instead}"
        )


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
