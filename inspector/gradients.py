"""Gradients in types of little range: a loss is scaled for its backward pass, and less where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inspector.model.waiting import read


def smaller_scale(scale: float) -> float:
    """Return the next scale to try where one was too much for the type's range, 1 at least."""
    return max(1.0, scale / 16)


def scaled_gradients(value: Tensor, points: Sequence[Tensor], scale: float) -> tuple[float, tuple[Tensor, ...]]:
    """Differentiate a scalar times a scale, and with a smaller one where that is too much for the type's range.

    Args:
        points: What it is differentiated at.
        scale: The first scale, a power of two (:attr:`~inspector.model.InspectedModel.gradient_scale`).

    Returns:
        The scale that was used, and the gradients times that scale; finite ones if any scale gives them.
    """

    def differentiated(scale: float) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value if scale == 1 else scale * value, list(points), retain_graph=scale > 1)

    return backed_off(differentiated, scale)


def backed_off(measure: Callable[[float], tuple[Tensor, ...]], scale: float) -> tuple[float, tuple[Tensor, ...]]:
    """Measure gradients at a scale, and again at smaller ones where that is too much for the type's range.

    Args:
        measure: From a scale to the gradients of what is differentiated times that scale.
        scale: The first scale, a power of two.

    Returns:
        As :func:`scaled_gradients`.
    """
    while True:
        found = measure(scale)
        if scale == 1 or all(read([torch.isfinite(gradient).all() for gradient in found])):
            return scale, found
        scale = smaller_scale(scale)
