"""The finished example in tests: made whole at once, in few steps, kept for several, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from dashboard_helpers import Page, tiny_model
from filelock import FileLock

from dashboard.example.make import Example
from dashboard.example.store import PARTS
from dashboard.house import House
from dashboard.kit.sessions.visitors import Sessions
from dashboard.lighter import LighterBlocks
from dashboard.steps.compare.run import LONGEST_ANSWER
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stress
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.contest import ContestSettings
from inspector.model import Decoding, InspectedModel
from inspector.safeedit.questions import CASE_ONLY


def make_example(
    model: InspectedModel,
    decoding: Decoding = Decoding(max_new_tokens=LONGEST_ANSWER),
    folder: Path | None = None,
    calibration: Calibration | None = None,
) -> Example:
    """Return the whole example for a model, made now where it is not on disk; its arguments are :class:`Example`'s.

    Raises:
        InspectorError: It cannot be made.
    """
    example = Example(model, decoding, folder, calibration)
    if not example.ended:
        for part in PARTS:
            if example._is_wanted(part):
                example._make(part)
        example._tell(example._word())
        example._ended.set()
    return example


@contextmanager
def short_contests() -> Iterator[None]:
    """Let the methods of examples that are made meanwhile take few steps and answer in few tokens, and few prompts'
    shifts be measured.
    """
    with pytest.MonkeyPatch.context() as patch:
        few = {"dinm": {"steps": 6}, "ft-l": {"steps": 6}, "sft": {"steps": 3}}
        short = {"max_new_tokens": 8, "prompts": 2, "changes": few}
        patch.setattr("dashboard.example.make.ContestSettings", lambda **given: ContestSettings(**{**given, **short}))
        patch.setattr(gating, "EXAM", {**gating.EXAM, "max_new_tokens": 3, "least_gain": 0})  # as in SHORT_GATE
        yield


@contextmanager
def short_examples() -> Iterator[None]:
    """Let the examples that are made meanwhile take few steps, ask the case's own prompts only and run one method that
    trains nothing.

    For tests of how an example is made and kept, and of what does not depend on what it has measured.
    """
    with short_contests(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboard.example.make.preset", lambda name: preset(name, steps=6, harmless_prompts=8))
        patch.setattr("dashboard.example.make.CONTEST", ("self-reminder",))
        patch.setattr("dashboard.steps.methods.run.EXAMPLE_SIZE", CASE_ONLY)
        patch.setitem(stress.SIZES, "Quick", CASE_ONLY)
        yield


def served_example(folder: Path) -> Path:
    """Make one of the short examples for a page that is served, once for all processes; returns its folder."""
    made = folder / "short"
    made.mkdir(exist_ok=True)
    with FileLock(made / ".lock"), short_examples():
        make_example(tiny_model(), folder=made)
    return made


@cache
def finished_example(folder: Path) -> Example:
    """Return the tiny model's example, made once however many pages and processes show it."""
    with FileLock(folder / ".lock"), short_contests():
        return make_example(tiny_model(), Decoding(max_new_tokens=8), folder)


def open_page(folder: Path, read_only: bool = False, calibration: Calibration | None = None) -> Page:
    """Build the page as :func:`dashboard.page.build_app` does, but give its wiring away.

    Args:
        folder: Where the finished example is kept.
        read_only: As for a public demo.
        calibration: Of a calibrated model; the example is that of a model without.
    """
    model = tiny_model()
    example = finished_example(folder)
    with LighterBlocks(analytics_enabled=False) as app:
        house = House(model, Sessions(), example, read_only, calibration)
        app.later = house.context.later
        house.build()
        house.connect_to(app)
    return Page(app, house)
