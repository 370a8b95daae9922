"""What the tests of the detector share: prompts with labels, their formats, and how a reading ends."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from inspector.detection import FOLDS, Sample
from inspector.model import PromptFormat

FORMATS = (PromptFormat("Be good."), PromptFormat(""))


def end_of(reading: Generator) -> Any:
    """Return what a generator returns."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def made_up(count: int) -> list[Sample]:
    """Return labelled prompts, each bare and in a template."""
    bare = [Sample(f"text {n}", n % 2 == 0, f"text {n}", fold=n // 2 % FOLDS) for n in range(count)]
    return [each for one in bare for each in (one, replace(one, text=f"Sing: {one.bare}", language="en"))]
