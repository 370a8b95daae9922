"""The page of Keep's tests starts without an example."""

from __future__ import annotations

import pytest
from dashboard_helpers import Page
from keep_helpers import page_of


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page, built once a process: what a visitor does stays theirs."""
    return page_of(tmp_path_factory.mktemp("keep"))
