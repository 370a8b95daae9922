"""What would an edit save if the search for its step size began at the size that its model's calibration has kept?

    python -m benchmarks.step_start             the embedded model, every third bundled case of the split `edit`

Each edit searches its own size, from a share of the weights' mean (:mod:`editing.calibrating.step_size`). Here DINM of
the default preset is prepared at the recommended layer, once from there and once from the kept size, and ended before
its first update: how many trial steps each start needs, and which size it finds.

The table is printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from editing.calibrating import step_size
from editing.calibrating.calibration import load_calibration
from editing.calibrating.trial_edits import SETTINGS
from editing.command import Loader, add_model, finished, load_model
from editing.methods.dinm import DinmSettings, dinm
from editing.progress import Step
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.safeedit import Case, bundled_cases


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Search the step size of every case from both starts and print what each needed.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--every", type=int, default=3, help="every which bundled case is edited")
    options = parser.parse_args(arguments)
    return finished(lambda: print(table(loader(options), options.every)))


def table(model: InspectedModel, every: int, settings: DinmSettings = DinmSettings()) -> str:
    """Return what both starts need and find, a line a case.

    Raises:
        EditError: The model is not calibrated, or no layer is recommended.
    """
    known = load_calibration(model)
    best = known.layers.best
    if best is None or best.step_size is None:
        raise EditError("The calibration recommends no layer, or has kept no step size. Calibrate another model.")
    known.teach(model)
    kept = best.step_size * math.sqrt(settings.step_kl / SETTINGS.step_kl)
    lines = [
        f"{model.name}, {model.dtype_name}, torch {torch.__version__}, {platform.machine()}; layer {best.block}, kept "
        f"size {kept:.3e} at {settings.step_kl:g} nats a token",
        f"{'case':6s}{'own start':>12s}{'trials':>8s}{'size':>12s}{'kept start':>12s}{'trials':>8s}{'size':>12s}",
    ]
    for case in [one for one in bundled_cases() if one.split == "edit"][::every]:
        cells = [searched(model, case, best.block, settings, start) for start in (step_size.first_size, lambda _: kept)]
        told = "".join(f"{start:12.3e}{trials:8d}{size:12.4e}" for start, trials, size in cells)
        lines.append(f"{case.identifier!s:6s}{told}")
    return "\n".join(lines)


def searched(
    model: InspectedModel, case: Case, block: int, settings: DinmSettings, first: Callable[[Tensor], float]
) -> tuple[float, int, float]:
    """Return where a search started, how many trial steps it took and which size it found.

    Raises:
        EditError: The edit searches none.
    """
    found: list[tuple[float, int, float]] = []

    def search(cost: step_size.Cost, start: np.ndarray, wanted: float) -> np.ndarray:
        asked = []

        def counted(tried: np.ndarray, sizes: np.ndarray) -> np.ndarray:
            asked.append(len(tried))
            return cost(tried, sizes)

        sizes = _search(counted, start, wanted)
        found.append((float(start[0]), sum(asked), float(sizes[0])))
        return sizes

    with mock.patch.multiple(step_size, measured_sizes=search, first_size=first):
        making = dinm(model, case, block, settings)
        for event in making:
            if isinstance(event, Step) and event.step:
                break
        making.close()
    if not found:
        raise EditError(f"The edit of case {case.identifier} searches no step size. Leave learning_rate unset.")
    return found[0]


_search = step_size.measured_sizes


if __name__ == "__main__":
    sys.exit(main())
