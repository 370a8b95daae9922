"""The counted positions of several sequences: one gather for states and logits, whatever device they are on.

Where only some positions count, all others never reach the unembedding: a full ``[tokens, vocabulary]`` is the largest
tensor of a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inspector.model.inspected import InspectedModel


class Counted:
    """Positions of several sequences that were padded on the right into one batch; or of rows that texts share.

    Args:
        positions: The counted positions of each sequence, or row; a row may count one more than once.

    Attributes:
        lengths: How many of each sequence count.
    """

    def __init__(self, positions: Sequence[Sequence[int]]) -> None:
        self.lengths = [len(places) for places in positions]
        rows = [row for row, places in enumerate(positions) for _ in places]
        places = [place for places in positions for place in places]
        # Typed, as nothing may count at all.
        self._index = (torch.tensor(rows, dtype=torch.long), torch.tensor(places, dtype=torch.long))
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def of(self, states: Tensor) -> Tensor:
        """Return the counted positions ``[counted, ...]`` of ``[sequences, tokens, ...]``, sequence after sequence."""
        return states[self._at(states.device)]

    def of_shares(self, states: Tensor) -> Tensor:
        """Return ``[shares, counted, ...]`` of ``[shares, sequences, tokens, ...]``."""
        rows, places = self._at(states.device)
        return states[:, rows, places]

    def split(self, values: Tensor) -> list[Tensor]:
        """Return values ``[counted, ...]`` sequence by sequence."""
        return list(values.split(self.lengths))

    def place(self, device: torch.device) -> None:
        """Copy the positions to a device now, so that no later gather has to."""
        self._at(device)

    def _at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on:  # a copy to the device once, not once a step
            self._on[device] = (self._index[0].to(device), self._index[1].to(device))
        return self._on[device]


@contextmanager
def only_counted(unembedding: nn.Module, counted: Counted) -> Iterator[None]:
    """Give an unembedding the counted positions only; logits are ``[counted, vocabulary]`` inside.

    The caller holds the model.
    """

    def gather(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (counted.of(args[0]), *args[1:])

    handle = unembedding.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


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
    return logits_at(model, model.batch(*sequences), Counted(counted), network)


def logits_at(model: InspectedModel, ids: Tensor, counted: Counted, network: Any = None) -> Tensor:
    """Return what :func:`counted_logits` does, of sequences that are on the device already.

    Args:
        ids: ``[sequences, tokens]``, see :meth:`InspectedModel.batch`.
    """
    network = model.network if network is None else network
    unembedding = network.get_submodule(model.architecture.paths.unembedding)
    with model.lock, only_counted(unembedding, counted):
        return network(input_ids=ids, use_cache=False).logits.float()


def token_log_probabilities(logits: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    """Return the log-probability of each label ``[positions]`` in nats, float32.

    Args:
        logits: ``[positions, vocabulary]``.
        labels: The token at each position.
    """
    return of_tokens(logits.float().log_softmax(dim=-1), labels)


def of_tokens(scored: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    """Return each label's entry ``[positions]`` of log-probabilities ``[positions, vocabulary]``."""
    wanted = torch.as_tensor(labels, device=scored.device)
    return scored.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
