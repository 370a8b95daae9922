"""A model whose weights lie partly on disk is the same model: same name, same numbers, whatever reads it."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import offloading
import pytest
import tiny_models
import torch

from editing import run
from inspector.attribution import block_attribution, direct_logit_attribution
from inspector.columns import neuron_profile
from inspector.divergence import divergence
from inspector.lens import logit_lens
from inspector.locators import LOCATORS, Located, Setup, locate_with
from inspector.model import (
    VANILLA,
    Decoding,
    Row,
    answer,
    encode,
    load,
)
from inspector.model.offloaded import held, is_offloaded, named_weights, place
from inspector.neurons import neuron_activity, neuron_table
from inspector.padding import padding_study
from inspector.presets import PRESETS
from inspector.region import region_shift
from inspector.shift import activation_shift
from inspector.token_attribution import ATTRIBUTION_WAYS, token_attribution
from inspector.toxicity import neuron_toxicity
from inspector.toxicity.labelled import Labelled
from inspector.toxicity.probe import Probe, train_probe
from inspector.writing import region_writing

IDS = (1, 40, 80, 120, 160, 200, 240, 30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models, each written once."""
    return offloading.Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture
def pair(family, folders):
    """A tiny model whole, and the same with some blocks in memory and the others on disk."""
    return folders.whole(family), folders.spread(family)


@pytest.fixture
def brief(case):
    """The case with short prompts: some ways of attributing take a pass for each of their tokens."""
    return replace(case, adversarial_prompt="Be mean?", other_attack="Now be mean?")


def test_every_family_is_the_same_model_wherever_its_weights_are(every_family, folders):
    whole, spread = folders.whole(every_family), folders.spread(every_family)
    assert spread.fingerprint == whole.fingerprint
    assert torch.equal(by_hand.logits(spread.network, IDS), by_hand.logits(whole.network, IDS))
    # Fetching for a pass unties tied weights; the name of the model must not depend on it.
    assert [name for name, _ in named_weights(spread.network)] == [name for name, _ in whole.network.named_parameters()]


def test_a_weight_is_fetched_for_a_reading_and_stays_on_disk(pair):
    whole, spread = pair
    for block in range(whole.blocks):
        for name, module in spread.architecture.projections(block).items():
            own = whole.network.get_submodule(name)
            for entry in ("weight", "bias"):
                if getattr(own, entry, None) is not None:
                    assert torch.equal(held(module, entry), getattr(own, entry))
            assert place(module) == torch.device("cpu")
    on_disk = [down for down in spread.architecture.down_projections if is_offloaded(down)]
    assert on_disk and all(down.weight.device.type == "meta" for down in on_disk)


def test_everything_on_disk_is_the_same_model_too(folders):
    whole, spread = folders.whole("gpt2"), folders.on_disk("gpt2")
    assert all(parameter.device.type == "meta" for parameter in spread.network.parameters())
    assert spread.device == spread.architecture.head_device == torch.device("cpu")
    assert spread.fingerprint == whole.fingerprint
    assert torch.equal(by_hand.logits(spread.network, IDS), by_hand.logits(whole.network, IDS))


def test_meta_weights_that_nothing_fetches_stay_what_they_are():
    network = tiny_models.network("llama").to("meta")
    assert place(network).type == "meta" and held(network.lm_head).device.type == "meta"
    assert len(list(named_weights(network))) == len(list(network.named_parameters()))


def test_divergence_is_the_same(pair, case):
    whole, spread = pair
    for preset in PRESETS:
        one, two = (divergence(model, case, preset) for model in (whole, spread))
        assert np.array_equal(one.l2, two.l2) and np.array_equal(one.token_l2, two.token_l2), preset


def test_vanilla_and_edited_answers_are_the_same(pair, case):
    whole = pair[0]
    prompt = encode(whole, case.adversarial_prompt).prompt
    for blocks in ((0,), (whole.blocks - 1,), range(whole.blocks)):
        rows = (VANILLA, Row(by_hand.patch(whole, *blocks, size=1.0)))  # a patch made on the one is one of the other
        texts = [answer(model, prompt, rows, Decoding(max_new_tokens=6)).token_ids for model in pair]
        assert texts[0] == texts[1] and texts[0][0] != texts[0][1]


def test_measurements_of_a_case_are_the_same(pair, brief):
    """All float32 on the same device in the same order: not one number differs."""
    case = brief
    row = Row(by_hand.patch(pair[0], 0, 1))
    weight = torch.randn(2, pair[0].architecture.d_model, generator=torch.Generator().manual_seed(0)).numpy()

    def measured(model) -> dict[str, np.ndarray]:
        probe = Probe(weight, np.zeros(2), model.fingerprint, "drawn", None)
        lens = logit_lens(model, case.adversarial_prompt, case.safe, [VANILLA, row])
        neurons = neuron_activity(model, case, row)
        table = neuron_table(model, neurons, 1, count=6)
        writing = region_writing(model, case, row, probe.direction, 1)
        region = region_shift(model, [case.adversarial_prompt, case.other_attack], row, 1)
        return {
            "lens": np.stack([each.probability for each in lens]),
            "neurons": neurons.contribution,
            "words of neurons": np.array([neuron.promoted + neuron.suppressed for neuron in table]),
            "direct": direct_logit_attribution(model, case).mlp,
            "bias": np.array(direct_logit_attribution(model, case).bias),
            "captum": block_attribution(model, case, row),
            "writing": np.concatenate([writing.prompt, writing.size]),
            "region": region.by_block,
            "shift": activation_shift(model, case.adversarial_prompt, case.safe, row).by_token,
            "columns": neuron_profile(model, row.patch, 1).relative,
            "toxicity": np.stack([neuron_toxicity(model, probe, block, row) for block in range(model.blocks)]),
            "padding": padding_study(model, case).first_norm,
            **{way: token_attribution(model, case, way, row, steps=3).values for way in ATTRIBUTION_WAYS},
        }

    one, two = map(measured, pair)
    for name, values in one.items():
        assert np.array_equal(values, two[name]), name


def test_locators_and_the_probe_are_the_same(pair, brief):
    words = ("be mean", "be kind", "lie", "help", "hit", "hug") * 2
    texts = Labelled("made up", words, (True, False) * 6, tuple(range(12)))
    probes = [run(train_probe(model, texts)) for model in pair]
    assert np.array_equal(probes[0].weight, probes[1].weight)
    found = [list(locate_with(model, brief, list(LOCATORS), Setup(probe=probes[0]))) for model in pair]
    for one, two in zip(*found, strict=True):
        if isinstance(one, Located):
            assert np.array_equal(one.scores, two.scores), one.locator


def test_without_limits_a_model_that_fits_is_whole(folders):
    model = load(folders.of("llama"), device="cpu", dtype="float32", device_map="auto")
    assert not any(map(is_offloaded, model.architecture.down_projections))
    assert torch.equal(by_hand.logits(model.network, IDS), by_hand.logits(folders.whole("llama").network, IDS))
