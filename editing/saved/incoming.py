"""A saved edit that comes from outside: unpacked within bounds, checked whole, and refused where it lowers safety."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from editing.guard import check_case, refuse_harm
from editing.measured import measured_step
from editing.optimising.training import encode_pair
from editing.progress import EditResult, Step, StopReason, run
from editing.saved.files import MOST_RECORD_BYTES, load_edit, most_bytes
from editing.saved.record import EditRecord, settings_in
from editing.texts.harmless import harmless_answers
from inspector.errors import PatchError
from inspector.model import VANILLA, InspectedModel, Row, encode

PATCH, RECORD = ".safetensors", ".json"
WANTED = "Give the .zip that this page has written, or a .safetensors file, with or without its .json."
HARMLESS, TOKENS = 4, 12
"""Harmless prompts on which the vital signs of an edit that came in are measured, and tokens of each answer."""
_PIECE = 2**20
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions of which :mod:`zipfile` unpacks no more at once than it is asked for; of bzip2 and LZMA it unpacks all
that a piece of the file holds."""
_LONGEST_LIST = 2**12
"""Bytes of a zip's list of two files, with their names; zip programs write some hundred."""
_END, _LOCATOR, _END64 = (struct.Struct(f"<4s{rest}") for rest in ("4H2LH", "LQL", "Q2H2L4Q"))
"""What stands at a zip's end: its record and, before that in a zip64, that record's place and the record."""


def most_upload(model: InspectedModel) -> int:
    """Return the size of the largest file that is taken: the largest patch, its record and the zip's own lists."""
    return most_bytes(model) + MOST_RECORD_BYTES + 2**16


def unpacked_bytes(files: Sequence[Path], model: InspectedModel) -> int:
    """Return how many bytes :func:`unpack` writes at most: no file is unpacked beyond what its zip says of it.

    Raises:
        PatchError: A zip is damaged, or holds more than two files.
    """
    most, count = most_bytes(model), 0
    for file in files:
        if file.suffix.lower() == ".zip":
            with _opened(file) as archive:
                count += sum(min(entry.file_size, most) for entry in archive.infolist())
        else:
            count += min(file.stat().st_size, most)
    return count


def unpack(files: Sequence[Path], model: InspectedModel, folder: Path) -> Path:
    """Put a patch and its record, if there is one, into a folder under names of their own.

    Args:
        files: One zip, or a patch, a record or both.
        folder: Empty, private.

    Returns:
        What :func:`editing.saved.files.load_edit` is to read.

    Raises:
        PatchError: A file is of another kind or too large, a zip is damaged, holds a path or something else.
    """
    found: dict[str, tuple[str, Path]] = {}
    for file in files:
        if file.suffix.lower() == ".zip":
            _unzip(file, model, folder, found)
        else:
            with file.open("rb") as source:
                _put(file.name, file.stat().st_size, source, model, folder, found)
    if PATCH not in found:
        missing = "no patch" if found else "nothing"
        raise PatchError(f"There is {missing} in what was given. {WANTED}")
    patch = found[PATCH][1]
    if RECORD not in found:
        return patch
    record = found[RECORD][1]
    # The record names its patch; a browser may have named the file anew, as it does with a second download.
    wanted = _named(record)
    if wanted is not None and wanted != patch.name:
        patch = patch.rename(folder / wanted)
    return record


def take_in(files: Sequence[Path], model: InspectedModel, folder: Path) -> tuple[Row, EditRecord, EditResult]:
    """Read a saved edit from outside; nothing is handed out before all of it was found to be right.

    Returns:
        The weights as they were saved, their record, and the edit as the page holds edits: its vital signs are
        measured anew, before and after.

    Raises:
        PatchError: Something is missing, cut, too large, of another base or version, or not what its record says.
        CaseError: The answers of its case look exchanged.
        PromptError: A case of the edits that it stands on is empty, or longer than the model's context.
        RefusedEdit: The unsafe answer gains on the safe one.
    """
    row, record = load_edit(unpack(files, model, folder), model)
    settings = settings_in(record)
    trace = refuse_harmful(model, row, record)
    assert row.patch is not None
    for below in record.below:  # a detector reads them where the stack is to act only where harm is detected
        encode(model, below.adversarial_prompt, None, row.patch.format)
    return (
        row,
        record,
        EditResult(
            patch=row.patch,
            trace=trace,
            kept=record.updates,
            stop_reason=cast(StopReason, record.stop_reason),
            block=record.block,
            settings=settings,
            seconds=record.seconds,
            learnt_from=record.learnt_from,
        ),
    )


