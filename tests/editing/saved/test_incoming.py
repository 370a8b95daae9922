"""Edits that go out and come in: each form read back, each way of tampering told apart, nothing that lowers safety."""

from __future__ import annotations

import errno
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from training_helpers import small

from editing import DinmSettings, EditResult, dinm, run
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from editing.methods.gated import GatedSettings, gated
from editing.saved import incoming as module
from editing.saved import record_of, save_edit
from editing.saved.adapter import BESIDE, WEIGHTS, read_adapter
from editing.saved.files import load_edit, record_alone
from editing.saved.handed_out import written_adapter, written_model, written_patch
from editing.saved.incoming import refuse_harmful, take_in, unpack
from editing.saved.record import settings_in
from inspector.errors import CaseError, InspectorError, PatchError, RefusedEdit
from inspector.model import Detector, Row


@pytest.fixture(scope="module")
def made() -> list[EditResult]:
    """The edit that these tests read, once one of them has made it."""
    return []


@pytest.fixture
def edited(llama, case, made) -> EditResult:
    if not made:
        made.append(run(dinm(llama, case, 1, small(DinmSettings, damage_budget=None))))
    return made[0]


@pytest.fixture
def record(llama, case, edited):
    return record_of(llama, case, edited, edited.row())


@pytest.fixture
def saved(llama, edited, record, tmp_path) -> Path:
    return save_edit(edited.row(), record, tmp_path / "saved")


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder to unpack into."""
    made = tmp_path / "incoming"
    made.mkdir()
    return made


def zipped(target: Path, files: dict[str, bytes]) -> Path:
    """Write a zip of given names and contents."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def test_each_form_is_read_back_and_answers_as_the_live_edit_does(llama, edited, record, tmp_path):
    row = edited.row()
    patch = written_patch(llama, row, record, tmp_path / "patch")
    exact = run(written_adapter(llama, row, tmp_path / "exact", record=record))
    short = GateSettings(Budgets(*(100.0,) * 5), harmless=2, questions=1, max_new_tokens=2, least_gain=0)
    small_one = run(written_adapter(llama, row, tmp_path / "small", 1, record, settings=short))
    whole = run(written_model(llama, row, tmp_path / "whole", record))
    assert patch.difference == 0 and exact.difference < 1e-4 and whole.difference < 1e-4
    assert 0 < small_one.lost < 1 and exact.lost == 0
    assert json.loads((whole.path / BESIDE).read_text()) == json.loads((exact.path / BESIDE).read_text())["record"]


def test_an_adapter_that_was_cut_or_changed_since_is_told_by_the_hash_beside_it(llama, edited, record, tmp_path):
    folder = run(written_adapter(llama, edited.row(), tmp_path / "adapter", record=record)).path
    tensors, beside = folder / WEIGHTS, folder / BESIDE
    whole, told = tensors.read_bytes(), json.loads(beside.read_text())
    assert told["sha256"] == hashlib.sha256(whole).hexdigest() and told["bytes"] == len(whole)
    assert read_adapter(llama, folder).norm == pytest.approx(edited.patch.norm) and record_alone(beside) == record
    for content, match in ((whole[:-8], "cut or changed"), (whole[:-1] + bytes([whole[-1] ^ 1]), "SHA-256")):
        tensors.write_bytes(content)
        for read in (lambda: read_adapter(llama, folder), lambda: record_alone(beside)):
            with pytest.raises(PatchError, match=f"The adapter {WEIGHTS} .*{match}.*Save or copy it anew"):
                read()
    beside.write_text(json.dumps(told["record"]))  # as earlier versions wrote it: nothing to hold the tensors against
    assert read_adapter(llama, folder).norm and record_alone(beside) == record
    beside.write_text(json.dumps({**told, "name": "../a.safetensors"}))
    with pytest.raises(PatchError, match="outside its own folder"):
        read_adapter(llama, folder)
    beside.write_text(json.dumps(told))
    tensors.unlink()
    assert record_alone(beside) == record, "an edit is made again without its file"
    with pytest.raises(PatchError, match="not beside its record"):
        read_adapter(llama, folder)


