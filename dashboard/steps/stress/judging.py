"""The judges of one page: model judges are loaded once, few are kept, and one that is being fetched holds nobody up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any

from dashboard.kit.limits import Limits
from dashboard.kit.notes import note
from dashboard.kit.room import Context
from dashboard.kit.running.fetching import Fetching
from dashboard.steps.stress.run import JUDGES
from inspector.errors import CaseError
from inspector.safeedit.judges import load_judge
from inspector.safeedit.verdict import Judge

KEPT = 2
"""Model judges that stay loaded; the longest unused goes first, and is freed when no test uses it any more."""


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
        self._fetching: Fetching[Judge] = Fetching("judges")
        self._lock = threading.Lock()

    def of(
        self, name: str | None, cancelled: Callable[[], bool] = lambda: False, said: Any = None
    ) -> Generator[Any, None, Judge | None]:
        """Return a judge, yielding until it is loaded (:class:`dashboard.kit.running.fetching.Fetching`).

        Args:
            cancelled: Whether to wait no longer: what is being fetched is kept for the next one who asks.
            said: What is shown meanwhile.

        Returns:
            ``None`` if it was cancelled.

        Raises:
            CaseError: The demo is read-only and this is a judge of one's own, the operator has not allowed it, too many
                are being fetched, or it takes too long.
            ModelLoadError: It cannot be loaded.
        """
        key = self._key(name)
        judge = self._there(key)
        if judge is None:
            judge = yield from self._fetching.get(key, lambda: self._load(key), cancelled, said)
        return judge

    def _key(self, name: str | None) -> str:
        asked = (name or "").strip()
        if asked in JUDGES:
            return JUDGES[asked]
        if self._read_only:
            note("refused", why="read-only")
            raise CaseError(f"This demo is read-only: free text is off. Pick one of the judges {', '.join(JUDGES)}.")
        return asked if asked in JUDGES.values() else self._limits.require_source(asked, "judge")

    def _there(self, key: str) -> Judge | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def _load(self, key: str) -> Judge:
        judge = self._there(key) or load_judge(key)  # it may have come since it was looked for
        with self._lock:
            self._known[key] = judge
            models = [name for name in self._known if name not in JUDGES.values()]
            for name in models[: max(0, len(models) - KEPT)]:
                del self._known[name]
        return judge
