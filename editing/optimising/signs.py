"""What one evaluation of the weights says, gathered on its device and read at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from inspector.model.waiting import gathered

Number: TypeAlias = "Tensor | float"
"""A single number; a tensor is read together with the others, once a step."""


@dataclass(frozen=True, eq=False)
class Signs:
    """What one evaluation of the weights says; nothing in it needs a wait for the device.

    Attributes:
        loss: What is minimised; has a gradient where one was asked for.
        edit_loss: The method's own loss without its constraint, see :class:`~editing.progress.Step`.
        kl: KL on the constraint's positions, nats a token.
        safe_loss: Negative log-likelihood of the safe answer, mean a token, nats: what the target is read off. ``None``
            for minus the logarithm of its probability.
        safe_probability: Geometric mean probability of the safe answer's tokens, 0 to 1.
        unsafe_probability: The same of the unsafe answer; ``None`` when it is not watched.
        backward: Puts the gradient into the tensors where that is not the loss's own.
    """

    loss: Tensor
    edit_loss: Number
    kl: Number
    safe_loss: Number | None
    safe_probability: Number
    unsafe_probability: Number | None = None
    backward: Callable[[], None] | None = None

    def numbers(self, delta_norm: Number, gradient_norm: Number | None) -> Tensor:
        """Return all numbers of a step as one vector on their device, for :meth:`Said.of`."""
        optional = (self.safe_loss, self.unsafe_probability, gradient_norm)
        safe_loss, unsafe, norm = (_NONE if value is None else value for value in optional)
        return gathered(
            (self.loss, self.edit_loss, self.kl, safe_loss, self.safe_probability, unsafe, delta_norm, norm)
        )


@dataclass(frozen=True)
class Said:
    """The numbers of one evaluation, read."""

    loss: float
    edit_loss: float
    kl: float
    safe_loss: float
    safe_probability: float
    unsafe_probability: float | None
    delta_norm: float
    gradient_norm: float | None

    @classmethod
    def of(cls, numbers: Tensor) -> Said:
        """Read what :meth:`Signs.numbers` gathered: the one wait of a step."""
        found = numbers.tolist()
        loss, edit_loss, kl, safe_loss, safe, unsafe, delta_norm, gradient_norm = found
        return cls(
            loss,
            edit_loss,
            kl,
            -math.log(max(safe, 1e-300)) if safe_loss == _NONE else safe_loss,
            safe,
            None if unsafe == _NONE else unsafe,
            delta_norm,
            None if gradient_norm == _NONE else gradient_norm,
        )


_NONE = -1.0
"""Stands for what is not measured; none of these numbers can be negative."""


Evaluate = Callable[[int, bool], Signs]
"""From the number of updates made and whether a gradient is needed to the vital signs."""
