"""Attacks by files: safetensors whose header promises more than there is, and zips that hold more than they say.

The program reads two kinds of archives: the embedded model (``tests/inspector/model/test_made_whole.py``) and the zip
of a saved edit that Keep takes in, whose other attacks are in ``tests/editing/saved/test_incoming.py``.
"""

from __future__ import annotations

import json
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
import pytest
from dashboard_helpers import Visitor, tiny_model
from keep_helpers import page_of, taken_in

from dashboard.kit.drawing.plain import is_hidden
from editing.saved.files import MOST_RECORD_BYTES, most_bytes
from editing.saved.incoming import unpack, unpacked_bytes
from inspector.errors import InspectorError
from inspector.model.patches.patch_file import load_patch

RECORD = json.dumps({"fingerprint": "x"})


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file with any header."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content + data)
    return path


def tensor(shape: list[int], begin: int = 0, end: int = 4) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


BOMBS: dict[str, tuple[Any, bytes, int | None]] = {
    "a header as long as all memory": (b"{}", b"", 2**62),
    "a header longer than the file": (b"{}", b"", 10_000),
    "a tensor of more values than can be counted": ({"0.left": tensor([2**31, 2**31])}, b"1234", None),
    "a tensor larger than the file": ({"0.left": tensor([2**30], 0, 2**32)}, b"1234", None),
    "tensors in the same place": ({"0.left": tensor([1]), "0.right": tensor([1])}, b"1234", None),
    "a place before the file": ({"0.left": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234", None),
    "a kind of number that is none": ({"0.left": {"dtype": "F0", "shape": [1], "data_offsets": [0, 4]}}, b"1234", None),
    "a record nested without end": (
        {"__metadata__": {"format": "dinm-inspector patch 2", "record": "[" * 100_000}},
        b"",
        None,
    ),
    "a record of numbers without end": (
        {"__metadata__": {"format": "dinm-inspector patch 2", "record": "9" * 100_000}},
        b"",
        None,
    ),
    "a header nested without end": (b'{"a":' * 50_000, b"", None),
    "another kind of file": (b"PK\x03\x04", b"", 4),
    "nothing": (b"", b"", 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_promises_more_than_it_holds_is_refused_at_once_and_takes_no_memory(tmp_path, name):
    header, data, length = BOMBS[name]
    path = written(tmp_path / "patch.safetensors", header, data, length)
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(InspectorError) as refused:
        load_patch(path)
    assert refused.value.user_message().endswith(".")
    assert time.process_time() - began < 5 and psutil.Process().memory_info().rss - before < 200e6


@pytest.mark.parametrize("lies", [False, True], ids=["says its size", "lies of its size"])
@pytest.mark.parametrize("name", ["edit.json", "edit.safetensors"])
def test_a_zip_that_unpacks_to_far_more_than_it_is_is_refused_at_once_and_takes_no_disk(tmp_path, name, lies):
    model, path, folder = tiny_model(), tmp_path / "edit.zip", tmp_path / "private"
    folder.mkdir()
    most = MOST_RECORD_BYTES if name.endswith("json") else most_bytes(model)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(name, bytes(4 * most))
    if lies:
        content = bytearray(path.read_bytes())
        place = content.rindex(b"PK\x01\x02")
        content[place + 24 : place + 28] = struct.pack("<I", 100)
        path.write_bytes(content)
    assert path.stat().st_size < most / 20
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(InspectorError) as refused:
        unpack([path], model, folder)
    assert refused.value.user_message().endswith(".") and str(tmp_path) not in refused.value.user_message()
    written = sum(file.stat().st_size for file in folder.iterdir())
    assert written <= most and written <= unpacked_bytes([path], model), (
        "room is kept for what it says, no more is taken"
    )
    assert time.process_time() - began < 5 and psutil.Process().memory_info().rss - before < 200e6


@pytest.mark.parametrize("way", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "LZMA"])
def test_a_zip_whose_compression_is_unpacked_without_a_bound_is_refused_before_anything_of_it_is(tmp_path, way):
    path, folder = tmp_path / "edit.zip", tmp_path / "private"
    folder.mkdir()
    with zipfile.ZipFile(path, "w", way) as archive:
        archive.writestr("edit.json", bytes(2**23))
    assert path.stat().st_size < 2**23 / 1000
    with pytest.raises(InspectorError, match="compressed in another way than by Deflate"):
        unpack([path], tiny_model(), folder)
    assert not list(folder.iterdir())


def listing(told: int, zip64: bool = False, place: int | None = None, comment: bytes = b"") -> bytes:
    """Return a zip's list of 200,000 files without a name, and at its end the record that tells of some number."""
    entries = (b"PK\x01\x02" + bytes(42)) * 200_000
    size, first = len(entries), b""
    if zip64:
        first = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, told, told, size, 0)
        first += struct.pack("<4sLQL", b"PK\x06\x07", 0, size if place is None else place, 1)
        told, size = 2, 92
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, told, told, size, 0, len(comment))
    return entries + first + end + comment


FAR_TOO_MANY: dict[str, tuple[dict[str, Any], str]] = {
    "says their number": ({"told": 60_000}, "holds 60000 files"),
    "says it in a zip64's record alone": ({"told": 200_000, "zip64": True}, "holds 200000 files"),
    "lies of their number": ({"told": 2}, "longer list of files than two files need"),
    "lies of it in both records": ({"told": 2, "zip64": True}, "longer list of files than two files need"),
    "has a zip64's record elsewhere": ({"told": 2, "zip64": True, "place": 0}, "cannot be unpacked"),
    "has another record in a comment": ({"told": 60_000, "comment": b"PK\x05\x06" + bytes(19)}, "cannot be unpacked"),
}


@pytest.mark.parametrize("name", FAR_TOO_MANY)
def test_a_zip_of_very_many_files_is_refused_before_its_list_is_read(tmp_path, monkeypatch, name):
    made, match = FAR_TOO_MANY[name]
    path = tmp_path / "edit.zip"
    path.write_bytes(listing(**made))

    def opened(*_: Any) -> None:
        raise AssertionError("an object was made of every file")

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    with pytest.raises(InspectorError, match=match):
        unpack([path], tiny_model(), tmp_path)


def test_a_zip64_of_two_files_is_unpacked(tmp_path, monkeypatch):
    path, folder = tmp_path / "edit.zip", tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("edit.json", b"{}")
        archive.writestr("edit.safetensors", b"weights")
    assert b"PK\x06\x06" in path.read_bytes()
    assert unpack([path], tiny_model(), folder).read_bytes() == b"{}"
    assert unpacked_bytes([path], tiny_model()) == len(b"{}" + b"weights")


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m\u2028"
EDIT = "edit.safetensors"
SHOWN = "&lt;img src=x onerror=alert(1)&gt;&lt;U+202E&gt;&lt;U+001B&gt;[31m&lt;U+2028&gt;"
NAMED: dict[str, tuple[str, dict[str, bytes], str, bool]] = {
    "the name of a zip": (f"{HOSTILE}.zip", {"a.json": b"{}", "b.json": b"{}", "c.json": b"{}"}, "holds 3 files", True),
    "the name of a file": (f"{HOSTILE}.exe", {}, "neither a patch nor its record", True),
    "the name of a record": (f"{HOSTILE}.json", {}, "no patch in what was given", False),
    "an entry of another kind": ("edit.zip", {f"{HOSTILE}.exe": b""}, "neither a patch nor its record", True),
    "an entry in a folder": ("edit.zip", {f"{HOSTILE}/edit.json": b""}, "holds a path", True),
    "two entries of a kind": ("edit.zip", {f"{HOSTILE}.json": b"", "edit.json": b""}, "two of a kind", True),
    "the name that a record gives": ("edit.zip", {EDIT: b"", "edit.json": HOSTILE.encode()}, "cannot be read", False),
    "the version that a record gives": (
        "edit.zip",
        {EDIT: b"", "edit.json": json.dumps({"format": HOSTILE, "name": HOSTILE}).encode()},
        "of this version",
        False,
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_of_markup_or_hidden_characters_is_told_as_text_and_nothing_is_taken_in(tmp_path, name):
    called, entries, match, shown = NAMED[name]
    visitor, path = Visitor(page_of(tmp_path), "hostile"), tmp_path / called
    if called.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
    else:
        path.write_bytes(b"{}")
    with pytest.raises(gr.Error, match=match) as told:
        taken_in(visitor, path)
    assert "<img" not in told.value.message and not any(map(is_hidden, told.value.message))
    assert (SHOWN in told.value.message) is shown
    assert visitor.session.live is None and not path.exists()
