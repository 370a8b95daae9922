"""The one loop in which weights descend: evaluate, stop, undo, cancel, trace.

Every iterative edit goes through it: DINM and FT-L on one matrix, SFT, DPO and Ext-Sub's experts on many, the atlas on
one matrix of several blocks at once. A method is what differs: terms, tensors, stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.progress import Step, StopReason, StopSettings, stop_reason
from inspector.errors import RefusedEdit
from inspector.gradients import smaller_scale


class Trained(Protocol):
    """What descends."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that the optimiser moves."""
        ...

    def delta_norm(self) -> float:
        """Return the Frobenius norm of the change so far."""
        ...

    def kept(self) -> Sequence[Tensor]:
        """Return a copy of the tensors."""
        ...

    def restore(self, kept: Sequence[Tensor]) -> None:
        """Go back to what :meth:`kept` returned."""
        ...


@dataclass(frozen=True, eq=False)
class Signs:
    """What one evaluation of the weights says.

    Attributes:
        loss: What is minimised; has a gradient where one was asked for.
        edit_loss: The method's own loss without its constraint, see :class:`~editing.progress.Step`.
        kl: KL on the constraint's positions, nats a token.
        safe_loss: Negative log-likelihood of the safe answer, mean a token, nats: what the target is read off.
        safe_probability: Geometric mean probability of the safe answer's tokens, 0 to 1.
        unsafe_probability: The same of the unsafe answer; ``None`` when it is not watched.
        backward: Puts the gradient into the tensors where that is not ``loss.backward()``.
    """

    loss: Tensor
    edit_loss: float
    kl: float
    safe_loss: float
    safe_probability: float
    unsafe_probability: float | None = None
    backward: Callable[[], None] | None = None


Evaluate = Callable[[int, bool], Signs]
"""From the number of updates made and whether a gradient is needed to the vital signs."""


@dataclass(frozen=True)
class Stops:
    """When a descent ends before its step limit; ``None`` for never.

    Attributes:
        damage_budget: Largest KL; the step beyond it is undone.
        target_probability: Probability of the safe answer that is enough.
        stop_below: Loss that is small enough.
    """

    damage_budget: float | None = None
    target_probability: float | None = None
    stop_below: float = float("-inf")


