"""Edits of a model over two devices are those of the model on one; nothing meets across the border.

The devices are the tests' own (:mod:`labelled_devices`).
"""

from __future__ import annotations

from collections.abc import Iterator

import by_hand
import placed_edits
import pytest
import tiny_models
import torch
from labelled_devices import FIRST, SECOND, label, labelled_devices, one_card, sharded

from editing.atlas import group
from editing.methods import delman
from editing.methods.mend.training import new_editor
from editing.optimising.replay import FullReplay, TailReplay, master_weight
from editing.optimising.trainee import TrainedScope, trainee
from inspector.model import VANILLA, Decoding, InspectedModel, answer, encode
from inspector.model.offloaded import is_offloaded
from inspector.neurons import neuron_activity

CLOSE = 1e-3
"""Adam's first steps follow the sign of a gradient, rounding and all: a share of a delta's norm."""
TWO = pytest.mark.parametrize("family", ["llama", "gpt2"])
"""The head on the last device; beside its embeddings, to which it is tied."""
IDS = (1, 40, 80, 120, 160, 200, 240, 30)


@pytest.fixture(autouse=True)
def devices(monkeypatch) -> Iterator[None]:
    """Two devices for all that a test does; neither has a real card's memory to ask for."""
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 2**40)
    with labelled_devices():
        yield


@pytest.fixture
def pair(tiny, family) -> tuple[InspectedModel, InspectedModel]:
    """A tiny model on one device, and the same over two."""
    return tiny(family), sharded(tiny_models.network(family), tiny_models.tokenizer(), f"tiny-{family}")


def test_the_float32_copy_lies_where_its_block_computes_and_both_ways_of_replay_agree(pair):
    model = pair[1]
    assert [label(master_weight(model, block)) for block in range(2)] == [FIRST, SECOND]
    for block in range(model.blocks):
        found = []
        for way in (TailReplay, FullReplay):
            weight = (1.1 * master_weight(model, block)).detach().requires_grad_(True)
            logits = way(model, block, [list(IDS), list(IDS[:5])], [(5, 6), (3,)]).logits(weight)
            logits.log_softmax(dim=-1)[:, 9].sum().backward()
            assert label(weight.grad) == label(weight)
            found.append((logits.detach().cpu(), weight.grad.cpu()))
        for one, two in zip(*found, strict=True):
            assert torch.allclose(one, two, rtol=1e-3, atol=2e-5 * float(one.abs().max()))


@pytest.mark.parametrize(("way", "family", "block"), placed_edits.placed())
def test_an_edit_of_one_matrix_is_the_same(pair, case, way, block):
    one, two = (placed_edits.ONE_MATRIX[way](model, case, block) for model in pair)
    assert placed_edits.difference(one, two) < CLOSE
    prompt = encode(pair[0], case.adversarial_prompt).prompt
    rows = [(VANILLA, placed_edits.row_of(model, deltas)) for model, deltas in zip(pair, (one, two), strict=True)]
    said = [
        answer(model, prompt, row, Decoding(max_new_tokens=4)).token_ids for model, row in zip(pair, rows, strict=True)
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("way", "family"),
    [("SFT", "llama"), ("SFT", "gpt2"), ("SFT, full", "gpt2"), ("DPO", "llama"), ("Ext-Sub", "gpt2")],
)
def test_training_of_every_matrix_is_the_same(pair, case, way):
    one, two = (placed_edits.EVERY_MATRIX[way](model, case, 1) for model in pair)
    assert placed_edits.difference(one, two) < CLOSE
    assert {label(delta.left) for delta in two} == {FIRST, SECOND}


def test_a_trained_copy_stands_where_its_base_does_and_the_base_stays(pair):
    model = pair[1]
    before = by_hand.checksum(pair[0].network)
    for scope in ("LoRA", "full"):
        student = trainee(model, TrainedScope(scope))
        assert {label(parameter) for parameter in student.parameters} == {FIRST, SECOND}
        student.logits([list(IDS)], [range(len(IDS))]).log_softmax(dim=-1)[:, 7].sum().backward()
        assert all(label(p.grad) == label(p) for p in student.parameters if p.grad is not None)
    assert by_hand.checksum(pair[0].network) == before
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_an_editor_of_mend_stands_on_the_last_device(pair):
    model = pair[1]
    editor = new_editor(model, placed_edits.EDITOR)
    assert editor.device == model.architecture.head_device


@TWO
def test_an_atlas_is_the_same(pair, case):
    one, two = (placed_edits.atlas(model, case) for model in pair)
    assert [entry.block for entry in one.entries] == [entry.block for entry in two.entries]
    for name in ("safe gain", "margin gain", "harmless KL", "delta norm"):
        assert two.curve(name) == pytest.approx(one.curve(name), rel=1e-2, abs=1e-4), name


@TWO
@pytest.mark.parametrize("module", [delman, group])
def test_labels_lie_where_the_logits_are_before_a_step_needs_them(pair, case, monkeypatch, module):
    own, met = module.token_log_probabilities, []

    def watched(logits, labels):
        met.append((label(logits), label(labels) if isinstance(labels, torch.Tensor) else None))
        return own(logits, labels)

    monkeypatch.setattr(module, "token_log_probabilities", watched)
    model = pair[1]
    _ = placed_edits.ONE_MATRIX["DELMAN"](model, case, 1) if module is delman else placed_edits.atlas(model, case)
    once = [placed for placed in met if placed[1] is None]  # of the one whole pass that an atlas begins with
    assert len(once) == (module is group)
    assert {placed for placed in met if placed[1] is not None} == {(model.architecture.head_device,) * 2}


@TWO
def test_a_knock_out_of_neurons_is_the_same(pair, case):
    neurons = neuron_activity(pair[0], case).pushing(1, 1)
    one, two = (placed_edits.knocked_out(model, case, 1, neurons) for model in pair)
    assert one.identifier == two.identifier


@pytest.mark.parametrize(
    ("way", "family"),
    [
        ("DINM", "llama"),
        ("DINM", "gpt2"),
        ("DINM, plain way", "gpt2"),
        ("MEND", "llama"),
        ("an edit on an edit", "gpt2"),
    ],
)
def test_a_block_in_cpu_memory_is_fetched_to_the_card_for_its_edit(tiny, case, family, way):
    name = f"tiny-{family}"
    whole, model = tiny(family), sharded(tiny_models.network(family), tiny_models.tokenizer(), name, one_card)
    assert is_offloaded(model.architecture.down_projections[1]) and model.fingerprint == whole.fingerprint
    assert label(master_weight(model, 1)) == FIRST and model.devices == (FIRST,)
    one, two = (placed_edits.ONE_MATRIX[way](each, case, 1) for each in (whole, model))
    assert placed_edits.difference(one, two) < CLOSE
    assert is_offloaded(model.architecture.down_projections[1])
