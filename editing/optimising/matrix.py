"""The matrix that an edit descends on: a float32 copy, so that the base is not written and no step is rounded away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Matrix:
    """A float32 copy of a down-projection, or of some columns of it, that descends
    (:class:`~editing.optimising.descent.Trained`).

    Args:
        base: The vanilla matrix ``[d_model, d_ff]``, float32.
        columns: Numbers of the columns that may change; ``None`` for all.
        projection: ``[columns, columns]``, what every change is multiplied by from the right
            (:mod:`editing.optimising.null_space`); ``None`` for nothing.
    """

    def __init__(self, base: Tensor, columns: Tensor | None = None, projection: Tensor | None = None) -> None:
        self.base = base
        self.columns = None if columns is None else columns.to(base.device)
        self._start = base if self.columns is None else base[:, self.columns]
        self._projection = projection
        free = self._start.clone() if projection is None else torch.zeros_like(self._start)
        self._free = free.requires_grad_(True)
        self.parameters = [self._free]

    def weight(self, step: Tensor | None = None) -> Tensor:
        """Return the whole matrix as it is now, differentiable, or as a step of the free columns would make it."""
        free = self._free if step is None else self._free + step
        if self._projection is not None:
            free = self._start + free @ self._projection
        return free if self.columns is None else self.base.index_copy(1, self.columns, free)

    @torch.no_grad()
    def change(self) -> Tensor:
        """Return what was added to the free columns so far."""
        if self._projection is not None:
            return self._free.detach() @ self._projection
        return (self._free - self._start).detach()

    def delta_norm(self) -> Tensor:
        """See :class:`~editing.optimising.descent.Trained`."""
        return self.change().norm()

    def kept(self) -> list[Tensor]:
        """See :class:`~editing.optimising.descent.Trained`."""
        return [self._free.detach().clone()]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """See :class:`~editing.optimising.descent.Trained`."""
        self._free.copy_(kept[0])

    def limited(self, clamp: float | None) -> Callable[[], None] | None:
        """Return what keeps every weight within ``clamp`` of its start; ``None`` for no limit."""
        if clamp is None:
            return None

        @torch.no_grad()
        def limit() -> None:
            self._free.clamp_(self._start - clamp, self._start + clamp)

        return limit