@dataclass(eq=False)
class Descent:
    """One edit's way down, in one phase or several.

    An update that leaves the budget or the finite numbers is undone: the tensors hold the last good one.

    Attributes:
        trained: What descends.
        lock: The model's; held for one evaluation at a time, never across a yield.
        scale: Power of two on the loss for its backward pass (:attr:`InspectedModel.gradient_scale`).
        trace: Every step so far.
        updates: Number of updates that the tensors hold.
        reason: Why the last phase ended.
    """

    trained: Trained
    lock: AbstractContextManager[Any]
    scale: float = 1.0
    trace: list[Step] = field(default_factory=list)
    updates: int = 0
    reason: StopReason = "step limit"
    _before: Sequence[Tensor] | None = None

    def run(
        self,
        evaluate: Evaluate,
        optimiser: torch.optim.Optimizer,
        steps: int,
        stops: StopSettings,
        cancel: Callable[[], bool],
        *,
        measure_last: bool = True,
        of: int | None = None,
        limit: Callable[[], None] | None = None,
    ) -> Generator[Step, None, None]:
        """Make up to ``steps`` updates, evaluating before each and, if ``measure_last``, after the last.

        Args:
            evaluate: The terms.
            optimiser: Moves :attr:`trained`.
            steps: Most updates.
            stops: When to end before that.
            cancel: Asked after every step; ``True`` ends the descent within it.
            measure_last: Without it what follows has the weights after the last update to measure.
            of: Step limit that is reported; ``steps`` by default.
            limit: Called after every update to keep the tensors within bounds.

        Raises:
            RefusedEdit: The loss or its gradient is not finite before the first update.
        """
        start = self.updates
        for number in range(steps + 1 if measure_last else steps):
            last = number == steps
            begun = time.perf_counter()
            with self.lock, torch.set_grad_enabled(not last):
                signs = evaluate(number, not last)
                loss = float(signs.loss.detach())
                stop = stop_reason(stops, start + number, signs.safe_loss, signs.kl, loss)
                while stop is None and not last and not self._backward(signs, optimiser):
                    if self.scale == 1:
                        stop = "not finite"
                    else:  # too much for the type's range: the same evaluation with a smaller scale
                        self.scale = smaller_scale(self.scale)
                        signs = evaluate(number, True)
            if stop == "not finite" and start + number == 0:
                raise RefusedEdit(_NOT_FINITE)
            step = Step(
                step=start + number,
                steps=steps if of is None else of,
                edit_loss=signs.edit_loss,
                constraint_kl=signs.kl,
                total_loss=loss,
                safe_probability=signs.safe_probability,
                unsafe_probability=signs.unsafe_probability,
                gradient_norm=None if stop is not None or last else _norm(self.trained.parameters),
                delta_norm=self.trained.delta_norm(),
                seconds=0.0,
            )
            if stop in ("not finite", "damage budget"):
                assert self._before is not None  # perhaps of the phase before this one
                self.trained.restore(self._before)
                self.updates = start + number - 1
            elif stop is None and not last:
                self._before = self.trained.kept()
                optimiser.step()
                if limit is not None:
                    limit()
                self.updates = start + number + 1
            self.trace.append(replace(step, seconds=time.perf_counter() - begun))
            yield self.trace[-1]
            if cancel():
                self.reason = "cancelled"
                return
            if stop is not None:
                self.reason = stop
                return

    def gradient(self, evaluate: Evaluate) -> list[Tensor]:
        """Return the gradient in each of the tensors as they are; the caller holds the lock.

        Raises:
            RefusedEdit: It is not finite.
        """
        sorter = torch.optim.SGD(self.trained.parameters)
        with torch.enable_grad():
            while not self._backward(evaluate(0, True), sorter):
                if self.scale == 1:
                    raise RefusedEdit(_NOT_FINITE)
                self.scale = smaller_scale(self.scale)
        found = [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in self.trained.parameters]
        sorter.zero_grad()
        return found

    def _backward(self, signs: Signs, optimiser: torch.optim.Optimizer) -> bool:
        """Put the gradient into the tensors; ``False`` if it is not finite."""
        optimiser.zero_grad()
        if signs.backward is not None:
            signs.backward()
        elif self.scale == 1:
            signs.loss.backward()
        else:
            (signs.loss * self.scale).backward()
            for tensor in self.trained.parameters:
                if tensor.grad is not None:
                    tensor.grad /= self.scale
        return all(tensor.grad is None or bool(torch.isfinite(tensor.grad).all()) for tensor in self.trained.parameters)

    def require_update(self, method: str) -> None:
        """Check that something has changed.

        Raises:
            RefusedEdit: No update is kept, so there is no edit to hand out; the message says why and what to change.
        """
        if self.updates:
            return
        if self.reason == "target reached":
            raise RefusedEdit(
                f"The safe answer is likely enough already, so {method} has nothing to learn. Raise its "
                "target_probability."
            )
        if self.reason == "converged":
            raise RefusedEdit(
                f"The loss of {method} is below its stop value already, so nothing was learnt. Lower its stop_below, "
                "or give its terms more weight."
            )
        raise RefusedEdit(
            f"{method} kept no update, so nothing has changed: its first step would have gone beyond the damage budget "
            "or the finite numbers. Raise its damage budget, or lower its learning_rate or step_kl."
        )


_NOT_FINITE = (
    "The loss is not a finite number before the first step. Load the model in float32 (--dtype float32) or shorten the "
    "answers."
)


def _norm(parameters: Sequence[Tensor]) -> float:
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return float(torch.stack([norm.to(norms[0].device) for norm in norms]).norm())
