"""What the limits give: a line for each piece of work, and the files of them all, among them a plot of growing cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GROWING = ("edit", "size", "length", "rows")
"""Parts of which a plot is drawn."""


@dataclass(frozen=True)
class Measured:
    """One piece of work.

    Attributes:
        part: What is done.
        setting: How much of it: a layer, a length, a number of rows or a size.
        seconds: Its time.
        plain: That of the plain way; ``None`` where there is none.
        limit: What the machine's rate or bandwidth allows; ``None`` where it is not counted.
        peak: Growth of memory, MiB.
        predicted: What :mod:`inspector.model.memory.memory_need` predicts of it, MiB; ``None`` where it says nothing of
            such work: it knows one edit, and two rows that are read.
    """

    part: str
    setting: str
    seconds: float
    plain: float | None = None
    limit: float | None = None
    peak: float | None = None
    predicted: float | None = None

    def line(self) -> str:
        """Return a line of the table."""
        ratio = "" if self.plain is None else f"{self.plain / self.seconds:.2f}"
        share = "" if self.limit is None else f"{self.limit / self.seconds:.0%}"
        plain = "" if self.plain is None else f"{self.plain:.3f}"
        peak, predicted = ("" if size is None else f"{size:.0f}" for size in (self.peak, self.predicted))
        times = f"{self.seconds:9.3f} {plain:>9s} {ratio:>7s} {share:>7s}"
        return f"{self.part:12s} {self.setting:24s} {times} {peak:>7s} {predicted:>9s}"


HEAD = f"{'':12s} {'':24s} {'seconds':>9s} {'plain':>9s} {'times':>7s} {'share':>7s} {'peak':>7s} {'predicted':>9s}"


def write(path: Path, title: str, about: Mapping[str, Any], found: Sequence[Measured]) -> None:
    """Write numbers, table and plot.

    Args:
        path: Without an ending.
        title: What stands above the table.
        about: What the numbers are of.
    """
    numbers = {**about, "measured": [asdict(one) for one in found]}
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=1))
    path.with_suffix(".txt").write_text("\n".join([title, HEAD, *(one.line() for one in found)]) + "\n")
    plot(found, path.with_suffix(".svg"))


def plot(found: Sequence[Measured], path: Path) -> None:
    """Draw how cost grows: measured, plain way and limit, a panel a part."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [part for part in GROWING if sum(one.part == part for one in found) > 1]
    figure, axes = pyplot.subplots(1, max(1, len(parts)), figsize=(4 * max(1, len(parts)), 3.6), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=False):
        chosen = [one for one in found if one.part == part]
        labels = [one.setting.replace(", ", ",\n") for one in chosen]
        for name, colour, mark in (("plain", "#999999", "s"), ("seconds", "#CC79A7", "o"), ("limit", "#0072B2", "^")):
            values = [getattr(one, name) for one in chosen]
            label = {"plain": "plain way", "seconds": "measured", "limit": "machine's limit"}[name]
            axis.plot(
                labels, [float("nan") if v is None else v for v in values], marker=mark, color=colour, label=label
            )
        axis.set(title=part, yscale="log", ylabel="seconds")
        axis.tick_params(axis="x", labelsize=7)
    if parts:
        axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
