"""A patch saved as an adapter gives the edited model in peft; a patch's numbers are those of its dense form."""

from __future__ import annotations

import copy
import errno
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
import training_helpers as plain
from safetensors.torch import load_file
from training_helpers import ATOL, IDS, small

from editing import DinmSettings, dinm, run
from editing.methods.sft import SftSettings, sft
from editing.saved.adapter import WEIGHTS, factors, save_adapter
from inspector.errors import PatchError
from inspector.model import VANILLA, Delta, InspectedModel, Patch, Row
from inspector.model.patches import patch as patches

FEW = ("llama", "gpt2", "opt")
BLOCK = 1


def random(*shape: int, seed: int = 1, size: float = 0.15) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(model: InspectedModel, ranks: tuple[int, ...] = (1, 3, 2)) -> Patch:
    """Return a patch like MEND's: low-rank changes of the last blocks' MLP matrices, each of its own rank."""
    names = [(n, b) for b in range(1, model.blocks) for n in model.architecture.mlp_projections(b)]
    deltas = []
    for number, (name, block) in enumerate(names):
        rows, columns = plain.weight(model.network, name).shape
        rank = ranks[number % len(ranks)]
        deltas.append(Delta(name, block, random(rows, rank, seed=number), random(rank, columns, seed=100 + number)))
    return Patch(tuple(deltas), model.fingerprint, "MEND")


def mixed(model: InspectedModel) -> Patch:
    """Return a patch of a wide and a tall dense change and a low-rank one."""
    names = list(model.architecture.mlp_projections(BLOCK))
    wide, tall = names[-1], names[0]
    deltas = [Delta(n, BLOCK, random(*plain.weight(model.network, n).shape, size=0.05)) for n in (wide, tall)]
    return Patch((*deltas, low_rank(model).deltas[-1]), model.fingerprint, "mixed")


def made(model: InspectedModel, case, kind: str) -> Patch:
    if kind == "LoRA":
        return run(sft(model, case, BLOCK, small(SftSettings, rank=3))).patch
    if kind == "DINM":
        return run(dinm(model, case, BLOCK, small(DinmSettings, damage_budget=None))).patch
    return low_rank(model) if kind == "MEND" else mixed(model)


def in_peft(model: InspectedModel, folder: Path):
    """Return what a person gets who loads the adapter on the plain network."""
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(model.network), str(folder)).eval()


@pytest.mark.parametrize("kind", ["LoRA", "DINM", "MEND", "mixed"])
def test_an_adapter_in_peft_gives_the_patch_s_logits_added_or_merged(tiny, case, tmp_path, kind):
    for name in {"DINM": ("llama",), "MEND": FEW}.get(kind, (*FEW, "phi3", "gemma2", "gpt_neox")):
        model, folder = tiny(name), tmp_path / name
        patch = made(model, case, kind)
        save_adapter(model, patch, folder)
        own = by_hand.running_logits(model, IDS, [Row(patch)])[0]
        assert (own - by_hand.vanilla_logits(model, IDS)).abs().max() > 1e-2
        loaded = in_peft(model, folder)
        assert torch.allclose(by_hand.logits(loaded, IDS), own, atol=ATOL)
        merged = loaded.merge_and_unload()
        assert torch.allclose(by_hand.logits(merged, IDS), own, atol=ATOL)
        trained = {n for n, d in plain.all_deltas(model.network, merged).items() if d.any()}
        assert trained == {delta.module for delta in patch.deltas}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_an_adapter_has_the_strength_that_it_was_saved_with(tiny, tmp_path, strength):
    for name in FEW:
        model = tiny(name)
        patch = mixed(model)
        save_adapter(model, patch, tmp_path / name, strength)
        own = by_hand.running_logits(model, IDS, [Row(patch, strength)])[0]
        assert torch.allclose(by_hand.logits(in_peft(model, tmp_path / name), IDS), own, atol=ATOL)


