"""Calibrations of tiny models."""

from __future__ import annotations

from editing.calibrating.calibration import (
    Calibration,
    make_calibration,
)
from editing.progress import Preparation
from inspector.model import InspectedModel


def made_for(model: InspectedModel, cancel=lambda: False) -> tuple[Calibration | None, list[Preparation]]:
    """Make a calibration; return it and what was told meanwhile."""
    told, making = [], make_calibration(model, cancel)
    while True:
        try:
            told.append(next(making))
        except StopIteration as end:
            return end.value, told


MADE: dict[str, Calibration] = {}
"""Calibrations that were made, by the model's name."""


def one_of(model: InspectedModel) -> Calibration:
    """Return a calibration of a model, made once for all tests that only look at what becomes of it."""
    if model.name not in MADE:
        made = made_for(model)[0]
        assert made is not None
        MADE[model.name] = made
    return MADE[model.name]
