"""Progress of a part of longer work."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_Result = TypeVar("_Result")


def share_of(work: Generator[float, None, _Result], start: float, end: float) -> Generator[float, None, _Result]:
    """Run a part of longer work, its progress between two shares of the whole; returns what the part returns."""
    while True:
        try:
            share = next(work)
        except StopIteration as done:
            return done.value
        yield start + (end - start) * share
