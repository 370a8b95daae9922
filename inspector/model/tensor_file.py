"""Tensors with a record on disk: never half written, and never read once they were changed.

What patches, editor networks, probes, calibrations and parts of the example share. A safetensors file says how long its
tensors are and not what they hold, so a SHA-256 of all that was written stands in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inspector.model.whole_file import replacing

SHA256 = "sha256"
"""Key of the metadata under which the hash stands."""
CHANGED = "it was changed after it was written: its SHA-256 is another"


class Changed(ValueError):
    """A file holds something else than what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], format: str, record: Mapping[str, Any]) -> None:
    """Write one safetensors file; a file of that name is replaced at once.

    Args:
        format: Names kind and version of the file, under ``format`` of its metadata.
        record: What JSON can hold, under ``record``.

    Raises:
        OSError: It cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = {"format": format, "record": json.dumps(dict(record))}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, metadata={**said, SHA256: digest(plain, said)})
        except SafetensorError as error:
            raise as_system_error(error, path) from error


def as_system_error(error: SafetensorError, path: Path | None = None) -> OSError:
    """Return what safetensors says of a disk as the error of the system that it stands for.

    Args:
        path: What was to be written.
    """
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
        return OSError(str(error))
    number = int(found[1])
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def check_unchanged(file: Any) -> None:
    """Check that a file holds what :func:`write_tensors` wrote; one without a hash, of an earlier version, passes.

    Args:
        file: What ``safetensors.safe_open`` gives, for torch.

    Raises:
        Changed: It holds something else.
        SafetensorError: A tensor cannot be read.
    """
    said = dict(file.metadata() or {})
    told = said.pop(SHA256, None)
    if told is not None and told != digest({name: file.get_tensor(name) for name in list(file.keys())}, said):
        raise Changed(CHANGED)


def digest(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors (names, dtypes, shapes, bytes) and of all else that stands beside them.

    Args:
        tensors: On the CPU.
        said: The metadata without the hash.
    """
    counted = hashlib.sha256(json.dumps(sorted(said.items())).encode())
    for name, tensor in sorted(tensors.items()):
        counted.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        counted.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return counted.hexdigest()
