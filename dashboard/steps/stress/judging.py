"""The judges of one page: model judges are loaded once."""

from __future__ import annotations

import threading

from dashboard.steps.stress.run import JUDGES
from inspector.errors import CaseError
from inspector.safeedit.judges import load_judge
from inspector.safeedit.verdict import Judge


class Judges:
    """Hands judges out by their names on the page.

    Args:
        read_only: Only those of :data:`JUDGES` are allowed.
    """

    def __init__(self, read_only: bool) -> None:
        self._read_only = read_only
        self._known: dict[str, Judge] = {}
        self._lock = threading.Lock()

    def of(self, name: str | None) -> Judge:
        """Return a judge.

        Raises:
            CaseError: The demo is read-only and this is a judge of one's own, or it cannot be loaded.
        """
        if self._read_only and name not in JUDGES:
            raise CaseError(f"This demo is read-only: free text is off. Pick one of the judges {', '.join(JUDGES)}.")
        key = JUDGES.get(name or "", name or "")
        with self._lock:
            if key not in self._known:
                self._known[key] = load_judge(key)
            return self._known[key]
