"""The finished example of a model, made whole at once instead of part by part behind a page."""

from __future__ import annotations

from pathlib import Path

from dashboard.example.make import Example
from dashboard.example.store import PARTS
from dashboard.steps.compare.run import LONGEST_ANSWER
from editing.calibrating.calibration import Calibration
from inspector.model import Decoding, InspectedModel


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
