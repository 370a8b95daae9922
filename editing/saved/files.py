"""A saved edit on disk: the patch (safetensors) and its record (JSON), read only after everything was checked.

The record that lies beside an adapter has the adapter's hash in the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.saved.record import EditRecord, check_record, digest_of
from editing.saved.sketch import sketch_of
from inspector.errors import PatchError
from inspector.model import Detector, InspectedModel, Patch, Row
from inspector.model.architecture import canonical_shape, is_projection
from inspector.model.patches.patch_file import load_row, save_patch
from inspector.model.whole_file import may_be_made, to_disk, write_whole
from inspector.validated import read_record

FORMAT, ADAPTER = "dinm-inspector edit 1", "dinm-inspector adapter 1"
MOST_RECORD_BYTES = 4 * 2**20
"""Largest record that is read."""
ROOM = 4 * 2**20
"""Bytes of a patch file beside its deltas."""


@dataclass(frozen=True)
class Smaller:
    """What an adapter of a smaller rank holds: other weights than the edit's, examined by the gate as they are.

    Attributes:
        rank: Most rank of its matrices.
        lost: Frobenius norm of what it loses, as a share of the edit's, 0 to 1.
        identifier: Eight digits that name its deltas.
        digest: SHA-256 over base, names and contents of its deltas.
        gate: The gate's word on it at the strength that it was written with.
    """

    rank: int
    lost: float
    identifier: str
    digest: str
    gate: dict[str, Any]


@dataclass(frozen=True)
class _File:
    """What the record says of the file of the patch, or of an adapter's tensors."""

    format: str
    name: str
    bytes: int
    sha256: str
    record: EditRecord
    smaller: Smaller | None = None


def save_edit(row: Row, record: EditRecord, folder: Path) -> Path:
    """Write a patch (with its detector, if it is routed) and its record; neither is ever half there.

    Returns:
        The record's path, ``METHOD-layerN-IDENTIFIER.json``; the patch beside it ends in ``.safetensors``.

    Raises:
        PatchError: The record is of another patch, the folder holds another edit of its name, or cannot be written.
    """
    if row.patch is None or digest_of(row.patch) != record.digest:
        raise PatchError("The record belongs to another edit. Write it anew with record_of.")
    told = record_path(record, folder)
    patch = told.with_suffix(".safetensors")
    require_no_other(record, folder)
    try:
        save_patch(row.patch, patch, {"edit": record.json()}, row.detector)
        write_beside(told, patch, record)
    except OSError as error:
        said = "The edit cannot be written. Make room, or choose another folder."
        raise PatchError(said, f"{folder}: {error}") from error
    return told


def require_folder(folder: Path) -> None:
    """Check, before anything is computed for it, that a folder is one or can be made.

    Raises:
        PatchError: A file stands in its way, or nothing may be written there.
    """
    if not may_be_made(folder):
        raise PatchError(
            "No edit can be saved there: it is no folder, or not to be written to. Name another.", str(folder)
        )


def record_path(record: EditRecord, folder: Path) -> Path:
    """Return where the record of a saved edit lies in a folder."""
    return folder / f"{record.method}-layer{record.block}-{record.identifier}.json"


def require_no_other(record: EditRecord, folder: Path) -> None:
    """Check that no other edit is saved under the name of this one, which says nothing of strength, place or gate.

    The same edit, made again, differs in when it was made and how long that took, and takes the other's place.

    Raises:
        PatchError: There is another one, or something that cannot be read.
    """
    told = record_path(record, folder)
    patch = told.with_suffix(".safetensors")
    if not told.exists() and not patch.exists():
        return
    try:
        there = _file_record(told).record if told.exists() else read_record(EditRecord, load_row(patch)[1]["edit"])
    except (KeyError, ValueError, PatchError):
        there = None
    if there is None or _lasting(there) != _lasting(record):
        raise PatchError(
            f"Another edit is saved as {told.stem} already: of the same change, at another strength, say. Name another "
            "folder.",
            str(folder),
        )


def _lasting(record: EditRecord) -> dict[str, Any]:
    """Return what of a record is the same when the edit is made again, as JSON holds it."""
    # What it was trained on, and on top of, is in its deltas already; an earlier version's record does not tell it.
    same = replace(record, made="", seconds=0.0, learnt_from=None, below=())
    told: dict[str, Any] = json.loads(json.dumps(same.json()))
    return told


