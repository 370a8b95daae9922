"""What one visitor does in the rail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Typing:
    """The visitor's changes of the rail's texts.

    Attributes:
        changes: How many have been looked at. Where several fields are filled at once the browser sends each change,
            the first ones with what stood in the other fields before; they run side by side, and the last one counts.
    """

    changes: int = 0
