"""Erase or suppress? The tables of :mod:`benchmarks.methods` about the region that is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from editing.standing import Standing
from inspector.safeedit.scores import mean


def mechanism_told(everything: Mapping[str, Sequence[Standing]], routed: str) -> None:
    """Print the table of toxicity and shift.

    Args:
        everything: The standings of each row, a case each.
        routed: How the titles of routed rows end, which are measured with the row that they route.
    """
    print("\nErase or suppress? Means over cases [95 % interval]; * forced by construction in every case")
    counts: set[int] = set()
    some_refused = False
    wide = max(16, *(len(title) + 2 for title in everything))
    heads = ("toxicity, %", "neurons less toxic, %", "input shift, %", "source shift, %", "norm", "weights changed")
    print(f"{'':{wide}}{'n':>4}" + "".join(f"{head:>26}" for head in heads))
    for title, standings in everything.items():
        if title.endswith(routed):
            continue
        done = [s for s in standings if s.shift is not None and s.toxicity is not None]
        unchanged = [0.0 for standing in standings if standing.refused]
        count = len(done) + len(unchanged)
        if not count:
            continue
        counts.add(count)
        some_refused = some_refused or bool(unchanged)
        toxicities, shifts = [s.toxicity for s in done if s.toxicity], [s.shift for s in done if s.shift]
        untouched, still = (bool(found) and all(one.forced for one in found) for found in (toxicities, shifts))
        cells = (
            mean_told([100 * t.region.change for t in toxicities] + unchanged) + ("*" if untouched else ""),
            mean_told([100 * t.less_toxic for t in toxicities] + unchanged) + ("*" if untouched else ""),
            mean_told([100 * s.mean_input_shift for s in shifts] + unchanged) + ("*" if still else ""),
            mean_told([100 * s.source_shift for s in shifts] + unchanged) + ("*" if still else ""),
            mean_told([s.delta_norm for s in done] + unchanged),
            f"{np.mean([s.parameters_changed for s in done] + unchanged):,.0f}",
        )
        print(f"{title:{wide}}{count:>4}" + "".join(f"{cell:>26}" for cell in cells))
    if some_refused:
        print("A refused edit leaves the vanilla weights: it counts as no change.")
    if len(counts) > 1:
        print("Not the same cases for all: an edit that was not measured is in no mean here.")
    sizes = [s.toxicity.region for s in next(iter(everything.values())) if s.toxicity is not None]
    if sizes:
        print(
            f"The vanilla region's mean cosine is {np.mean([r.before for r in sizes]):.5f}, a single neuron's "
            f"{np.mean([r.typical for r in sizes]):.4f} in size: a relative change of so small a mean says little."
        )


def mean_told(values: Sequence[float]) -> str:
    """Say a mean with its 95 % interval."""
    found = mean(list(values))
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
