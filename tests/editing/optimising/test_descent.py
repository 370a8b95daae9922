"""The one descent loop: when it stops, what it undoes, what it tells, on a parabola whose way down is known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from editing.optimising.descent import PAYS, Descent, Signs, Stops, laid_out
from inspector.errors import EditError


class Point:
    """One number that descends on x^2 / 2, from 8: with a step of 1/2 it goes 8, 4, 2, 1, ..."""

    def __init__(self) -> None:
        self.x = torch.tensor([8.0], requires_grad=True)
        self.parameters = [self.x]

    def delta_norm(self) -> float:
        return abs(8.0 - float(self.x))

    def kept(self) -> list[torch.Tensor]:
        return [self.x.detach().clone()]

    @torch.no_grad()
    def restore(self, kept) -> None:
        self.x.copy_(kept[0])


def never() -> bool:
    return False


def evaluation(
    point: Point, kl: Callable[[float], float] = lambda x: 0.0, **broken: int
) -> Callable[[int, bool], Signs]:
    """Return the terms; ``nan_at`` and ``steep_at`` name the update whose loss, or gradient, is no number."""

    def evaluate(number: int, _gradient: bool) -> Signs:
        loss = point.x.square().sum() / 2
        if broken.get("nan_at") == number:
            loss = loss * float("nan")
        if broken.get("steep_at") == number:  # zero, but its derivative is infinite here
            loss = loss + ((point.x - point.x.detach()).abs().sqrt() * 0).sum()
        value = float(point.x)
        return Signs(loss, float(loss), kl(value), value, 1 / (1 + value))

    return evaluate


def went(
    descent: Descent, point: Point, stops: Stops = Stops(), steps: int = 4, cancel=never, evaluate=None, **options
):
    optimiser = torch.optim.SGD(point.parameters, lr=0.5)
    return list(descent.run(evaluate or evaluation(point), optimiser, steps, stops, cancel, **options))


@pytest.fixture
def point() -> Point:
    return Point()


@pytest.fixture
def descent(point) -> Descent:
    return Descent(point, threading.RLock())


def test_every_step_tells_the_weights_before_its_update_and_the_last_one_those_after_all(descent, point):
    trace = went(descent, point)
    assert [step.step for step in trace] == [0, 1, 2, 3, 4] and all(step.steps == 4 for step in trace)
    assert [step.total_loss for step in trace] == [32.0, 8.0, 2.0, 0.5, 0.125]
    assert [step.delta_norm for step in trace] == [0.0, 4.0, 6.0, 7.0, 7.5]
    assert [step.gradient_norm for step in trace] == [8.0, 4.0, 2.0, 1.0, None]
    assert (descent.updates, descent.reason, float(point.x)) == (4, "step limit", 0.5)


def test_without_measuring_the_last_weights_it_makes_as_many_updates(descent, point):
    trace = went(descent, point, measure_last=False)
    assert len(trace) == 4 and (descent.updates, float(point.x)) == (4, 0.5)


def test_a_second_phase_goes_on_counting_and_reports_the_limit_of_both(descent, point):
    went(descent, point, steps=2, measure_last=False, of=5)
    trace = went(descent, point, steps=3, of=5)
    assert [step.step for step in descent.trace] == [0, 1, 2, 3, 4, 5] and {step.steps for step in descent.trace} == {5}
    assert [step.step for step in trace] == [2, 3, 4, 5] and (descent.updates, float(point.x)) == (5, 0.25)


def test_the_update_beyond_the_budget_is_undone(descent, point):
    trace = went(descent, point, Stops(damage_budget=0.5), evaluate=evaluation(point, lambda x: (8 - x) / 10))
    assert [step.constraint_kl for step in trace] == pytest.approx([0.0, 0.4, 0.6])
    assert (descent.updates, descent.reason, float(point.x)) == (1, "damage budget", 4.0)


def test_the_last_update_of_a_phase_is_undone_by_the_next_one_where_it_went_beyond_the_budget(descent, point):
    def kl(x: float) -> float:
        return (8 - x) / 10

    went(descent, point, steps=2, measure_last=False)
    assert float(point.x) == 2.0
    trace = went(descent, point, Stops(damage_budget=0.5), evaluate=evaluation(point, kl))
    assert [step.step for step in trace] == [2]
    assert (descent.updates, descent.reason, float(point.x)) == (1, "damage budget", 4.0)


def test_an_update_is_taken_back_once_and_what_the_loop_has_undone_is_not_undone_again(descent, point):
    went(descent, point, steps=3, measure_last=False)
    for _ in range(2):
        descent.undo()
        assert (descent.updates, float(point.x)) == (2, 2.0)
    went(descent, point, evaluate=evaluation(point, nan_at=1))
    assert (descent.updates, descent.reason, float(point.x)) == (2, "not finite", 2.0)
    descent.undo()
    assert (descent.updates, float(point.x)) == (2, 2.0)


@pytest.mark.parametrize("broken", ["nan_at", "steep_at"])
def test_the_update_after_which_something_is_no_number_is_undone(descent, point, broken):
    trace = went(descent, point, evaluate=evaluation(point, **{broken: 2}))
    assert trace[-1].step == 2 and trace[-1].gradient_norm is None
    assert (descent.updates, descent.reason, float(point.x)) == (1, "not finite", 4.0)


@pytest.mark.parametrize("broken", ["nan_at", "steep_at"])
def test_no_number_before_the_first_update_is_an_error_with_a_remedy(descent, point, broken):
    with pytest.raises(EditError, match=r"not a finite number before the first step.*float32"):
        went(descent, point, evaluate=evaluation(point, **{broken: 0}))
    assert float(point.x) == 8.0


def test_target_and_small_loss_end_it_with_the_weights_that_reached_them(descent, point):
    went(descent, point, Stops(target_probability=0.1))  # -log 0.1 = 2.3, above the "safe loss" 2
    assert (descent.updates, descent.reason, float(point.x)) == (2, "target reached", 2.0)
    other, its = Point(), None
    its = Descent(other, threading.RLock())
    went(its, other, Stops(stop_below=1.0))
    assert (its.updates, its.reason, float(other.x)) == (3, "converged", 1.0)


def test_a_cancel_ends_it_within_the_step(descent, point):
    asked = iter([False, True])
    trace = went(descent, point, cancel=lambda: next(asked))
    assert [step.step for step in trace] == [0, 1] and descent.reason == "cancelled"


def test_a_limit_is_kept_after_every_update(descent, point):
    def limit() -> None:
        with torch.no_grad():
            point.x.clamp_(7.0, 9.0)

    went(descent, point, limit=limit)
    assert float(point.x) == 7.0


def test_the_lock_is_free_between_two_steps_and_held_within_one(descent, point):
    optimiser = torch.optim.SGD(point.parameters, lr=0.5)
    free: dict[str, list[bool]] = {"between": [], "within": []}

    def attempt(when: str) -> None:
        taken = descent.lock.acquire(blocking=False)
        free[when].append(taken)
        if taken:
            descent.lock.release()

    def looked_at(when: str) -> None:
        thread = threading.Thread(target=attempt, args=(when,))
        thread.start()
        thread.join()

    def evaluate(number: int, gradient: bool) -> Signs:
        looked_at("within")
        return evaluation(point)(number, gradient)

    for _ in descent.run(evaluate, optimiser, 2, Stops(), never):
        looked_at("between")
    assert free == {"between": [True] * 3, "within": [False] * 3}


def test_a_gradient_of_its_own_takes_the_place_of_the_loss_s(descent, point):
    def evaluate(_number: int, _gradient: bool) -> Signs:
        def put() -> None:
            point.x.grad = torch.tensor([2.0])

        return Signs(torch.tensor(1.0), 1.0, 0.0, 1.0, 0.5, backward=put)

    went(descent, point, evaluate=evaluate, steps=3)
    assert float(point.x) == 8.0 - 3 * 0.5 * 2.0


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_scale_of_the_loss_changes_no_update(point, scale):
    descent = Descent(point, threading.RLock(), scale)
    assert [step.gradient_norm for step in went(descent, point)][:4] == [8.0, 4.0, 2.0, 1.0]
    assert float(point.x) == 0.5


def test_a_scale_that_is_too_large_for_the_type_is_lowered_and_the_update_made(point):
    descent = Descent(point, threading.RLock(), 16384.0)

    def evaluate(_number: int, _gradient: bool) -> Signs:
        loss = point.x.half().square().sum().float() / 2  # 8 times the scale is no float16
        return Signs(loss, float(loss), 0.0, 1.0, 0.5)

    went(descent, point, evaluate=evaluate, steps=2)
    assert descent.updates == 2 and descent.scale == 1024.0 and float(point.x) == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize(
    ("stops", "kl", "remedy"),
    [
        (Stops(target_probability=1e-9), 0.0, "Raise its target_probability"),
        (Stops(stop_below=100.0), 0.0, "Lower its stop_below"),
        (Stops(0.1), 1.0, r"beyond its damage budget\. Raise its damage_budget, or lower its step_size\.$"),
        (Stops(), float("nan"), r"left the finite numbers\. Lower its step_size, or load .*--dtype float32\)\.$"),
    ],
)
def test_a_descent_that_keeps_no_update_is_told_with_its_reason(descent, point, stops, kl, remedy):
    went(descent, point, stops, evaluate=evaluation(point, lambda x: 0.0 if x == 8 else kl))
    assert descent.updates == 0 and float(point.x) == 8.0
    with pytest.raises(EditError, match=rf"(?i)a method.*{remedy}"):
        descent.require_update("A method", "step_size")


def test_a_descent_that_kept_some_is_an_edit(descent, point):
    went(descent, point)
    descent.require_update("A method", "step_size")
    assert descent.updates == 4


def test_updates_that_a_descent_starts_with_are_no_edit(point):
    descent = Descent(point, threading.RLock(), updates=1)
    trace = went(descent, point, Stops(target_probability=1e-9))
    assert [step.step for step in trace] == [1] and descent.updates == 1
    with pytest.raises(EditError, match=r"(?i)a method has nothing to learn"):
        descent.require_update("A method", "step_size")


def test_a_gradient_lies_in_memory_as_its_tensor_does_so_that_a_fused_optimiser_moves_the_right_numbers(descent):
    tensor = torch.arange(6.0).reshape(2, 3).T.requires_grad_(True)
    gradient = torch.arange(6.0).reshape(3, 2)
    moved = laid_out(gradient, tensor)
    assert moved.stride() == tensor.stride() and torch.equal(moved, gradient)
    expected = tensor.detach() - 0.5 * gradient
    tensor.grad = moved
    torch.optim.SGD([tensor], lr=0.5, fused=True).step()
    assert torch.equal(tensor, expected)
    assert laid_out(moved, tensor) is moved


def test_the_turns_of_a_captured_descent_have_one_gradient_between_them(descent, point, monkeypatch):
    """A graph keeps what it returns as long as it lives; without a CUDA device the same work runs uncaptured."""
    plain, turns, steps = Point(), 2, 2 * PAYS
    wanted = went(Descent(plain, threading.RLock()), plain, steps=steps)
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    optimiser, gradients = torch.optim.SGD(point.parameters, lr=0.5), []
    for _ in descent.run(evaluation(point), optimiser, steps, Stops(), never, period=turns):
        gradients.append(point.x.grad)
    assert {id(gradient) for gradient in gradients[turns:]} == {id(gradients[turns])}
    assert [replace(step, seconds=0) for step in descent.trace] == [replace(step, seconds=0) for step in wanted]
    assert torch.equal(point.x, plain.x)
