"""A patch acts through hooks, for the rows that ask for it, and leaves the base weights alone."""

from __future__ import annotations

import copy

import by_hand
import pytest
import tiny_models
import torch
from waits import counted_waits

from inspector.errors import PatchError
from inspector.model import VANILLA, Delta, Patch, Row, from_parts
from inspector.model.memory.halving import let_go
from inspector.model.patches import patch as patch_module
from inspector.model.patches.patch import fingerprint
from inspector.model.patches.standing import _Adder

IDS = (1, 40, 80, 120, 160, 200, 240, 30, 77, 5)
# Logits here are of order 1 to 5 and come from float32 sums of at most 259 terms over 3 or 4 blocks;
# two correct ways of computing them differ by a few 1e-6.
ATOL = 2e-5


class Broken(Exception):
    """What a test throws."""


def test_vanilla_is_bit_equal_after_a_patched_run_and_the_weights_are_untouched(model):
    before, checksum = by_hand.vanilla_logits(model, IDS), by_hand.checksum(model.network)
    hooks = by_hand.hooks(model.network)
    edited = by_hand.running_logits(model, IDS, [Row(by_hand.patch(model))])[0]
    assert (edited - before).abs().max() > 1e-2, "the patch must do something for this test to mean anything"
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    assert by_hand.checksum(model.network) == checksum
    assert by_hand.hooks(model.network) == hooks


def test_vanilla_is_bit_equal_after_an_exception_in_a_patched_run(model):
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    with pytest.raises(Broken), model.running([Row(by_hand.patch(model))]):
        model.network(input_ids=torch.tensor([IDS]))
        raise Broken
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)


def test_hooks_equal_writing_the_scaled_delta_into_a_copy(every_model):
    model, patch = every_model, by_hand.patch(every_model)
    for strength in (1.0, 0.25, 1.5):
        by_hooks = by_hand.running_logits(model, IDS, [Row(patch, strength)])[0]
        copied = by_hand.written(model.network, (patch.deltas[0].block, strength * patch.deltas[0].dense()))
        assert torch.allclose(by_hooks, by_hand.logits(copied, IDS), atol=ATOL), strength


def test_a_patch_of_several_blocks_equals_writing_all_of_them(every_model):
    model = every_model
    patch = by_hand.patch(model, 0, 1, model.blocks - 1)
    assert patch.blocks == (0, 1, model.blocks - 1)
    by_hooks = by_hand.running_logits(model, IDS, [Row(patch)])[0]
    copied = by_hand.written(model.network, *((d.block, d.dense()) for d in patch.deltas))
    assert torch.allclose(by_hooks, by_hand.logits(copied, IDS), atol=ATOL)


def test_the_vanilla_row_of_a_mixed_batch_is_untouched(every_model):
    """Bit-equal to the same row of an all-vanilla batch; alone, another batch size may round otherwise."""
    model = every_model
    for mixed in ([VANILLA, Row(by_hand.patch(model))], [Row(by_hand.patch(model)), VANILLA]):
        place = mixed.index(VANILLA)
        own = by_hand.running_logits(model, IDS, mixed)[place]
        assert torch.equal(own, by_hand.running_logits(model, IDS, [VANILLA, VANILLA])[place])
        assert torch.allclose(own, by_hand.vanilla_logits(model, IDS), atol=ATOL)


def test_rows_with_different_patches_do_not_see_each_other(model):
    """Three rows, two of them edited in the same block: each equals itself alone."""
    rows = [Row(by_hand.patch(model, seed=1)), VANILLA, Row(by_hand.patch(model, seed=2), 0.5)]
    together = by_hand.running_logits(model, IDS, rows)
    for row, own in zip(rows, together, strict=True):
        assert torch.allclose(own, by_hand.running_logits(model, IDS, [row])[0], atol=ATOL)
    assert (together[0] - together[2]).abs().max() > 1e-2


