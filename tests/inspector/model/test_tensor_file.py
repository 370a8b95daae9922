"""Tensors with a record on disk: whatever is changed in them afterwards is seen, by their SHA-256."""

from __future__ import annotations

import errno
from pathlib import Path

import by_hand
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inspector.model.tensor_file import SHA256, Changed, check_unchanged, write_tensors

ASSETS = Path(__file__).resolve().parents[3] / "assets"
TENSORS = {
    "half": torch.ones(2, 3).half(),
    "one number": torch.tensor(3.0, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
    "yes or no": torch.tensor([True, False]),
    "turned": torch.arange(6).reshape(2, 3).T,
}


def check(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        check_unchanged(file)


@pytest.mark.parametrize("change", ["a bit", "a name", "a dtype", "a shape", "a tensor more", "the record", "the kind"])
def test_whatever_was_changed_since_is_seen(tmp_path, change):
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS, "kind 1", {"text": "é", "number": 0.1})
    check(path)
    with safe_open(path, framework="pt") as file:
        tensors, said = {name: file.get_tensor(name).clone() for name in list(file.keys())}, file.metadata()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items()) and len(said[SHA256]) == 64
    if change == "a bit":
        by_hand.flip_bit(path)
    elif change == "the record":
        save_file(tensors, path, {**said, "record": said["record"].replace("0.1", "0.2")})
    elif change == "the kind":
        save_file(tensors, path, {**said, "format": "kind 2"})
    else:
        half = tensors.pop("half")
        other = {"a name": ("other", half), "a dtype": ("half", half.view(torch.bfloat16))}
        other |= {"a shape": ("half", half.reshape(3, 2)), "a tensor more": ("half", half)}
        name, tensor = other[change]
        more = {"more": torch.ones(1)} if change == "a tensor more" else {}
        save_file({**tensors, name: tensor, **more}, path, said)
    with pytest.raises(Changed, match="changed after it was written"):
        check(path)


def test_a_file_of_an_earlier_version_has_no_hash_and_is_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "file.safetensors", {"format": "kind 1", "record": "{}"})
    check(tmp_path / "file.safetensors")


def test_every_file_that_ships_has_its_hash():
    shipped = sorted(ASSETS.glob("**/*.safetensors"))
    assert len(shipped) > 5
    for path in shipped:
        with safe_open(path, framework="pt") as file:
            assert SHA256 in file.metadata(), path.name
            check_unchanged(file)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("Error while serializing: I/O error: Read-only file system (os error 30)", errno.EROFS),
        ("Error while serializing: something else", None),
    ],
)
def test_what_safetensors_says_of_a_disk_is_an_error_of_the_system_and_what_stood_there_stays(
    tmp_path, monkeypatch, said, number
):
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"before")

    def full(*_given, **_named):
        raise SafetensorError(said)

    monkeypatch.setattr("inspector.model.tensor_file.save_file", full)
    with pytest.raises(OSError, match=r"space|Read-only|something else") as told:
        write_tensors(path, TENSORS, "kind 1", {})
    assert told.value.errno == number and isinstance(told.value.__cause__, SafetensorError)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]
