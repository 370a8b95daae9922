"""A file or folder is seen whole or not at all: written beside its name, pushed to the disk, renamed in one step."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDING = ".partial"


def unfinished(path: Path) -> Path:
    """Return a name beside a file's or folder's own that nobody else has, for what is not whole yet."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{ENDING}")


def may_be_made(folder: Path) -> bool:
    """Tell whether a folder is there, or can be made, and may be written to."""
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; it takes the other's place when the block ends without an error.

    Whatever ends the block, or the whole program, at whatever moment: under ``path`` stands what stood there before or
    all of the new content. Two writers at once do not mix; the later one wins.

    Args:
        path: The file; its folder is made.

    Raises:
        OSError: The folder or the file cannot be written; what stood there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = unfinished(path)
    try:
        yield partial
        to_disk(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    to_disk(path.parent)


def put_in_place(made: Path, folder: Path) -> None:
    """Give a folder that was made beside its name that name, once all that is in it is on the disk.

    Args:
        made: The folder as it is to be seen, on the same disk.
        folder: Its name; nothing, or an empty folder, stands there.

    Raises:
        OSError: Its files cannot be pushed to the disk, or something stands under that name.
    """
    for path in made.rglob("*"):
        to_disk(path)
    to_disk(made)
    made.replace(folder)
    to_disk(folder.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 that is seen whole or not at all.

    Raises:
        OSError: See :func:`replacing`.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_disk(path: Path) -> None:
    """Push a file, or the names that a folder holds, to the disk.

    Raises:
        OSError: It cannot be pushed.
    """
    if os.name == "nt" and path.is_dir():  # there a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