def put_edit(made: Path, folder: Path) -> Path:
    """Give a saved edit that was checked under an unfinished name its place; returns its record's path there.

    Whatever error ends it, an earlier save of the edit is as it was.

    Args:
        made: Its record in a folder of its own, on the same disk.

    Raises:
        OSError: It cannot be put there.
    """
    told = folder / made.name
    patch, new = told.with_suffix(".safetensors"), made.with_suffix(".safetensors")
    earlier = made.with_suffix(".earlier")
    try:
        if patch.exists():
            _second_name(patch, earlier)
        # The record last: it names its patch, which holds the record as well and is a whole edit alone.
        new.replace(patch)
        made.replace(told)
    except BaseException:
        if made.exists():  # else both are in their places
            if earlier.exists():
                earlier.replace(patch)
            elif not new.exists():
                patch.unlink(missing_ok=True)
        raise
    to_disk(folder)
    return told


def _second_name(file: Path, other: Path) -> None:
    """Give a file another name as well, so that a program which is killed leaves it; only that where a disk cannot."""
    try:
        other.hardlink_to(file)
    except OSError:
        file.replace(other)


def write_beside(
    told: Path, file: Path, record: EditRecord, format: str = FORMAT, smaller: Smaller | None = None
) -> None:
    """Write the record of an edit with name, size and SHA-256 of the file that holds it.

    Args:
        told: The record's path, in the file's folder.
        format: Of a patch, or :data:`ADAPTER`.
        smaller: What an adapter of a smaller rank holds instead of the edit.

    Raises:
        OSError: The file cannot be read, or the record not written.
    """
    beside = _File(format, file.name, file.stat().st_size, _sha256(file), record, smaller)
    write_whole(told, json.dumps(asdict(beside), indent=1))


def load_edit(path: Path, model: InspectedModel) -> tuple[Row, EditRecord]:
    """Read a saved edit; nothing is handed out before file, record, base, matrices and detector are found to be right.

    Args:
        path: The record, or the patch alone, which holds its record as well.
        model: The base model that it has to belong to.

    Returns:
        The weights as they were saved, strength and detector included, and the record.

    Raises:
        PatchError: Something is missing, cut, of another base, not what its record says, or nothing that this program
            can have made.
    """
    if path.suffix == ".json":
        told = _file_record(path)
        patch = path.parent / told.name
        _same_file(patch, told, most_bytes(model))
        row, extra = load_row(patch)
    else:
        if path.is_file() and path.stat().st_size > most_bytes(model):
            raise PatchError(f"{path.name} is larger than any edit of this model. Choose another file.")
        told, (row, extra) = None, load_row(path)
    assert row.patch is not None
    try:
        record = read_record(EditRecord, extra["edit"])
    except (KeyError, ValueError) as error:
        raise PatchError(
            f"{path.name} holds a patch without a record of its edit. Save it anew.", str(error)
        ) from error
    if told is not None and told.record != record:
        raise PatchError(f"{path.name} says something else than the patch itself. Save the edit anew.")
    if record.digest != digest_of(row.patch) or record.routed != (row.detector is not None):
        raise PatchError(f"{path.name} holds another patch than its record says. Choose another file.")
    check_patch(model, row.patch)
    if row.detector is not None:
        check_detector(model, row.detector)
    check_record(model, record, row.patch)
    if record.sketch is not None and not record.sketch.same_patch(sketch_of(row.patch)):
        raise PatchError(f"The sketch in {path.name} is of another patch than it holds. Choose another file.")
    return Row(row.patch, record.strength, detector=row.detector), record


def record_alone(path: Path) -> EditRecord | None:
    """Return the record of an edit whose patch is not there; ``None`` where it is, for :func:`load_edit`.

    Args:
        path: The record of a saved edit, or that which lies beside an adapter and in a merged model.

    Raises:
        PatchError: It cannot be read, or an adapter beside it was changed.
    """
    if path.suffix != ".json":
        return None
    told = _content(path)
    if "format" not in told:
        try:
            return read_record(EditRecord, told)
        except ValueError as error:
            raise PatchError(f"{path.name} is no record of an edit. Choose another file.", str(error)) from error
    if told["format"] == ADAPTER:
        adapter = _file_record(path, ADAPTER)
        if (path.parent / adapter.name).exists():
            _same_file(path.parent / adapter.name, adapter)
        return adapter.record
    found = _file_record(path)
    return None if (path.parent / found.name).exists() else found.record