def test_two_adapters_side_by_side_on_one_network_each_give_their_own_patch_s_logits(tiny, tmp_path):
    """They share a matrix and have others of their own; the chosen one acts alone, and with none it is vanilla."""
    for name in ("llama", "gpt2"):
        model = tiny(name)
        patches = {"first": mixed(model), "second": low_rank(model)}
        for label, patch in patches.items():
            save_adapter(model, patch, tmp_path / name / label)
        loaded = in_peft(model, tmp_path / name / "first")
        loaded.load_adapter(str(tmp_path / name / "second"), adapter_name="second")
        own = {"default": patches["first"], "second": patches["second"]}
        for label in ("second", "default", "second"):
            loaded.set_adapter(label)
            expected = by_hand.running_logits(model, IDS, [Row(own[label])])[0]
            assert torch.allclose(by_hand.logits(loaded, IDS), expected, atol=ATOL), (name, label)
        vanilla = by_hand.vanilla_logits(model, IDS)
        both = [by_hand.running_logits(model, IDS, [Row(patch)])[0] for patch in patches.values()]
        assert (
            min((one - other).abs().max() for one, other in ((*both,), (both[0], vanilla), (both[1], vanilla))) > 1e-2
        )
        with loaded.disable_adapter():
            assert torch.equal(by_hand.logits(loaded, IDS), vanilla)


@torch.no_grad()
def test_a_server_answers_a_batch_with_several_adapters_at_once_and_with_both_added_into_one(tiny, tmp_path):
    """Each row by its own adapter, one by none, as peft serves them; the sum is that of both patches."""
    for name in ("llama", "gpt2"):
        model = tiny(name)
        patches = {"first": mixed(model), "second": low_rank(model)}
        for label, patch in patches.items():
            save_adapter(model, patch, tmp_path / name / label, 0.5 if label == "first" else 1.0)
        loaded = in_peft(model, tmp_path / name / "first")
        loaded.load_adapter(str(tmp_path / name / "second"), adapter_name="second")
        rows = [Row(patches["second"]), VANILLA, Row(patches["first"], 0.5), Row(patches["second"])]
        expected = by_hand.running_logits(model, IDS, rows)
        ids = torch.tensor([IDS] * len(rows))
        found = loaded(input_ids=ids, use_cache=False, adapter_names=["second", "__base__", "default", "second"])
        assert torch.allclose(found.logits, expected, atol=ATOL), name
        pairs = itertools.combinations(found.logits[:3], 2)
        assert min(float((one - other).abs().max()) for one, other in pairs) > 1e-2
        loaded.add_weighted_adapter(["default", "second"], [1.0, 1.0], "both", combination_type="cat")
        loaded.set_adapter("both")
        both = plain.written(plain.written(model.network, patches["first"], 0.5), patches["second"])
        assert torch.allclose(by_hand.logits(loaded, IDS), by_hand.logits(both, IDS), atol=ATOL), name


