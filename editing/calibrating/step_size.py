"""Step sizes that are measured: how far one update may go, by what it costs on harmless prompts.

A learning rate belongs to one model and one block: what is a small step here costs a nat a token there. What a step
costs, the KL divergence between vanilla and edited on harmless prompts, means the same everywhere, and grows with the
square of a small step. So the size is found from the cost of a few trial steps, and a model whose weights are scaled
without a change of what it computes gets its steps scaled with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from editing.optimising.descent import fused
from editing.optimising.matrix import Matrix
from editing.optimising.objectives import KlTerm
from inspector.errors import RefusedEdit
from inspector.model.waiting import read

Optimiser = Literal["adam", "descent"]
TRIALS = 6
"""Most trial steps."""
CLOSE = 1.3
"""Factor within which the square root of a trial's cost has to lie around the wanted one's."""
MEASURABLE = 1e-3
"""Least cost that is measured, nats a token: below it is rounding. The size of a cheaper step follows by the square."""
EPSILON = 1e-3
"""Adam's term against division by zero, as a share of the gradient's mean size: it scales with the weights, too."""


Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the numbers of steps that are tried, and their sizes, to the KL that each costs, nats a token; not a number
where it is not finite."""


def measured_sizes(cost: Cost, start: np.ndarray, wanted: float) -> np.ndarray:
    """Return the sizes ``[steps]`` of independent steps that cost a wanted KL each; not a number where there is none.

    Args:
        cost: Asked only of steps whose size is not found yet.
        start: First trial, in proportion to the weights.
        wanted: The KL, nats a token.
    """
    sizes = np.array(start, dtype=float)
    found = np.zeros(len(sizes), dtype=bool)
    for _ in range(TRIALS):
        tried = np.flatnonzero(~found)
        costs = np.asarray(cost(tried, sizes[tried]), dtype=float)
        # A cost near zero is rounding, one that is no number far too much; any ratio is clipped.
        with np.errstate(over="ignore"):
            ratio = np.sqrt(wanted / np.maximum(np.nan_to_num(costs, nan=np.inf), 1e-12))
        sizes[tried] *= np.clip(ratio, 0.05, 20)
        found[tried] = (ratio < CLOSE) & (ratio > 1 / CLOSE)
        if found.all():
            break
    return np.where(found, sizes, np.nan)


def first_size(weight: Tensor) -> float:
    """Return the first trial: a hundredth of the weights' mean size, as each weight moves by about the step size."""
    return 0.01 * float(weight.abs().mean())


def adam(tensors: Sequence[Tensor], gradients: Sequence[Tensor], sizes: Sequence[float]) -> torch.optim.Adam:
    """Return Adam with a measured step size for each tensor, its steps in proportion to the weights."""
    means = read([gradient.abs().mean() for gradient in gradients])
    return torch.optim.Adam(
        [
            {"params": [tensor], "lr": float(size), "eps": max(1e-30, EPSILON * mean)}
            for tensor, mean, size in zip(tensors, means, sizes, strict=True)
        ],
        fused=fused(tensors),
    )


def measured_optimiser(
    matrix: Matrix,
    lock: AbstractContextManager[Any],
    constraint: KlTerm,
    kind: Optimiser,
    step_kl: float,
    weight_decay: float,
) -> tuple[torch.optim.Optimizer, float]:
    """Return the optimiser whose first update costs a wanted KL on the constraint's prompts, and its step size.

    The matrix holds its gradient (:meth:`editing.optimising.descent.Descent.begin`).

    Each edit measures its own size, from :func:`first_size`, whatever a calibration has kept of its trial edits: that
    is another case's gradient and another cost. From the kept size the search takes as many trials, or one more
    (:mod:`benchmarks.step_start`), and as a trial is taken within a factor of its wanted cost (:data:`CLOSE`), it ends
    a few thousandths away: an edit would depend on whether, and from which machine's file, its model was calibrated.

    Args:
        lock: The model's; held for one evaluation at a time.
        kind: Adam, or plain gradient descent.
        step_kl: What the first update may cost, nats a token.
        weight_decay: The optimiser's.

    Raises:
        RefusedEdit: There is no such size.
    """
    (gradient,) = (tensor.grad for tensor in matrix.parameters)
    assert gradient is not None
    unit = 1.0 if kind == "adam" else float(gradient.abs().mean()) or 1.0
    way = gradient.sign() if kind == "adam" else gradient / unit

    @torch.no_grad()
    def cost(_tried: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        with lock:
            return np.array([float(constraint(matrix.weight(-float(size) * way))) for size in sizes])

    size = first_size(matrix.base)
    if gradient.any():  # else the descent ends at once, and says why
        measured = max(step_kl, MEASURABLE)
        (size,) = (math.sqrt(step_kl / measured) * measured_sizes(cost, np.array([size]), measured)).tolist()
    if math.isnan(size):
        raise RefusedEdit(
            f"No step was found that costs {step_kl:g} nats a token on the constraint's prompts. Give a "
            "learning_rate, or load the model in float32."
        )
    if kind == "adam":
        optimiser: torch.optim.Optimizer = adam(matrix.parameters, [gradient], [size])
    else:
        optimiser = torch.optim.SGD(matrix.parameters, lr=size / unit)
    for group in optimiser.param_groups:
        group["weight_decay"] = weight_decay
    return optimiser, optimiser.param_groups[0]["lr"]
