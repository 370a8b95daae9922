"""However an edit ends (done, stopped, cancelled, thrown out), the model is as before and the result says why."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace

import by_hand
import pytest
import tiny_models
import torch

from editing import DinmSettings, Step, dinm, preset, run
from editing.optimising.replay import TailReplay
from inspector.errors import EditError
from inspector.model import from_parts

BLOCK = 1
IDS = (1, 40, 80, 120, 160, 200, 240, 30, 77, 5)
TWO = ("llama", "gpt_neox")
"""How an edit ends is decided in one loop for all: here with blocks whose tail can be resumed, and without."""


class Broken(Exception):
    """What a test throws."""


def small(name: str = "corrected", **changes) -> DinmSettings:
    """Return a preset that is quick on a tiny model and never ends before its step limit unless told so."""
    quick = {"harmless_prompts": 2, "harmless_tokens": 4, "learning_rate": 1e-2, "null_space": None, "own_refusals": 0}
    limits = {"target_probability": None, "damage_budget": None, "stop_below": 0.0}
    return preset(name, **{**quick, **limits, **changes})


def at_step(number: int) -> Callable[[list], bool]:
    """Return a condition on the events so far: the step of this number has been reported."""
    return lambda events: isinstance(events[-1], Step) and events[-1].step == number


@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize("number", [0, 2, 4], ids=["at step zero", "in the middle", "at the last step"])
def test_a_cancelled_edit_ends_within_the_step_without_a_patch(model, case, number):
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    events: list = []
    result = run(dinm(model, case, BLOCK, small(steps=4), cancel=lambda: at_step(number)(events)), events.append)
    assert (result.patch, result.kept, result.stop_reason) == (None, 0, "cancelled")
    assert [step.step for step in result.trace] == list(range(number + 1)) and events[-1] is result.trace[-1]
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)


def test_an_edit_cancelled_in_its_preparation_ends_there_and_the_next_one_is_not_harmed(case):
    """The model is new, so that its answers to harmless prompts have to be made; step 0 is told before they are."""
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "new")
    for asked in itertools.count(1):
        events: list = []
        cancel = lambda events=events, asked=asked: len(events) >= asked  # noqa: E731
        result = run(dinm(model, case, BLOCK, small(steps=2), cancel=cancel), events.append)
        told = [event for event in events if isinstance(event, Step)]
        if len(told) > 1:
            break
        assert len(events) == asked
        assert (result.patch, list(result.trace), result.stop_reason) == (None, told, "cancelled")
    assert asked > 3 and told[0].step == 0, "there must have been preparations to cancel before and after step 0"
    fresh = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "fresh")
    one, two = (run(dinm(m, case, BLOCK, small(steps=2))).patch for m in (model, fresh))
    assert one.identifier == two.identifier


@pytest.mark.parametrize(("family", "stage"), [("llama", 1), ("llama", 3), ("llama", 5), ("gpt_neox", 5)])
@pytest.mark.parametrize("way", ["close", "throw", "drop"])
def test_a_generator_closed_thrown_into_or_dropped_leaves_the_model_as_it_was(model, case, way, stage):
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    edit = dinm(model, case, BLOCK, small(steps=10))
    for _ in range(stage):
        next(edit)
        by_hand.assert_at_rest(model, hooks)  # between events, too: other visitors run then
        assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    if way == "close":
        edit.close()
    elif way == "throw":
        with pytest.raises(Broken):
            edit.throw(Broken)
    else:
        del edit
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize("call", [1, 2, 4, 7])
def test_a_crash_inside_a_forward_pass_leaves_the_model_as_it_was(model, case, call):
    """Calls 1 and 2 are preparation and step 0; the later ones are in the middle."""
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    with by_hand.crashing(model.architecture.unembedding, call, Broken), pytest.raises(Broken):
        run(dinm(model, case, BLOCK, small(steps=5)))
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("family", TWO)
def test_two_edits_interleaved_on_one_model_give_what_they_give_alone(model, case):
    blocks = (0, model.blocks - 1)
    alone = [run(dinm(model, case, block, small(steps=3))).patch.identifier for block in blocks]
    edits, results = {block: dinm(model, case, block, small(steps=3)) for block in blocks}, {}
    while edits:
        for block in list(edits):
            try:
                next(edits[block])
            except StopIteration as end:
                results[block] = end.value.patch.identifier
                del edits[block]
    assert [results[block] for block in blocks] == alone


def test_two_edits_in_two_threads_give_what_they_give_alone(llama, case):
    alone = [run(dinm(llama, case, block, small(steps=5))).patch.identifier for block in (0, 2)]
    together: dict[int, str] = {}

    def visit(block: int) -> None:
        together[block] = run(dinm(llama, case, block, small(steps=5))).patch.identifier

    threads = [threading.Thread(target=visit, args=(block,)) for block in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[block] for block in (0, 2)] == alone


@pytest.mark.parametrize("family", TWO)
def test_the_step_beyond_the_damage_budget_is_undone(model, case):
    """The patch is, bit for bit, that of the same edit limited to the steps before it."""
    free = run(dinm(model, case, BLOCK, small(steps=6, learning_rate=3e-2, constraint_weight=0.0)))
    damage = [step.constraint_kl for step in free.trace]
    number = max(range(1, 7), key=lambda n: damage[n] > 1.01 * max(damage[:n]) and n)
    assert number >= 2, "a later step must do more damage for this test to mean anything"
    budget = (max(damage[:number]) + damage[number]) / 2
    settings = small(steps=6, learning_rate=3e-2, constraint_weight=0.0, damage_budget=budget)
    result = run(dinm(model, case, BLOCK, settings))
    assert (result.stop_reason, result.kept) == ("damage budget", number - 1)
    assert result.trace[-1].step == number and result.trace[-1].constraint_kl > budget
    assert result.patch.settings["updates"] == number - 1
    limited = run(dinm(model, case, BLOCK, replace(settings, damage_budget=None, steps=number - 1)))
    assert result.patch.identifier == limited.patch.identifier
    assert result.patch.norm == pytest.approx(result.trace[number - 1].delta_norm, rel=1e-5)


def test_an_edit_whose_first_step_is_beyond_the_budget_is_none_and_says_what_to_change(llama, case):
    events: list = []
    with pytest.raises(EditError, match=r"DINM kept no update.*Raise its damage_budget, or lower its learning_rate\.$"):
        run(dinm(llama, case, BLOCK, small(learning_rate=1.0, damage_budget=1e-9)), events.append)
    assert [event.step for event in events if isinstance(event, Step)] == [0, 1], "both steps were shown"


@pytest.mark.parametrize("name", ["reference", "paper", "corrected"])
def test_weights_that_overflow_are_undone_and_the_patch_is_finite(model, case, name):
    """A loss weighed 1e37 times descends out of float32 at once, in some families after a step."""
    before, events = by_hand.vanilla_logits(model, IDS), []
    settings = small(name, steps=5, optimiser="descent", learning_rate=100.0, edit_weight=1e37)
    try:
        result = run(dinm(model, case, BLOCK, settings), events.append)
    except EditError as error:
        assert "kept no update" in str(error) and events[-1].step == 1
    else:
        assert result.stop_reason == "not finite" and result.kept == result.trace[-1].step - 1 > 0
        assert bool(torch.isfinite(result.patch.deltas[0].left).all())
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)


class Failing(TailReplay):
    """A replay whose logits, or whose gradients, stop being numbers with the fourth evaluation.

    Only the one that is made first does so, which is that of the safe answer.
    """

    broken: str
    made = 0

    def __init__(self, *args) -> None:
        super().__init__(*args)
        type(self).made += 1
        self.number, self.calls = self.made, 0

    def logits(self, weight: torch.Tensor) -> torch.Tensor:
        own = super().logits(weight)
        self.calls += 1
        if self.number > 1 or self.calls < 4:
            return own
        if self.broken == "logits":
            return own * float("nan")
        # Zero, but with a gradient that is none: the derivative of the root is infinite here.
        return own + ((weight - weight.detach()).abs().sqrt() * 0).sum()


@pytest.mark.parametrize(("broken", "steps"), [("logits", 3), ("logits", 6), ("gradients", 6)])
def test_a_step_whose_loss_or_gradient_is_no_number_is_undone(llama, case, broken, steps):
    """Steps 0 to 2 are good; with a limit of three the broken one is the last, which has no gradient."""
    replay = type("Broken", (Failing,), {"broken": broken})
    settings = small("reference", steps=steps, watch_unsafe=False, constraint_weight=0.0)
    result = run(dinm(llama, case, BLOCK, settings, replay=replay))
    assert (result.stop_reason, result.trace[-1].step, result.kept) == ("not finite", 3, 2)
    good = run(dinm(llama, case, BLOCK, replace(settings, steps=2)))
    assert result.patch.identifier == good.patch.identifier


def test_a_loss_that_is_not_finite_at_the_start_is_an_error_that_says_what_to_do(case):
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "broken later")
    model.network.lm_head.weight.data[7] = float("nan")
    for name in ("reference", "paper"):
        with pytest.raises(EditError, match=r"not a finite number before the first step.*float32"):
            run(dinm(model, case, BLOCK, small(name)))
        assert by_hand.lock_is_free(model)


@pytest.mark.parametrize("family", TWO)
def test_an_edit_ends_with_the_step_that_reaches_the_target(model, case):
    free = run(dinm(model, case, BLOCK, small(steps=8)))
    probabilities = [step.safe_probability for step in free.trace]
    best = max(range(9), key=probabilities.__getitem__)
    assert best >= 2, "the answer must become likelier for this test to mean anything"
    target = (max(probabilities[:best]) + probabilities[best]) / 2
    result = run(dinm(model, case, BLOCK, small(steps=8, target_probability=target)))
    assert (result.stop_reason, result.kept) == ("target reached", best)
    assert result.trace[-1].safe_probability >= target > result.trace[-2].safe_probability
    assert result.patch.identifier == run(dinm(model, case, BLOCK, small(steps=best))).patch.identifier


def test_a_cancel_at_the_step_that_reaches_the_target_is_a_cancel(llama, case):
    settings = small(target_probability=1e-6)
    result = run(dinm(llama, case, BLOCK, settings, cancel=lambda: True))
    assert (result.stop_reason, result.patch) == ("cancelled", None)
    events: list = []
    cancel = lambda: at_step(0)(events)  # noqa: E731
    result = run(dinm(llama, case, BLOCK, settings, cancel=cancel), events.append)
    assert (result.stop_reason, result.patch, len(result.trace)) == ("cancelled", None, 1)


def test_a_target_that_vanilla_reaches_ends_the_edit_before_any_update_and_makes_none(llama, case):
    events: list = []
    with pytest.raises(EditError, match=r"likely enough already, so DINM has nothing to learn.*target_probability"):
        run(dinm(llama, case, BLOCK, small(target_probability=1e-6)), events.append)
    assert [event.step for event in events if isinstance(event, Step)] == [0]


def test_an_edit_converges_when_its_total_loss_is_below_the_stop_value(llama, case):
    free = run(dinm(llama, case, BLOCK, small("reference", steps=6, constraint_weight=0.0)))
    stop_below = (free.trace[2].total_loss + free.trace[3].total_loss) / 2
    result = run(dinm(llama, case, BLOCK, small("reference", steps=6, constraint_weight=0.0, stop_below=stop_below)))
    assert (result.stop_reason, result.kept) == ("converged", 3)


@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize("optimiser", ["adam", "descent"])
def test_no_weight_changes_by_more_than_the_clamp(model, case, optimiser):
    rate = 1e-2 if optimiser == "adam" else 100.0
    result = run(dinm(model, case, BLOCK, small(steps=5, optimiser=optimiser, learning_rate=rate, clamp=0.015)))
    change = result.patch.deltas[0].left.abs().max()
    # The bounds W0 + 0.015 are float32 numbers of order 0.5, spaced 6e-8.
    assert change == pytest.approx(0.015, abs=1e-6), "some weight must reach the clamp, none go beyond"