def check_adapter(tensors: Path, beside: Path) -> None:
    """Check an adapter's tensors against the record beside them; where none has their hash, they pass.

    Raises:
        PatchError: The record cannot be read, or the tensors were cut or changed after it was written.
    """
    if beside.exists() and "format" in _content(beside):
        _same_file(tensors, _file_record(beside, ADAPTER))


def check_patch(model: InspectedModel, patch: Patch) -> None:
    """Check that a patch can act on a model: base, matrices of the layers that it names, their shapes.

    That its values are finite numbers is checked where a delta is made.

    Raises:
        PatchError: It cannot.
    """
    if patch.fingerprint != model.fingerprint:
        half = " In float16 even the same checkpoint is another base model." if model.dtype_name == "float16" else ""
        raise PatchError(
            f"Patch {patch.identifier} was made for another base model ({patch.fingerprint}, this is "
            f"{model.fingerprint}).{half} Load that model or edit anew."
        )
    for delta in patch.deltas:
        there = model.architecture.projections(delta.block) if 0 <= delta.block < model.blocks else {}
        if delta.module not in there:
            raise PatchError(
                f"This model has no part '{delta.module}' in layer {delta.block}, which the patch changes. Choose "
                "another file."
            )
        shape = canonical_shape(there[delta.module])
        if shape != delta.shape:
            raise PatchError(
                f"The patch changes {delta.module} by a matrix of {delta.shape[0]} x {delta.shape[1]}, and the model's "
                f"has {shape[0]} x {shape[1]}. Choose another file."
            )


def check_detector(model: InspectedModel, detector: Detector) -> None:
    """Check that a detector can read a model: its blocks and its width.

    That it is of the same base as its patch is checked where both are read.

    Raises:
        PatchError: It cannot.
    """
    there = all(0 <= block < model.blocks for block in detector.blocks)
    if not there or detector.weights.shape[1] != model.architecture.d_model:
        raise PatchError("The detector of this edit does not fit the model. Choose another file.")


def most_bytes(model: InspectedModel) -> int:
    """Return the size of the largest patch file that an edit of this model can have."""
    modules = list(model.network.modules())
    matrices = sum(math.prod(canonical_shape(module)) for module in modules if is_projection(module))
    return ROOM + 4 * (matrices + sum(parameter.numel() for parameter in model.network.parameters()))


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_RECORD_BYTES:
            raise PatchError(f"{path.name} is larger than any record of an edit. Choose another file.")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PatchError(f"The record {path.name} cannot be read. Choose another file.", str(error)) from error
    if not isinstance(content, dict):
        raise PatchError(f"{path.name} is no record of an edit. Choose another file.")
    return content


def _file_record(path: Path, format: str = FORMAT) -> _File:
    content = _content(path)
    if content.get("format") != format:
        raise PatchError(f"{path.name} is no record of an edit of this version of the program. Choose another file.")
    try:
        told = read_record(_File, content)
    except ValueError as error:
        raise PatchError(f"The record {path.name} cannot be read. Choose another file.", str(error)) from error
    if Path(told.name).name != told.name or not told.name.endswith(".safetensors"):
        raise PatchError(f"{path.name} names a patch outside its own folder. Choose another file.")
    return told


def _same_file(file: Path, told: _File, most: int | None = None) -> None:
    what = "adapter" if told.format == ADAPTER else "patch"
    if not file.is_file():
        raise PatchError(f"The {what} {told.name} is not beside its record. Put both files into one folder.")
    size = file.stat().st_size
    if size == told.bytes and most is not None and size > most:
        raise PatchError(
            f"The {what} {told.name} is larger than an edit of this model can be: it was made for another base model, "
            f"{told.record.model}. Load that model or edit anew."
        )
    if size != told.bytes:
        raise PatchError(
            f"The {what} {told.name} has {size:,} bytes and its record says {told.bytes:,}: it was cut or changed. "
            "Save or copy it anew."
        )
    if _sha256(file) != told.sha256:
        raise PatchError(f"The {what} {told.name} was changed after it was written (SHA-256). Save or copy it anew.")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
