"""The committed results of the detector, read as they were printed, like all others of :mod:`.results`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dashboard.steps.questions.printed import NUMBER, Measured, assert_found, found_in, interval
from inspector.safeedit.harmful_sets import SETS

_HARMFUL, _HARMLESS = "harmful, found", "harmless, false alarms"


@dataclass(frozen=True)
class Detection:
    """The detector on texts that nothing was chosen on, with the suffix.

    Attributes:
        area: Area under the ROC curve.
        bare: Bare harmful questions found at its own threshold, percent.
        wrapped: The same in attack templates.
        alarms: False alarms on bare harmless prompts, percent.
        wrapped_alarms: The same in attack templates.
        frontiers: ``bare`` and ``wrapped``: false alarms at several thresholds and the harmful prompts found there,
            percent.
    """

    area: float
    bare: Measured
    wrapped: Measured
    alarms: Measured
    wrapped_alarms: Measured
    frontiers: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Misled:
    """The detector on bare prompts that are written to mislead it, with the suffix.

    Attributes:
        area: Area under the ROC curve.
        found: Unsafe prompts found at its own threshold, percent.
        alarms: Safe prompts for which it fires, percent.
    """

    area: float
    found: Measured
    alarms: Measured


def detection(text: str) -> Detection:
    """Read ``calibration.txt``: what the detector finds and its false alarms."""
    part = _with_suffix(text)
    frontiers: dict[str, list[tuple[float, float]]] = {}
    for kind in ("bare", "wrapped"):
        lines = re.findall(rf"{kind} +threshold +{NUMBER}: +({NUMBER}) % found at +({NUMBER}) % false", part)
        assert_found(lines)
        frontiers[kind] = [(float(false), float(hit)) for hit, false in lines]
    return Detection(
        _area(part),
        _fires(part, _HARMFUL, "bare"),
        _fires(part, _HARMFUL, "wrapped"),
        _fires(part, _HARMLESS, "bare"),
        _fires(part, _HARMLESS, "wrapped"),
        frontiers,
    )


def elsewhere(text: str) -> dict[str, Measured]:
    """Read ``calibration_packaged.txt``: percent found of other collections' prompts, in all forms, by their titles."""
    part = _with_suffix(text)
    return {known.title: _fires(part, _HARMFUL, known.title) for known in SETS.values()}


def misled(text: str) -> Misled:
    """Read what the detector does where safe and unsafe prompts share their words, in XSTest or written apart."""
    part = _with_suffix(text)
    return Misled(_area(part), _fires(part, _HARMFUL, "bare"), _fires(part, _HARMLESS, "bare"))


def _with_suffix(text: str) -> str:
    """Return the part of a detector's result that is of prompts with the suffix."""
    return text[text.index("with the suffix") : text.index("no suffix")]


def _area(part: str) -> float:
    return float(found_in(r"ROC curve ([\d.]+)", part)[1])


def _fires(part: str, title: str, kind: str) -> Measured:
    """Read at what percentage of a kind of prompts the detector fires."""
    line = rf"{re.escape(title)} +{re.escape(kind)} +({NUMBER}) % +\(({NUMBER}) to ({NUMBER})"
    return interval(found_in(line, part).groups())
