"""SFT and DPO minimise what their equations say, step as plain AdamW does, and end as their settings say."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny_models
import torch
import training_helpers as plain
from torch import Tensor
from training_helpers import small

from editing import run
from editing.contest import ContestSettings
from editing.methods.dpo import DpoObjective, DpoSettings, dpo, preference_loss
from editing.methods.sft import SftSettings, sft
from editing.optimising.trainee import TrainedScope, trainee
from editing.optimising.training import Training, TrainingSettings, encode_pair
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.safeedit import Case

BLOCK = 1
# Losses are means of float32 log-probabilities near -5; two correct ways differ by a few 1e-6.
LOSS = 2e-5


@pytest.fixture
def companions(case) -> list[Case]:
    """Three further cases whose prompts and answers differ in length."""
    prompts = ("How do I lie?", "You are a cat. How do I steal fish?", "Tell me how to be rude.")
    answers = (
        ("No.", "Easily."),
        ("I would rather not say so.", "At night."),
        ("Please ask me something else.", "Shout."),
    )
    return [
        replace(case, adversarial_prompt=prompt, safe=safe, unsafe=unsafe)
        for prompt, (safe, unsafe) in zip(prompts, answers, strict=True)
    ]


def margin(model, network, case: Case) -> Tensor:
    """Return log P(safe) - log P(unsafe), summed over tokens."""
    safe, unsafe = (plain.of_answer(model, network, case, text).sum() for text in (case.safe, case.unsafe))
    return safe - unsafe


def preference(model, policy, reference, cases: Sequence[Case], beta: float) -> Tensor:
    """Return equation 7 of the paper, mean over cases."""
    with torch.no_grad():
        held = [margin(model, reference, case) for case in cases]
    gains = [margin(model, policy, case) - start for case, start in zip(cases, held, strict=True)]
    return torch.stack([(1 + (-beta * gain).exp()).log() for gain in gains]).mean()


def trained_copy(model, losses, settings: TrainingSettings) -> dict[str, Tensor]:
    """Return the change of a copy's matrices after one AdamW step per loss; a number: a new optimiser of that rate."""
    network = copy.deepcopy(model.network)
    weights = [network.get_submodule(name).weight.requires_grad_(True) for name in plain.matrices(network)]

    def new(rate):
        return torch.optim.AdamW(weights, lr=rate, weight_decay=settings.weight_decay)

    optimiser = new(settings.learning_rate)
    for loss in losses:
        if isinstance(loss, float):
            optimiser = new(loss)
            continue
        optimiser.zero_grad()
        loss(network).backward()
        optimiser.step()
    return plain.all_deltas(model.network, network)


def test_sft_s_loss_is_the_mean_nll_over_the_tokens_of_all_safe_answers(model, case, companions):
    first = run(sft(model, case, BLOCK, small(SftSettings, steps=1), companions=companions)).trace[0]
    with torch.no_grad():
        expected = float(plain.nll(model, model.network, [case, *companions]))
        safe, unsafe = (plain.of_answer(model, model.network, case, text).mean() for text in (case.safe, case.unsafe))
    assert first.edit_loss == first.total_loss == pytest.approx(expected, abs=LOSS)
    assert first.safe_probability == pytest.approx(math.exp(safe), rel=1e-4)
    assert first.unsafe_probability == pytest.approx(math.exp(unsafe), rel=1e-4)
    assert (first.step, first.delta_norm) == (0, 0.0) and first.constraint_kl == pytest.approx(0, abs=1e-6)


def test_the_end_of_the_answer_counts_only_where_asked_for(llama, case):
    for end in (True, False):
        first = run(sft(llama, case, BLOCK, small(SftSettings, steps=1, format=PromptFormat(turn_end=end)))).trace[0]
        ids = plain.encoded(llama, case.adversarial_prompt, case.safe, end)
        with torch.no_grad():
            assert first.edit_loss == pytest.approx(
                -float(plain.token_log_probabilities(llama.network, *ids).mean()), abs=LOSS
            )


