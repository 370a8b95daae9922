"""An edit that runs out of memory is made once more, smaller: the same numbers; else it is told and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import by_hand
import pytest
import torch
from allocations import counted_allocations
from memory_faults import no_memory
from training_helpers import SMALL, small

from dashboard.steps.operate.texts import finished
from editing import DinmSettings, Preparation, Step, run
from editing.methods.delman import DelmanSettings
from editing.methods.dpo import DpoSettings
from editing.methods.ext_sub import ExtSubSettings
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.gated import GatedSettings
from editing.methods.registry import METHODS
from editing.methods.sft import SftSettings
from editing.optimising.descent import Descent
from editing.optimising.replay import FullReplay, Replay, TailReplay, master_weight
from editing.optimising.smaller import HalvedReplay
from inspector.errors import OutOfMemory
from inspector.model import InspectedModel

DINM = {
    "harmless_prompts": 6,
    "harmless_at_once": 4,
    "own_refusals": 0,
    "companions": 4,
    "monitor": 2,
    "damage_budget": 1e6,
    "null_space": None,
}
GATED = {"steps": 3, "texts": 30, "own_answers": 2, "longest_text": 400, "false_alarms": 0.5}
EDITS = {
    "dinm, a given step": small(DinmSettings, **DINM, learning_rate=0.01, optimiser="descent"),
    "dinm, a measured step": small(DinmSettings, **DINM, learning_rate=None, optimiser="descent"),
    "gated": GatedSettings(**SMALL, **GATED, further_prompts=2, target_probability=None, damage_budget=None),
    "delman": DelmanSettings(**SMALL, steps=3, contexts=2, context_weight=1.0, position="prompt"),
    "sft": small(SftSettings),
    "dpo": small(DpoSettings, warm_up=2, steps=2, stop_below=0.0),
    "ext-sub": small(ExtSubSettings, anti_steps=2),
}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no texts share a row: the memory of these tests is counted in texts."""
    monkeypatch.setattr("inspector.model.passes.tails.shared_rows", lambda *_: None)


@contextmanager
def room_for(model: InspectedModel, most: int) -> Iterator[list[int]]:
    """Let blocks run out of memory with the gradients of more than so many texts at once; gives how many were tried."""
    tried: list[int] = []
    kind = type(model.architecture.blocks[0])
    own = kind.forward

    def forward(block: Any, states: torch.Tensor, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and states.requires_grad:
            tried.append(len(states))
            if len(states) > most:
                no_memory()
        return own(block, states, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "forward", forward)
        yield tried


def made(model: InspectedModel, case: Any, name: str, on_event: Any = None) -> Any:
    """Return the named edit of a block in the middle."""
    given = [replace(case, safe="No, that would not be kind."), replace(case, question="Why?")]
    method = METHODS[name.partition(",")[0]]
    return run(method.run(model, case, 1, EDITS[name], companions=given), on_event)


def full(patch: pytest.MonkeyPatch, *places: int) -> list[int]:
    """Let backward passes run out of memory, by their number; all of them without one. Gives the numbers tried."""
    tried: list[int] = []
    own = Descent._backward

    def backward(descent: Descent, signs: Any) -> torch.Tensor:
        tried.append(len(tried))
        if not places or tried[-1] in places:
            no_memory()
        return own(descent, signs)

    patch.setattr(Descent, "_backward", backward)
    return tried


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_does_not_fit_is_made_with_half_as_many_texts_at_once_and_the_same(llama, case, name):
    with room_for(llama, 1000) as seen:
        plain = made(llama, case, name)
    assert not plain.smaller and "smaller" not in finished(plain)
    events: list[Any] = []
    most = (max(seen) + 1) // 2
    with room_for(llama, most) as tried:
        smaller = made(llama, case, name, events.append)
    assert sum(rows > most for rows in tried) == 1, "once, and all that follows fits"
    assert smaller.smaller and "Memory ran out, so it was made once more, smaller." in finished(smaller)
    assert any(isinstance(event, Preparation) and "Memory ran out" in event.message for event in events)
    assert (smaller.kept, smaller.stop_reason) == (plain.kept, plain.stop_reason)
    for before, after in zip(plain.trace, smaller.trace, strict=True):
        for sign in ("edit_loss", "constraint_kl", "total_loss", "safe_probability"):
            assert getattr(after, sign) == pytest.approx(getattr(before, sign), rel=1e-3, abs=1e-5), sign
    for one, other in zip(plain.patch.deltas, smaller.patch.deltas, strict=True):
        assert float((one.dense() - other.dense()).norm()) < 1e-3 * float(one.dense().norm())


def test_steps_that_were_told_before_memory_ran_out_are_told_once(llama, case, monkeypatch):
    settings = small(FtLSettings)
    plain = run(ft_l(llama, case, 1, settings))
    tried, events = full(monkeypatch, 2), list[Any]()
    smaller = run(ft_l(llama, case, 1, settings), events.append)
    assert tried == [*range(2 + 1 + 3)] and smaller.smaller
    assert [event.step for event in events if isinstance(event, Step)] == [step.step for step in plain.trace]
    assert [step.step for step in smaller.trace] == [step.step for step in plain.trace]
    assert (smaller.patch.method, smaller.settings) == ("FT-L", settings)
    assert smaller.patch.norm == pytest.approx(plain.patch.norm, rel=1e-3)


@pytest.mark.parametrize("name", ["dinm, a given step", "sft"])
def test_an_edit_that_does_not_fit_smaller_either_is_told_and_changes_nothing(llama, case, name):
    plain = made(llama, case, name)
    with pytest.MonkeyPatch.context() as patch:
        tried = full(patch)
        with pytest.raises(OutOfMemory, match=r"harmless prompts, or load the model in bfloat16\.$"):
            made(llama, case, name)
    assert len(tried) == 2, "once, and once smaller"
    by_hand.assert_at_rest(llama, by_hand.hooks(llama.network))
    again = made(llama, case, name)
    assert again.patch.identifier == plain.patch.identifier and not again.smaller


def test_full_training_that_does_not_fit_is_told_to_train_less(llama, case, monkeypatch):
    full(monkeypatch)
    with pytest.raises(OutOfMemory, match="harmless prompts, train LoRA factors instead of full weights, or load"):
        run(METHODS["sft"].run(llama, case, 1, small(SftSettings, scope="full")))


def test_another_error_is_no_reason_to_make_an_edit_again(llama, case, monkeypatch):
    tried: list[int] = []

    def broken(*_: Any) -> None:
        tried.append(1)
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr(Descent, "_backward", broken)
    with pytest.raises(RuntimeError, match="shape"):
        run(ft_l(llama, case, 1, small(FtLSettings)))
    assert len(tried) == 1


def test_a_smaller_edit_is_cancelled_like_any_other(llama, case, monkeypatch):
    tried = full(monkeypatch, 0)
    result = run(ft_l(llama, case, 1, small(FtLSettings), cancel=lambda: len(tried) == 3))
    assert (result.stop_reason, result.patch, result.smaller) == ("cancelled", None, True) and len(result.trace) == 2


def assert_alike(model: InspectedModel, replays: tuple[Replay, Replay], apart: float) -> None:
    """Compare logits and gradients of two replays, and what each gives with and without a gradient."""
    weight = (1.1 * master_weight(model, 1)).requires_grad_(True)
    found = []
    for replay in replays:
        with model.lock, torch.autograd.set_multithreading_enabled(False):
            logits = replay.logits(weight)
            (gradient,) = torch.autograd.grad(logits.square().mean(), weight)
        with torch.no_grad():
            assert torch.equal(replay.logits(weight), logits)
        found.append((logits.detach(), gradient))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=apart)