def test_an_adapter_keeps_low_ranks_in_float32_and_nothing_else_in_its_folder(llama, tmp_path):
    patch = mixed(llama)
    save_adapter(llama, patch, tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, "adapter_config.json"}
    tensors = load_file(folder / WEIGHTS)
    assert len(tensors) == 2 * len(patch.deltas) and {t.dtype for t in tensors.values()} == {torch.float32}
    ranks = [tensors[f"base_model.model.{delta.module}.lora_A.weight"].shape[0] for delta in patch.deltas]
    assert ranks == [32, 32, patch.deltas[2].left.shape[1]]
    told = json.loads((folder / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["task_type"]) == (llama.name, "CAUSAL_LM")
    assert set(told["target_modules"]) == {delta.module for delta in patch.deltas}


def test_saving_again_replaces_the_adapter(llama, tmp_path):
    save_adapter(llama, low_rank(llama), tmp_path)
    patch = by_hand.patch(llama)
    save_adapter(llama, patch, tmp_path)
    own = by_hand.running_logits(llama, IDS, [Row(patch)])[0]
    assert torch.allclose(by_hand.logits(in_peft(llama, tmp_path), IDS), own, atol=ATOL)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_leaves_the_adapter_that_was_there(llama, tmp_path, monkeypatch, code):
    save_adapter(llama, low_rank(llama), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(code, "no", "/srv/secret")

    monkeypatch.setattr("inspector.model.whole_file.os.fsync", full)
    with pytest.raises(OSError):
        save_adapter(llama, by_hand.patch(llama), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_a_dense_change_is_its_two_factors_bit_for_bit(shape):
    change = random(*shape)
    outer, inner = factors(Delta("m", 0, change))
    assert torch.equal(outer @ inner, change) and outer.shape[1] == inner.shape[0] == min(shape)


def test_another_model_s_patch_or_a_strength_out_of_range_is_refused_and_writes_nothing(llama, tiny, tmp_path):
    other = by_hand.patch(tiny("gpt2"))
    with pytest.raises(PatchError, match=f"{other.identifier} was made for another base model.*Load that model"):
        save_adapter(llama, other, tmp_path / "new")
    for strength in (-0.1, 1.6):
        with pytest.raises(PatchError, match="out of range"):
            save_adapter(llama, by_hand.patch(llama), tmp_path / "new", strength)
    assert not (tmp_path / "new").exists()


def test_a_low_rank_change_has_the_norm_and_the_changed_weights_of_its_dense_form(monkeypatch):
    left, right = random(12, 3), random(3, 20, seed=2)
    left[4], right[:, 7:9] = 0, 0
    low = Delta("m", 0, left, right)
    dense = Delta("m", 0, low.dense())
    assert low.square_norm == pytest.approx(float(low.dense().square().sum()), rel=1e-5)
    assert dense.square_norm == pytest.approx(low.square_norm, rel=1e-5)
    assert low.parameters_changed == dense.parameters_changed == 11 * 18
    monkeypatch.setattr(patches, "IN_FLOAT64", 50)
    assert Delta("m", 0, dense.left).square_norm == pytest.approx(dense.square_norm, rel=1e-12), "two rows at a time"
    assert low.shape == dense.shape == (12, 20)


def test_a_low_rank_change_that_cancels_has_no_negative_norm():
    """The two terms of the product are of order 1 and cancel; in float32 their sum may be below zero."""
    left = torch.cat([random(8, 1, size=1), -random(8, 1, size=1)], dim=1)
    right = random(1, 9, seed=2, size=1).expand(2, 9).contiguous()
    delta = Delta("m", 0, left, right)
    assert 0 <= delta.square_norm < 1e-9
    assert Patch((delta,), "f", "m").norm == pytest.approx(0, abs=1e-4)


def test_a_patch_adds_norms_changed_weights_and_bytes_over_its_matrices(llama):
    patch = mixed(llama)
    wide, tall, low = patch.deltas
    squares = sum(float(delta.dense().double().square().sum()) for delta in patch.deltas)
    assert patch.norm == pytest.approx(squares**0.5, rel=1e-6)
    assert patch.parameters_changed == 3 * 32 * 48
    assert patch.bytes == 4 * (2 * 32 * 48 + low.left.shape[1] * (32 + 48))
    few = torch.zeros(32, 48)
    few[3, 5], few[0, 7] = 0.1, -0.2
    assert Patch((replace(wide, left=few), tall), llama.fingerprint, "m").parameters_changed == 2 + 32 * 48


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([5], "layer 5"),
        ([5, 5], "layer 5, 2 matrices"),
        ([2, 0], "layers 0, 2, 2 matrices"),
        ([0, 1, 2], "layers 0, 1, 2, 3 matrices"),
        ([3, 2, 1, 0, 0], "layers 0 to 3, 5 matrices"),
        ([0, 1, 2, 4], "layers 0, 1, 2, 4, 4 matrices"),
    ],
)
def test_a_patch_says_where_it_acts_in_a_few_words(blocks, expected):
    deltas = tuple(Delta(f"m{n}", block, torch.ones(2, 2)) for n, block in enumerate(blocks))
    patch = Patch(deltas, "f", "SFT")
    assert patch.where() == expected
    assert Row(patch, 0.5).label() == f"SFT · {expected} · strength 0.5 · patch {patch.identifier}"
    assert Row(patch, 0.0).label() == "vanilla"
