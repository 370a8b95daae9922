"""The page on a real server, with no bounds, for faults that end a run in its middle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attack_helpers import Served, serve
from dashboard_helpers import SHORT_GATE, model_at_rest

from dashboard.kit.limits import Limits
from dashboard.steps.operate import gating


@pytest.fixture(autouse=True)
def model() -> Iterator[Any]:
    """The tiny model, which every fault must leave as it was."""
    with model_at_rest() as lent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        yield lent


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    """The page."""
    with serve(Limits()) as page:
        yield page
