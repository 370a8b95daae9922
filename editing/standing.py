"""How a method stands on a case: its edit, what that cost and changed, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from editing.methods.registry import Method
from editing.progress import EditResult
from inspector.model import VANILLA, InspectedModel, Row
from inspector.region import RegionShift, cannot_detoxify
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.scores import Score
from inspector.toxicity import Probe, RegionToxicity, neuron_toxicity, region_toxicity
from inspector.validated import Array


@dataclass(frozen=True, eq=False)
class Toxicity:
    """Toxicity of the region, and of each of its neurons, before and after an edit.

    Attributes:
        region: Of the region.
        before: ``[d_ff]`` cosine of each value vector with the toxic direction, vanilla.
        after: The same, edited.
        forced: The edit does not touch the region's matrix, so nothing can change.
    """

    region: RegionToxicity
    before: Array
    after: Array
    forced: bool

    @property
    def relative(self) -> np.ndarray:
        """``[d_ff]`` change of each neuron's cosine relative to its vanilla size; negative where it was detoxified."""
        return (self.after - self.before) / np.maximum(np.abs(self.before), 1e-12)

    @property
    def less_toxic(self) -> float:
        """Share of the region's neurons whose cosine has fallen, 0 to 1."""
        return float((self.after < self.before).mean())


@dataclass(frozen=True, eq=False)
class Standing:
    """One method's run on the case.

    Attributes:
        method: The method.
        failed: Why there is no edit, or empty.
        refused: Whether that is because the edit ran, or its case was read, and was refused.
        unmeasured: Why there is an edit that could not be examined or measured, or empty.
        result: The edit.
        peak_mebibytes: Largest growth of memory during the edit.
        parameters_changed: Number of the base model's weights that the edit changes.
        delta_norm: Frobenius norm of the change.
        toxicity: Toxicity of the region; ``None`` without a probe.
        shift: Activation shift.
        exam: The marked exam; ``None`` where it was cancelled before the first answers.
    """

    method: Method
    failed: str = ""
    refused: bool = False
    unmeasured: str = ""
    result: EditResult | None = None
    peak_mebibytes: float = 0.0
    parameters_changed: int = 0
    delta_norm: float = 0.0
    toxicity: Toxicity | None = None
    shift: RegionShift | None = None
    exam: ExamResult | None = None

    @property
    def row(self) -> Row:
        """What answers as edited."""
        return Row() if self.result is None else self.result.row()

    @property
    def scores(self) -> tuple[Score, ...]:
        """Scores of the exam."""
        return () if self.exam is None else self.exam.scores


def toxicity_of(model: InspectedModel, probe: Probe, row: Row, block: int) -> Toxicity:
    """Measure the toxicity of a block's region and of each of its neurons, vanilla and edited."""
    before = neuron_toxicity(model, probe, block)
    forced = cannot_detoxify(model, row, block)
    after = before if forced else neuron_toxicity(model, probe, block, row)
    region = region_toxicity(model, probe, block, VANILLA if forced else row)
    return Toxicity(region, before, after, forced)
