"""Products of a matrix with few rows of states on a CPU: the matrix is read once, not packed anew for each product.

One token a line is a handful of rows against a whole matrix, and reading the matrix is all there is to do; the library
packs it anew each time, which takes longer. So matrices are packed once, by oneDNN, where the memory for a second copy
is free; elsewhere 2 to 6 rows are taken in float32 as ``W @ x.T``, which is not packed. ``python -m
benchmarks.generation_speed`` times a pair with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import when_memory_runs_out
from inspector.model.memory.memory_need import free_memory

FEWEST, MOST = 2, 6
"""Rows for which ``W @ x.T`` pays."""
MOST_PACKED = 64
"""Rows for which a packed matrix is used: more rows compute longer than the library packs."""
LEAST_PACKED = 2**16
"""Numbers that a matrix has to have to be packed."""
SHARE = 0.25
"""Share of the free memory that packed matrices may take."""
_PACKING = 64
"""Rows that oneDNN packs for; it takes any number of them."""


def thin(matrix: nn.Linear, states: Tensor) -> Tensor:
    """Return what ``nn.Linear`` returns, but for rounding."""
    if not FEWEST <= states.numel() // states.shape[-1] <= MOST:
        return F.linear(states, matrix.weight, matrix.bias)
    found = (matrix.weight @ states.reshape(-1, states.shape[-1]).T).T
    if matrix.bias is not None:
        found = found + matrix.bias
    return found.reshape(*states.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of a model, packed.

    Attributes:
        matrix: The module.
        weight: Its packed weight.
        version: Of the weight when it was packed.
    """

    matrix: nn.Linear
    weight: Tensor
    version: int

    @classmethod
    def of(cls, matrix: nn.Linear) -> Packed:
        """Pack a matrix."""
        weight = torch.ops.mkldnn._reorder_linear_weight(matrix.weight.detach(), _PACKING)
        return cls(matrix, weight, matrix.weight._version)

    @property
    def is_current(self) -> bool:
        """Whether the weight is still what was packed."""
        return self.matrix.weight._version == self.version

    def __call__(self, states: Tensor) -> Tensor:
        """Return what the module returns, but for rounding; no gradient goes through it."""
        if states.dtype != self.matrix.weight.dtype:  # the module says what is wrong with it
            return F.linear(states, self.matrix.weight, self.matrix.bias)
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.matrix.bias, "none", [], "")


@contextmanager
def thin_products(model: InspectedModel, rows: int) -> Iterator[None]:
    """Let a model's matrices take the shorter way inside, where it is one; the caller holds the lock.

    Args:
        rows: Lines of one token each.
    """
    chosen: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = []
    if rows <= MOST_PACKED and not torch.is_grad_enabled():
        chosen += [(each.matrix, each) for each in packed(model)]
    if not chosen and FEWEST <= rows <= MOST:
        if model not in _THIN:
            plain = [each for each in _matrices(model) if each.weight.dtype == torch.float32]
            _THIN[model] = [(each, partial(thin, each)) for each in plain]
        chosen += _THIN[model]
    for matrix, forward in chosen:
        matrix.forward = forward
    try:
        yield
    finally:
        for matrix, _ in chosen:
            del matrix.forward  # the class's own is seen again


_THIN: WeakKeyDictionary[InspectedModel, list[tuple[nn.Linear, partial[Tensor]]]] = WeakKeyDictionary()
_PACKED: WeakKeyDictionary[InspectedModel, list[Packed]] = WeakKeyDictionary()
when_memory_runs_out(_PACKED.clear)


def packed(model: InspectedModel) -> list[Packed]:
    """Return a model's packed matrices, those that are large enough; none where the memory for them is not free."""
    known = _PACKED.get(model)
    if known is None or not all(each.is_current for each in known):
        known = _PACKED[model] = _packed(model)
    return known


def look_for_memory_again(model: InspectedModel) -> None:
    """Let the matrices that there was no memory for be packed after all, if there is by now; the caller holds the lock.

    Asked once an answer, not for every token of it.
    """
    if not _PACKED.get(model, True):
        _PACKED.pop(model, None)  # memory may have run out elsewhere, which forgets all


def _packed(model: InspectedModel) -> list[Packed]:
    matrices = [matrix for matrix in _matrices(model) if matrix.weight.numel() >= LEAST_PACKED and _can_pack(matrix)]
    needed = sum(matrix.weight.nbytes for matrix in matrices)
    if not matrices or needed > SHARE * free_memory(model.device):
        return []
    return [Packed.of(matrix) for matrix in matrices]


def _can_pack(matrix: nn.Linear) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    dtype = matrix.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _matrices(model: InspectedModel) -> list[nn.Linear]:
    """Return the plain matrices on the CPU, those whose product somebody else has replaced left out."""
    if model.device.type != "cpu" or not model.on_one_device:
        return []
    return [module for module in model.network.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
