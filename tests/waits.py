"""Counts how often a host would wait for its device: numbers and lists that are read, entries chosen by truth values.

Not counted: what an optimiser reads of its own step counter, which lies on the host, and transformers' own look for
packed sequences, once in each whole forward pass without a cache or a mask. Tails and token steps have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils


class Waits(TorchDispatchMode):
    """Counts while it is on and not paused."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default) or _by_truth(
            func, args
        ):
            self.add()
        return func(*args, **(kwargs or {}))

    def add(self) -> None:
        self.count += not self.paused

    def since(self) -> int:
        """Return how many there were since the last call."""
        found, self.count = self.count, 0
        return found


def _by_truth(func: Any, args: Sequence[Any]) -> bool:
    """Tell whether entries are chosen by truth values: how many there are is known on the device alone."""
    if func is torch.ops.aten.masked_select.default:
        return True
    chosen = args[1] if func is torch.ops.aten.index.Tensor else ()
    return any(each is not None and each.dtype == torch.bool for each in chosen)


class FromLists(TorchFunctionMode):
    """Counts tensors that are made from a host's lists: each is copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.tensor or (func is torch.as_tensor and not isinstance(args[0], torch.Tensor))
        return func(*args, **(kwargs or {}))


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
