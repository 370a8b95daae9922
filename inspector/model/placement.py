"""Where a model's parts go: on one device, or spread over those that may hold some of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inspector.errors import ModelLoadError
from inspector.model.inspected import InspectedModel
from inspector.model.memory.memory_need import free_memory

MaxMemory = Mapping[int | str, int | str]
"""What each device may hold of a model, in bytes or as ``20GiB``; devices are card numbers and ``cpu``."""


def chosen_device(device: str) -> torch.device:
    """Return the device of ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ModelLoadError: There is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelLoadError(f"'{device}' is no device. Use auto, cpu, cuda or cuda:1.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"There is no CUDA device for '{device}'. Use --device cpu or auto.")
    return chosen


def read_max_memory(entries: Sequence[str]) -> MaxMemory | None:
    """Read ``DEVICE=SIZE`` entries, such as ``0=70GiB`` and ``cpu=200GiB``; ``None`` for no entry.

    Raises:
        ModelLoadError: An entry is of another form.
    """
    found: dict[int | str, int | str] = {}
    for entry in entries:
        read = re.fullmatch(r"(cpu|\d+)=(\d+(?:\.\d+)?)([KMG])(i?)B", entry, re.IGNORECASE)
        if read is None:
            raise ModelLoadError(f"'{entry}' is no DEVICE=SIZE. Write a card's number or cpu: 0=70GiB, cpu=200GiB.")
        name, size, unit, binary = read.groups()
        whole = float(size) * (1024 if binary else 1000) ** (1 + "KMG".index(unit.upper()))
        found[int(name) if name.isdecimal() else name.lower()] = round(whole)
    return found or None


def max_memory_entries(max_memory: MaxMemory) -> list[str]:
    """Write what each device may hold as the entries that :func:`read_max_memory` reads to the same bytes."""
    return [f"{name}={size if isinstance(size, str) else _size(size)}" for name, size in max_memory.items()]


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit that divides it, in thousands to the byte where none does."""
    for power, unit in reversed(tuple(enumerate(("KiB", "MiB", "GiB"), start=1))):
        if count % 1024**power == 0:
            return f"{count // 1024**power}{unit}"
    return f"{count / 1000:.3f}KB"


def spread_options(device: torch.device, device_map: str | None, max_memory: MaxMemory | None) -> dict[str, Any]:
    """Return the options that spread a model; none for one device.

    Raises:
        ModelLoadError: They do not go together.
    """
    if device_map is None:
        if max_memory:
            raise ModelLoadError("What each device may hold is for a spread model. Add --device-map auto.")
        return {}
    if device_map != "auto":
        raise ModelLoadError(f"'{device_map}' is no way to spread a model. Use auto.")
    if device.index is not None:
        raise ModelLoadError(
            f"A spread model is not loaded on {device} alone. Leave --device out and name the cards with --max-memory."
        )
    if max_memory is None and device.type == "cpu":
        max_memory = {"cpu": int(0.9 * free_memory(device))}  # as transformers does, but on no card
    return {"device_map": device_map, **({"max_memory": dict(max_memory)} if max_memory else {})}


def in_bytes(max_memory: MaxMemory | None) -> dict[int | str, int] | None:
    """Return what each device may hold in bytes; ``None`` where nothing was said of it."""
    from accelerate.utils import convert_file_size_to_int

    if max_memory is None:
        return None
    return {device: convert_file_size_to_int(size) for device, size in max_memory.items()}


def given_placing(device: str, device_map: str | None, max_memory: MaxMemory | None) -> dict[str, Any]:
    """Return what was said of where a model's parts go."""
    named = {"device": None if device == "auto" else device, "device_map": device_map, "max_memory": max_memory}
    return {name: given for name, given in named.items() if given}


def placing(model: InspectedModel) -> dict[str, Any]:
    """Return the options with which :func:`inspector.model.load` puts a model's parts where they are.

    What was said of them when it was loaded; of a model that was put together elsewhere, what differs from where they
    would go by themselves.
    """
    if model.placed:
        return dict(model.placed)
    if not model.on_one_device:
        return {"device_map": "auto"}
    kind = model.device.type
    return {} if kind == chosen_device("auto").type else {"device": kind}
