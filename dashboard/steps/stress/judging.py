"""The judges of one page: model judges are loaded once, few are kept, and one that is being fetched holds nobody up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from dashboard.kit.limits import Limits
from dashboard.kit.notes import note
from dashboard.kit.queue import Elsewhere
from dashboard.kit.room import Context
from dashboard.steps.stress.run import JUDGES
from inspector.errors import CaseError
from inspector.safeedit.judges import load_judge
from inspector.safeedit.verdict import Judge

KEPT = 2
"""Model judges that stay loaded; the longest unused goes first, and is freed when no test uses it any more."""
AT_ONCE = 2
"""Judges that may be fetched at a time, those that nobody waits for any more among them."""


def judges_of(context: Context) -> Judges:
    """Return the judges of a page, for what is pressed on it and for its programs alike."""
    return context.shared(Judges, lambda: Judges(context.read_only, context.limits))


class Judges:
    """Hands judges out by their names on the page.

    Args:
        read_only: Only those of :data:`JUDGES` are allowed.
        limits: Which others a visitor may name.
    """

    def __init__(self, read_only: bool, limits: Limits | None = None) -> None:
        self._read_only, self._limits = read_only, limits or Limits()
        self._known: OrderedDict[str, Judge] = OrderedDict()
        self._fetched: dict[str, Future[Judge]] = {}
        self._lock = threading.Lock()

    def of(
        self, name: str | None, cancelled: Callable[[], bool] = lambda: False, said: Any = None
    ) -> Generator[Any, None, Judge | None]:
        """Return a judge, yielding :class:`Elsewhere` until it is loaded: whoever stands in line behind goes first.

        Args:
            cancelled: Whether to wait no longer: what is being fetched is kept for the next one who asks.
            said: What is shown meanwhile.

        Returns:
            ``None`` if it was cancelled.

        Raises:
            CaseError: The demo is read-only and this is a judge of one's own, the operator has not allowed it, or too
                many are being fetched.
            ModelLoadError: It cannot be loaded.
        """
        key = self._key(name)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            coming = self._fetched.get(key)
            if coming is None:
                if len(self._fetched) >= AT_ONCE:
                    raise CaseError("Other judges are being loaded just now. Try again in some minutes.")
                coming = self._fetched[key] = Future()
                threading.Thread(target=self._fetch, args=(key, coming), name="judge", daemon=True).start()
        while not coming.done():
            if cancelled():
                return None
            yield Elsewhere(said)
        return coming.result()

    def _key(self, name: str | None) -> str:
        asked = (name or "").strip()
        if asked in JUDGES:
            return JUDGES[asked]
        if self._read_only:
            note("refused", why="read-only")
            raise CaseError(f"This demo is read-only: free text is off. Pick one of the judges {', '.join(JUDGES)}.")
        return asked if asked in JUDGES.values() else self._limits.require_source(asked, "judge")

    def _fetch(self, key: str, coming: Future[Judge]) -> None:
        try:
            judge = load_judge(key)
        except BaseException as error:  # told to everyone who waits for it
            with self._lock:
                del self._fetched[key]
            coming.set_exception(error)
            return
        with self._lock:
            self._known[key] = judge
            models = [name for name in self._known if name not in JUDGES.values()]
            for name in models[: max(0, len(models) - KEPT)]:
                del self._known[name]
            del self._fetched[key]
        coming.set_result(judge)