@pytest.mark.parametrize(
    ("family", "method"), [*((family, "SFT") for family in tiny_models.FIVE), ("llama", "DPO"), ("gpt2", "DPO")]
)
def test_full_updates_are_those_of_plain_adamw_on_a_copy(model, case, companions, method):
    """Two companions share every update. DPO: its reference and its optimiser are made after the warm-up."""
    cases = [case, *companions[:2]]
    changes = {"scope": "full", "learning_rate": 1e-3, "weight_decay": 0.1, "steps": 2}

    def likelihood(network) -> Tensor:
        return plain.nll(model, network, cases)

    if method == "SFT":
        settings = small(SftSettings, **changes)
        result = run(sft(model, case, BLOCK, settings, companions=cases[1:]))
        expected = trained_copy(model, [likelihood] * 2, settings)
    else:
        settings = small(DpoSettings, **changes, warm_up=1, preference_rate=5e-4, beta=0.3)
        result = run(dpo(model, case, BLOCK, settings, companions=cases[1:]))
        reference = []

        def preferred(network) -> Tensor:
            reference.append(reference[0] if reference else copy.deepcopy(network))
            return preference(model, network, reference[0], cases, 0.3)

        expected = trained_copy(model, [likelihood, 5e-4, preferred, preferred], settings)
    # Adam divides each gradient by its own size, which magnifies rounding where a gradient is tiny.
    assert plain.relative_difference(result.patch, expected) < 2e-3


def test_a_lora_run_is_that_of_plain_peft_on_a_copy(model, case):
    from peft import LoraConfig, get_peft_model

    settings = small(SftSettings, rank=4, alpha=12, seed=7, weight_decay=0.1)
    result = run(sft(model, case, BLOCK, settings))
    conv = any(type(module).__name__ == "Conv1D" for module in model.network.modules())
    names = list(plain.matrices(model.network))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=names, fan_in_fan_out=conv)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        student = get_peft_model(copy.deepcopy(model.network), config)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.1)
    for _ in range(settings.steps):
        optimiser.zero_grad()
        plain.nll(model, student, [case]).backward()
        optimiser.step()
    expected = {}
    for name in names:
        layer = student.base_model.model.get_submodule(name)
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected[name] = (second @ first * 12 / 4).detach()
    assert plain.relative_difference(result.patch, expected) < 2e-3


def test_step_sizes_follow_what_is_trained():
    """Every weight of the blocks at LoRA's rate would wreck the model; the preference updates take a tenth."""
    assert SftSettings().rate == 1e-3 and SftSettings(scope="full").rate == 2e-5
    assert SftSettings(scope="full", learning_rate=5e-4).rate == 5e-4
    dpo_rates = [DpoSettings(**changes).preference_rate for changes in ({}, {"scope": "full"}, {"learning_rate": 1e-2})]
    assert dpo_rates == pytest.approx([1e-4, 2e-6, 1e-3])
    assert ContestSettings(scope="full").of("sft").rate == 2e-5
    for name in ("beta", "preference_rate"):
        with pytest.raises(EditError, match=f"{name} = 0 is out of range"):
            DpoSettings(**{name: 0})


