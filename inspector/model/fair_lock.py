"""A lock that is handed on in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A re-entrant lock that goes to whoever has waited longest.

    A plain lock goes to whichever thread happens to run, which is mostly the one that has just released it: a run that
    takes it anew for each step would keep all others out. Here a release hands it on.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, behind those who wait for it already; tells whether it was taken."""
        me = threading.get_ident()
        with self._guard:
            if self._owner in (me, None):  # it is handed on while anybody waits, so nobody does if nobody has it
                self._owner, self._depth = me, self._depth + 1
                return True
            if not blocking:
                return False
            place = (me, threading.Lock())
            place[1].acquire()
            self._waiting.append(place)
        try:
            place[1].acquire()  # until it is handed over
        except BaseException:  # interrupted
            with self._guard:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self._hand_on()
            raise
        return True

    def release(self) -> None:
        """Give the lock back, or hand it on.

        Raises:
            RuntimeError: Another thread has it, or nobody.
        """
        with self._guard:
            if self._owner != threading.get_ident():
                raise RuntimeError("cannot release a lock that this thread has not taken")
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        if not self._waiting:
            self._owner, self._depth = None, 0
            return
        self._owner, place = self._waiting.popleft()
        self._depth = 1
        place.release()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()
