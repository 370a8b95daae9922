"""The one loop in which weights descend: evaluate, stop, undo, cancel, trace.

Every iterative edit goes through it: DINM, FT-L and Gated on one matrix, DELMAN on the vector that a matrix is to give,
SFT, DPO and Ext-Sub's experts on many matrices, the atlas on one matrix of several blocks at once. A method is what
differs: terms, tensors, stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.optimising.signs import Evaluate, Said, Signs
from editing.progress import Step, StopReason, StopSettings, stop_reason
from inspector.errors import RefusedEdit
from inspector.gradients import smaller_scale
from inspector.model.passes.graphs import Pool, beside, captured, warm


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
        updates: Number of updates that the tensors hold; those that it starts with are no edit yet.
        reason: Why the last phase ended.
        ended: :meth:`begin` has found that nothing is to be done.
    """

    trained: Trained
    lock: AbstractContextManager[Any]
    scale: float = 1.0
    trace: list[Step] = field(default_factory=list)
    updates: int = 0
    reason: StopReason = "step limit"
    ended: bool = False
    _before: Sequence[Tensor] | None = None
    _begun: bool = False

    def __post_init__(self) -> None:
        self._start = self.updates

    def begin(self, evaluate: Evaluate, steps: int, stops: StopSettings) -> Step:
        """Evaluate the weights before the first update, and before what :meth:`run` needs is made; takes the lock.

        :meth:`run` goes on with the first update. The gradient stays in the tensors: a step size may be measured by it.

        Args:
            evaluate: The terms, or those that say something of unedited weights (:meth:`add`).
            steps: Step limit that is reported.
            stops: When there is nothing to do: :attr:`ended`.

        Raises:
            RefusedEdit: The loss or its gradient is not finite.
        """
        begun = time.perf_counter()
        with self.lock, self._beside(), torch.enable_grad():
            said, stop = self._measured(evaluate, 0, False, stops, 0)
        if stop == "not finite":
            raise RefusedEdit(NOT_FINITE)
        self._begun, self.ended = True, stop is not None
        if stop is not None:
            self.reason = stop
        return self._told(said, 0, steps, not self.ended, begun)

    def add(self, part: Callable[[], Tensor]) -> None:
        """Add the gradient of a part of the loss to that which :meth:`begin` has put into the tensors; takes the lock.

        Raises:
            RefusedEdit: It is not finite.
        """
        first = [tensor.grad for tensor in self.trained.parameters]
        self.put(part)
        for tensor, before in zip(self.trained.parameters, first, strict=True):
            if before is not None:
                tensor.grad = before if tensor.grad is None else before + tensor.grad

    def put(self, loss: Callable[[], Tensor]) -> None:
        """Put the gradient of a loss into the tensors, in the place of what :meth:`begin` has; takes the lock.

        Raises:
            RefusedEdit: It is not finite.
        """
        with self.lock, self._beside(), torch.enable_grad():
            while not math.isfinite(float(self._put(loss()))):
                if self.scale == 1:
                    raise RefusedEdit(NOT_FINITE)
                self.scale = smaller_scale(self.scale)

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

        What :meth:`begin` has evaluated and told is neither evaluated nor told again.

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
        pool, shared = Pool(), list[Tensor]()
        device = self.trained.parameters[0].device
        captures = self._goes_ahead and period is not None and steps >= PAYS * period
        turns = period or 1
        begun_before, self._begun = self._begun, False
        # What is captured has run before, and begin's terms need not be all.
        first = 0 if turns == 1 and device.type == "cuda" and warm(device) else turns + begun_before
        if begun_before:
            if self.ended:
                return
            self._update(optimiser, limit)
        for number in range(int(begun_before), steps + 1 if measure_last else steps):
            last = number == steps
            begun = time.perf_counter()
            side = self._beside() if captures else nullcontext()
            with self.lock, side, torch.set_grad_enabled(not last):
                said, stop = None, None
                if captures and number >= first:
                    turn = number % turns
                    if turn not in works:
                        if turns > 1 and not shared:
                            shared = [torch.empty_like(tensor) for tensor in self.trained.parameters]
                        with inside():
                            works[turn] = self._captured(evaluate, turn, pool, shared)
                    numbers, gradients = works[turn]()
                    for tensor, gradient in zip(self.trained.parameters, gradients, strict=True):
                        tensor.grad = gradient
                    said, stop = self._look(numbers, stops, start + number)
                    if stop == "not finite" and self.scale > 1:
                        said = None
                        works.clear()  # they hold the scale that was too large
                        pool = Pool()
                if said is None:
                    said, stop = self._measured(evaluate, number, last, stops, start + number)
            if stop == "not finite" and self._before is None:
                raise RefusedEdit(NOT_FINITE)
            if stop in ("not finite", "damage budget"):
                self.undo()
            elif stop is None and not last:
                self._update(optimiser, limit)
            yield self._told(said, start + number, steps if of is None else of, stop is None and not last, begun)
            if cancel():
                self.reason = "cancelled"
                return
            if stop is not None:
                self.reason = stop
                return

    def undo(self) -> None:
        """Go back to before the last update, perhaps the one of the phase before; nothing where that is so already.

        :meth:`run` does it by itself, but with an update that is left to others to measure.
        """
        if self._before is not None:
            self.trained.restore(self._before)
            self.updates -= 1
            self._before = None

    def _update(self, optimiser: torch.optim.Optimizer, limit: Callable[[], None] | None) -> None:
        self._before = self.trained.kept()
        optimiser.step()
        if limit is not None:
            limit()
        self.updates += 1

    def _beside(self) -> AbstractContextManager[Any]:
        """Stay off the stream of all others on a device that captures."""
        device = self.trained.parameters[0].device
        return beside(device) if device.type == "cuda" and torch.cuda.is_available() else nullcontext()

    def _told(self, said: Said, number: int, steps: int, goes_on: bool, begun: float) -> Step:
        """Write a step into the trace and return it."""
        self.trace.append(
            Step(
                step=number,
                steps=steps,
                edit_loss=said.edit_loss,
                constraint_kl=said.kl,
                total_loss=said.loss,
                safe_probability=said.safe_probability,
                unsafe_probability=said.unsafe_probability,
                gradient_norm=said.gradient_norm if goes_on else None,
                delta_norm=said.delta_norm,
                seconds=time.perf_counter() - begun,
            )
        )
        return self.trace[-1]

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

    def _captured(
        self, evaluate: Evaluate, turn: int, pool: Pool, shared: Sequence[Tensor]
    ) -> Callable[[], _Evaluated]:
        """Return what evaluates one turn's terms and returns the numbers, and the gradient in each of the tensors.

        Both are read or used for an update before the next turn, so that all turns share the memory they compute in.

        Args:
            shared: Into what every turn's gradients are copied, since each graph keeps what it returns; none for the
                graph's own.
        """

        def work() -> _Evaluated:
            with torch.enable_grad():
                signs = evaluate(turn, True)
                norm = self._backward(signs)
                numbers = signs.numbers(self.trained.delta_norm(), norm)
                for tensor, buffer in zip(self.trained.parameters, shared, strict=False):
                    if tensor.grad is not None:
                        tensor.grad = buffer.copy_(tensor.grad)
                return numbers, [tensor.grad for tensor in self.trained.parameters]

        return captured(work, self.trained.parameters[0].device, "A step of this edit", self, pool)

    @property
    def _goes_ahead(self) -> bool:
        """Whether the gradient is computed before the numbers are read, so that a device never waits for its host.

        It costs the gradient of the step at which a descent stops. A CPU is its own host, and sees a stop first.
        """
        return self.trained.parameters[0].device.type == "cuda"

    def _backward(self, signs: Signs) -> Tensor:
        """Put the gradient into the tensors and return its norm, which is not finite if any entry is not."""
        if signs.backward is None:
            return self._put(signs.loss)
        self._forget()
        signs.backward()
        return self._norm()

    def _put(self, loss: Tensor) -> Tensor:
        """Put a loss's own gradient into the tensors and return its norm."""
        self._forget()
        tensors = self.trained.parameters
        found = torch.autograd.grad(loss if self.scale == 1 else loss * self.scale, list(tensors), allow_unused=True)
        for tensor, gradient in zip(tensors, found, strict=True):
            if gradient is not None and self.scale != 1:
                gradient /= self.scale
            tensor.grad = None if gradient is None else laid_out(gradient, tensor)
        return self._norm()

    def _forget(self) -> None:
        for tensor in self.trained.parameters:
            tensor.grad = None

    def _norm(self) -> Tensor:
        # In float64: the squares of finite float32 numbers need not be finite in float32.
        gradients = [tensor.grad for tensor in self.trained.parameters if tensor.grad is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
        return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()

    def require_update(self, method: str, step_size: str) -> None:
        """Check that something has changed.

        Args:
            method: Its name, for the message.
            step_size: Its setting that makes a step smaller.

        Raises:
            RefusedEdit: No update is kept, so there is no edit to hand out; the message says why and what to change.
        """
        if self.updates > self._start:
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
        if self.reason == "damage budget":
            raise RefusedEdit(
                f"{method} kept no update, so nothing has changed: its first step went beyond its damage budget. Raise "
                f"its damage_budget, or lower its {step_size}."
            )
        raise RefusedEdit(
            f"{method} kept no update, so nothing has changed: its first step left the finite numbers. Lower its "
            f"{step_size}, or load the model in float32 (--dtype float32)."
        )


def laid_out(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return a gradient laid out in memory like its tensor: fused optimisers take their numbers one by one."""
    return gradient if gradient.stride() == tensor.stride() else torch.empty_like(tensor).copy_(gradient)


def fused(tensors: Sequence[Tensor]) -> bool | None:
    """Tell an optimiser to make its update in one kernel where that exists: on one CUDA device; ``None`` leaves it."""
    devices = {tensor.device for tensor in tensors}
    return True if len(devices) == 1 and next(iter(devices)).type == "cuda" else None


NOT_FINITE = (
    "The loss is not a finite number before the first step. Load the model in float32 (--dtype float32) or shorten the "
    "answers."
)
