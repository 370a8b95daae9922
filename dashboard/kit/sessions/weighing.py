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
_LOOKED_INTO: dict[type, tuple[type, ...]] = {
    torch.Tensor: (torch.Tensor,),
    np.ndarray: (np.ndarray,),
    str: (str, bytes),
    dict: (dict,),
    list: (list, tuple, set, frozenset),
}


def storages(held: Any) -> dict[int, int]:
    """Return the memory that arrays, tensors and texts in something take: bytes by address, each counted once.

    Only records and collections are looked into, so a model that something refers to is not counted.
    """
    found: dict[int, int] = {}
    looked: list[Any] = [held]
    known: dict[int, Any] = {}  # what was looked into, kept so that no other thing gets its address meanwhile
    while looked:
        one = looked.pop()
        kind, place = type(one), id(one)
        if kind in _WEIGHTLESS or place in known:
            continue
        known[place] = one
        of = _of(kind)  # type: ignore[arg-type]
        if of is str:
            found[place] = len(one)
        elif of is list:
            looked += [part for part in one if type(part) not in _WEIGHTLESS]
        elif of is dict:
            for pair in list(one.items()):  # a copy: other events of the visitor write meanwhile
                looked += pair
        elif isinstance(of, tuple):
            looked += [getattr(one, name) for name in of]
        elif of is torch.Tensor:
            if one.device.type != "meta":
                storage = one.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        elif of is np.ndarray:
            found[one.__array_interface__["data"][0]] = one.nbytes
    return found


@cache
def _of(kind: type) -> type | tuple[str, ...] | None:
    """Return as what something of a type is looked into; of a record or a session the names of what it holds."""
    for of, kinds in _LOOKED_INTO.items():
        if issubclass(kind, kinds):
            return of
    if issubclass(kind, Session):
        return ("case", "edits", "detector", "probe", "slots")
    return tuple(entry.name for entry in fields(kind)) if is_dataclass(kind) else None
