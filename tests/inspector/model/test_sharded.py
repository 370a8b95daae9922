"""A model over two devices: whatever reads it, no function meets tensors of both, and the numbers are those of one.

The devices are the tests' own (:mod:`labelled_devices`): real numbers, and torch's rules of what may meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from labelled_devices import FIRST, SECOND, devices_of, label, labelled_devices, one_card, sharded

from editing import run
from inspector.attribution import block_attribution, direct_logit_attribution
from inspector.causal import knock_out_mlps
from inspector.columns import neuron_profile
from inspector.divergence import divergence
from inspector.lens import logit_lens
from inspector.likelihood import likelihoods
from inspector.locators import LOCATORS, Located, Setup, locate_with
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, Row, answer, encode
from inspector.model.answers.batching import generate
from inspector.model.passes.tails import Tails, with_weight
from inspector.model.patches.routing import scores
from inspector.neurons import neuron_activity, neuron_table
from inspector.padding import padding_study
from inspector.presets import PRESETS
from inspector.region import region_shift
from inspector.safeedit import Case
from inspector.shift import activation_shift
from inspector.token_attribution import ATTRIBUTION_WAYS, token_attribution
from inspector.toxicity import neuron_toxicity
from inspector.toxicity.labelled import Labelled
from inspector.toxicity.probe import Probe, train_probe
from inspector.writing import region_writing

SEQUENCES = ([1, *range(20, 60)], [1, *range(100, 125)])
COUNTED = (range(30, 40), (0, 3, 24))


@pytest.fixture(autouse=True)
def devices() -> Iterator[None]:
    """Two devices, for all that a test does."""
    with labelled_devices():
        yield


@cache
def over_two(family: str) -> InspectedModel:
    """Return a tiny model over two devices, made once."""
    return sharded(tiny_models.network(family), tiny_models.tokenizer(), f"tiny-{family}")


@pytest.fixture
def pair(tiny, family) -> tuple[InspectedModel, InspectedModel]:
    """A tiny model on one device, and the same over two."""
    return tiny(family), over_two(family)


@pytest.fixture
def brief(case: Case) -> Case:
    """The case with short prompts: some ways of attributing take a pass for each of their tokens."""
    return replace(case, adversarial_prompt="Be mean?", other_attack="Now be mean?")


def same(one: np.ndarray | torch.Tensor, two: np.ndarray | torch.Tensor) -> bool:
    """Tell whether values are equal but for the last bits of float32.

    A copy lies elsewhere in memory than what it was copied from, and a product may sum in another order there.
    """
    one, two = np.asarray(one), np.asarray(two)
    return np.array_equal(one, two) if one.dtype.kind == "U" else np.allclose(one, two, rtol=1e-4, atol=1e-6)


def probe_of(model: InspectedModel) -> Probe:
    weight = torch.randn(2, model.architecture.d_model, generator=torch.Generator().manual_seed(0)).numpy()
    return Probe(weight, np.zeros(2), model.fingerprint, "drawn", None)


def test_every_family_lies_on_both_devices_and_is_the_same_model(tiny, every_family):
    whole, model = tiny(every_family), over_two(every_family)
    assert devices_of(model.architecture.blocks[0]) == {FIRST}
    assert devices_of(model.architecture.blocks[1]) == {SECOND}
    assert model.devices == (FIRST, SECOND) and model.device == FIRST
    assert model.fingerprint == whole.fingerprint
    ids = model.batch([1, 5, 7, 9])
    assert label(ids) == FIRST
    assert same(model.network(input_ids=ids).logits[0].cpu(), by_hand.logits(whole.network, [1, 5, 7, 9]))


def test_divergence_is_the_same(pair, case):
    for preset in PRESETS:
        one, two = (divergence(model, case, preset) for model in pair)
        assert same(one.l2, two.l2) and same(one.token_l2, two.token_l2), preset


def test_answers_of_prompts_of_unlike_length_are_the_same_vanilla_and_edited(pair, case):
    whole, model = pair
    texts = (case.adversarial_prompt, "Why?", "Why do leaves fall in the autumn?")
    prompts = [encode(whole, text).prompt for text in texts]
    rows = (VANILLA, Row(by_hand.patch(whole, 0, 1, size=1.0)))
    one, two = (list(generate(each, prompts, rows, Decoding(max_new_tokens=6)))[-1] for each in (whole, model))
    assert [line.tokens for line in one] == [line.tokens for line in two]
    one, two = (answer(each, prompts[0], rows, Decoding(max_new_tokens=6)) for each in (whole, model))
    assert one.token_ids == two.token_ids


def test_a_routed_edit_is_decided_by_states_of_both_devices(pair, case):
    whole = pair[0]
    weights = torch.randn(2, whole.architecture.d_model, generator=torch.Generator().manual_seed(0))
    detector = Detector((0, 1), weights, 0.0, 0.0, whole.fingerprint)
    prompts = [encode(whole, text).prompt for text in (case.adversarial_prompt, "Why?")]
    assert same(*(np.array(scores(each, detector, prompts)) for each in pair))


def test_tails_of_all_blocks_at_once_are_the_same_and_so_are_their_gradients(pair):
    found = []
    for model in pair:
        tails = Tails(model, SEQUENCES, COUNTED)
        weights = {
            block: (1.1 * model.architecture.down_weight(block)).detach().requires_grad_(True)
            for block in range(model.blocks)
        }
        logits = tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})
        sum(each.log_softmax(dim=-1)[:, 7].sum() for each in logits.values()).backward()
        assert all(label(weight.grad) == label(weight) for weight in weights.values())
        found.append([*logits.values(), *(weight.grad for weight in weights.values())])
    for one, two in zip(*found, strict=True):
        assert same(one.detach().cpu(), two.detach().cpu())


def test_measurements_of_a_case_are_the_same(pair, brief):
    case = brief
    row = Row(by_hand.patch(pair[0], 0, 1))

    def measured(model: InspectedModel) -> dict[str, np.ndarray]:
        probe = probe_of(model)
        lens = logit_lens(model, case.adversarial_prompt, case.safe, [VANILLA, row])
        neurons = neuron_activity(model, case, row)
        direct = direct_logit_attribution(model, case)
        writing = region_writing(model, case, row, probe.direction, 1)
        region = region_shift(model, [case.adversarial_prompt, case.other_attack], row, 1)
        likely = likelihoods(model, case.adversarial_prompt, [case.safe, case.unsafe], [VANILLA, row])
        return {
            "lens": np.stack([each.probability for each in lens]),
            "neurons": neurons.contribution,
            "words of neurons": np.array([n.promoted + n.suppressed for n in neuron_table(model, neurons, 1, count=6)]),
            "direct": np.array([*direct.mlp, *direct.attention, direct.embedding, direct.bias]),
            "captum": block_attribution(model, case, row),
            "knock-out": run(knock_out_mlps(model, case)).ablated,
            "writing": np.concatenate([writing.prompt, writing.size]),
            "region": region.by_block,
            "shift": activation_shift(model, case.adversarial_prompt, case.safe, row).by_token,
            "columns": neuron_profile(model, row.patch, 1).relative,
            "toxicity": np.stack([neuron_toxicity(model, probe, block, row) for block in range(model.blocks)]),
            "padding": padding_study(model, case).first_norm,
            "likelihood": np.concatenate([each.log_probabilities for line in likely for each in line]),
            **{way: token_attribution(model, case, way, row, steps=3).values for way in ATTRIBUTION_WAYS},
        }

    one, two = map(measured, pair)
    for name, values in one.items():
        assert same(values, two[name]), name


def test_locators_and_the_probe_are_the_same(pair, brief):
    words = ("be mean", "be kind", "lie", "help", "hit", "hug") * 2
    texts = Labelled("made up", words, (True, False) * 6, tuple(range(12)))
    assert same(*(run(train_probe(model, texts)).weight for model in pair))
    found = [list(locate_with(model, brief, list(LOCATORS), Setup(probe=probe_of(model)))) for model in pair]
    for one, two in zip(*found, strict=True):
        if isinstance(one, Located):
            assert same(one.scores, two.scores), one.locator


def test_neurons_of_a_block_that_is_fetched_are_the_same(tiny, case):
    whole = tiny("llama")
    model = sharded(tiny_models.network("llama"), tiny_models.tokenizer(), "tiny-llama", one_card)
    row = Row(by_hand.patch(whole, 1))
    one, two = (neuron_activity(each, case, row) for each in (whole, model))
    assert same(one.contribution, two.contribution) and same(one.safe, two.safe)
