"""Memory that a container leaves: limits of its control groups, of which the machine's own numbers know nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where the control groups are mounted; those of version 1 in a folder for each kind."""
MEMBERSHIP = Path("/proc/self/cgroup")
"""Says which groups this process is in: lines ``number:kinds:/path``, version 2 with no kinds."""


def left_in_container() -> int | None:
    """Return the bytes that the tightest limit of this process's control groups leaves; ``None`` for no limit.

    What the kernel has cached of files counts as free: it goes where memory is asked for.
    """
    return min((left for folder, files in _groups() if (left := _left(folder, files)) is not None), default=None)


_TWO = ("memory.max", "memory.current", "")
_ONE = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
"""Names of the limit and of what is in use, and the prefix of a group's sums over all groups in it."""


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Give the folder of each group with a say in this process's memory, from its own up, with its files' names.

    Inside a container the path may be the host's, of which the upper part alone, or nothing, is mounted.
    """
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, files = (GROUPS / "memory", _ONE) if kinds else (GROUPS, _TWO)
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            yield folder, files
            if folder == top:
                break


def _left(folder: Path, files: tuple[str, str, str]) -> int | None:
    limit, used, sums = files
    try:
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or its limit is the word max
        return None
    return max(0, left + sum(int(stat.get(f"{sums}{kind}_file", 0)) for kind in ("inactive", "active")))