def test_a_low_rank_delta_equals_its_dense_form(model):
    torch.manual_seed(0)
    left, right = 0.3 * torch.randn(32, 2), 0.3 * torch.randn(2, 48)
    name = by_hand.down_name(model.network, 1)
    low_rank = Patch((Delta(name, 1, left, right),), model.fingerprint, "low rank")
    dense = Patch((Delta(name, 1, left @ right),), model.fingerprint, "dense")
    assert low_rank.deltas[0].shape == dense.deltas[0].shape == (32, 48)
    assert low_rank.norm == pytest.approx(dense.norm)
    one, two = (by_hand.running_logits(model, IDS, [Row(patch)])[0] for patch in (low_rank, dense))
    assert torch.allclose(one, two, atol=ATOL)
    assert (one - by_hand.vanilla_logits(model, IDS)).abs().max() > 1e-2


def test_strength_zero_is_vanilla_bit_for_bit(model):
    row = Row(by_hand.patch(model), 0.0)
    assert torch.equal(by_hand.running_logits(model, IDS, [row])[0], by_hand.vanilla_logits(model, IDS))
    assert row.label() == "vanilla"


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_in_bfloat16_the_patch_equals_writing_it_and_vanilla_rows_are_untouched(name):
    """The sum is rounded to bfloat16 once more than in the written copy: 2 % of logits of order 3."""
    network = tiny_models.network(name).to(torch.bfloat16)
    model = from_parts(network, tiny_models.tokenizer(), name)
    patch = by_hand.patch(model)
    mixed = by_hand.running_logits(model, IDS, [VANILLA, Row(patch)])
    copied = by_hand.written(network, (patch.deltas[0].block, patch.deltas[0].dense()))
    assert torch.equal(mixed[0], by_hand.running_logits(model, IDS, [VANILLA, VANILLA])[0])
    assert mixed.dtype == torch.bfloat16
    assert (mixed[1] - by_hand.logits(copied, IDS)).abs().max() < 0.06


def test_a_patch_of_another_base_model_is_refused(llama, tiny):
    patch = by_hand.patch(tiny("qwen2"))
    with pytest.raises(PatchError, match=f"another base model.*{patch.fingerprint}.*{llama.fingerprint}"):
        by_hand.running_logits(llama, IDS, [VANILLA, Row(patch)])


def test_a_patch_of_a_missing_part_is_refused_and_sets_no_hook(llama):
    good = by_hand.patch(llama).deltas[0]
    bad = Delta("model.layers.9.mlp.down_proj", 9, good.left)
    with pytest.raises(PatchError, match=r"no part 'model.layers.9.mlp.down_proj'"):
        by_hand.running_logits(llama, IDS, [Row(Patch((good, bad), llama.fingerprint, "test"))])


def test_values_that_are_not_finite_are_refused():
    for value in (float("nan"), float("inf")):
        broken = torch.zeros(4, 6)
        broken[1, 2] = value
        with pytest.raises(PatchError, match="not finite"):
            Patch((Delta("whole", 0, torch.zeros(4, 6)), Delta("part", 0, broken)), "base", "test")
        with pytest.raises(PatchError, match="delta of part holds values that are not finite"):
            Patch((Delta("part", 0, torch.zeros(4, 4), broken),), "base", "test")


def test_deltas_that_are_not_float32_matrices_are_refused():
    for wrong in (torch.zeros(4, 6, dtype=torch.bfloat16), torch.zeros(4, 6, dtype=torch.float64), torch.zeros(24)):
        with pytest.raises(PatchError, match="part must be made of float32 matrices"):
            Delta("part", 0, wrong)
    with pytest.raises(PatchError, match="do not fit"):
        Delta("part", 0, torch.zeros(4, 2), torch.zeros(3, 6))


def test_a_patch_changes_each_matrix_once_and_at_least_one():
    delta = Delta("part", 0, torch.zeros(4, 6))
    with pytest.raises(PatchError, match="only once"):
        Patch((delta, Delta("part", 0, torch.ones(4, 6))), "base", "test")
    with pytest.raises(PatchError, match="at least one"):
        Patch((), "base", "test")


def test_a_patch_s_settings_are_a_frozen_copy():
    settings = {"steps": 3}
    patch = Patch((Delta("part", 0, torch.zeros(4, 6)),), "base", "test", settings)
    settings["steps"] = 4
    assert patch.settings["steps"] == 3
    with pytest.raises(TypeError):
        patch.settings["steps"] = 5


def test_the_identifier_names_the_content():
    def made(value: float, base: str = "base") -> str:
        return Patch((Delta("part", 0, torch.full((4, 6), value)),), base, "test").identifier

    assert made(1.0) == made(1.0)
    assert len({made(1.0), made(2.0), made(1.0, "other")}) == 3


