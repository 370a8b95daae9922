"""What the tests of the page start from: the tiny model at rest, its page with the finished example, a new visitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_helpers import SHORT_GATE, TYPED, Page, Visitor, model_at_rest
from example_helpers import open_page

from dashboard.steps.operate import gating
from inspector.model import InspectedModel


@pytest.fixture(autouse=True)
def short_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gate ask few prompts; what it says of edits has tests of its own."""
    monkeypatch.setattr(gating, "EXAM", SHORT_GATE)
    monkeypatch.setattr(gating, "STACK_EXAM", {"harmless": 1, "max_new_tokens": 3})


@pytest.fixture(autouse=True, scope="module")
def nothing_typed() -> None:
    """What the tests of other files have typed is no excuse in this one."""
    TYPED.clear()


@pytest.fixture
def model() -> Iterator[InspectedModel]:
    """The tiny model; after the test it must be as it was."""
    with model_at_rest() as lent:
        yield lent


@pytest.fixture(scope="session")
def page(example_folder: Path) -> Page:
    """The page, built once a process: what a visitor does stays theirs."""
    return open_page(example_folder)


@pytest.fixture
def visitor(page: Page, request: pytest.FixtureRequest) -> Visitor:
    """A new visitor of the page."""
    return Visitor(page, request.node.nodeid)
