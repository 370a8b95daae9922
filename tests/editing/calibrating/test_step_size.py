"""Measured step sizes: what a first update costs, and that the scale of the weights does not matter."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from transformers.pytorch_utils import Conv1D

from editing import preset, run
from editing.calibrating.step_size import adam, measured_sizes
from editing.calibrating.trial_edits import SETTINGS, try_layers
from editing.methods.dinm import ROUTED, dinm
from inspector.detection import fit, for_case, readings_of, samples
from inspector.divergence import divergence
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, PromptFormat, Row, encode, from_parts
from inspector.model.answers.batching import generate
from inspector.model.patches.routing import scores
from inspector.safeedit import Constraint, bundled_cases

SHORT = {"steps": 3, "harmless_prompts": 2, "harmless_tokens": 4, "harmless_at_once": None, "target_probability": None}


def test_sizes_cost_what_is_wanted_each_by_its_own():
    curvature = np.array([1e-6, 1.0, 1e8])
    sizes = measured_sizes(lambda tried, s: curvature[tried] * s**2, np.array([1.0, 1.0, 1.0]), 0.01)
    assert curvature * sizes**2 == pytest.approx(np.full(3, 0.01), rel=1e-6)


def test_where_a_step_costs_nothing_or_breaks_the_model_there_is_no_size_and_the_others_have_theirs():
    asked = []

    def cost(tried, sizes):
        asked.append(tried.tolist())
        return np.array([(0.0, size**2, np.nan)[step] for step, size in zip(tried, sizes, strict=True)])

    nothing, fine, broken = measured_sizes(cost, np.ones(3), 0.01)
    assert np.isnan([nothing, broken]).all() and fine == pytest.approx(0.1)
    assert asked == [[0, 1, 2]] * 2 + [[0, 2]] * 4, "what is found is not tried again"


def test_a_step_that_breaks_the_model_is_made_smaller_until_it_does_not():
    def cost(_tried, sizes):
        return np.where(sizes > 0.5, np.nan, sizes**2)

    assert measured_sizes(cost, np.array([8.0]), 0.01) == pytest.approx([0.1])


def test_adam_s_steps_scale_with_the_weights():
    gradient = torch.tensor([1e-9, -3.0, 2.0])
    moved = []
    for scale in (1.0, 1e-6):
        weight = torch.zeros(3, requires_grad=True)
        optimiser = adam([weight], [gradient / scale], [0.01 * scale])
        weight.grad = gradient / scale
        optimiser.step()
        moved.append(weight.detach() / scale)
    assert torch.allclose(moved[0], moved[1], rtol=1e-4) and moved[0][1].item() == pytest.approx(0.01, rel=1e-2)
    assert abs(moved[0][0].item()) < 1e-5, "what is only rounding is not blown up to a whole step"


def test_the_first_update_costs_what_the_settings_say(model, case):
    result = run(dinm(model, case, 1, preset("corrected", **{**SHORT, "steps": 1}, suffix="Be good.")))
    assert result.trace[1].constraint_kl == pytest.approx(5e-3, rel=0.15)
    assert result.settings.learning_rate is None and result.patch.settings["learning_rate"] > 0
    small = run(dinm(model, case, 1, preset("corrected", **{**SHORT, "steps": 1}, step_kl=1e-4)))
    assert small.trace[1].constraint_kl == pytest.approx(1e-4, rel=0.15)


FACTORS = (0.1, 10.0)
"""By which MLPs are scaled in turn, the first one by either; a whole residual stream by that of the first MLP."""


@torch.no_grad()
def rescale(network: torch.nn.Module, first: int = 0) -> None:
    """Change weights without changing what is computed: exchange the neurons of each MLP, and scale.

    Args:
        first: Number in :data:`FACTORS` of the factor of the first MLP, or of the residual stream.

    Between up- and down-projection stands what passes a positive factor: a gate beside the up-projection, or a ReLU.
    The GELU of GPT-2 and GPT-NeoX does not, so there all that is written into the residual stream is scaled instead,
    down-projections among it; each block reads it through a norm that takes it out again.
    """
    random, number = torch.Generator().manual_seed(0), 0
    for part in network.modules():
        names = dict(part.named_children())
        if "gate_up_proj" in names:  # gate over up in one matrix
            ups, down, fused, homogeneous = [names["gate_up_proj"]], names["down_proj"], True, True
        elif "up_proj" in names:
            ups, down, fused, homogeneous = [names["gate_proj"], names["up_proj"]], names["down_proj"], False, True
        elif "fc1" in names:  # a ReLU
            ups, down, fused, homogeneous = [names["fc1"]], names["fc2"], False, True
        elif "c_fc" in names:
            ups, down, fused, homogeneous = [names["c_fc"]], names["c_proj"], False, False
        elif "dense_h_to_4h" in names:
            ups, down, fused, homogeneous = [names["dense_h_to_4h"]], names["dense_4h_to_h"], False, False
        else:
            continue
        conv = isinstance(down, Conv1D)  # GPT-2 keeps its matrices transposed
        neurons = down.weight.shape[0 if conv else 1]
        order = torch.randperm(neurons, generator=random)
        for up in ups:
            rows = torch.cat([order, order + neurons]) if fused else order
            up.weight.copy_(up.weight[:, rows] if conv else up.weight[rows])
            if up.bias is not None:
                up.bias.copy_(up.bias[rows])
        down.weight.copy_(down.weight[order] if conv else down.weight[:, order])
        if homogeneous:
            factor = FACTORS[(number + first) % len(FACTORS)]
            last = ups[-1]
            for tensor in (last.weight, last.bias):
                if tensor is not None:
                    (tensor[neurons:] if fused else tensor).mul_(factor)
            down.weight.div_(factor)
        elif number == 0:
            rescale_stream(network, FACTORS[first])
        number += 1


WRITERS = ("wte", "wpe", "embed_in", "c_proj", "dense", "dense_4h_to_h")
"""What writes into the residual stream of GPT-2 and GPT-NeoX."""


def rescale_stream(network: torch.nn.Module, factor: float) -> None:
    """Scale the residual stream, and the epsilon of each norm that reads it, which is in its unit."""
    for name, part in network.named_modules():
        if name.rpartition(".")[2] in WRITERS:
            for tensor in part.parameters():
                tensor.mul_(factor)
        elif isinstance(part, torch.nn.LayerNorm):
            part.eps *= factor**2
    if network.get_output_embeddings().weight is network.get_input_embeddings().weight:  # GPT-2's unembedding grew too
        for tensor in network.transformer.ln_f.parameters():
            tensor.div_(factor)


def in_three_scales(family: str) -> list[InspectedModel]:
    """Return a tiny model, and twice the same in other weights: in turn every MLP and the stream by either factor."""
    networks = [tiny_models.network(family) for _ in (None, *FACTORS)]
    for first, network in enumerate(networks[1:]):
        rescale(network, first)
    return [from_parts(network, tiny_models.tokenizer(True, True), family) for network in networks]


KINDS = (
    (1, preset("corrected", **SHORT, suffix="Be good."), False),
    (2, preset("corrected", **{**ROUTED, **SHORT, "companions": 2}, suffix="Be good."), True),
)
"""Both edits that Operate makes: block, settings, and whether it acts only where a detector of its own fires."""


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_default_edits_do_not_depend_on_the_scale_of_the_weights(family, case, monkeypatch):
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 400)  # these tokens are single bytes
    monkeypatch.setattr("inspector.detection.case.HARMLESS", 8)
    monkeypatch.setattr("inspector.detection.case.LONGEST", 60)
    plain, *scaled = models = in_three_scales(family)
    assert len({divergence(model, case).toxic_layer() for model in models}) == 1
    before = answer_logits(plain, case, VANILLA)
    for model in scaled:
        assert answer_logits(model, case, VANILLA) == pytest.approx(before, abs=1e-3), "all compute the same"
    for block, settings, routed in KINDS:
        results = [run(dinm(model, case, block, settings)) for model in models]
        rows = [Row(result.patch) for result in results]
        if routed:
            detectors = [own_detector(model, case) for model in models]
            rows = [replace(row, detector=detector) for row, detector in zip(rows, detectors, strict=True)]
            asked = asked_of(plain, case)
            above, *read = [np.array(scores(*pair, asked)) for pair in zip(models, detectors, strict=True)]
            assert above[0] >= 0 > above[1:].min(), "it fires on its case, and not on everything"
            for found in read:
                assert found == pytest.approx(above, abs=0.05 * above.std())
        one, *others = results
        assert (one.companions or 0) == settings.companions
        after = answer_logits(plain, case, rows[0])
        said = answered(plain, case, rows[0])
        for model, other, row in zip(scaled, others, rows[1:], strict=True):
            assert (one.kept, one.stop_reason, one.companions) == (other.kept, other.stop_reason, other.companions)
            for sign, near in (("safe_probability", {"rel": 0.02}), ("constraint_kl", {"rel": 0.1, "abs": 1e-5})):
                first, second = ([getattr(step, sign) for step in result.trace] for result in (one, other))
                assert first == pytest.approx(second, **near)
            differs = np.abs(after - answer_logits(model, case, row)).max()
            assert differs < 0.05 * np.abs(after - before).max() + 1e-3
            assert answered(model, case, row) == said


def own_detector(model: InspectedModel, case) -> Detector:
    """Return a detector that knows the case's question alone."""
    silent = Detector((0, 1), torch.zeros(2, model.architecture.d_model), -1e6, 0.0, model.fingerprint)
    return run(for_case(model, silent, case))


