"""Both marks of a case's layers, each with its reason: ``python -m editing.locate [--case 0]`` prints them as JSON.

    python -m editing.locate                                    the first bundled case, the embedded model
    python -m editing.locate --question Q --safe A --unsafe B   a case of one's own

The toxic layer is where the case's answers part most, measured as inspector.locate does, with its options; the
recommended layer is where trial edits of the calibrated model work best (editing.calibrate).

Exit codes: 0, or 2 when it cannot be done; the error stream then says why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from editing.calibrating.calibration import calibration_of
from editing.command import Loader, finished, load_model, recommended, tell
from inspector.locate import located, parsed
from inspector.model import InspectedModel


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Measure, look the calibration up, and print."""
    chosen = parsed(arguments, __doc__)
    return finished(lambda: tell(located(chosen, loader, _recommended)))


def _recommended(model: InspectedModel) -> dict[str, Any]:
    known = calibration_of(model)
    return recommended(model, None if known is None else known.layers)


if __name__ == "__main__":
    sys.exit(main())
