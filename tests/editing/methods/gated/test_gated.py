"""A gated edit: its gates are where they say, shut below the threshold and even above, and it is plain weights."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
import training_helpers as plain
from peft import PeftModel
from training_helpers import ATOL

from editing import run
from editing.methods.dinm import FURTHER_ANSWERS
from editing.methods.gated import GatedSettings, gated, reading
from editing.methods.gated.edit import HEIGHT, gate_rows
from editing.methods.gated.neurons import spare_neurons, wiring
from editing.methods.gated.reading import Inputs, fit_reading
from editing.optimising.null_space import harmless_moment
from editing.saved.adapter import save_adapter
from editing.texts.harmless import unseen_answers
from inspector.errors import EditError, NotFinite, RefusedEdit
from inspector.model import PromptFormat, Row, encode, from_parts
from inspector.safeedit import bundled_cases

BLOCK = 1
SMALL = {
    **plain.SMALL,
    "steps": 3,
    "texts": 30,
    "own_answers": 3,
    "longest_text": 400,
    "false_alarms": 0.5,
    "further_prompts": 2,
    "harmless_at_once": 2,
    "target_probability": None,
    "damage_budget": None,
}
GATES = {
    "gpt2": ("mlp.c_fc", None),
    "gpt_neox": ("mlp.dense_h_to_4h", None),
    "gpt_neox_sequential": ("mlp.dense_h_to_4h", None),
    "opt": ("fc1", None),
    "opt_post_norm": ("fc1", None),
    "opt_projected": ("fc1", None),
    "phi3": ("mlp.gate_up_proj", "mlp.gate_up_proj"),
}


def small(**changes) -> GatedSettings:
    return GatedSettings(**{**SMALL, **changes})


def inputs(texts: int = 80, size: int = 12, seed: int = 0, apart: float = 3.0) -> Inputs:
    """Return made-up inputs of an MLP: a constant part, noise, and one direction in which harmful ends lie."""
    random = np.random.default_rng(seed)
    harmful = np.arange(texts) % 2 == 0

    def some(*shape: int) -> np.ndarray:
        values = random.normal(size=(*shape, size)).astype(np.float32)
        values[..., 0] = 2.0
        return values

    ends = some(texts, 1)
    ends[harmful, :, 1] += apart
    return Inputs(ends, some(texts, 4), [], harmful, np.arange(texts) // 2 % 5)


def answered(given: Inputs, answers: int = 20, seed: int = 1) -> list[np.ndarray]:
    """Return made-up answers of ten tokens each, which lie where harmful ends do, but for a direction of their own."""
    random = np.random.default_rng(seed)
    tokens = random.normal(scale=0.3, size=(answers, 10, given.ends.shape[-1])).astype(np.float32)
    tokens[..., 0] = 2.0
    tokens[..., 1] += 3.0
    tokens[..., 2] += 6.0
    return list(tokens)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_gates_are_found_by_what_they_do_in_every_family(tiny, family):
    model = tiny(family)
    gate, up = GATES.get(family, ("mlp.gate_proj", "mlp.up_proj"))
    found = wiring(model, BLOCK)
    assert found.gate.module.endswith(f".{BLOCK}.{gate}") and found.gate.start == 0
    assert (found.up is None) == (up is None)
    if found.up is not None:
        assert found.up.module.endswith(f".{BLOCK}.{up}")
        assert found.up.start == (model.architecture.d_ff if family == "phi3" else 0)


@pytest.mark.parametrize(("family", "activation"), [("gpt2", "tanh"), ("llama", "sigmoid"), ("llama", "relu2")])
def test_an_activation_that_is_no_threshold_is_refused_by_name(family, activation):
    kind, options = tiny_models.CONFIGS[family]
    name = "activation_function" if family == "gpt2" else "hidden_act"
    model = from_parts(
        tiny_models.random_network(kind(**{**options, name: activation})), tiny_models.tokenizer(), "other"
    )
    with pytest.raises(EditError, match=rf"block 1 of this {family} model cannot hold a gate.*Use another method"):
        wiring(model, BLOCK)


def test_a_relu_is_a_threshold():
    kind, options = tiny_models.CONFIGS["gpt2"]
    network = tiny_models.random_network(kind(**{**options, "activation_function": "relu"}))
    assert wiring(from_parts(network, tiny_models.tokenizer(), "relu"), BLOCK).up is None


def test_a_reading_is_the_weighted_ridge_regression_through_the_origin():
    given = inputs()
    made = fit_reading(given, penalty=0.1)
    rows, targets, weights = [], [], []
    for tokens, target in (
        (given.ends[given.harmful], 1.0),
        (given.ends[~given.harmful], -1.0),
        (given.elsewhere, -1.0),
    ):
        each = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        rows.append(each)
        targets += [target] * len(each)
        weights += [1 / len(each)] * len(each)
    x, y, w = np.concatenate(rows), np.array(targets), np.sqrt(np.array(weights))[:, None]
    scale = ((w * x) ** 2).sum(axis=0)
    solved = np.linalg.lstsq(
        np.concatenate([w * x, np.diag(np.sqrt(0.1 * scale))]), np.concatenate([w[:, 0] * y, np.zeros(len(scale))])
    )[0]
    np.testing.assert_allclose(made.direction.numpy(), solved, atol=1e-5)
    # Whatever the scale of an input, the reading of it is the same.
    factors = np.float32(10.0) ** np.arange(-3, 9, 1, dtype=np.float32)
    other = fit_reading(replace(given, ends=given.ends * factors, elsewhere=given.elsewhere * factors), 0.1)
    np.testing.assert_allclose(other.held_out, made.held_out, atol=1e-3)


def test_a_reading_tells_harmful_ends_from_others_and_its_constant_is_one_everywhere():
    given = inputs()
    made = fit_reading(given)
    threshold = made.threshold(0.1)
    told = made.record(threshold)
    assert told["found_held_out"] > 0.75 and told["false_alarms_held_out"] <= 0.125 and told["auc_held_out"] > 0.9
    assert told["open_elsewhere"] < 0.1 and (told["harmful_texts"], told["harmless_texts"]) == (40, 40)
    constant = given.elsewhere @ made.constant.numpy()
    assert abs(constant - 1).max() < 0.05


def test_a_reading_that_knows_the_model_s_own_answers_is_shut_in_those_that_it_has_not_seen():
    given = inputs()
    answers = answered(given)
    without, made = fit_reading(given), fit_reading(replace(given, answers=answers))
    unseen = np.stack(answered(given, seed=2)) @ without.direction.numpy()
    assert (unseen.max(axis=1) >= without.threshold(0.1)).mean() > 0.9, "it takes them for the end of harmful prompts"
    told = made.record(made.threshold(0.1))
    assert told["answers"] == 20 and told["open_in_answers"] < 0.1 and told["found_held_out"] > 0.75
    again = np.stack(answered(given, seed=2)) @ made.direction.numpy()
    assert (again.max(axis=1) >= made.threshold(0.1)).mean() < 0.1
    assert without.record(0.0)["open_in_answers"] is None and without.record(0.0)["answers"] == 0


def test_held_out_readings_know_nothing_of_their_fold():
    """With labels that mean nothing a fit recalls its own texts, and not those held out of it."""
    given = inputs(texts=60, size=40, apart=0.0)
    made = fit_reading(given)
    own = (given.ends @ made.direction.numpy()).max(axis=1)
    assert own[given.harmful].mean() - own[~given.harmful].mean() > 0.5
    assert made.held_out[given.harmful].mean() - made.held_out[~given.harmful].mean() < 0.3


def test_pairs_of_rows_rise_from_zero_to_one_and_stay_there():
    made = fit_reading(inputs())
    rows = gate_rows(made, first=0.2, ramp=0.1, gates=2).double()
    # Inputs on the plane of direction and constant, at chosen readings.
    both = torch.stack([made.direction, made.constant]).double()
    readings = torch.tensor([-1.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 2.0]).double()
    points = torch.linalg.lstsq(both, torch.stack([readings, torch.ones_like(readings)])).solution
    fired = torch.nn.functional.silu(rows @ points) / HEIGHT
    first, second = fired[0] - fired[1], fired[2] - fired[3]
    assert torch.allclose(first, torch.tensor([0.0, 0, 0, 0.5, 1, 1, 1, 1]).double(), atol=0.03)
    assert torch.allclose(second, torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]).double(), atol=0.03)


def test_spare_neurons_write_least_for_harmless_prompts(llama):
    moment = run(harmless_moment(llama, BLOCK, PromptFormat()))
    chosen = spare_neurons(llama, BLOCK, moment, 3)
    columns = by_hand.down_weight(llama.network, BLOCK)
    wrote = moment.diagonal().sqrt() * columns.norm(dim=0)
    assert sorted(chosen.tolist()) == sorted(wrote.argsort()[:3].tolist())
    with pytest.raises(EditError, match="Take fewer gates"):
        spare_neurons(llama, BLOCK, moment, llama.architecture.d_ff)


def test_a_gated_edit_is_plain_weights_in_five_families(model, family, case, tmp_path):
    result = run(gated(model, case, BLOCK, small(steps=2, texts=20, own_answers=2, further_prompts=1)))
    patch = result.patch
    wired = wiring(model, BLOCK)
    modules = {wired.gate.module, by_hand.down_name(model.network, BLOCK), *([wired.up.module] if wired.up else [])}
    assert {delta.module for delta in patch.deltas} == modules and patch.blocks == (BLOCK,)
    assert all(delta.right is not None and delta.left.shape[1] <= 4 for delta in patch.deltas)
    ids = encode(model, case.adversarial_prompt).prompt
    live = by_hand.running_logits(model, ids, [Row(patch)])[0]
    merged = plain.written(model.network, patch)
    assert torch.allclose(live, by_hand.logits(merged, ids), atol=ATOL)
    assert (live - by_hand.vanilla_logits(model, ids)).abs().max() > 1e-5
    # Only the neurons it names differ, and in the down-projection only their columns.
    neurons = patch.settings["neurons"]
    change = (by_hand.down_weight(merged, BLOCK) - by_hand.down_weight(model.network, BLOCK)).abs().sum(dim=0)
    assert set(change.nonzero().flatten().tolist()) == set(neurons) and len(neurons) == 2
    # What both neurons of the gate write is one direction, with either sign.
    columns = by_hand.down_weight(merged, BLOCK)[:, neurons]
    assert torch.allclose(columns[:, 0], -columns[:, 1], atol=1e-6) and columns[:, 0].norm() > 0
    last = plain.measured(model, case, result)
    assert last.safe_probability == pytest.approx(result.trace[-1].safe_probability, rel=1e-3)
    save_adapter(model, patch, tmp_path)
    loaded = PeftModel.from_pretrained(tiny_models.network(family), tmp_path).eval()
    assert torch.allclose(by_hand.logits(loaded, ids), live, atol=ATOL)


def test_the_gate_opens_above_the_threshold_and_nowhere_else(llama, case):
    """The neurons of the merged weights are the ramp of the reading, on real inputs."""
    result = run(gated(llama, case, BLOCK, small(ramp=0.1)))
    merged = plain.written(llama.network, result.patch)
    fired: list[torch.Tensor] = []
    gates: list[torch.Tensor] = []
    ups: list[torch.Tensor] = []
    mlp = merged.model.layers[BLOCK].mlp
    mlp.down_proj.register_forward_pre_hook(lambda _m, args: fired.append(args[0][0]))
    mlp.gate_proj.register_forward_hook(lambda _m, _a, out: gates.append(out[0]))
    mlp.up_proj.register_forward_hook(lambda _m, _a, out: ups.append(out[0]))
    for text in (case.adversarial_prompt, *(known.question for known in bundled_cases())):
        by_hand.logits(merged, encode(llama, text).prompt)
    begin, end = result.patch.settings["neurons"]
    values, gate = torch.cat(fired), torch.cat(gates)
    height = (values[:, begin] - values[:, end]) / HEIGHT
    shut, full = gate[:, begin] < -HEIGHT, gate[:, end] > HEIGHT
    assert shut.any() and full.any()
    # How far it opens is the square of the reading of the constant, which on an untrained model is one only roughly.
    constant = torch.cat(ups)[:, begin]
    assert (height[shut].abs() < 0.01).all() and torch.allclose(height[full], constant[full] ** 2, atol=0.01)
    assert height[full].median() > 0.4


def test_a_reading_reaches_into_an_answer_that_follows_harmful_and_harmless_texts_alike(llama, monkeypatch):
    seen: list[list[int]] = []
    real = reading.mlp_inputs
    monkeypatch.setattr(reading, "mlp_inputs", lambda m, b, prompts: (seen.extend(prompts), real(m, b, prompts))[1])
    made = run(reading.token_reading(llama, BLOCK, PromptFormat(), 30, 400, 2, 5))
    openings = [llama.decode(ids).rpartition("[assistant]")[2] for ids in seen]
    assert {opening.strip() for opening in openings} == {text[:5].strip() for text in FURTHER_ANSWERS}
    assert len(seen) == 30 == len(made.harmful) and max(map(len, seen)) <= 400
    again = run(reading.token_reading(llama, BLOCK, PromptFormat(), 30, 400, 2, 5))
    assert again is made  # kept
    other = run(reading.token_reading(llama, BLOCK, PromptFormat(), 30, 400, 2, 0))
    assert not torch.equal(other.direction, made.direction)


def test_gates_are_read_at_each_token_of_the_model_s_own_answers_and_at_none_of_their_prompts(llama, monkeypatch):
    taken: list[np.ndarray] = []
    real = reading.fit_reading
    monkeypatch.setattr(reading, "fit_reading", lambda given: (taken.extend(given.answers), real(given))[1])
    made = run(reading.token_reading(llama, BLOCK, PromptFormat(), 30, 400, 1, 0, 5))
    own = sorted(run(unseen_answers(llama, 5, reading.OWN_TOKENS, PromptFormat())), key=lambda one: len(one.tokens))
    assert [len(tokens) for tokens in taken] == [len(one.response) for one in own] and len(made.answers) == 5
    (_, states), *_ = reading.mlp_inputs(llama, [BLOCK], [own[0].tokens])
    np.testing.assert_allclose(taken[0], states[len(own[0].prompt) :, 0].numpy(), atol=1e-5)


def test_it_starts_from_vanilla_and_the_second_step_is_the_gates_before_they_write(llama, case):
    result = run(gated(llama, case, BLOCK, small()))
    assert [step.step for step in result.trace] == [0, 1, 2, 3, 4] and result.kept == 4
    assert result.trace[0].constraint_kl == 0 and result.trace[1].delta_norm == 0 < result.trace[2].delta_norm
    own = plain.token_log_probabilities(llama.network, *plain.encoded(llama, case.adversarial_prompt, case.safe))
    assert result.trace[0].safe_probability == pytest.approx(float(own.mean().exp()), rel=1e-4)


def test_no_logits_are_computed_of_the_prompt_whose_mlp_is_observed(llama, case):
    seen: list[int] = []
    head = llama.architecture.unembedding
    handle = head.register_forward_pre_hook(lambda _head, args: seen.append(args[0].shape[-2]))
    try:
        run(gated(llama, case, BLOCK, small()))
    finally:
        handle.remove()
    prompt = encode(llama, case.adversarial_prompt, None, small().format).prompt
    assert seen and len(prompt) not in seen


def test_more_gates_take_more_neurons(llama, case):
    patch = run(gated(llama, case, BLOCK, small(gates=3, steps=1))).patch
    assert len(patch.settings["neurons"]) == 6 and patch.deltas[0].left.shape[1] == 6


def test_it_refuses_what_it_cannot_do_by_name(llama, case):
    with pytest.raises(RefusedEdit, match=r"Taking 40 neurons of layer 1 for gates costs .* beyond the damage budget"):
        run(gated(llama, case, BLOCK, small(gates=20, damage_budget=1e-9)))
    with pytest.raises(EditError, match="Raise longest_text"):
        run(gated(llama, case, BLOCK, small(longest_text=16)))
    for wrong in ({"gates": 0}, {"false_alarms": 1.0}, {"ramp": 0}, {"positions": 0}):
        with pytest.raises(EditError, match=next(iter(wrong))):
            GatedSettings(**wrong)
    result = run(gated(llama, case, BLOCK, small(), cancel=lambda: True))
    assert (result.patch, result.kept, result.stop_reason) == (None, 0, "cancelled")


def test_states_that_are_not_finite_refuse_the_edit_and_name_their_type(overflowing):
    above = overflowing.architecture.last_block
    with pytest.raises(NotFinite, match=r"The MLP input .*not a finite number in float16.*--dtype float32"):
        run(reading.token_reading(overflowing, above, PromptFormat(), 30, 400, 1))
