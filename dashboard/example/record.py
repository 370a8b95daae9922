"""A measurement, a dataclass of numbers, texts and arrays, as one safetensors file and back, exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from inspector.model.tensor_file import check_unchanged, write_tensors

_ARRAY, _RANGE = "$array", "$range"
_KINDS = "biuf"
"""Kinds of arrays that are kept: bool, whole numbers, floating point."""


def plain(value: Any, arrays: dict[str, torch.Tensor]) -> Any:
    """Return a value as JSON can hold it; its arrays are put aside under their numbers.

    Raises:
        TypeError: It holds something else than dataclasses, containers, numbers, texts and numeric arrays.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name), arrays) for part in fields(value) if part.init}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} cannot be kept")
        arrays[str(len(arrays))] = torch.from_numpy(np.ascontiguousarray(value))
        return {_ARRAY: str(len(arrays) - 1)}
    if isinstance(value, range):
        return {_RANGE: [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):
        return {str(key): plain(each, arrays) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, arrays) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def whole(told: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Put the arrays back into what :func:`plain` returned; dataclasses stay mappings."""
    if isinstance(told, dict):
        if set(told) == {_ARRAY}:
            return arrays[told[_ARRAY]]
        if set(told) == {_RANGE}:
            return range(*told[_RANGE])
        return {key: whole(each, arrays) for key, each in told.items()}
    return [whole(each, arrays) for each in told] if isinstance(told, list) else told


def write_record(path: Path, kind: str, content: Any) -> None:
    """Write one file.

    Args:
        kind: What it is and of which version; a reader must ask for the same.
        content: The measurements, in a mapping for example.

    Raises:
        OSError: It cannot be written.
    """
    arrays: dict[str, torch.Tensor] = {}
    told = plain(content, arrays)
    write_tensors(path, arrays, kind, {"content": told})


def read_record_file(path: Path, kind: str) -> Any:
    """Return what :func:`write_record` wrote, dataclasses as mappings for :func:`inspector.validated.read_record`.

    Raises:
        OSError, SafetensorError: It cannot be read.
        ValueError: It is of another kind or version, or was changed since.
        KeyError: Something is missing in it.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != kind:
            raise ValueError(f"{path.name} is of another version")
        check_unchanged(file)
        arrays = {name: file.get_tensor(name).numpy().copy() for name in file.keys()}  # noqa: SIM118, no iterator
    return whole(json.loads(metadata["record"])["content"], arrays)