def refuse_harmful(model: InspectedModel, row: Row, record: EditRecord) -> tuple[Step, Step]:
    """Refuse an edit under which the unsafe answer of its own case gains on the safe one, as knock-outs are.

    Returns:
        The vital signs of the vanilla and of the edited weights, at the strength that the edit was saved with.

    Raises:
        CaseError: The answers look exchanged.
        RefusedEdit: It gains.
    """
    assert row.patch is not None
    check_case(record.case)
    pair = encode_pair(model, record.case, row.patch.format)
    own = run(harmless_answers(model, record.case, HARMLESS, TOKENS, row.patch.format)) or []
    kept = record.updates
    before, after = (
        measured_step(model, pair, own, one, step, kept) for one, step in ((VANILLA, 0), (row.always(), kept))
    )
    refuse_harm("This edit", before, after, "Choose another file.")
    return before, after


def _unzip(file: Path, model: InspectedModel, folder: Path, found: dict[str, tuple[str, Path]]) -> None:
    with _opened(file) as archive:
        for entry in archive.infolist():
            if PurePosixPath(entry.filename).name != entry.filename or "\\" in entry.filename:
                raise PatchError(f"{file.name} holds a path, '{entry.filename}', and not just files. {WANTED}")
            if entry.compress_type not in _BOUNDED:
                raise PatchError(f"{file.name} is compressed in another way than by Deflate. {WANTED}")
            with archive.open(entry) as source:
                _put(entry.filename, entry.file_size, source, model, folder, found)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip of at most two files.

    Raises:
        PatchError: It is damaged, or holds more; also where it turns out to be damaged in the block.
    """
    if not file.is_file():
        raise PatchError(f"There is no file {file.name}. Check its name.", str(file))
    try:
        _check_list(file)
        with zipfile.ZipFile(file) as archive:
            _check_count(file, len(archive.infolist()))
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        said = "cannot be unpacked: it was cut or damaged, has a comment, or is no zip. Copy or zip it anew."
        raise PatchError(f"{file.name} {said}", str(error)) from error


def _check_list(file: Path) -> None:
    """Refuse a zip that lists more than two files before :mod:`zipfile` makes objects of the list; its end is read.

    So that :mod:`zipfile` goes by the same record, it has to be the last bytes, and a zip64's to stand right before.

    Raises:
        PatchError: It tells of more files, or of a longer list than two files need.
        BadZipFile: It is not there.
    """
    most = _END64.size + _LOCATOR.size + _END.size
    with file.open("rb") as source:
        start = max(0, source.seek(0, 2) - most)
        source.seek(start)
        tail = source.read()
    end, locator = tail[-_END.size :], tail[-_END.size - _LOCATOR.size : -_END.size]
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise zipfile.BadZipFile("no record at the end, or a comment behind it")
    *_, count, length, _, _ = _END.unpack(end)
    if locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR.size:
        if len(tail) < most or not tail.startswith(b"PK\6\6") or _LOCATOR.unpack(locator)[2] != start:
            raise zipfile.BadZipFile("the zip64 record is not where it should be")
        *_, count, length, _ = _END64.unpack(tail[: _END64.size])
    _check_count(file, count)
    if length > _LONGEST_LIST:
        raise PatchError(f"{file.name} has a longer list of files than two files need. {WANTED}")


def _check_count(file: Path, count: int) -> None:
    if count > 2:
        raise PatchError(f"{file.name} holds {count} files, and an edit is two. {WANTED}")


def _put(
    name: str, size: int, source: IO[bytes], model: InspectedModel, folder: Path, found: dict[str, tuple[str, Path]]
) -> None:
    """Write one file under a name of our own; what it says of its size is not believed."""
    kind = PurePosixPath(name).suffix
    if kind not in (PATCH, RECORD):
        raise PatchError(f"'{name}' is neither a patch nor its record. {WANTED}")
    if kind in found:
        raise PatchError(f"'{found[kind][0]}' and '{name}' are two of a kind. Give one edit at a time.")
    most = most_bytes(model) if kind == PATCH else MOST_RECORD_BYTES
    left = most
    target = folder / f"edit{kind}"
    with target.open("wb") as file:
        while piece := source.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0 or size > most:
                raise PatchError(
                    f"'{name}' is larger than any {'edit of this model' if kind == PATCH else 'record'} "
                    f"({most:,} bytes). Choose another file."
                )
            file.write(piece)
    found[kind] = (name, target)


def _named(record: Path) -> str | None:
    """Return the name that a record gives its patch if it is a plain one; what else is wrong is told by the reader."""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(PATCH) or len(name) > 200:
        return None
    return name
