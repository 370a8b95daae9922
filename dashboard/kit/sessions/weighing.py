"""What a session weighs: the memory that it holds, each piece counted once."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from dashboard.kit.sessions.session import Session

_WEIGHTLESS = {int, float, bool, type(None)}
"""What most of a session's lists are full of, and what holds no memory worth counting."""


def storages(held: Any) -> dict[int, int]:
    """Return the memory that arrays, tensors and texts in something take: bytes by address, each counted once.

    Only records and collections are looked into, so a model that something refers to is not counted.
    """
    found: dict[int, int] = {}
    looked: list[Any] = [held]
    known: dict[int, Any] = {}  # what was looked into, kept so that no other thing gets its address meanwhile
    while looked:
        one = looked.pop()
        if type(one) in _WEIGHTLESS or id(one) in known:
            continue
        known[id(one)] = one
        if isinstance(one, torch.Tensor):
            if one.device.type != "meta":
                storage = one.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, np.ndarray):
            found[one.__array_interface__["data"][0]] = one.nbytes
        elif isinstance(one, str | bytes):
            found[id(one)] = len(one)
        elif isinstance(one, dict):
            for pair in list(one.items()):  # a copy: other events of the visitor write meanwhile
                looked += pair
        elif isinstance(one, list | tuple | set | frozenset):
            looked += one
        elif isinstance(one, Session):
            looked += [one.case, one.edits, one.detector, one.probe, one.slots]
        elif is_dataclass(one) and not isinstance(one, type):
            looked += [getattr(one, name) for name in _names(type(one))]
    return found


@cache
def _names(record: type) -> tuple[str, ...]:
    """Return the names of a record's fields."""
    return tuple(entry.name for entry in fields(record))
