"""The page on a real server for the attacks that need one: the tiny model, no example, ordinary visitors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from attack_helpers import Served, serve
from dashboard_helpers import SHORT_GATE, model_at_rest

from dashboard.steps.operate import gating


@pytest.fixture(autouse=True)
def model() -> Iterator[Any]:
    """The tiny model, which every attack must leave as it was."""
    with model_at_rest() as lent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        yield lent


@pytest.fixture(scope="package")
def served(tmp_path_factory) -> Iterator[Served]:
    """The page of someone who lets others in, on a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("copies")))
        with serve() as page:
            yield page


@pytest.fixture
def web(served: Served) -> Iterator[httpx.Client]:
    """A client that keeps its cookies."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client
