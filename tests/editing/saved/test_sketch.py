"""A record alone says whether an edit made again is the same, and about how far it is where it is not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import by_hand
import pytest
import torch
from training_helpers import small

from editing import DinmSettings, dinm, run
from editing.saved import load_edit, record_of, save_edit
from editing.saved.files import record_alone
from editing.saved.record import EditRecord, digest_of
from editing.saved.reproduce import reproduce
from editing.saved.sketch import MOST_NORM, PROJECTIONS, SHARES, STANDARD_ERROR, Sketch, sketch_of
from inspector.errors import EditError, PatchError
from inspector.model import Delta, Patch
from inspector.validated import read_record

SETTINGS = small(DinmSettings, damage_budget=None)


def patch_of(*deltas: Delta) -> Patch:
    return Patch(deltas, "0" * 16, "hand")


def test_the_numbers_of_a_patch_are_the_same_in_every_version_and_however_it_is_written():
    """Records of today are held against edits of years to come, so the signs may never change."""
    left, right = torch.arange(1.0, 13.0).reshape(6, 2), torch.tensor([[1.0, -2, 3, 0.5], [0, 1, -1, 2]])
    sketch = sketch_of(patch_of(Delta("model.layers.0.mlp.down_proj", 0, left, right)))
    dense = sketch_of(patch_of(Delta("model.layers.0.mlp.down_proj", 0, left @ right)))
    assert sketch.projections[:4] == GOLDEN and len(sketch.projections) == PROJECTIONS
    assert dense.projections == pytest.approx(sketch.projections) and dense.norm == pytest.approx(sketch.norm)
    assert sketch.norm == pytest.approx(float((left @ right).norm())) and sketch.matrices[0].shape == (6, 4)
    assert dense.changed(sketch) == ("model.layers.0.mlp.down_proj",), "factors are other bits than their product"
    other = sketch_of(patch_of(Delta("model.layers.1.mlp.down_proj", 1, left, right)))
    assert other.projections != sketch.projections


GOLDEN = (6.0, -28.0, -40.0, 43.0)


@pytest.mark.parametrize("rank", [1, 8])
def test_the_estimate_is_right_on_average_and_no_wider_than_is_told(rank):
    """Of many differences of one norm, those of rank 1 being the hardest."""
    made = torch.Generator().manual_seed(0)
    estimates = []
    for number in range(150):
        one, two = (torch.randn(8, 10, generator=made) for _ in range(2))
        planted = torch.randn(8, rank, generator=made) @ torch.randn(rank, 10, generator=made)
        pair = [Delta(f"a{number}", 0, one), Delta(f"b{number}", 1, two)]
        away = [replace(pair[0], left=one + planted), pair[1]]
        sketch = sketch_of(patch_of(*pair))
        told = sketch.relative_difference(sketch_of(patch_of(*away)))
        estimates.append(told * sketch.norm / float(planted.norm()))
        assert sketch.changed(sketch_of(patch_of(*away))) == (f"a{number}",)
    found = torch.tensor(estimates, dtype=torch.float64)
    assert float(found.square().mean()) == pytest.approx(1.0, abs=0.09)
    assert STANDARD_ERROR / 3 < float(found.std()) < STANDARD_ERROR
    assert SHARES[0] < float(found.min()) and float(found.max()) < SHARES[1]
    assert float(((found - 1).abs() < 2 * STANDARD_ERROR).double().mean()) > 0.95


def test_a_matrix_that_one_of_them_lacks_counts_with_its_whole_norm():
    made = torch.Generator().manual_seed(1)
    one, two = (Delta(name, 0, torch.randn(8, 10, generator=made)) for name in "ab")
    both, single = sketch_of(patch_of(one, two)), sketch_of(patch_of(one))
    expected = float(two.left.norm()) / both.norm
    assert both.relative_difference(single) == pytest.approx(expected, rel=3 * STANDARD_ERROR)
    assert both.changed(single) == single.changed(both) == ("b",)
    assert both.relative_difference(both) == 0.0 and both.changed(both) == ()


def test_an_edit_is_made_again_from_its_record_alone_and_a_planted_difference_is_found(llama, case):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    again = run(reproduce(llama, None, record))
    assert again.same_bits and again.same and again.largest == 0 and "to the bit" in again.reading(record)
    delta = first.patch.deltas[0]
    noise = torch.randn(delta.left.shape, generator=torch.Generator().manual_seed(2))

    def planted(size: float) -> EditRecord:
        away = replace(delta, left=delta.left + size * noise * delta.left.norm() / noise.norm())
        patch = replace(first.patch, deltas=(away,))
        return replace(record, digest=digest_of(patch), identifier=patch.identifier, sketch=sketch_of(patch))

    for size, same in ((0.5, False), (2e-3, False), (1e-5, True)):
        told = planted(size)
        found = run(reproduce(llama, None, told))
        assert found.same is same and not found.same_bits and found.largest is None, size
        assert found.relative == pytest.approx(size, rel=0.5) and found.error == STANDARD_ERROR
        assert found.changed == (delta.module,) and "standard error at most 18 %" in found.reading(told)
        assert ("The same edit within" if same else "Another edit") in found.reading(told)
    close = run(reproduce(llama, None, planted(9e-4)))
    assert not close.same, "what may as well be beyond the tolerance is not called the same"


def test_a_record_of_an_earlier_version_still_tells_the_same_bits_and_else_asks_for_the_patch(llama, case):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = replace(record_of(llama, case, first, first.row()), sketch=None)
    assert run(reproduce(llama, None, record)).same_bits
    with pytest.raises(EditError, match=r"of an earlier version .* Put its \.safetensors beside"):
        run(reproduce(llama, None, replace(record, digest="0" * 64)))
    found = run(reproduce(llama, by_hand.patch(llama, 1), replace(record, digest="0" * 64)))
    assert not found.same and found.changed and found.largest > 0


def test_the_record_is_read_alone_only_where_its_patch_is_not_there(llama, case, tmp_path):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    path = save_edit(first.row(), record, tmp_path)
    assert record_alone(path) is None and record_alone(path.with_suffix(".safetensors")) is None
    path.with_suffix(".safetensors").unlink()
    assert record_alone(path) == record
    beside = tmp_path / "dinm-edit.json"
    beside.write_text(json.dumps(record.json()), encoding="utf-8")
    assert record_alone(beside) == record
    earlier = {name: value for name, value in record.json().items() if name not in ("sketch", "asked")}
    beside.write_text(json.dumps(earlier), encoding="utf-8")
    assert record_alone(beside) == replace(record, sketch=None)
    for content in ("[]", "{}", "nothing"):
        beside.write_text(content, encoding="utf-8")
        with pytest.raises(PatchError, match=r"no record of an edit|cannot be read"):
            record_alone(beside)


def test_a_sketch_that_was_cut_or_holds_no_numbers_is_refused():
    sketch = sketch_of(patch_of(Delta("a", 0, torch.ones(2, 3))))
    told = json.loads(json.dumps(asdict(sketch)))
    assert read_record(Sketch, told) == sketch
    for wrong in (told["projections"][1:], [*told["projections"][1:], float("nan")]):
        with pytest.raises(ValueError, match="projections"):
            read_record(Sketch, {**told, "projections": wrong})
    for norm in (-1.0, float("nan"), float("inf"), 2 * MOST_NORM, 1e300):
        with pytest.raises(ValueError, match="norm"):
            read_record(Sketch, {**told, "matrices": [{**told["matrices"][0], "norm": norm}]})


def test_a_sketch_whose_numbers_are_of_another_norm_than_it_says_is_refused_where_it_is_read(llama, case, tmp_path):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    path = tmp_path / "dinm-edit.json"
    for size in (0.0, 0.1, 10.0, 1e30):
        numbers = tuple(size * one for one in record.sketch.projections)
        told = replace(record, sketch=replace(record.sketch, projections=numbers))
        path.write_text(json.dumps(told.json()), encoding="utf-8")
        with pytest.raises(PatchError, match="no record of an edit") as refused:
            record_alone(path)
        assert "of a norm of about" in str(refused.value.operator_message())


def test_a_norm_that_is_told_too_large_makes_no_other_edit_the_same(llama, case):
    """Within what the numbers leave open."""
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    larger = replace(record.sketch.matrices[0], norm=2 * record.sketch.norm)
    told = replace(record, digest="0" * 64, sketch=replace(record.sketch, matrices=(larger,)))
    found = run(reproduce(llama, None, told))
    assert not found.same and found.relative == pytest.approx(0.5)


def test_a_record_whose_sketch_is_of_another_patch_is_not_taken_with_its_own(llama, case, tmp_path):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    own, other = record.sketch, sketch_of(by_hand.patch(llama, 1))
    stray = replace(own, projections=tuple(1.01 * one for one in own.projections))
    longer = replace(own, matrices=(replace(own.matrices[0], norm=1.01 * own.norm),))
    rounded = replace(own, projections=tuple((1 + 1e-12) * one for one in own.projections))
    for number, sketch in enumerate((own, rounded, None)):
        load_edit(save_edit(first.row(), replace(record, sketch=sketch), tmp_path / str(number)), llama)
    for number, sketch in enumerate((other, stray, longer)):
        path = save_edit(first.row(), replace(record, sketch=sketch), tmp_path / f"wrong {number}")
        for given in (path, path.with_suffix(".safetensors")):
            with pytest.raises(PatchError, match=r"sketch in .* is of another patch"):
                load_edit(given, llama)
