"""The room for files that visitors send: it is promised before a file comes, for all together and for each address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from dashboard.kit.door.refused import Refused
from dashboard.kit.door.uploads import PIECE_FOR, taken

UPLOADED = 4
"""Files of the largest size that all that visitors have sent, or are sending, may take together."""
OF_ONE = 2
"""Files of the largest size that may come from one address in :data:`dashboard.kit.door.uploads.PIECE_FOR` seconds."""
AT_ONCE = 8
"""Files that one post may bring; an edit is one or two."""
MOST_FILES = 200
"""Files that all that visitors have sent, or are sending, may be together, whatever their size."""
FILES_OF_ONE = 100
"""Files that may come from one address in :data:`dashboard.kit.door.uploads.PIECE_FOR` seconds."""
ADDRESSES = 10_000
"""Addresses of which it is known what came from them."""
COUNTED_BY = 30.0
"""Seconds whose bytes are counted together."""
GRACE = 30.0
"""Seconds for which a file may be behind the pace at which it is whole in
:data:`dashboard.kit.door.uploads.PIECE_FOR` seconds."""

FULL = "The room for files that visitors send is full. Try again later."
NO_DISK = "The disk has no room for files that visitors send. Try again later."
TOO_MANY = f"At most {AT_ONCE} files may be sent at once. Send fewer."
TOO_MUCH = "More was sent from your address than this page takes in ten minutes. Try again later."
TOO_SLOW = "The file came too slowly. Send it again."


class Coming:
    """One post of files on its way.

    Args:
        address: Where it comes from.
        size: Bytes that are kept free for it.
        now: The clock, seconds.
    """

    def __init__(self, address: str, size: int, now: Callable[[], float]) -> None:
        self.address, self.size, self._now = address, size, now
        self.began, self.came, self.files = now(), 0, 0

    @property
    def late(self) -> bool:
        """Whether it comes too slowly to be whole in time: who announces a file and sends nothing keeps no room."""
        passed = self._now() - self.began - GRACE
        return self.came < self.size * min(1.0, passed / PIECE_FOR)

    @property
    def missing(self) -> int:
        """Bytes that are kept free for it and have not come: those that have are on the disk."""
        return 0 if self.late else max(0, self.size - self.came)

    @property
    def missing_files(self) -> int:
        """Files for which places are kept and that have not come."""
        return 0 if self.late else AT_ONCE - self.files

    def file(self) -> None:
        """Count a file of it that begins.

        Raises:
            Refused: It brings too many.
        """
        if self.files >= AT_ONCE:
            raise Refused(413, TOO_MANY, "room")
        self.files += 1

    def counted(self, receive: Any) -> Any:
        """Return a ``receive`` that counts what comes and takes nothing any more once it is late."""

        async def hearing() -> Any:
            message = await receive()
            self.came += len(message.get("body", b""))
            if self.late:
                raise Refused(408, TOO_SLOW, "room")
            return message

        return hearing


class UploadRoom:
    """What may still come.

    Args:
        now: The clock, seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._coming: set[Coming] = set()
        self._came: OrderedDict[str, list[tuple[float, int, int]]] = OrderedDict()
        """By address, the bytes and the files of each :data:`COUNTED_BY` seconds, with their beginning."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many posts of files are on their way."""
        return len(self._coming)

    def begin(self, address: str, size: int, most: int, whole: Collection[str]) -> Coming:
        """Keep room for a post of files; asks the disk how much there is.

        Args:
            address: Where it comes from.
            size: Bytes that it may bring.
            most: Those of the largest file.
            whole: Names of the files that have come in.

        Raises:
            Refused: There is none.
        """
        size = min(size, most)  # what is posted beside a file of the largest size is no file
        with self._lock:
            missing = sum(one.missing for one in self._coming) + size
            held, files = taken(whole)
            places = sum(one.missing_files for one in self._coming) + AT_ONCE
            if held + missing > UPLOADED * most or files + places > MOST_FILES:
                raise Refused(507, FULL, "room")
            came, brought = self._lately(address)
            for one in self._coming:
                if one.address == address:  # what is late holds no more than has come of it
                    came, brought = came + one.came + one.missing, brought + one.files + one.missing_files
            if came + size > OF_ONE * most or brought + AT_ONCE > FILES_OF_ONE:
                raise Refused(429, TOO_MUCH, "room")
            coming = Coming(address, size, self._now)
            self._coming.add(coming)
            return coming

    def end(self, coming: Coming) -> None:
        """Hear that a post has ended, whole or broken off: only what came of it counts from now on."""
        with self._lock:
            self._coming.discard(coming)
            came = min(coming.came, coming.size)
            now, entries = self._now(), self._came.setdefault(coming.address, [])
            if entries and now - entries[-1][0] < COUNTED_BY:
                began, bytes_before, files_before = entries[-1]
                entries[-1] = began, bytes_before + came, files_before + coming.files
            else:
                entries.append((now, came, coming.files))
            self._came.move_to_end(coming.address)
            while len(self._came) > ADDRESSES:
                self._came.popitem(last=False)

    def _lately(self, address: str) -> tuple[int, int]:
        since = self._now() - PIECE_FOR
        left = [entry for entry in self._came.get(address, []) if entry[0] > since]
        if left:
            self._came[address] = left
        else:
            self._came.pop(address, None)
        return sum(came for _, came, _ in left), sum(files for _, _, files in left)
