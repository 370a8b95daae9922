"""Ext-Sub subtracts what only the anti-expert knows, and is refused where that would let the unsafe answer gain."""

from __future__ import annotations

from dataclasses import asdict, replace

import by_hand
import pytest
import torch
import training_helpers as plain
from torch import Tensor
from training_helpers import ATOL, IDS, Broken, small

from editing import Preparation, Step, run
from editing.guard import margin, refuse_harm
from editing.methods.ext_sub import ExtSubSettings, ext_sub, own_part, subtracted
from editing.methods.sft import SftSettings, sft
from inspector.errors import EditError, RefusedEdit
from inspector.model import Delta, Row

BLOCK = 1


def by_formula(expert: Tensor, anti: Tensor, strength: float) -> Tensor:
    """Return the subtraction with one loop over rows; a row that one of both has not changed stays the expert's."""
    rows = []
    for e, a in zip(expert.double(), anti.double(), strict=True):
        if not (e.any() and a.any()):
            rows.append(e)
            continue
        n = e / e.norm() + a / a.norm()
        n = n / n.norm()
        rows.append(e - strength * (a - (a @ n) * n))
    return torch.stack(rows).float()


def factors(seed: int, rank: int = 3) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(6, rank, generator=generator), torch.randn(rank, 9, generator=generator)
    return Delta("m", 0, left, right)


def experts(model, case, settings: ExtSubSettings, companions=()) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the changes of expert and anti-expert as two separate SFT runs make them."""
    found = []
    for steps, swap in ((settings.steps, False), (settings.anti_steps, True)):
        cases = [replace(c, safe=c.unsafe, unsafe=c.safe) if swap else c for c in (case, *companions)]
        own = small(SftSettings, steps=steps)
        patch = run(sft(model, cases[0], BLOCK, own, companions=cases[1:])).patch
        found.append({delta.module: delta.dense() for delta in patch.deltas})
    return found[0], found[1]


def step(safe: float, unsafe: float | None) -> Step:
    return Step(0, 1, 0.0, 0.0, 0.0, safe, unsafe, None, 0.0, 0.0)


def test_own_part_of_two_rows_done_by_hand():
    """Of (1, 0) and (0, 3) the common direction is (1, 1)/sqrt 2, along which (0, 3) has (1.5, 1.5)."""
    expert, anti = (
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [5.0, 0.0]]),
        torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 3.0]]),
    )
    expected = torch.tensor([[-0.5, 0.5], [-1.5, 1.5], [-1.5, 1.5]])
    assert torch.allclose(own_part(expert, anti), expected, atol=1e-6)


def test_parallel_rows_leave_nothing_to_subtract():
    expert = torch.tensor([[1.0, 2.0, -2.0], [0.5, 0.0, 0.0]])
    assert own_part(expert, torch.tensor([[3.0], [0.1]]) * expert).abs().max() < 1e-6


def test_a_row_that_one_of_both_has_not_changed_is_left_as_the_expert_has_it():
    expert, anti = factors(1), factors(2)
    expert.left[0], anti.left[1] = 0, 0
    own = subtracted(expert, anti).dense()
    assert torch.isfinite(own).all()
    assert own[0].abs().max() < 1e-6 and torch.allclose(own[1], expert.dense()[1], atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_the_low_rank_subtraction_equals_the_dense_formula(strength):
    expert, anti = factors(1), factors(2)
    own = subtracted(expert, anti, strength)
    assert own.right is not None and own.left.shape == (6, 6) and (own.module, own.block) == ("m", 0)
    expected = by_formula(expert.dense(), anti.dense(), strength)
    assert torch.allclose(own.dense(), expected, atol=1e-5)
    assert torch.allclose(own.dense(), expert.dense() - strength * own_part(expert.dense(), anti.dense()), atol=1e-5)


def test_strength_zero_is_the_expert():
    expert = factors(1)
    assert torch.allclose(subtracted(expert, factors(2), 0.0).dense(), expert.dense(), atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_run_subtracts_one_sft_run_s_change_from_another_s(tiny, case, monkeypatch, name):
    """Case and a companion; the anti-expert learns the same texts with the answers exchanged.

    A companion's safe answer may raise the case's unsafe one in a random model, which is not what is tested here.
    """
    monkeypatch.setattr("editing.methods.ext_sub.refuse_harm", lambda *_: None)
    # plain SFT refuses exchanged answers
    monkeypatch.setattr("editing.optimising.training.check_case", lambda *_: None)
    model = tiny(name)
    companion = replace(case, adversarial_prompt="How do I lie?", safe="Better not.", unsafe="Boldly.")
    settings = small(ExtSubSettings, steps=3, anti_steps=2, subtraction=0.8)
    result = run(ext_sub(model, case, BLOCK, settings, companions=[companion]))
    expert, anti = experts(model, case, settings, [companion])
    assert all(delta.right is not None and delta.left.shape[1] == 16 for delta in result.patch.deltas)
    assert {delta.module: delta.block for delta in result.patch.deltas} == plain.matrices(model.network)
    for delta in result.patch.deltas:
        expected = by_formula(expert[delta.module], anti[delta.module], 0.8)
        assert (delta.dense() - expected).norm() < 1e-4 * expected.norm()
        assert (expected - expert[delta.module]).norm() > 1e-2 * expected.norm()
    assert result.patch.method == "Ext-Sub"
    assert dict(result.patch.settings) == {**asdict(settings), "block": BLOCK, "updates": 3, "companions": 1}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_trace_is_the_expert_s_and_ends_with_what_the_patch_does(model, case):
    """The subtraction lowers the unsafe answer below the expert's: that answer is what the anti-expert has learned."""
    settings = small(ExtSubSettings, steps=2, anti_steps=4)
    events: list = []
    result = run(ext_sub(model, case, BLOCK, settings), events.append)
    assert [s.step for s in result.trace] == [0, 1, 2, 3] and {s.steps for s in result.trace} == {3}
    assert [event for event in events if isinstance(event, Step)] == list(result.trace)
    expert = run(sft(model, case, BLOCK, small(SftSettings, steps=2))).trace
    assert [s.safe_probability for s in result.trace[:3]] == [s.safe_probability for s in expert]
    edited = plain.written(model.network, result.patch)
    with torch.no_grad():
        safe, unsafe = (float(plain.of_answer(model, edited, case, t).mean().exp()) for t in (case.safe, case.unsafe))
    last = result.trace[-1]
    assert last.safe_probability == pytest.approx(safe, rel=1e-3)
    assert last.unsafe_probability == pytest.approx(unsafe, rel=1e-3)
    assert last.constraint_kl == pytest.approx(plain.harmless_kl(model, edited, case), rel=5e-3)
    assert last.delta_norm == pytest.approx(result.patch.norm, rel=1e-5)
    assert margin(last) > margin(result.trace[0])
    assert last.unsafe_probability < result.trace[-2].unsafe_probability


