"""A saved edit comes back as it was; what is cut, changed, of another base or smuggled in is refused by name."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from training_helpers import small

from editing import DinmSettings, EditResult, dinm, run
from editing.saved import files, handed_out, load_edit, record_of, save_edit
from editing.saved.files import check_patch
from inspector.errors import EditError, PatchError
from inspector.model import VANILLA, Delta, Detector, Patch, Row, from_parts
from inspector.safeedit.scores import Estimate, Score

ASKED = "both weights with the same prompts"
SCORE = Score("DL", "likeness", "%", Estimate(100.0, 3), Estimate(80.0, 3, 70.0, 90.0), "higher", "ROUGE-L")


@pytest.fixture(scope="module")
def made() -> list[EditResult]:
    """The edit that these tests save, once one of them has made it."""
    return []


@pytest.fixture
def edited(llama, case, made) -> EditResult:
    if not made:
        made.append(run(dinm(llama, case, 1, small(DinmSettings, damage_budget=None))))
    return made[0]


@pytest.fixture
def saved(llama, case, edited, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(llama, "revision", "main")  # as of a hub model that was loaded so
    record = record_of(llama, case, edited, edited.row(0.5), scores=[SCORE], asked=ASKED)
    return save_edit(edited.row(0.5), record, tmp_path)


def test_an_edit_comes_back_from_both_files_as_it_was(llama, case, edited, saved):
    for path in (saved, saved.with_suffix(".safetensors")):
        row, record = load_edit(path, llama)
        assert row.strength == 0.5 and row.detector is None and row.patch.identifier == edited.patch.identifier
        assert torch.equal(row.patch.deltas[0].left, edited.patch.deltas[0].left)
        assert record.case == case and record.settings == json.loads(json.dumps(asdict(edited.settings)))
        assert (record.method, record.block, record.updates) == ("dinm", 1, edited.kept)
        assert record.scores["DL"]["edited"] == {"value": 80.0, "low": 70.0, "high": 90.0, "n": 3}
        assert record.asked == ASKED
        assert record.revision == "main" and {"torch", "python"} <= set(record.versions)
        assert not record.may_leave, "no gate has seen it"
    assert [path.suffix for path in saved.parent.iterdir() if "partial" in path.suffix] == []


def test_a_routed_edit_keeps_its_detector(llama, case, edited, tmp_path):
    detector = Detector((0,), torch.ones(1, 32), 0.5, 0.25, llama.fingerprint)
    row = Row(edited.patch, detector=detector)
    found, record = load_edit(save_edit(row, record_of(llama, case, edited, row), tmp_path), llama)
    assert record.routed and found.detector.digest == detector.digest and found.key == row.key


def test_a_patch_that_comes_back_with_another_detector_is_not_kept(llama, case, edited, tmp_path, monkeypatch):
    first, second = (Detector((0,), size * torch.ones(1, 32), 0.5, 0.25, llama.fingerprint) for size in (1.0, 2.0))
    assert first.record() == second.record(), "they differ in their weights alone"
    row = Row(edited.patch, detector=first)
    record = record_of(llama, case, edited, row)
    monkeypatch.setattr(handed_out, "load_edit", lambda *_: (Row(edited.patch, detector=second), record))
    with pytest.raises(PatchError, match="another edit than the live one"):
        handed_out.written_patch(llama, row, record, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_edit_that_was_there_and_is_told_without_its_path(
    llama, case, edited, saved, monkeypatch
):
    before = {file.name: file.read_bytes() for file in saved.parent.iterdir()}
    again = replace(load_edit(saved, llama)[1], made="2026-01-01T00:00:00+00:00")
    for place in ("inspector.model.tensor_file.save_file", "inspector.model.whole_file.os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(PatchError, match="Make room") as told:
                save_edit(edited.row(0.5), again, saved.parent)
        assert str(saved.parent) not in told.value.user_message() and "No space" not in told.value.user_message()
        assert str(saved.parent) in told.value.operator_message(), "command lines name the folder"
        assert {file.name: file.read_bytes() for file in saved.parent.iterdir()} == before


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("there", ["both files", "the patch alone", "a record that cannot be read"])
def test_the_same_change_at_another_strength_does_not_take_the_place_of_a_saved_edit(llama, case, edited, saved, there):
    if there == "the patch alone":
        saved.unlink()
    if there == "a record that cannot be read":
        saved.write_text("{}")
    before = content(saved.parent)
    row = edited.row(0.75)
    record = record_of(llama, case, edited, row)
    for write in (lambda: save_edit(row, record, saved.parent), lambda: written(llama, row, record, saved.parent)):
        with pytest.raises(PatchError, match="Name another folder") as told:
            write()
        assert str(saved.parent) not in told.value.user_message()
        assert content(saved.parent) == before


def written(*given: Any) -> Path:
    return handed_out.written_patch(*given).path


@pytest.mark.parametrize("links", [True, False])
def test_a_program_that_is_killed_while_an_edit_is_saved_again_leaves_one_that_can_be_loaded(
    llama, case, edited, tmp_path, monkeypatch, links
):
    row, first = edited.row(0.5), record_of(llama, case, edited, edited.row(0.5))
    path = written(llama, row, first, tmp_path)
    later = replace(first, made="2026-01-01T00:00:00+00:00", seconds=first.seconds + 1)
    rename, seen = Path.replace, []

    def step(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if Path(target).parent == tmp_path or self.parent == tmp_path:
            patch = path.with_suffix(".safetensors")
            seen.append(load_edit(patch, llama)[1].made if patch.exists() else "nothing")
        return done

    monkeypatch.setattr(Path, "replace", step)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", full)
    written(llama, row, later, tmp_path)
    assert seen == ([] if links else ["nothing"]) + [later.made] * 2, "after each name that is given"
    assert len(list(tmp_path.iterdir())) == 2 and load_edit(path, llama)[1] == later


@pytest.mark.parametrize("end", [PatchError("It cannot be read. Choose another file."), KeyboardInterrupt()])
def test_an_edit_that_is_saved_again_takes_its_place_only_once_it_was_read_back(
    llama, case, edited, tmp_path, monkeypatch, end
):
    row, first = edited.row(0.5), record_of(llama, case, edited, edited.row(0.5))
    path = written(llama, row, first, tmp_path)
    before = content(tmp_path)
    later = replace(first, made="2026-01-01T00:00:00+00:00", seconds=first.seconds + 1)

    def ended(*_: Any) -> Any:
        assert content(tmp_path).items() > before.items(), "the new files lie beside the earlier ones"
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(handed_out, "load_edit", ended)
        with pytest.raises(type(end)):
            written(llama, row, later, tmp_path)
    assert content(tmp_path) == before and len(list(tmp_path.iterdir())) == 2
    assert written(llama, row, later, tmp_path) == path and load_edit(path, llama)[1] == later
    assert len(list(tmp_path.iterdir())) == 2


def test_an_edit_whose_record_cannot_be_put_in_place_leaves_nothing(llama, case, edited, tmp_path, monkeypatch):
    plain = Path.replace

    def refused(self: Path, target: Path) -> Path:
        if target.parent == tmp_path and target.suffix == ".json":
            full()
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PatchError, match="Make room"):
        written(llama, edited.row(), record_of(llama, case, edited, edited.row()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused", [".safetensors", ".json"])
@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_edit_that_cannot_be_put_in_the_place_of_an_earlier_save_leaves_that_as_it_was(
    llama, case, edited, tmp_path, monkeypatch, refused, end
):
    row, first = edited.row(0.5), record_of(llama, case, edited, edited.row(0.5))
    path = written(llama, row, first, tmp_path)
    before, plain = content(tmp_path), Path.replace

    def ended(self: Path, target: Path) -> Path:
        if target.parent == tmp_path and target.suffix == refused and self.suffix == refused:
            raise end
        return plain(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", ended)
        with pytest.raises(PatchError if isinstance(end, OSError) else KeyboardInterrupt):
            written(llama, row, replace(first, made="2026-01-01T00:00:00+00:00"), tmp_path)
    assert content(tmp_path) == before and load_edit(path, llama)[1] == first


def test_the_names_of_a_saved_edit_are_on_the_disk_before_it_is_told(llama, case, edited, tmp_path, monkeypatch):
    pushed: list[set[str]] = []
    monkeypatch.setattr(files, "to_disk", lambda folder: pushed.append(set(content(folder))))
    path = written(llama, edited.row(), record_of(llama, case, edited, edited.row()), tmp_path)
    assert pushed == [{path.name, path.with_suffix(".safetensors").name}]


def full(*_given: Any, **_named: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", "/srv/secret")


def test_nothing_but_an_edit_s_own_record_is_written_beside_it(llama, case, edited, tmp_path):
    other = Row(by_hand.patch(llama, 1))
    with pytest.raises(PatchError, match="another edit"):
        save_edit(other, record_of(llama, case, edited, edited.row()), tmp_path)
    with pytest.raises(EditError, match="vanilla weights"):
        record_of(llama, case, edited, VANILLA)
    with pytest.raises(EditError, match="Unknown method"):
        record_of(llama, case, edited, edited.row(), method="magic")
    assert not list(tmp_path.iterdir())


def test_a_cut_a_changed_and_a_missing_file_are_told_apart(llama, saved):
    patch = saved.with_suffix(".safetensors")
    whole = patch.read_bytes()
    patch.write_bytes(whole[:-8])
    with pytest.raises(PatchError, match="cut or changed"):
        load_edit(saved, llama)
    with pytest.raises(PatchError, match="cannot be read"):
        load_edit(patch, llama)
    patch.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PatchError, match="SHA-256"):
        load_edit(saved, llama)
    with pytest.raises(PatchError, match="changed after it was written"):
        load_edit(patch, llama)
    patch.unlink()
    with pytest.raises(PatchError, match="not beside its record"):
        load_edit(saved, llama)
    with pytest.raises(PatchError, match="cannot be read"):
        load_edit(patch, llama)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "../other.safetensors"}, "outside its own folder"),
        ({"name": "/etc/passwd"}, "outside its own folder"),
        ({"format": "something else"}, "no record of an edit"),
        ({"extra": 1}, "cannot be read"),
        ({"record": {}}, "cannot be read"),
    ],
)
def test_a_record_that_was_written_by_hand_is_refused(llama, saved, change, match):
    saved.write_text(json.dumps({**json.loads(saved.read_text()), **change}))
    with pytest.raises(PatchError, match=match):
        load_edit(saved, llama)


def test_a_record_that_says_something_else_than_the_patch_is_refused(llama, saved):
    told = json.loads(saved.read_text())
    told["record"]["gate"] = {"passed": True}
    saved.write_text(json.dumps(told))
    with pytest.raises(PatchError, match="something else than the patch itself"):
        load_edit(saved, llama)
    saved.write_text("[" * 100_000)
    with pytest.raises(PatchError, match="cannot be read"):
        load_edit(saved, llama)


def test_further_tensors_and_what_is_no_number_are_refused(llama, saved):
    patch = saved.with_suffix(".safetensors")
    from safetensors import safe_open

    with safe_open(patch, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop("sha256")  # of an earlier version
    tensors = load_file(patch)
    save_file({**tensors, "more": torch.ones(2)}, patch, metadata=metadata)
    with pytest.raises(PatchError, match="holds more than a patch"):
        load_edit(patch, llama)
    save_file({**tensors, "0.left": tensors["0.left"] * 2}, patch, metadata=metadata)
    with pytest.raises(PatchError, match="another patch than its record says"):
        load_edit(patch, llama)
    save_file({**tensors, "0.left": tensors["0.left"] * float("nan")}, patch, metadata=metadata)
    with pytest.raises(PatchError, match="not finite"):
        load_edit(patch, llama)


def test_a_patch_of_another_base_name_layer_or_shape_is_refused(llama):
    patch = by_hand.patch(llama, 1)
    delta = patch.deltas[0]
    with pytest.raises(PatchError, match="another base model"):
        check_patch(llama, replace(patch, fingerprint="0" * 16))
    for wrong, match in (
        (Delta("model.nowhere", 1, delta.left), "no part"),
        (replace(delta, block=0), "no part"),
        (replace(delta, block=999), "no part"),
        (replace(delta, block=-2), "no part"),
        (Delta("lm_head", 1, torch.ones(llama.architecture.vocabulary, 32)), "no part"),
        (Delta(delta.module, 1, delta.left[:, :-1].contiguous()), "by a matrix of"),
    ):
        with pytest.raises(PatchError, match=match):
            check_patch(llama, Patch((wrong,), llama.fingerprint, "hand"))
    check_patch(llama, patch)


def test_a_patch_of_the_same_checkpoint_in_float16_is_refused_with_the_reason(llama):
    """In float32 and bfloat16 a checkpoint has one fingerprint; float16 rounds what is close to zero."""
    networks = [tiny_models.network("llama").to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    for network in networks:
        with torch.no_grad():
            network.model.norm.weight.copy_(network.model.norm.weight * 2**-15)
    whole, short, half = (from_parts(network, llama.tokenizer, "same") for network in networks)
    assert whole.fingerprint == short.fingerprint != half.fingerprint
    with pytest.raises(PatchError, match=r"another base model .*In float16 even the same checkpoint.*Load that model"):
        check_patch(half, by_hand.patch(whole, 1))


def test_a_file_larger_than_the_model_is_not_opened(llama, saved, monkeypatch):
    monkeypatch.setattr("editing.saved.files.most_bytes", lambda _: 100)
    with pytest.raises(PatchError, match=r"made for another base model, .*\. Load that model"):
        load_edit(saved, llama)
    with pytest.raises(PatchError, match="larger than any edit"):
        load_edit(saved.with_suffix(".safetensors"), llama)
