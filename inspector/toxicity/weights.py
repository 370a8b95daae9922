"""How toxic a probe finds the weights: each value vector of a region, and the region as a whole.

The value vectors are the columns of a block's down-projection. The toxicity of a region is the mean cosine between
the toxic row of W_toxic and those columns (Lee et al. 2024 and the DINM paper); an edit is judged by its relative
change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inspector.errors import PatchError
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.toxicity.probe import Probe


def neuron_toxicity(model: InspectedModel, probe: Probe, block: int, row: Row = VANILLA) -> np.ndarray:
    """Return ``[d_ff]`` the cosine of each value vector of a block with the toxic direction, -1 to 1.

    The value vectors are the columns of the down-projection, before any norm that a family has after its MLP.

    Args:
        row: An edit to apply to the weights first, at its strength.

    Raises:
        PatchError: The edit was made for another base model.
    """
    weight = model.architecture.down_weight(block).detach().float()
    patch = row.patch
    if patch is not None and row.strength:
        if patch.fingerprint != model.fingerprint:
            raise PatchError(f"Patch {patch.identifier} was made for another base model. Load that model or edit anew.")
        name = model.architecture.down_projection_names[block]
        for delta in patch.deltas:
            if delta.module == name:
                weight = weight + row.strength * delta.dense().to(weight.device)
    direction = torch.from_numpy(probe.direction).to(weight.device).float()
    return ((direction @ weight) / weight.norm(dim=0).clamp(min=1e-12)).cpu().numpy()


@dataclass(frozen=True)
class RegionToxicity:
    """Toxicity of one block's region before and after an edit.

    Attributes:
        block: The block.
        before: Mean cosine of its value vectors with the toxic direction, vanilla.
        after: The same, edited.
        typical: Mean absolute cosine, vanilla: what size a single neuron's has.
    """

    block: int
    before: float
    after: float
    typical: float

    @property
    def change(self) -> float:
        """Relative change, (after - before) / |before|; negative where the edit detoxified."""
        return (self.after - self.before) / max(abs(self.before), 1e-12)


def region_toxicity(model: InspectedModel, probe: Probe, block: int, row: Row = VANILLA) -> RegionToxicity:
    """Measure the toxicity of a block's region, vanilla and edited."""
    before = neuron_toxicity(model, probe, block)
    after = before if row.patch is None else neuron_toxicity(model, probe, block, row)
    return RegionToxicity(block, float(before.mean()), float(after.mean()), float(np.abs(before).mean()))
