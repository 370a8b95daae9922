"""An edit that changes answers, and what stands in the place of a reading of its case, for tests of routed edits."""

from __future__ import annotations

from dashboard_helpers import QUICK

EFFECTIVE = {**QUICK, "steps": 30, "budget": 0, "learning_rate": 0.05, "block": 1}
"""An edit that changes answers."""


ABOUT = {"questions": 189, "harmless_prompts": 315}


def as_given(_model, detector, *_further):
    """In the place of :func:`inspector.detection.for_case`: the detector without a reading of the case's question."""
    yield from ()
    return detector


def cancelled(*_given):
    """In the place of :func:`inspector.detection.for_case`, cancelled."""
    yield from ()