def test_without_subtraction_a_run_gives_the_expert(llama, case):
    settings = small(ExtSubSettings, steps=2, anti_steps=2, subtraction=0.0)
    result = run(ext_sub(llama, case, BLOCK, settings))
    expert = run(sft(llama, case, BLOCK, small(SftSettings, steps=2))).patch
    one, two = (by_hand.running_logits(llama, IDS, [Row(patch)])[0] for patch in (result.patch, expert))
    assert torch.allclose(one, two, atol=ATOL)


def test_the_target_is_the_expert_s_alone(llama, case):
    """The unsafe answer is as likely as the target from the start; the anti-expert learns and is subtracted anyway."""
    free = run(sft(llama, case, BLOCK, small(SftSettings, steps=2)))
    first = free.trace[0]
    assert first.safe_probability < first.unsafe_probability, "only the anti-expert may be at its target"
    target = (first.safe_probability + first.unsafe_probability) / 2
    expert = run(sft(llama, case, BLOCK, small(SftSettings, steps=2, target_probability=target))).patch
    result = run(ext_sub(llama, case, BLOCK, small(ExtSubSettings, steps=2, target_probability=target)))
    one, two = (by_hand.running_logits(llama, IDS, [Row(patch)])[0] for patch in (result.patch, expert))
    assert not torch.allclose(one, two, atol=0.1)
    nothing = small(ExtSubSettings, steps=2, subtraction=0.0, target_probability=target)
    kept = run(ext_sub(llama, case, BLOCK, nothing)).patch
    same = by_hand.running_logits(llama, IDS, [Row(kept)])[0]
    assert torch.allclose(same, two, atol=ATOL), "nothing subtracted is the expert"


def test_an_expert_that_keeps_no_update_is_an_error_of_the_edit(llama, case):
    with pytest.raises(EditError, match="damage budget"):
        run(ext_sub(llama, case, BLOCK, small(ExtSubSettings, steps=2, anti_steps=1, damage_budget=1e-9)))


def test_a_result_that_does_more_damage_than_its_budget_is_refused(llama, case):
    """The expert stays within the budget, what the subtraction makes of it does not."""
    settings = small(ExtSubSettings, steps=3, anti_steps=4)
    damage = [step.constraint_kl for step in run(ext_sub(llama, case, BLOCK, settings)).trace]
    budget = (max(damage[:-1]) + damage[-1]) / 2
    assert max(damage[:-1]) < budget < damage[-1]
    with pytest.raises(RefusedEdit, match="The subtraction moves harmless answers"):
        run(ext_sub(llama, case, BLOCK, replace(settings, damage_budget=budget)))


