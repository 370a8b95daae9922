"""Patches on disk: one safetensors file with the deltas and their record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from inspector.errors import PatchError
from inspector.model.patches.detector import TENSORS, Detector
from inspector.model.patches.patch import Delta, Patch, Row, Taught
from inspector.model.prompt_format import PromptFormat
from inspector.model.tensor_file import Changed, check_unchanged, write_tensors
from inspector.validated import read_record

_FORMAT = "dinm-inspector patch 2"


@dataclass(frozen=True)
class _Place:
    """Where a delta belongs."""

    module: str
    block: int


@dataclass(frozen=True)
class _Record:
    """What stands beside the tensors of a patch."""

    fingerprint: str
    method: str
    settings: dict[str, Any]
    format: PromptFormat
    deltas: tuple[_Place, ...]
    extra: dict[str, Any]
    detector: dict[str, Any] | None = None
    taught: tuple[Taught, ...] = ()


def save_patch(
    patch: Patch,
    path: Path,
    extra: Mapping[str, Any] | None = None,
    detector: Detector | None = None,
    half: bool = False,
) -> None:
    """Write a patch, its detector if it is routed and, under ``extra``, anything else that JSON can hold.

    Args:
        half: Keep the deltas in half precision, half the size; exact only for values that it holds.
    """
    tensors = {}
    for number, delta in enumerate(patch.deltas):
        tensors[f"{number}.left"] = delta.left.half() if half else delta.left
        if delta.right is not None:
            tensors[f"{number}.right"] = delta.right.half() if half else delta.right
    record = _Record(
        fingerprint=patch.fingerprint,
        method=patch.method,
        settings=dict(patch.settings),
        format=patch.format,
        deltas=tuple(_Place(delta.module, delta.block) for delta in patch.deltas),
        extra=dict(extra or {}),
        detector=None if detector is None else detector.record(),
        taught=patch.taught,
    )
    if detector is not None:
        tensors |= detector.tensors()
    write_tensors(path, tensors, _FORMAT, asdict(record))


def load_patch(path: Path) -> tuple[Patch, dict[str, Any]]:
    """Return the patch of an edit that acts on every prompt, and its ``extra``.

    Raises:
        PatchError: The file is missing, damaged or something else, or its edit is routed: without its detector it
            would be another edit.
    """
    row, extra = load_row(path)
    assert row.patch is not None
    if row.detector is not None:
        raise PatchError(f"{path.name} holds a routed edit, a patch with a detector. Read it with load_row.")
    return row.patch, extra


def load_row(path: Path) -> tuple[Row, dict[str, Any]]:
    """Read what :func:`save_patch` wrote, with its detector if the edit is routed.

    Returns:
        The row and its ``extra``.

    Raises:
        PatchError: The file is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                earlier = str(metadata.get("format", "")).startswith("dinm-inspector patch")
                raise PatchError(
                    f"{path.name} is a patch of another version of this program. Make the edit again."
                    if earlier
                    else f"{path.name} is not a patch of this program. Choose another file."
                )
            check_unchanged(file)
            record = read_record(_Record, json.loads(metadata["record"]))
            names = set(file.keys())
            parts = {f"{number}.{part}" for number in range(len(record.deltas)) for part in ("left", "right")}
            if strange := names - parts - (set(TENSORS) if record.detector is not None else set()):
                raise PatchError(
                    f"{path.name} holds more than a patch. Choose another file.", ", ".join(sorted(strange))
                )
            deltas = tuple(
                Delta(
                    entry.module,
                    entry.block,
                    file.get_tensor(f"{number}.left").float(),
                    file.get_tensor(f"{number}.right").float() if f"{number}.right" in names else None,
                )
                for number, entry in enumerate(record.deltas)
            )
            told = record.detector
            read = {name: file.get_tensor(name) for name in names.intersection(TENSORS)}
            detector = None if told is None else Detector.from_record(told, read)
        if detector is not None and detector.fingerprint != record.fingerprint:
            raise PatchError(
                f"The patch and the detector in {path.name} belong to different models. Choose another file."
            )
        patch = Patch(deltas, record.fingerprint, record.method, record.settings, record.format, record.taught)
        return Row(patch, detector=detector), record.extra
    except Changed as error:
        said = f"The patch {path.name} was changed after it was written (SHA-256). Save or copy it anew."
        raise PatchError(said, str(path)) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        said = f"The patch file {path.name} cannot be read. Choose another file."
        raise PatchError(said, f"{path}: {error}") from error
