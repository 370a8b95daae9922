"""Exams put together what `tests/inspector/model` compares on every family, and tell two kinds of family apart."""

from __future__ import annotations

import pytest
import tiny_models


@pytest.fixture(params=tiny_models.ENDS)
def family(request) -> str:
    """The name of a family with a final norm, and of the one without."""
    return request.param