def test_a_result_that_lets_the_unsafe_answer_gain_is_refused(llama, case, monkeypatch):
    """The sign of the subtraction is turned round, so that the anti-expert's part is added."""
    before, hooks, events = by_hand.vanilla_logits(llama, IDS), by_hand.hooks(llama.network), []
    monkeypatch.setattr(
        "editing.methods.ext_sub.subtracted", lambda expert, anti, strength: subtracted(expert, anti, -4.0)
    )
    with pytest.raises(EditError, match=r"This subtraction would let the unsafe answer gain.*anti_steps, subtraction"):
        run(ext_sub(llama, case, BLOCK, small(ExtSubSettings, steps=1, anti_steps=10)), events.append)
    assert margin(events[-1]) < margin(next(event for event in events if isinstance(event, Step)))
    assert torch.equal(by_hand.vanilla_logits(llama, IDS), before)
    by_hand.assert_at_rest(llama, hooks)


def test_harm_is_refused_by_the_margin_of_the_two_answers():
    refuse_harm("This", step(0.2, 0.1), step(0.2, 0.1), "Stop.")
    refuse_harm("This", step(0.2, 0.1), step(0.1, 0.04), "Stop.")  # both fall, the unsafe one by more
    with pytest.raises(EditError, match=r"This would let.*margin 0\.693 to 0\.405.*Stop\."):
        refuse_harm("This", step(0.2, 0.1), step(0.3, 0.2), "Stop.")  # both rise, the unsafe one by more
    with pytest.raises(EditError, match="not watched"):
        refuse_harm("This", step(0.2, 0.1), step(0.3, None), "Stop.")


@pytest.mark.parametrize("after", [(float("nan"), 0.1), (0.1, float("nan")), (float("nan"), float("nan"))])
def test_an_edit_whose_vital_signs_are_no_numbers_is_refused(after):
    """What cannot be measured must not pass for safe."""
    said = r"^This cannot be checked: .* not a finite number\. Load the model in float32 \(--dtype float32\)\. Stop\.$"
    for steps in ((step(0.2, 0.1), step(*after)), (step(*after), step(0.2, 0.1))):
        with pytest.raises(RefusedEdit, match=said):
            refuse_harm("This", *steps, "Stop.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scope": "full"}, r"scope = 'full' is unknown\. Valid values: LoRA\."),
        ({"subtraction": -0.1}, "subtraction = -0.1 is out of range: it should be greater than or equal to 0"),
        ({"subtraction": 11}, "subtraction = 11 is out of range: it should be less than or equal to 10"),
        ({"anti_steps": 0}, "anti_steps = 0 is out of range"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_settings_that_do_not_make_sense_are_refused(wrong, message):
    with pytest.raises(EditError, match=message):
        ExtSubSettings(**wrong)


def test_a_cancel_at_any_event_is_a_cancel_within_one_step(llama, case):
    settings = small(ExtSubSettings, steps=2, anti_steps=2)
    events: list = []
    run(ext_sub(llama, case, BLOCK, settings), events.append)
    assert [type(event) for event in events] == [Preparation] * 4 + [Step] * 4
    for asked in range(1, len(events) + 1):
        seen: list = []
        result = run(ext_sub(llama, case, BLOCK, settings, cancel=lambda s=seen, n=asked: len(s) >= n), seen.append)
        assert len(seen) <= asked + 1, f"after event {asked}"
        assert (result.patch, result.kept, result.stop_reason) == (None, 0, "cancelled"), f"at event {asked}"


def test_the_subtraction_is_no_update_and_a_rejected_one_is_not_taken(llama, case):
    free = run(ext_sub(llama, case, BLOCK, small(ExtSubSettings, steps=3, subtraction=0)))
    assert (free.kept, free.stop_reason, free.closing) == (3, "step limit", True)
    assert [step.step for step in free.taken] == [0, 1, 2, 3, 4]
    budget = (free.trace[1].constraint_kl + free.trace[2].constraint_kl) / 2
    held = run(ext_sub(llama, case, BLOCK, small(ExtSubSettings, steps=3, subtraction=0, damage_budget=budget)))
    assert (held.kept, held.stop_reason) == (1, "damage budget") and held.trace[2].constraint_kl > budget
    assert [step.step for step in held.taken] == [0, 1, 3] and held.last is held.trace[-1]


@pytest.mark.parametrize(("family", "way"), [("llama", "close"), ("gpt2", "throw"), ("opt", "run on")])
def test_neither_expert_is_ever_seen_by_the_base_model(model, case, way):
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    edit = ext_sub(model, case, BLOCK, small(ExtSubSettings, steps=2, anti_steps=2))
    events = []
    for event in edit:
        events.append(event)
        assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
        by_hand.assert_at_rest(model, hooks)
        if way != "run on" and isinstance(event, Step) and event.step == 1:
            break
    if way == "close":
        edit.close()
    elif way == "throw":
        with pytest.raises(Broken):
            edit.throw(Broken)
    assert isinstance(events[-1], Step)
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)
