"""Logits of chosen positions of several sequences, without computing all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inspector.model.inspected import InspectedModel


def positions(counted: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row and the place of every counted position, sequence after sequence."""
    rows = [row for row, places in enumerate(counted) for _ in places]
    places = [place for places in counted for place in places]
    return torch.tensor(rows, device=device), torch.tensor(places, device=device)


def counted_logits(
    model: InspectedModel,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[int]],
    network: Any = None,
) -> Tensor:
    """Return float32 logits ``[positions, vocabulary]`` at the counted positions, sequence after sequence.

    The caller holds the model (:meth:`InspectedModel.running`) with one row of weights per sequence.

    Args:
        sequences: Token ids; shorter ones are padded on the right, where no real position looks.
        counted: Positions of each sequence.
        network: The network to run; the model's own by default, or a copy with the same names of parts.
    """
    network = model.network if network is None else network
    ids = model.batch(*sequences)
    rows, places = positions(counted, ids.device)

    def only_counted(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows.to(args[0].device), places.to(args[0].device)], *args[1:])

    unembedding = network.get_submodule(model.architecture.paths.unembedding)
    with model.lock:
        handle = unembedding.register_forward_pre_hook(only_counted)
        try:
            return network(input_ids=ids, use_cache=False).logits.float()
        finally:
            handle.remove()
