"""Short names for what a page shows. A link holds no text: what it stands for is kept in memory, for a while."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inspector.errors import CaseError

KEEP = 7 * 24 * 3600.0
"""Seconds for which a link is kept."""
MOST = 2000
"""Links that are kept at once; beyond that the oldest goes."""
MOST_BYTES = 32 * 2**20
LARGEST = 256 * 2**10
"""Bytes of the texts and settings of one link."""
OF_ONE = 20
"""Links of one visitor; a further one takes the place of their oldest."""
NAME = 12
"""Random bytes in a link's name: enough that nobody finds one by trying."""


@dataclass(frozen=True)
class _Kept:
    page: Links
    owner: str
    values: Mapping[Any, Any]
    made: float
    bytes: int


class Links:
    """All links of one page, by name.

    Args:
        keep_for: See :data:`KEEP`.
        most: See :data:`MOST`.
        most_bytes: What all of them may hold together.
        now: The clock, seconds.
        beside: Another page's of the same program: what all pages keep together is bounded, not what each one does.
    """

    def __init__(
        self,
        keep_for: float = KEEP,
        most: int = MOST,
        most_bytes: float = MOST_BYTES,
        now: Callable[[], float] = time.monotonic,
        beside: Links | None = None,
    ) -> None:
        self.keep_for, self._most, self._most_bytes, self._now = keep_for, most, most_bytes, now
        self._kept: OrderedDict[str, _Kept] = OrderedDict() if beside is None else beside._kept
        self._lock: threading.Lock = threading.Lock() if beside is None else beside._lock

    def keep(self, owner: str, values: Mapping[Any, Any]) -> str:
        """Keep what a page's controls say and return the link's name.

        Args:
            owner: The visitor's key.
            values: By the control's name among those that links bring back.

        Raises:
            CaseError: It is too large.
        """
        held = sum(_bytes(value) for value in values.values())
        if held > LARGEST:
            raise CaseError(
                f"These texts are too long for a link: {held // 1024:,} of at most {LARGEST // 1024:,} KB. Save the "
                "edit "
                "as a file instead, or shorten the texts."
            )
        with self._lock:
            own = [name for name, kept in self._kept.items() if kept.owner == owner]
            for name in own[: max(0, len(own) - OF_ONE + 1)]:
                del self._kept[name]
            made = secrets.token_urlsafe(NAME)
            self._kept[made] = _Kept(self, owner, dict(values), self._now(), held)
            self._sweep()
        return made

    def find(self, name: str) -> Mapping[Any, Any] | None:
        """Return what a link stands for, ``None`` for one that has expired or never was."""
        with self._lock:
            self._sweep()
            kept = self._kept.get(name)
            return None if kept is None or kept.page is not self else kept.values

    def __len__(self) -> int:
        """Return how many are kept, those of pages beside this one among them."""
        return len(self._kept)

    def _sweep(self) -> None:
        """Forget what is too old, then the oldest while there are too many or they hold too much."""
        held = sum(kept.bytes for kept in self._kept.values())
        for name, kept in list(self._kept.items()):
            old = self._now() - kept.made > self.keep_for
            if not old and len(self._kept) <= self._most and held <= self._most_bytes:
                return
            del self._kept[name]
            held -= kept.bytes


def _bytes(value: Any) -> int:
    """Return roughly what a control's value takes in memory."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(_bytes(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return sum(map(_bytes, value))
    return sys.getsizeof(value)
