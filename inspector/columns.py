"""What an edit changes in the columns of a down-projection, the neurons' value vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.errors import PatchError
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import Patch


@dataclass(frozen=True, eq=False)
class NeuronProfile:
    """How much an edit changed each neuron's value vector, a column of the down-projection.

    Attributes:
        block: The edited block.
        change: ``[d_ff]`` norm of the delta's column.
        relative: ``[d_ff]`` the same over the norm of the base column.
    """

    block: int
    change: np.ndarray
    relative: np.ndarray

    def top(self, count: int = 10) -> list[int]:
        """Return the neurons with the largest change, largest first."""
        return [int(neuron) for neuron in np.argsort(self.change)[::-1][:count]]


def neuron_profile(model: InspectedModel, patch: Patch, block: int | None = None) -> NeuronProfile:
    """Measure the columns of a patch's delta in one block (by default the first whose down-projection it changes).

    Raises:
        PatchError: The patch does not change the down-projection of this block.
    """
    downs = model.architecture.down_projection_names
    if block is None:
        block = min((d.block for d in patch.deltas if d.module in downs), default=patch.blocks[0])
    name = model.architecture.down_projection_names[model.architecture.check_block(block)]
    delta = next((d for d in patch.deltas if d.module == name), None)
    if delta is None:
        raise PatchError(
            f"Patch {patch.identifier} does not change the down-projection of block {block}. "
            f"It touches blocks {', '.join(map(str, patch.blocks))}."
        )
    change = delta.column_norms.cpu()
    base = model.architecture.down_weight(block).float().norm(dim=0).cpu()
    return NeuronProfile(block, change.numpy(), (change / base.clamp(min=1e-12)).numpy())
