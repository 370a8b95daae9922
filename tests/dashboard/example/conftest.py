"""Quick examples, and the edits that are run for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from example_helpers import short_examples

from dashboard.example import make as making


@pytest.fixture
def edits(monkeypatch) -> list[Any]:
    """The edits that were run, one entry each."""
    made: list[Any] = []
    real = making.dinm

    def counted(*arguments, **options):
        made.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(making, "dinm", counted)
    return made


@pytest.fixture(scope="module")
def quick_methods() -> Iterator[None]:
    """One method that trains nothing stands for all of them."""
    with short_examples():
        yield
