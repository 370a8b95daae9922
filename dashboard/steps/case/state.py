"""What one visitor does in the rail."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SETTLES, OVERTAKEN = 10.0, 1.0
"""Seconds within which a browser has put what fills several fields into all of them, and has told of it; and seconds
within which what it told in between has come as well, once all of them were seen filled."""


@dataclass
class Typing:
    """The visitor's changes of the rail's texts.

    Attributes:
        changes: How many have been looked at. Where several fields are filled at once the browser sends each change,
            the first ones with what stood in the other fields before; they run side by side, and the last one counts.
    """

    changes: int = 0
    _filled: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    _until: float = 0.0

    def fills(self, stood: Mapping[Any, Any], now: Mapping[Any, Any]) -> None:
        """Note that fields are about to be filled at once.

        Args:
            stood: What stands in them until then, by component.
            now: What will.
        """
        self._filled = {part: (stood[part], value) for part, value in now.items() if stood[part] != value}
        self._until = time.monotonic() + SETTLES

    def caught_up(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the fields that a browser had not filled yet when it sent a change, with what stands there now.

        It fills one after the other and tells of each, and the last change need not be the last one that is answered:
        one that has a new answer beside what stood in another field was sent in between.

        Args:
            values: What it sent, by component.
        """
        now, here = time.monotonic(), {part: pair for part, pair in self._filled.items() if part in values}
        if now > self._until or not any(values[part] == new for part, (_old, new) in here.items()):
            return {}
        if all(values[part] == new for part, (_old, new) in here.items()):
            self._until = min(self._until, now + OVERTAKEN)
        return {part: new for part, (old, new) in here.items() if values[part] == old}
