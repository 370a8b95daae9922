"""A model that lies partly on disk is edited like the whole one: its one matrix is fetched for the edit alone."""

from __future__ import annotations

import json
import weakref
from functools import partial
from itertools import product

import by_hand
import offloading
import placed_edits
import pytest
import tiny_models
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from training_helpers import small

from editing import run
from editing.methods.sft import SftSettings, sft
from editing.optimising.replay import FullReplay, TailReplay, master_weight
from editing.optimising.smaller import HalvedReplay
from editing.optimising.trainee import shared_copy
from editing.saved.merged import save_merged
from editing.stacking import carrying
from editing.sweep import __main__ as sweep
from editing.sweep.engines import load_all
from editing.sweep.settings import SweepSettings
from inspector import locate
from inspector.errors import EditError
from inspector.model import VANILLA, Row, load
from inspector.model.hooks import observe_outputs
from inspector.model.offloaded import is_offloaded
from inspector.neurons import neuron_activity

CLOSE = 1e-5
"""Share of a delta's norm: both are computed on one device in one order."""
IDS = (1, 40, 80, 120, 160, 200, 240, 30)
PLACED = [(way, family, where) for way, family, where in placed_edits.placed() if way == "DINM" or where]
"""What lies in memory is read as ever, by whatever way: DINM edits there as well, the others on disk alone."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> offloading.Folders:
    """Folders of tiny models, each written once."""
    return offloading.Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture
def pair(family, folders):
    """A tiny model whole, and the same with some blocks in memory and the others on disk.

    After a test what was on disk is there still, and the second model answers bit for bit as the first.
    """
    whole, spread = folders.whole(family), folders.spread(family)
    before = [parameter.device for parameter in spread.network.parameters()]
    hooks = by_hand.hooks(spread.network)
    yield whole, spread
    assert [parameter.device for parameter in spread.network.parameters()] == before
    assert torch.equal(by_hand.logits(spread.network, IDS), by_hand.logits(whole.network, IDS))
    by_hand.assert_at_rest(spread, hooks)


@pytest.mark.parametrize(("way", "family", "where"), PLACED)
def test_an_edit_of_a_block_in_memory_and_of_one_on_disk_is_that_of_the_whole_model(pair, case, way, where):
    block = offloading.blocks_by_place(pair[1])[where]
    one, two = (placed_edits.ONE_MATRIX[way](model, case, block) for model in pair)
    assert placed_edits.difference(one, two) < CLOSE


def test_the_float32_copy_is_a_copy_and_tails_resume_at_a_matrix_on_disk(pair):
    whole, spread = pair
    for block in range(whole.blocks):
        weight = master_weight(spread, block)
        assert torch.equal(weight, master_weight(whole, block)) and weight.dtype == torch.float32
        tails = [TailReplay(model, block, [list(IDS)], [(5, 6)])._tails for model in pair]
        assert tails[0]._resumes == tails[1]._resumes
        logits = [way(spread, block, [list(IDS)], [(5, 6)]).logits(1.1 * weight) for way in (TailReplay, FullReplay)]
        assert torch.allclose(*logits, rtol=1e-4, atol=2e-5)
    assert any(map(is_offloaded, spread.architecture.down_projections))


@pytest.fixture
def fetched(family, folders, monkeypatch) -> list[StorageWeakRef]:
    """The weights that were fetched so far of the model that lies on disk as a whole."""
    found = list[StorageWeakRef]()
    for module in filter(is_offloaded, folders.on_disk(family).network.modules()):

        def runs(*args, module=module, run=module._old_forward, **kwargs):
            found.extend(StorageWeakRef(own.untyped_storage()) for own in module.parameters(recurse=False))
            return run(*args, **kwargs)

        monkeypatch.setattr(module, "_old_forward", runs)
    return found


HALVED = {TailReplay: HalvedReplay, FullReplay: partial(HalvedReplay, way=FullReplay)}
TEXTS = [list(IDS), [1, 40, 60]], [(5, 6), (1,)]


@pytest.mark.parametrize(
    ("way", "family"),
    [*product((TailReplay, FullReplay), tiny_models.FIVE), *((way, "llama") for way in HALVED.values())],
)
def test_no_fetched_weight_is_held_between_a_pass_and_its_gradients(family, folders, fetched, way):
    """Or an edit would need memory for all blocks above it, as if none were on disk."""
    model, whole = folders.on_disk(family), folders.whole(family)
    replay, weight = way(model, 0, *TEXTS), master_weight(model, 0).requires_grad_(True)
    fetched.clear()
    logits = replay.logits(weight)
    assert len(fetched) > model.blocks and all(storage.expired() for storage in fetched)
    logits.square().sum().backward()
    assert all(storage.expired() for storage in fetched) and all(p.is_meta for p in model.network.parameters())
    wanted = master_weight(whole, 0).requires_grad_(True)
    way(whole, 0, *TEXTS).logits(wanted).square().sum().backward()
    assert torch.allclose(weight.grad, wanted.grad, rtol=1e-4, atol=1e-4)


def test_a_pass_whose_gradients_nobody_takes_is_gone_with_its_logits(family, folders):
    model, written = folders.on_disk(family), list[weakref.ref]()
    parts = [part for part in model.network.modules() if is_offloaded(part)]
    with observe_outputs(parts, lambda _number, states: written.append(weakref.ref(states))):
        logits = TailReplay(model, 0, *TEXTS).logits(master_weight(model, 0).requires_grad_(True))
    assert logits.requires_grad and any(states() is not None for states in written)
    del logits
    assert all(states() is None for states in written)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_atlas_and_a_knock_out_of_neurons_are_the_same(pair, case):
    one, two = (placed_edits.atlas(model, case) for model in pair)
    for entry, other in zip(one.entries, two.entries, strict=True):
        told, expected = vars(entry), vars(other)  # texts that begin alike share a row in memory alone: a rounding
        assert told.pop("verdicts") == expected.pop("verdicts") and told == pytest.approx(expected, rel=1e-5)
    neurons = neuron_activity(pair[0], case).pushing(1, 1)
    one, two = (placed_edits.knocked_out(model, case, 1, neurons) for model in pair)
    assert one.identifier == two.identifier


def test_a_model_that_carries_an_edit_shares_what_is_on_disk_and_holds_its_own_matrix(pair):
    whole, spread = pair
    block = offloading.blocks_by_place(spread)[1]
    patch = by_hand.patch(whole, block)
    made = carrying(spread, patch)
    assert not is_offloaded(made.architecture.down_projections[block])
    assert torch.equal(by_hand.logits(made.network, IDS), by_hand.logits(carrying(whole, patch).network, IDS))
    copied = shared_copy(spread.network)
    name = by_hand.down_name(spread.network, block)
    stores = [network.get_submodule(name)._hf_hook.weights_map for network in (copied, spread.network)]
    assert stores[0] is stores[1], "a copy of the module tree copies no weights"


def test_training_every_matrix_of_a_model_that_lies_partly_on_disk_is_refused_with_the_remedy(pair, case):
    for scope in ("LoRA", "full"):
        with pytest.raises(EditError, match=r"block \d are offloaded.*without offloading.*DINM"):
            run(sft(pair[1], case, 1, small(SftSettings, scope=scope)))


def test_an_edit_is_merged_into_weights_on_disk_and_loads_whole(pair, tmp_path):
    whole, spread = pair
    row = Row(by_hand.patch(whole, *offloading.blocks_by_place(spread)))
    assert run(save_merged(spread, row, tmp_path / "merged")) < 1e-3
    merged = load(tmp_path / "merged", device="cpu", dtype="float32")
    live = by_hand.running_logits(whole, IDS, (VANILLA, row))[1]
    assert torch.allclose(by_hand.logits(merged.network, IDS), live, rtol=1e-4, atol=2e-5)


def test_commands_and_sweeps_take_the_options(folders, tmp_path, capsys, case):
    given = ["--model", str(folders.of("llama")), "--device", "cpu", "--dtype", "float32"]
    spread = ["--device-map", "auto", "--max-memory", "cpu=110KB"]
    asked, told = ["--question", case.question, "--safe", case.safe, "--unsafe", case.unsafe], []
    for more in ([], spread):
        assert locate.main([*given, *asked, *more]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1], "the same fingerprint, layer and divergence"
    settings = sweep._settings(sweep.options().parse_args(["--out", str(tmp_path), *given, *spread]))
    assert SweepSettings.from_json(settings.as_json()) == settings
    model, _judge = load_all(settings)
    assert any(map(is_offloaded, model.architecture.down_projections))
    assert model.fingerprint == told[0]["fingerprint"]
