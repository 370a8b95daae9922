"""Short exams for the tests of Methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dashboard.steps.methods import run as methods
from editing.contest import ContestSettings
from inspector.safeedit.sets import held_out_cases


@pytest.fixture(scope="module", autouse=True)
def small_exam() -> Iterator[None]:
    """Methods take few steps, the case's prompts and two harmless ones are asked, few prompts' activations compared."""
    few = {"ft-l": {"steps": 6}, "sft": {"steps": 3}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "ContestSettings", lambda **given: ContestSettings(**given, changes=few))
        patch.setitem(methods.SIZES, "Brief", replace(methods.BRIEF, harmless=2, facts=0, passages=0))
        patch.setattr("editing.contest.held_out_cases", lambda: held_out_cases()[:3])
        yield