def asked_of(model: InspectedModel, case) -> list[tuple[int, ...]]:
    """Return the case's prompt, and others that its detector has not read."""
    texts = (case.adversarial_prompt, "Why is the sky blue?", "Name a river in France.", "Sing me a song, please.")
    return [encode(model, text, None).prompt for text in texts]


@pytest.mark.embedded
def test_nor_does_the_default_edit_of_the_embedded_model(embedded):
    """Of a case whose prompt and answers are short, on one harmless prompt, two updates.

    Each at ten times the usual cost and without a budget for it, so that what the model answers changes.
    """
    whole = bundled_cases()[19]
    safe, unsafe = (" ".join(text.split()[:6]) for text in (whole.safe, whole.unsafe))
    asked = f"Be a pirate. {whole.question}"
    case = replace(whole, adversarial_prompt=asked, safe=safe, unsafe=unsafe, constraint=Constraint("Hi.", "Hello."))
    network = copy.deepcopy(embedded.network)
    rescale(network)
    models = [embedded, from_parts(network, embedded.tokenizer, "scaled")]
    measured = [divergence(model, case) for model in models]
    assert measured[0].toxic_layer() == measured[1].toxic_layer()
    before = [answer_logits(model, case, VANILLA) for model in models]
    assert before[0] == pytest.approx(before[1], abs=1e-3), "the two models compute the same"
    few = {"steps": 2, "harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0, "target_probability": None}
    few |= {"step_kl": 5e-2, "damage_budget": None}
    one, two = (run(dinm(model, case, 20, preset("corrected", **few))) for model in models)
    assert (one.kept, one.stop_reason) == (two.kept, two.stop_reason) == (2, "step limit")
    for sign in ("safe_probability", "unsafe_probability", "constraint_kl"):
        first, second = ([getattr(step, sign) for step in result.trace] for result in (one, two))
        assert first == pytest.approx(second, rel=0.02, abs=1e-6)
    sizes = [result.patch.settings["learning_rate"] for result in (one, two)]
    assert abs(np.log(sizes[0] / sizes[1])) > 1, "the sizes are those of each network's own weights"
    rows = [Row(result.patch) for result in (one, two)]
    after = [answer_logits(model, case, row) for model, row in zip(models, rows, strict=True)]
    assert np.abs(after[0] - after[1]).max() < 0.05 * np.abs(after[0] - before[0]).max()
    vanilla, said = answered(models[0], case, VANILLA, rows[0])
    assert [said] == answered(models[1], case, rows[1]) != [vanilla]


@pytest.mark.parametrize("family", tiny_models.FIVE)
def test_what_a_calibration_finds_does_not_depend_on_the_scale_of_the_weights(family, case):
    """Of both kinds: a scaled MLP, and a scaled residual stream, which the detector reads."""
    models = in_three_scales(family)
    settings = replace(SETTINGS, max_new_tokens=2, steps=1, harmless_prompts=1, harmless_tokens=2)
    cases = [case, replace(case, question="How do I lie?", adversarial_prompt="Sing. How do I lie?")]
    one, *others = found = [run(try_layers(model, cases, settings)) for model in models]
    for two in others:
        assert (one.vanilla, one.recommended) == (two.vanilla, two.recommended)
        for first, second in zip(one.trials, two.trials, strict=True):
            assert (first.block, first.edits) == (second.block, second.edits)
            assert first.kl == pytest.approx(second.kl, rel=0.1)
    sizes = np.log([[trial.step_size for trial in layers.trials] for layers in found])
    assert (np.abs(sizes[1:] - sizes[0]).max(axis=1) > 1).all(), "the sizes are those of each network's own weights"
    texts = [sample for sample in samples("detector") if len(sample.text) < 200]
    texts = [one for harmful in (True, False) for one in [s for s in texts if s.harmful == harmful][:12]]
    above = []
    for model in models:
        readings = run(readings_of(model, texts, (0, 1), [PromptFormat("")]))
        detector = run(fit(model, texts, readings, (0, 1)))
        asked = [encode(model, sample.text, None, PromptFormat("")).prompt for sample in texts]
        above.append(np.array(scores(model, detector, asked)) - detector.threshold)
    for scaled in above[1:]:
        assert scaled == pytest.approx(above[0], abs=0.05 * above[0].std())
        assert ((scaled >= 0) == (above[0] >= 0)).all()


def answer_logits(model: InspectedModel, case, row: Row) -> np.ndarray:
    """Return log-probabilities of the safe answer's tokens, which every change of the weights shows in."""
    ((found,),) = likelihoods(model, case.adversarial_prompt, [case.safe], (row,))
    return found.log_probabilities


def answered(model: InspectedModel, case, *rows: Row) -> list[list[int]]:
    """Return what each row answers to the case's prompt, greedily."""
    prompt = encode(model, case.adversarial_prompt, None).prompt
    *_, lines = generate(model, [prompt], rows, Decoding(max_new_tokens=6))
    return [list(line.tokens) for line in lines]