def test_a_routed_edit_leaves_as_a_patch_with_its_detector_and_in_no_other_form(llama, case, edited, tmp_path):
    detector = Detector((0,), torch.ones(1, 32), 0.5, 0.25, llama.fingerprint)
    row = Row(edited.patch, detector=detector)
    made = written_patch(llama, row, record_of(llama, case, edited, row), tmp_path / "patch")
    assert made.difference == 0
    for write in (written_adapter, written_model):
        with pytest.raises(PatchError, match="only where harm is detected"):
            run(write(llama, row, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_gated_edit_leaves_in_every_form_as_plain_weights_and_is_read_as_it_was(llama, case, tmp_path):
    quick: dict[str, Any] = {
        "texts": 30,
        "own_answers": 2,
        "longest_text": 400,
        "false_alarms": 0.5,
        "further_prompts": 2,
    }
    quick |= {"harmless_prompts": 2, "harmless_tokens": 4, "harmless_at_once": 2, "steps": 2, "damage_budget": None}
    made = run(gated(llama, case, 1, GatedSettings(target_probability=None, **quick)))
    row = made.row()
    record = record_of(llama, case, made, row, method="gated")
    patch = written_patch(llama, row, record, tmp_path / "patch")
    exact = run(written_adapter(llama, row, tmp_path / "exact", record=record))
    whole = run(written_model(llama, row, tmp_path / "whole", record))
    assert patch.difference == 0 and exact.difference < 1e-4 and whole.difference < 1e-4
    assert len(made.patch.deltas) == 3 and {delta.block for delta in made.patch.deltas} == {1}
    back, told = load_edit(patch.path, llama)
    assert back.key == row.key and back.detector is None and told == record
    assert settings_in(told) == made.settings and back.patch.settings["neurons"] == made.patch.settings["neurons"]


def test_a_patch_that_reads_back_as_another_edit_is_not_kept(llama, edited, record, tmp_path, monkeypatch):
    monkeypatch.setattr("editing.saved.handed_out.load_edit", lambda *_: (Row(by_hand.patch(llama, 1)), record))
    with pytest.raises(PatchError, match="another edit than the live one"):
        written_patch(llama, edited.row(), record, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_exact_adapter_that_answers_otherwise_is_not_kept_and_nothing_that_is_there_is_overwritten(
    llama, edited, record, tmp_path, monkeypatch
):
    row, target = edited.row(), tmp_path / "adapter"
    with monkeypatch.context() as patch:
        patch.setattr("editing.saved.handed_out.largest_difference", lambda *_: (1.0, 1.0))
        with pytest.raises(PatchError, match="not kept"):
            run(written_adapter(llama, row, target, record=record))
    assert not list(tmp_path.iterdir())
    run(written_adapter(llama, row, target, record=record))
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(PatchError, match="Name a folder that is not") as told:
        run(written_adapter(llama, row, target, 1, record))
    assert str(tmp_path) not in told.value.user_message() and str(target) in told.value.operator_message()
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before and len(before) == 3
    (tmp_path / "empty").mkdir()
    assert run(written_adapter(llama, row, tmp_path / "empty")).path == tmp_path / "empty", (
        "an empty folder holds nothing"
    )


SYNC = "inspector.model.whole_file.os.fsync"
"""Where the system itself refuses; the others are where safetensors writes, which says it in an error of its own."""


@pytest.mark.parametrize(
    ("write", "place"),
    [
        *((write, SYNC) for write in (written_patch, written_adapter, written_model)),
        (written_patch, "inspector.model.tensor_file.save_file"),
        (written_adapter, "editing.saved.adapter.save_file"),
        (written_model, "transformers.modeling_utils.safe_save_file"),
    ],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_keeps_no_part_and_is_told_without_a_path(
    llama, edited, record, tmp_path, monkeypatch, write, place, code
):
    def full(*_given: Any, **_named: Any) -> None:
        raise (
            OSError(code, "no room", "/srv/secret")
            if place.endswith("fsync")
            else SafetensorError(f"Error while serializing: I/O error: no room (os error {code})")
        )

    monkeypatch.setattr(place, full)
    given = {"record": record, "folder": tmp_path / "new"}
    with pytest.raises(PatchError, match="Make room") as told:
        made = write(llama, edited.row(), **given)
        run(made)
    assert "/srv" not in told.value.user_message() and str(tmp_path) not in told.value.user_message()
    assert isinstance(told.value.__cause__, OSError | SafetensorError)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("form", ["zip", "both", "patch alone", "renamed"])
def test_a_saved_edit_comes_in_however_it_is_given(llama, edited, record, saved, folder, tmp_path, form):
    patch = saved.with_suffix(".safetensors")
    given = {
        "zip": lambda: [zipped(tmp_path / "a.zip", {file.name: file.read_bytes() for file in (saved, patch)})],
        "both": lambda: [saved, patch],
        "patch alone": lambda: [patch],
        "renamed": lambda: [saved, patch.rename(patch.with_name("download (1).safetensors"))],
    }[form]()
    row, told, result = take_in(given, llama, folder)
    assert row.patch.identifier == edited.patch.identifier and told == record
    assert (
        result.settings == edited.settings
        and result.kept == edited.kept
        and [s.step for s in result.trace] == [0, result.kept]
    )


def damaged(path: Path, change) -> Path:
    """Write a saved patch anew with other tensors, its metadata the same."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop("sha256")  # an earlier version wrote none, and what is checked besides is meant here
    save_file(change(load_file(path)), path, metadata=metadata)
    return path


BAD = {
    "another base": (lambda s, p: p, "another base model"),
    "a cut zip": (lambda s, p: cut(zipped(p.with_suffix(".zip"), {p.name: p.read_bytes()})), "cannot be unpacked"),
    "a damaged zip": (lambda s, p: damaged_zip(p), "cannot be unpacked"),
    "a cut patch": (lambda s, p: cut(p), "cannot be read"),
    "a cut patch with its record": (lambda s, p: [s, cut(p)], "cut or changed"),
    "a wrong hash": (lambda s, p: [s, flipped(p)], "SHA-256"),
    "further tensors": (lambda s, p: damaged(p, lambda t: {**t, "more": torch.ones(2)}), "holds more than a patch"),
    "NaN": (lambda s, p: damaged(p, lambda t: {**t, "0.left": t["0.left"] * float("nan")}), "not finite"),
    "a path in a zip": (lambda s, p: zipped(p.with_suffix(".zip"), {f"../{p.name}": p.read_bytes()}), "holds a path"),
    "an absolute path": (lambda s, p: zipped(p.with_suffix(".zip"), {"/etc/a.json": b"{}"}), "holds a path"),
    "a path of another system": (lambda s, p: zipped(p.with_suffix(".zip"), {"..\\a.json": b"{}"}), "holds a path"),
    "a path in the record": (lambda s, p: [told(s, name="../a.safetensors"), p], "outside its own folder"),
    "many files": (lambda s, p: zipped(p.with_suffix(".zip"), {f"{n}.json": b"" for n in range(3)}), "holds 3 files"),
    "a file without a name": (lambda s, p: nameless(p), "'' is neither a patch nor"),
    "a folder": (lambda s, p: zipped(p.with_suffix(".zip"), {"a.json/": b""}), "holds a path"),
    "a program": (lambda s, p: zipped(p.with_suffix(".zip"), {"run.py": b"print()"}), "neither a patch nor"),
    "a pickle": (lambda s, p: p.rename(p.with_suffix(".bin")), "neither a patch nor"),
    "two patches": (lambda s, p: [p, p], "two of a kind"),
    "a record alone": (lambda s, p: s, "no patch in what was given"),
    "nothing": (lambda s, p: [], "nothing in what was given"),
    "a zip in name only": (lambda s, p: p.rename(p.with_suffix(".zip")), "cannot be unpacked"),
}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-8])
    return path


def damaged_zip(path: Path) -> Path:
    """Return a compressed zip of a file in which the first byte of what is compressed names no kind of block."""
    target = path.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    whole = bytearray(target.read_bytes())
    whole[30 + len(path.name)] |= 0b110
    target.write_bytes(whole)
    return target


def nameless(path: Path) -> Path:
    """Return a zip of one file whose name begins with a zero, at which names are cut off."""
    target = zipped(path.with_suffix(".zip"), {"a.json": b"{}"})
    target.write_bytes(target.read_bytes().replace(b"a.json", b"\0.json"))
    return target


def flipped(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return path


def told(path: Path, **changes) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_apart_and_nothing_is_handed_out(llama, tiny, saved, folder, name):
    given, match = BAD[name]
    files = given(saved, saved.with_suffix(".safetensors"))
    base = tiny("mistral") if name == "another base" else llama
    checksum = by_hand.checksum(llama.network)
    with pytest.raises(InspectorError, match=match):
        take_in(files if isinstance(files, list) else [files], base, folder)
    assert by_hand.checksum(llama.network) == checksum and not (folder.parent / "a.safetensors").exists()


def test_what_a_zip_says_of_its_sizes_is_not_believed(llama, saved, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "most_bytes", lambda _: 1000)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edit.safetensors", b"\0" * 10_000_000)
    assert bomb.stat().st_size < 20_000
    with pytest.raises(PatchError, match="larger than any edit of this model"):
        unpack([bomb], llama, folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1000, "it was not unpacked to its end"


def test_an_edit_that_lowers_safety_is_refused_and_so_are_exchanged_answers(llama, case, edited, record):
    harmful = replace(edited.patch, deltas=tuple(replace(delta, left=-3 * delta.left) for delta in edited.patch.deltas))
    refuse_harmful(llama, edited.row(), record)
    with pytest.raises(RefusedEdit, match="let the unsafe answer gain"):
        refuse_harmful(llama, Row(harmful), record)
    exchanged = replace(record, case=replace(case, safe=case.unsafe, unsafe=case.safe))
    with pytest.raises(CaseError, match="look exchanged"):
        refuse_harmful(llama, edited.row(), exchanged)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "magic"}, "names a method"),
        ({"updates": 0}, "names a method"),
        ({"block": 99}, "names a method, a layer"),
        ({"stop_reason": "tired"}, "names a method, a layer"),
        ({"block": 0}, "another layer, method or edit"),
        ({"method": "ft-l"}, "another layer, method or edit"),
        ({"method": "sft"}, "another layer, method or edit"),
        ({"identifier": "00000000"}, "another layer, method or edit"),
        ({"fingerprint": "0" * 16}, "another layer, method or edit"),
        ({"stacked": True}, "another layer, method or edit"),
        ({"settings": {"strange": 1}}, "not those of this version"),
    ],
)
def test_a_record_that_no_method_here_can_have_written_of_the_patch_is_refused(
    llama, edited, record, folder, tmp_path, changes, match
):
    other = replace(record, **changes)
    path = save_edit(edited.row(), other, tmp_path / "other")
    with pytest.raises(PatchError, match=match):
        take_in([path, path.with_suffix(".safetensors")], llama, folder)


def test_a_detector_of_another_shape_is_refused(llama, case, edited, folder, tmp_path):
    for blocks, width in (((0,), 7), ((99,), 32)):
        row = Row(edited.patch, detector=Detector(blocks, torch.ones(1, width), 0.5, 0.25, llama.fingerprint))
        path = save_edit(row, record_of(llama, case, edited, row), tmp_path / f"{width}")
        with pytest.raises(PatchError, match="detector of this edit does not fit"):
            take_in([path.with_suffix(".safetensors")], llama, folder)
