"""A tiny model that knows the words of the small exam."""

from __future__ import annotations

import pytest
from gate_helpers import CASE
from word_models import word_model

from editing.gate.exam import small_exam
from inspector.model import InspectedModel


@pytest.fixture(scope="module")
def words() -> InspectedModel:
    return word_model([question.prompt for question in small_exam(CASE)], seed=1)
