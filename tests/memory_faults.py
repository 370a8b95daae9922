"""Memory that runs out in forward passes: once, at the widest of them, or at each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from inspector.model import InspectedModel

TOLD = "CUDA out of memory. Tried to allocate 2.00 GiB."


@dataclass
class Passes:
    """The forward passes of a network, as they are made.

    Attributes:
        rows: How many rows each of them has.
        fail: Called with the number of each before it is made.
    """

    rows: list[int] = field(default_factory=list)
    fail: Callable[[int], None] = lambda number: None


@contextmanager
def passes(model: InspectedModel, fail: Callable[[int], None] = lambda number: None) -> Iterator[Passes]:
    """Watch the forward passes of a model, and of copies of it, and let some of them fail."""
    seen, kind = Passes(fail=fail), type(model.network)
    own = kind.forward

    @functools.wraps(own)
    def forward(network: Any, *given: Any, **named: Any) -> Any:
        batch = given[0] if given else named.get("input_ids", named.get("inputs_embeds"))
        seen.rows.append(len(batch))
        seen.fail(len(seen.rows) - 1)
        return own(network, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "forward", forward)
        yield seen


def no_memory(*_: Any) -> None:
    """Fail as torch does on a device that is full."""
    raise torch.OutOfMemoryError(TOLD)


def once_at(place: int) -> Callable[[int], None]:
    """Return what lets one pass fail."""
    return lambda number: no_memory() if number == place else None
