"""Tensors with a record on disk, never half written: what patches, editor networks and calibrations share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from inspector.model.whole_file import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], format: str, record: Mapping[str, Any]) -> None:
    """Write one safetensors file; a file of that name is replaced at once.

    Args:
        format: Names kind and version of the file, under ``format`` of its metadata.
        record: What JSON can hold, under ``record``.

    Raises:
        OSError, SafetensorError: It cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata={"format": format, "record": json.dumps(dict(record))})
