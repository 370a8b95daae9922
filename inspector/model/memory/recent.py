"""What is kept of a model and used again: the entries used last, so that nothing grows with the time a server runs.

What a visitor has typed may not stay when their visit is over. So what is kept goes by names that do not tell what they
stand for (:func:`named`), and what is of a visitor's own texts goes when a visit ends (:func:`with_visits`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_FORGETTING: list[Callable[[], object]] = []


class Recent(OrderedDict[_Key, _Value]):
    """A dictionary of at most so many entries; the one that was used longest ago goes first.

    Another thread may let an entry go at any time: whoever wants one asks :meth:`get`, not whether it is there.

    Args:
        most: Number of entries.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._lock = threading.RLock()

    def __getitem__(self, key: _Key) -> _Value:
        with self._lock:
            value = super().__getitem__(key)
            self.move_to_end(key)
            return value

    def get(self, key: _Key, default: Any = None) -> Any:
        """Return an entry, which is then the one used last; ``default`` where it is not there or no longer."""
        try:
            return self[key]
        except KeyError:
            return default

    def __setitem__(self, key: _Key, value: _Value) -> None:
        with self._lock:
            super().__setitem__(key, value)
            self.move_to_end(key)
            while len(self) > self._most:
                self.popitem(last=False)

    def popitem(self, last: bool = True) -> tuple[_Key, _Value]:
        """Take away the entry used last, or the one that was used longest ago."""
        with self._lock:
            return super().popitem(last)


def named(*what: object) -> str:
    """Return the name under which something is kept: of equal things the same, and nothing can be read off it.

    Args:
        what: Texts, token ids, prompt formats: whatever ``repr`` writes alike where it is equal.
    """
    return hashlib.sha256(repr(what).encode()).hexdigest()


def with_visits(forget: Callable[[], object]) -> None:
    """Have something called whenever a visit ends, which forgets what is kept of texts that visitors type.

    Args:
        forget: Called in any thread; whoever is in the middle of using what it forgets is to bear that.
    """
    _FORGETTING.append(forget)


def forget_visits() -> None:
    """Forget what is kept of texts that visitors have typed; those who are still there have it made again."""
    for forget in _FORGETTING:
        forget()
