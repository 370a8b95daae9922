"""Counts how often a host would wait for its device: single numbers that are read, and tensors read as lists.

Not counted: what an optimiser reads of its own step counter, which lies on the host, and transformers' own look for
packed sequences, once in each whole forward pass without a cache or a mask. Tails and token steps have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils


class Waits(TorchDispatchMode):
    """Counts while it is on and not paused."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.add()
        return func(*args, **(kwargs or {}))

    def add(self) -> None:
        self.count += not self.paused

    def since(self) -> int:
        """Return how many there were since the last call."""
        found, self.count = self.count, 0
        return found


@contextmanager
def counted_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    waits = Waits()
    listed = torch.Tensor.tolist

    def tolist(tensor):
        waits.add()
        return listed(tensor)

    def quiet(work):
        def paused(*given, **named):
            before, waits.paused = waits.paused, True
            try:
                return work(*given, **named)
            finally:
                waits.paused = before

        return paused

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        monkeypatch.setattr(kind, "step", quiet(kind.step))
    packed = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", quiet(packed))
    with waits:
        yield waits