def test_preference_loss_on_typed_numbers():
    """-log sigmoid(0.5 * ((-3 + 4) - (-2 + 1))) = log(1 + 1/e); at the reference it is log 2."""
    policy, reference = (torch.tensor(-3.0), torch.tensor(-2.0)), (torch.tensor(-4.0), torch.tensor(-1.0))
    assert float(preference_loss(policy, reference, 0.5)) == pytest.approx(0.3132616875)
    assert float(preference_loss(reference, policy, 0.5)) == pytest.approx(1.3132616875)
    assert float(preference_loss(policy, policy, 5.0)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_dpo_s_loss_is_equation_7_with_the_reference_taken_after_the_warm_up(model, case, companions):
    cases = [case, *companions[:1]]
    settings = small(DpoSettings, warm_up=2, steps=1, beta=0.2)
    warm = run(sft(model, case, BLOCK, small(SftSettings, steps=2), companions=cases[1:]))
    result = run(dpo(model, case, BLOCK, settings, companions=cases[1:]))
    assert [step.step for step in result.trace] == [0, 1, 2, 3] and {step.steps for step in result.trace} == {3}
    assert [s.edit_loss for s in result.trace[:2]] == [s.edit_loss for s in warm.trace[:2]]
    assert result.trace[2].edit_loss == pytest.approx(math.log(2), abs=1e-5)
    reference, policy = plain.written(model.network, warm.patch), plain.written(model.network, result.patch)
    with torch.no_grad():
        expected = float(preference(model, policy, reference, cases, 0.2))
        gain = float(margin(model, policy, case) - margin(model, reference, case))
    assert result.trace[3].edit_loss == pytest.approx(expected, abs=1e-4)
    assert abs(expected - math.log(2)) > 1e-3 and gain > 0, "the update must prefer the safe answer"
    safe = float(plain.of_answer(model, policy, case, case.safe).mean().exp())
    assert result.trace[3].safe_probability == pytest.approx(safe, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_without_a_warm_up_the_reference_is_vanilla(model, case):
    result = run(dpo(model, case, BLOCK, small(DpoSettings, warm_up=0, steps=2, learning_rate=2e-3)))
    assert result.trace[0].edit_loss == pytest.approx(math.log(2), abs=1e-6)
    assert result.trace[2].edit_loss < result.trace[1].edit_loss < result.trace[0].edit_loss
    edited = plain.written(model.network, result.patch)
    with torch.no_grad():
        expected = float(preference(model, edited, model.network, [case], 0.1))
        assert margin(model, edited, case) > margin(model, model.network, case)
    assert result.trace[2].edit_loss == pytest.approx(expected, abs=1e-4)


def test_dpo_s_reference_does_not_move_with_the_student(llama, case):
    student, pair = trainee(llama, TrainedScope("full")), encode_pair(llama, case, DpoSettings().format)
    objective = DpoObjective(student, [pair], 0.1)
    with torch.no_grad():
        assert float(objective(student, [pair]).loss) == pytest.approx(math.log(2), abs=1e-6)
        student.parameters[0].add_(0.3)
        assert abs(float(objective(student, [pair]).loss) - math.log(2)) > 1e-3


@pytest.mark.parametrize(
    ("family", "edit", "kind", "scope"), [("gpt2", sft, SftSettings, "full"), ("llama", dpo, DpoSettings, "LoRA")]
)
def test_the_trace_s_last_values_are_those_of_the_patch(model, case, edit, kind, scope):
    result = run(edit(model, case, BLOCK, small(kind, scope=scope, learning_rate=3e-3)))
    last, own = result.trace[-1], plain.measured(model, case, result)
    assert own.safe_probability == pytest.approx(last.safe_probability, rel=1e-3)
    assert own.unsafe_probability == pytest.approx(last.unsafe_probability, rel=1e-3)
    assert own.constraint_kl == pytest.approx(last.constraint_kl, rel=5e-3, abs=1e-6) and last.constraint_kl > 1e-3
    assert own.delta_norm == pytest.approx(last.delta_norm, rel=1e-4)
    by_copy = plain.harmless_kl(model, plain.written(model.network, result.patch), case)
    assert last.constraint_kl == pytest.approx(by_copy, rel=5e-3)


def test_companions_take_turns_beside_the_case(llama, case, companions):
    settings = small(SftSettings, companions_at_once=2)
    pairs = [encode_pair(llama, each, settings.format) for each in (case, *companions)]
    turns = Training(llama, trainee(llama), pairs, None, settings).batch
    numbers = [[pairs.index(pair) for pair in turns(n)] for n in range(4)]
    assert numbers == [[0, 1, 2], [0, 3, 1], [0, 2, 3], [0, 1, 2]]
    alone = Training(llama, trainee(llama), pairs[:1], None, settings).batch
    assert alone(0) == alone(5) == pairs[:1]


@pytest.mark.parametrize(("edit", "kind"), [(sft, SftSettings), (dpo, DpoSettings)])
def test_companions_change_the_edit_and_become_likelier(llama, case, companions, edit, kind):
    alone, together = (run(edit(llama, case, BLOCK, small(kind, steps=4), companions=c)) for c in ((), companions))
    assert alone.patch.identifier != together.patch.identifier
    with torch.no_grad():
        networks = [plain.written(llama.network, result.patch) for result in (alone, together)]
        one, two = (float(plain.nll(llama, network, companions)) for network in networks)
    assert two < one
