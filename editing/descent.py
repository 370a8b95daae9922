"""The one loop in which weights descend: evaluate, stop, undo, cancel, trace.

Every iterative edit goes through it: DINM and FT-L on one matrix, SFT, DPO and Ext-Sub's experts on many, the atlas on
one matrix of several blocks at once. A method is what differs: terms, tensors, stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.progress import Step, StopReason, StopSettings, stop_reason
from editing.signs import Evaluate, Said, Signs
from inspector.errors import RefusedEdit
from inspector.gradients import smaller_scale
from inspector.model.graphs import beside, captured, warm


class Trained(Protocol):
    """What descends."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that the optimiser moves."""
        ...

    def delta_norm(self) -> Tensor | float:
        """Return the Frobenius norm of the change so far; a single number, which may still be on its device."""
        ...

    def kept(self) -> Sequence[Tensor]:
        """Return a copy of the tensors."""
        ...

    def restore(self, kept: Sequence[Tensor]) -> None:
        """Go back to what :meth:`kept` returned."""
        ...


PAYS = 3
"""Steps a term from which a graph of it is worth its capture: one runs before it, and the capture takes as long."""


_Evaluated = tuple[Tensor, list[Tensor | None]]


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
        period: int | None = None,
        inside: Callable[[], AbstractContextManager[Any]] = nullcontext,
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
            period: After how many evaluations the terms come round again, the same tensors of the same shapes: a CUDA
                device then captures each of them as a graph where that pays. ``None`` where they may differ. With a
                period of 1 the terms have to be prepared: the first evaluation may be the captured one.
            inside: What a capture is made inside of.

        Raises:
            RefusedEdit: The loss or its gradient is not finite before the first update.
        """
        start = self.updates
        works: dict[int, Callable[[], _Evaluated]] = {}
        device = self.trained.parameters[0].device
        captures = self._goes_ahead and period is not None and steps >= PAYS * period
        turns = period or 1
        first = 0 if turns == 1 and device.type == "cuda" and warm(device) else turns
        for number in range(steps + 1 if measure_last else steps):
            last = number == steps
            begun = time.perf_counter()
            side = beside(device) if captures and device.type == "cuda" else nullcontext()
            with self.lock, side, torch.set_grad_enabled(not last):
                said, stop = None, None
                if captures and number >= first:
                    turn = number % turns
                    if turn not in works:
                        with inside():
                            works[turn] = self._captured(evaluate, turn)
                    numbers, gradients = works[turn]()
                    for tensor, gradient in zip(self.trained.parameters, gradients, strict=True):
                        tensor.grad = gradient  # each turn's graph fills tensors of its own
                    said, stop = self._look(numbers, stops, start + number)
                    if stop == "not finite" and self.scale > 1:
                        said = None
                        works.clear()  # they hold the scale that was too large
                if said is None:
                    said, stop = self._measured(evaluate, number, last, stops, start + number)
            if stop == "not finite" and self._before is None:
                raise RefusedEdit(_NOT_FINITE)
            step = Step(
                step=start + number,
                steps=steps if of is None else of,
                edit_loss=said.edit_loss,
                constraint_kl=said.kl,
                total_loss=said.loss,
                safe_probability=said.safe_probability,
                unsafe_probability=said.unsafe_probability,
                gradient_norm=None if stop is not None or last else said.gradient_norm,
                delta_norm=said.delta_norm,
                seconds=0.0,
            )
            if stop in ("not finite", "damage budget"):
                if self._before is not None:  # perhaps of the phase before this one
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

    def _measured(
        self, evaluate: Evaluate, number: int, last: bool, stops: StopSettings, updates: int
    ) -> tuple[Said, StopReason | None]:
        """Evaluate the weights and put the gradient into the tensors, unless the descent ends here."""
        while True:
            signs = evaluate(number, not last)
            if last or not self._goes_ahead:
                said = Said.of(signs.numbers(self.trained.delta_norm(), None))
                stop = stop_reason(stops, updates, said.safe_loss, said.kl, said.loss)
                if last or stop is not None:
                    return said, stop
            norm = self._backward(signs)
            said, stop = self._look(signs.numbers(self.trained.delta_norm(), norm), stops, updates)
            if stop != "not finite" or self.scale == 1 or not math.isfinite(said.loss):
                return said, stop
            # Too much for the type's range: the same evaluation with a smaller scale.
            self.scale = smaller_scale(self.scale)

    def _look(self, numbers: Tensor, stops: StopSettings, updates: int) -> tuple[Said, StopReason | None]:
        """Read the numbers of an evaluation whose gradient is in the tensors, and say whether they end the descent."""
        said = Said.of(numbers)
        stop = stop_reason(stops, updates, said.safe_loss, said.kl, said.loss)
        if stop is None and said.gradient_norm is not None and not math.isfinite(said.gradient_norm):
            stop = "not finite"
        return said, stop

    def _captured(self, evaluate: Evaluate, turn: int) -> Callable[[], _Evaluated]:
        """Return what evaluates one turn's terms and returns the numbers, and the gradient in each of the tensors."""

        def work() -> _Evaluated:
            with torch.enable_grad():
                signs = evaluate(turn, True)
                norm = self._backward(signs)
                numbers = signs.numbers(self.trained.delta_norm(), norm)
                return numbers, [tensor.grad for tensor in self.trained.parameters]

        return captured(work, self.trained.parameters[0].device, "A step of this edit")

    @property
    def _goes_ahead(self) -> bool:
        """Whether the gradient is computed before the numbers are read, so that a device never waits for its host.

        It costs the gradient of the step at which a descent stops. A CPU is its own host, and sees a stop first.
        """
        return self.trained.parameters[0].device.type == "cuda"

    def gradient(self, evaluate: Evaluate) -> list[Tensor]:
        """Return the gradient in each of the tensors as they are; the caller holds the lock.

        Raises:
            RefusedEdit: It is not finite.
        """
        with torch.enable_grad():
            while not math.isfinite(float(self._backward(evaluate(0, True)))):
                if self.scale == 1:
                    raise RefusedEdit(_NOT_FINITE)
                self.scale = smaller_scale(self.scale)
        found = [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in self.trained.parameters]
        for tensor in self.trained.parameters:
            tensor.grad = None
        return found

    def _backward(self, signs: Signs) -> Tensor:
        """Put the gradient into the tensors and return its norm, which is not finite if any entry is not."""
        tensors = self.trained.parameters
        for tensor in tensors:
            tensor.grad = None
        if signs.backward is not None:
            signs.backward()
        else:
            scaled = signs.loss if self.scale == 1 else signs.loss * self.scale
            found = torch.autograd.grad(scaled, list(tensors), allow_unused=True)
            for tensor, gradient in zip(tensors, found, strict=True):
                if gradient is not None and self.scale != 1:
                    gradient /= self.scale
                tensor.grad = None if gradient is None else laid_out(gradient, tensor)
        # In float64: the squares of finite float32 numbers need not be finite in float32.
        norms = [torch.linalg.vector_norm(t.grad, dtype=torch.float64) for t in tensors if t.grad is not None]
        return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()

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


def laid_out(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return a gradient laid out in memory like its tensor: fused optimisers take their numbers one by one."""
    return gradient if gradient.stride() == tensor.stride() else torch.empty_like(tensor).copy_(gradient)


_NOT_FINITE = (
    "The loss is not a finite number before the first step. Load the model in float32 (--dtype float32) or shorten the "
    "answers."
)
