"""Products of a matrix with few rows of states on a CPU: the matrix is read once, not packed anew for each product.

One token a line is a handful of rows against a whole matrix, and reading the matrix is all there is to do: for 2 to 6
rows in float32 as ``W @ x.T``; one row, more rows and other types stay as they are. ``python -m
benchmarks.generation_speed`` times a pair with and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspector.model.inspected import InspectedModel

FEWEST, MOST = 2, 6
"""Rows for which it pays."""


def thin(matrix: nn.Linear, states: Tensor) -> Tensor:
    """Return what ``nn.Linear`` returns, but for rounding."""
    if not FEWEST <= states.numel() // states.shape[-1] <= MOST:
        return F.linear(states, matrix.weight, matrix.bias)
    found = (matrix.weight @ states.reshape(-1, states.shape[-1]).T).T
    if matrix.bias is not None:
        found = found + matrix.bias
    return found.reshape(*states.shape[:-1], -1)


@contextmanager
def thin_products(model: InspectedModel, rows: int) -> Iterator[None]:
    """Let a model's matrices take the shorter way inside, where it is one; the caller holds the lock.

    Args:
        rows: Lines of one token each.
    """
    if model not in _MATRICES:
        _MATRICES[model] = _matrices(model)
    chosen = _MATRICES[model] if FEWEST <= rows <= MOST else []
    for matrix, forward in chosen:
        matrix.forward = forward
    try:
        yield
    finally:
        for matrix, _ in chosen:
            del matrix.forward  # the class's own is seen again


_MATRICES: WeakKeyDictionary[InspectedModel, list[tuple[nn.Linear, partial[Tensor]]]] = WeakKeyDictionary()


def _matrices(model: InspectedModel) -> list[tuple[nn.Linear, partial[Tensor]]]:
    """Return the plain float32 matrices on the CPU, those whose product somebody else has replaced left out."""
    if model.device.type != "cpu" or not model.on_one_device:
        return []
    return [
        (module, partial(thin, module))
        for module in model.network.modules()
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and "forward" not in vars(module)
    ]
