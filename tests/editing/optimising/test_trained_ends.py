"""However a training ends (done, target, damage, no number, cancelled), its patch holds the last good weights."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest
import torch
import training_helpers as plain
from training_helpers import small

from editing import run
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.sft import SftSettings, sft
from editing.optimising.trainee import TrainedScope, trainee
from editing.optimising.training import Training, Values, encode_pair, sft_objective
from inspector.errors import EditError

BLOCK = 1


def test_a_run_to_its_step_limit_records_its_settings_and_every_step(llama, case):
    companions = [replace(case, safe=safe) for safe in ("No.", "Please not.", "I would not.")]
    settings = small(SftSettings, steps=4)
    result = run(sft(llama, case, 2, settings, companions=companions))
    assert [step.step for step in result.trace] == [0, 1, 2, 3, 4]
    assert all(step.gradient_norm for step in result.trace[:-1]) and result.trace[-1].gradient_norm is None
    assert (result.kept, result.stop_reason, result.block) == (4, "step limit", 2)
    assert (result.patch.method, result.patch.fingerprint) == ("SFT", llama.fingerprint)
    assert dict(result.patch.settings) == {**asdict(settings), "block": 2, "updates": 4, "companions": 3}


@pytest.mark.parametrize(
    ("name", "edit", "kind", "phase"),
    [("llama", sft, SftSettings, 0), ("gpt2", dpo, DpoSettings, 2)],
)
def test_a_run_ends_with_the_step_that_reaches_the_target(tiny, case, name, edit, kind, phase):
    model = tiny(name)
    extra = {"warm_up": phase} if phase else {}
    free = run(edit(model, case, BLOCK, small(kind, steps=6, **extra))).trace
    best = max(range(phase, len(free)), key=lambda n: free[n].safe_probability)
    before = max(step.safe_probability for step in free[phase:best])
    target = (before + free[best].safe_probability) / 2
    result = run(edit(model, case, BLOCK, small(kind, steps=6, target_probability=target, **extra)))
    assert (result.stop_reason, result.kept) == ("target reached", best)
    shorter = run(edit(model, case, BLOCK, small(kind, steps=best - phase, **extra)))
    assert result.patch.identifier == shorter.patch.identifier


@pytest.mark.parametrize(
    ("name", "edit", "kind", "phase", "scope"),
    [("gpt2", sft, SftSettings, 0, "full"), ("opt", dpo, DpoSettings, 1, "LoRA")],
)
def test_the_step_beyond_the_damage_budget_is_undone(tiny, case, name, edit, kind, phase, scope):
    model = tiny(name)
    extra = {"warm_up": phase} if phase else {}
    settings = small(kind, scope=scope, steps=6, learning_rate=1e-2 if scope == "LoRA" else 2e-3, **extra)
    damage = [step.constraint_kl for step in run(edit(model, case, BLOCK, settings)).trace]
    number = next(n for n in range(phase + 2, len(damage)) if damage[n] > 1.01 * max(damage[:n]))
    budget = (max(damage[:number]) + damage[number]) / 2
    result = run(edit(model, case, BLOCK, replace(settings, damage_budget=budget)))
    assert (result.stop_reason, result.kept) == ("damage budget", number - 1)
    assert result.trace[-1].step == number and result.trace[-1].constraint_kl > budget
    assert result.patch.settings["updates"] == number - 1
    limited = run(edit(model, case, BLOCK, replace(settings, steps=number - 1 - phase)))
    assert result.patch.identifier == limited.patch.identifier
    assert result.patch.norm == pytest.approx(result.trace[number - 1].delta_norm, rel=1e-5)


def test_a_target_that_is_reached_in_the_warm_up_ends_the_run_only_after_it(llama, case):
    settings = small(DpoSettings, warm_up=3, steps=3)
    free = run(dpo(llama, case, BLOCK, settings)).trace
    assert free[0].safe_probability < free[1].safe_probability < min(free[2].safe_probability, free[3].safe_probability)
    target = (free[0].safe_probability + free[1].safe_probability) / 2
    result = run(dpo(llama, case, BLOCK, replace(settings, target_probability=target)))
    assert (result.stop_reason, result.kept) == ("target reached", 3)


def test_the_last_warm_up_update_is_undone_where_it_exceeds_the_damage_budget(llama, case):
    settings = small(DpoSettings, warm_up=2, steps=2)
    damage = [step.constraint_kl for step in run(dpo(llama, case, BLOCK, settings)).trace]
    assert damage[1] < damage[2]
    result = run(dpo(llama, case, BLOCK, replace(settings, damage_budget=(damage[1] + damage[2]) / 2)))
    assert (result.stop_reason, result.kept) == ("damage budget", 1)
    assert result.patch.identifier == run(sft(llama, case, BLOCK, small(SftSettings, steps=1))).patch.identifier


def test_a_warm_up_that_exceeds_the_damage_budget_is_not_kept(llama, case):
    """The weights that a patch holds do no more damage than the budget, whichever phase they come from."""
    settings = small(DpoSettings, warm_up=3, steps=2)
    damage = [step.constraint_kl for step in run(dpo(llama, case, BLOCK, settings)).trace]
    budget = (damage[1] + damage[2]) / 2
    assert damage[1] < budget < min(damage[2:]), "the second warm-up update must exceed it"
    result = run(dpo(llama, case, BLOCK, replace(settings, damage_budget=budget)))
    assert result.stop_reason == "damage budget"
    assert plain.measured(llama, case, result).constraint_kl <= budget


def test_a_first_step_beyond_the_budget_is_an_error_that_says_what_to_do(llama, case):
    with pytest.raises(EditError, match=r"^SFT kept no update.*Raise its damage_budget, or lower its learning_rate\.$"):
        run(sft(llama, case, BLOCK, small(SftSettings, damage_budget=1e-9)))


def test_an_answer_that_is_likely_enough_already_is_an_error_that_names_the_target(llama, case):
    with pytest.raises(EditError, match="target_probability"):
        run(sft(llama, case, BLOCK, small(SftSettings, target_probability=1e-6)))


def test_a_cancel_at_the_step_that_ends_a_run_is_a_cancel(llama, case):
    for number in (0, 2):
        events: list = []
        stop = lambda e=events, n=number: getattr(e[-1], "step", None) == n  # noqa: E731
        result = run(sft(llama, case, BLOCK, small(SftSettings, steps=2), cancel=stop), events.append)
        assert (result.stop_reason, result.patch, len(result.trace)) == ("cancelled", None, number + 1)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_whose_loss_or_gradient_is_no_number_is_undone(llama, case, broken):
    settings = small(SftSettings, steps=6, scope="full")
    pairs = [encode_pair(llama, case, settings.format)]

    calls = itertools.count(1)

    def objective(student, batch) -> Values:
        own = sft_objective(student, batch)
        if next(calls) < 4:
            return own
        # Zero, but with a gradient that is none: the derivative of the root is infinite here.
        none = sum((p - p.detach()).abs().sqrt().sum() for p in student.parameters) * 0
        return replace(own, loss=own.loss * float("nan") if broken == "loss" else own.loss + none)

    training, good = (Training(llama, trainee(llama, TrainedScope("full")), pairs, None, settings) for _ in range(2))
    assert [step.step for step in training.run(objective, 6, lambda: False)] == [0, 1, 2, 3]
    list(good.run(sft_objective, 2, lambda: False))
    assert (training.descent.reason, training.descent.updates) == ("not finite", 2)
    for own, expected in zip(training.student.parameters, good.student.parameters, strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"damage_budget": 0}, {"companions_at_once": 0}])
def test_settings_out_of_range_are_refused_by_name(wrong):
    for kind in (SftSettings, DpoSettings):
        with pytest.raises(EditError, match=f"{next(iter(wrong))} = 0 is out of range"):
            kind(**wrong)
    with pytest.raises(EditError, match="beta = 0"):
        DpoSettings(beta=0)
    with pytest.raises(EditError, match="warm_up = -1"):
        DpoSettings(warm_up=-1)


def test_full_training_that_does_not_fit_into_memory_is_refused_before_anything_is_copied(llama, case, monkeypatch):
    monkeypatch.setattr("editing.memory.free_memory", lambda device: 2**10)
    with pytest.raises(EditError, match=r"0\.0 GiB are free. Set scope to 'LoRA'"):
        run(sft(llama, case, 1, small(SftSettings, steps=1, scope="full")))
    assert run(sft(llama, case, 1, small(SftSettings, steps=1))).patch is not None
