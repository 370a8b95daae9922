"""What the tests of the page start from: the tiny model at rest, its page with the finished example, a new visitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_helpers import Page, Visitor, model_at_rest, open_page

from inspector.model import InspectedModel


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
