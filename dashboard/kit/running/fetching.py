"""What a visitor's run has to wait for and is not the model, a download for example: fetched on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from dashboard.kit.running.queue import Elsewhere
from inspector.errors import CaseError

One = TypeVar("One")

AT_ONCE = 2
"""Things that may be fetched at a time, those that nobody waits for any more among them."""
LONGEST = 1800.0
"""Seconds after which one that does not come keeps its place no longer."""


class Fetching(Generic[One]):
    """Fetches things by their keys, each once for all who ask meanwhile.

    Args:
        what: What they are called in errors, for example ``judges``.
        now: The clock, seconds.
    """

    def __init__(self, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self._what, self._now = what, now
        self._coming: dict[str, tuple[Future[One], float]] = {}
        self._lock = threading.Lock()

    def get(
        self, key: str, load: Callable[[], One], cancelled: Callable[[], bool] = lambda: False, said: Any = None
    ) -> Generator[Any, None, One | None]:
        """Return what is loaded, yielding :class:`Elsewhere` until it is there: whoever stands in line goes first.

        Args:
            load: Called on the thread.
            cancelled: Whether to wait no longer; what is being fetched comes all the same.
            said: What is shown meanwhile.

        Returns:
            ``None`` if it was cancelled.

        Raises:
            CaseError: Too many are being fetched, or it takes too long.
            Exception: What loading it raises, for all who wait.
        """
        with self._lock:
            self._coming = {name: one for name, one in self._coming.items() if self._now() - one[1] < LONGEST}
            coming, began = self._coming.get(key, (None, self._now()))
            if coming is None:
                if len(self._coming) >= AT_ONCE:
                    raise CaseError(f"Other {self._what} are being loaded just now. Try again in some minutes.")
                coming = Future()
                self._coming[key] = coming, began
                threading.Thread(target=self._fetch, args=(key, load, coming), name="fetching", daemon=True).start()
        while not coming.done():
            if cancelled():
                return None
            if self._now() - began >= LONGEST:
                raise CaseError("This has been loading for half an hour and has not come. Try again later.")
            yield Elsewhere(said)
        return coming.result()

    def _fetch(self, key: str, load: Callable[[], One], coming: Future[One]) -> None:
        try:
            one = load()
        except BaseException as error:  # told to everyone who waits for it
            self._end(key, coming)
            coming.set_exception(error)
            return
        self._end(key, coming)
        coming.set_result(one)

    def _end(self, key: str, coming: Future[One]) -> None:
        with self._lock:
            if self._coming.get(key, (None,))[0] is coming:  # else its place was given away
                del self._coming[key]
