"""Counts what operations allocate: the most bytes of tensors that were alive at once, to the byte and on any machine.

What the kernel of one operation holds for itself is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Counts while it is on.

    Args:
        network: What is there already, and does not count.

    Attributes:
        peak: The most bytes so far.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self._bytes = 0
        there = (*network.parameters(), *network.buffers())
        self._alive = {StorageWeakRef(tensor.untyped_storage()): 0 for tensor in there}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        seen = StorageWeakRef(storage)
        if seen in self._alive:
            return
        self._alive[seen] = storage.nbytes()
        self._bytes += storage.nbytes()
        if self._bytes > self.peak:
            for gone in [each for each in self._alive if each.expired()]:
                self._bytes -= self._alive.pop(gone)
            self.peak = max(self.peak, self._bytes)


@contextmanager
def counted_allocations(network: nn.Module) -> Iterator[Allocations]:
    """Count inside."""
    with Allocations(network) as counted:
        yield counted