@pytest.mark.parametrize("way", [TailReplay, FullReplay])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_replay_in_halves_gives_logits_and_gradients_of_the_whole_and_waits_for_no_other_thread(llama, way, count):
    spans = [([1, *range(20, 60)], range(10, 40)), ([1, *range(90, 110)], range(5, 20)), ([1, 40, 80], range(1, 3))]
    texts, places = zip(*spans[:count], strict=True)
    assert_alike(llama, (way(llama, 1, texts, places), HalvedReplay(llama, 1, texts, places, way)), 1e-6)


@pytest.mark.parametrize("way", [TailReplay, FullReplay])
def test_a_replay_in_halves_shares_rows_of_each_half(llama, way):
    begun = [1, *range(20, 50)]
    texts = [[*begun, *range(60 + 5 * n, 64 + n + 5 * n)] for n in range(5)]
    places = [range(len(begun) - 1, len(text) - 1) for text in texts]
    assert_alike(llama, (FullReplay(llama, 1, texts, places), HalvedReplay(llama, 1, texts, places, way)), 1e-5)


@pytest.mark.usefixtures("apart")
def test_a_replay_in_halves_holds_the_graph_of_one_half_and_runs_it_again_to_its_end(llama):
    """Where weights are fetched for a pass, one that ended early would not give them back."""
    texts, counted = [[1, *range(20, 120)]] * 8, [range(90, 95)] * 8
    weight, peaks = master_weight(llama, 0).requires_grad_(True), []

    def differentiate(replay: Replay) -> None:
        with torch.autograd.set_multithreading_enabled(False):
            torch.autograd.grad(replay.logits(weight).square().mean(), weight)

    whole, replay = TailReplay(llama, 0, texts, counted), HalvedReplay(llama, 0, texts, counted)
    for each in (whole, replay):
        with counted_allocations(llama.network) as allocated:
            differentiate(each)
        peaks.append(allocated.peak)
    assert peaks[1] < 0.75 * peaks[0]
    entered, left, head = [], [], llama.architecture.unembedding
    handles = [
        head.register_forward_pre_hook(lambda *_: entered.append(1)),
        head.register_forward_hook(lambda *_: left.append(1)),
    ]
    try:
        differentiate(replay)
    finally:
        for handle in handles:
            handle.remove()
    assert len(entered) == len(left) == 4, "two halves, each twice"