def test_the_fingerprint_is_the_same_in_bfloat16_and_differs_for_other_weights(every_family):
    network = tiny_models.network(every_family)
    assert fingerprint(copy.deepcopy(network).to(torch.bfloat16)) == fingerprint(network)
    assert fingerprint(tiny_models.network(every_family)) == fingerprint(network)
    assert fingerprint(tiny_models.network(every_family, seed=1)) != fingerprint(network)


def test_one_rewritten_neuron_is_another_model_whichever_it_is():
    """As a merged gated edit or a neuron that was taken away has it: a row before the activation, or a column after."""
    network = tiny_models.network("llama")
    mlp, vanilla = network.model.layers[1].mlp, fingerprint(network)
    with torch.no_grad():
        for number in range(mlp.down_proj.in_features):
            for values in (mlp.gate_proj.weight[number], mlp.down_proj.weight[:, number]):
                kept = values.clone()
                values.zero_()
                assert fingerprint(network) != vanilla, number
                values.copy_(kept)
    assert fingerprint(network) == vanilla


def test_the_badge_names_method_layer_strength_and_patch(llama):
    patch = by_hand.patch(llama, 1)
    label = Row(patch, 0.5).label()
    assert all(part in label for part in ("random", "layer 1", "0.5", patch.identifier))


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused_with_the_range(strength):
    with pytest.raises(PatchError, match=r"strength.*0 to 1\.5"):
        Row(None, strength)


def test_the_norm_of_a_patch_of_many_matrices_is_read_at_once(llama, monkeypatch):
    torch.manual_seed(0)
    names = [by_hand.down_name(llama.network, block) for block in range(llama.blocks)]
    deltas = [Delta(name, n, torch.randn(32, 2), torch.randn(2, 48)) for n, name in enumerate(names)]
    patch = Patch(tuple(deltas), llama.fingerprint, "low-rank")
    with counted_waits(monkeypatch) as waits:
        norm = patch.norm
        assert waits.since() == 1
    assert norm == pytest.approx(sum(float(delta.dense().square().sum()) for delta in deltas) ** 0.5)


def test_column_norms_are_those_of_the_dense_delta_and_need_no_dense_delta(monkeypatch):
    torch.manual_seed(0)
    left, right = torch.randn(32, 3), torch.randn(3, 48)
    right[:, 7] = 0.0
    low_rank, dense = Delta("down", 0, left, right), Delta("down", 0, left @ right)
    expected = dense.left.norm(dim=0)
    assert torch.equal(dense.column_norms, expected)
    monkeypatch.setattr(Delta, "dense", None)
    assert torch.allclose(low_rank.column_norms, expected, rtol=1e-5) and low_rank.column_norms[7] == 0


def test_copies_on_another_device_are_made_once_bounded_and_given_back_where_memory_runs_out(monkeypatch):
    monkeypatch.setattr(patch_module, "MOST_COPIED", 2 * 4 * 4 * 6)
    other = torch.device("meta")
    first, second, third = (Delta("part", 0, torch.ones(4, 6)) for _ in range(3))
    let_go(MemoryError())  # whatever other tests have left
    (left, _), (again, _) = first.on(other), first.on(other)
    assert left.device == other and left is again
    second.on(other)
    assert {first, second} <= set(patch_module._COPIES)
    third.on(other)
    assert set(patch_module._COPIES) == {third}, "two have room"
    let_go(MemoryError())
    assert not patch_module._COPIES


def test_a_patch_beyond_the_bound_on_copies_is_copied_once_for_a_run_of_passes(monkeypatch):
    monkeypatch.setattr(patch_module, "MOST_COPIED", 0)
    own, copied = Delta.on, []

    def counted(delta: Delta, device: torch.device):
        copied.append(delta)
        return own(delta, device)

    monkeypatch.setattr(Delta, "on", counted)
    deltas = [Delta(f"part {number}", number, torch.ones(4, 6)) for number in range(2)]
    adders = [_Adder(2, [(1, 1.0, delta)]) for delta in deltas]
    states, written = torch.ones(2, 1, 6, device="meta"), torch.zeros(2, 1, 4, device="meta")
    for _ in range(3):
        for adder in adders:
            adder(states, written)
    assert copied == deltas
