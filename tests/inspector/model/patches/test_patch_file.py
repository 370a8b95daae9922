"""A patch that was written to disk comes back as it was, and anything else is refused."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inspector.errors import PatchError
from inspector.model import Delta, Detector, Hidden, Patch, Row, Taught
from inspector.model.patches.patch_file import load_patch, load_row, save_patch

LACKING = '{"deltas": [{"module": "part", "block": 0}]}'
IDS = (1, 40, 80, 120, 160, 200, 240, 30)


def mixed(model) -> Patch:
    """Return a patch with a dense and a low-rank delta."""
    torch.manual_seed(0)
    low_rank = Delta(by_hand.down_name(model.network, 2), 2, torch.randn(32, 2), torch.randn(2, 48))
    settings = {"learning_rate": 1e-3, "clamp": None, "preset": "corrected", "chat": True}
    return Patch((by_hand.patch(model, 1).deltas[0], low_rank), model.fingerprint, "DINM", settings)


def test_a_patch_comes_back_bit_for_bit_with_its_record(llama, tmp_path):
    taught = (Taught("No <b>é</b>."), Taught("Rather not.", fits_any=True))
    patch = replace(mixed(llama), taught=taught)
    save_patch(patch, tmp_path / "new" / "edit.safetensors", {"layer": 3, "texts": ["<b>é</b>"]})
    again, extra = load_patch(tmp_path / "new" / "edit.safetensors")
    assert again.identifier == patch.identifier
    assert (again.fingerprint, again.method, again.blocks) == (patch.fingerprint, "DINM", (1, 2))
    assert dict(again.settings) == dict(patch.settings) and again.taught == taught
    assert extra == {"layer": 3, "texts": ["<b>é</b>"]}
    one, two = (by_hand.running_logits(llama, IDS, [Row(p)]) for p in (patch, again))
    assert torch.equal(one, two)


def test_a_routed_edit_comes_back_with_its_detector_and_never_without_it(llama, tmp_path):
    path, patch = tmp_path / "edit.safetensors", mixed(llama)
    made = Detector((0, 2), torch.arange(64.0).reshape(2, 32), 0.5, 1.5, llama.fingerprint, about={"questions": 3})
    save_patch(patch, path, {"layer": 3}, made)
    row, extra = load_row(path)
    assert row.patch.identifier == patch.identifier and extra == {"layer": 3}
    assert row.detector.record() == made.record() and torch.equal(row.detector.weights, made.weights)
    with pytest.raises(PatchError, match=r"holds a routed edit.*Read it with load_row"):
        load_patch(path)
    layer = Hidden(torch.full((3, 2, 32), 0.1), torch.ones(3), torch.ones(3))  # 0.1 is no half-precision number
    own = replace(made, cases=torch.ones(1, 2, 32), case_biases=(0.25,), hidden=layer)
    save_patch(patch, path, detector=own)
    assert load_row(path)[0].detector.digest == own.digest != made.digest
    save_patch(patch, path, detector=replace(made, fingerprint="another"))
    with pytest.raises(PatchError, match="belong to different models"):
        load_row(path)


def test_writing_leaves_one_file_and_replaces_an_older_one(llama, tmp_path):
    path = tmp_path / "edit.safetensors"
    for patch in (by_hand.patch(llama, 1), mixed(llama)):
        save_patch(patch, path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["edit.safetensors"]
    assert load_patch(path)[0].identifier == mixed(llama).identifier


def test_files_that_are_no_patch_are_refused(llama, tmp_path):
    path = tmp_path / "edit.safetensors"
    with pytest.raises(PatchError, match="cannot be read"):
        load_patch(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(PatchError, match="not a patch of this program"):
        load_patch(path)
    for content in (b"", b"PK\x03\x04", b"\x00" * 64):
        path.write_bytes(content)
        with pytest.raises(PatchError, match="cannot be read"):
            load_patch(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.99])
def test_a_patch_cut_short_is_refused(llama, tmp_path, share):
    path = tmp_path / "edit.safetensors"
    save_patch(mixed(llama), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PatchError, match="cannot be read"):
        load_patch(path)


@pytest.mark.parametrize("record", ["{", "{}", "[]", '{"deltas": [{}]}', '{"deltas": 7}'])
def test_a_record_that_lacks_something_is_refused(tmp_path, record):
    path = tmp_path / "edit.safetensors"
    metadata = {"format": "dinm-inspector patch 2", "record": record}
    save_file({"0.left": torch.zeros(4, 6)}, path, metadata=metadata)
    with pytest.raises(PatchError, match="cannot be read"):
        load_patch(path)


def test_a_patch_file_with_values_that_are_not_finite_is_refused(llama, tmp_path):
    path = tmp_path / "edit.safetensors"
    patch = by_hand.patch(llama, 1)
    save_patch(patch, path)
    with safe_open(path, framework="pt") as file:
        tensor, said = file.get_tensor("0.left").clone(), file.metadata()
    tensor[-1, -1] = float("nan")
    said.pop("sha256")  # of an earlier version
    save_file({"0.left": tensor}, path, metadata=said)
    with pytest.raises(PatchError, match="not finite"):
        load_patch(path)


def test_one_bit_that_was_changed_since_is_refused_and_a_patch_of_an_earlier_version_is_read(llama, tmp_path):
    path, patch = tmp_path / "edit.safetensors", mixed(llama)
    save_patch(patch, path, {"layer": 3})
    with safe_open(path, framework="pt") as file:
        tensors, said = {name: file.get_tensor(name).clone() for name in list(file.keys())}, file.metadata()
    for change in ("a tensor", "the record"):
        if change == "a tensor":
            by_hand.flip_bit(path)
        else:
            save_file(tensors, path, {**said, "record": said["record"] + " "})
        with pytest.raises(PatchError, match=r"edit\.safetensors was changed after it was written .*copy it anew"):
            load_patch(path)
    del said["sha256"]
    save_file(tensors, path, said)
    assert load_patch(path)[0].identifier == patch.identifier
