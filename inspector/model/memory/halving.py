"""Many prompts at once that do not fit into memory: asked once more in two halves, else the error goes on.

Memory that visitors share may be too small for a batch that fitted a moment ago. What runs through here loses no work
then. A single prompt cannot be made smaller, nor can a half that does not fit, either: whoever runs it tells that
(``editing.memory.memory_told``).
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakMethod

import torch

from inspector.errors import InspectorError

One = TypeVar("One")
Got = TypeVar("Got")

_NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory"),
    *("alloc_failed", "bad_alloc", "failed to allocate memory"),
)
"""What a plain error of torch, of CUDA, of C++ or of the system says, in small letters, where an allocation failed."""


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that a device, or the process, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = str(error).lower() if isinstance(error, RuntimeError | OSError) else ""
    return any(words in said for words in _NO_MEMORY)


_GIVERS: list[WeakMethod[Callable[[], None]]] = []


def when_memory_runs_out(give: Callable[[], None]) -> None:
    """Have something called wherever memory runs out, which gives back what nobody uses just now.

    Args:
        give: A bound method, called in any thread; what it belongs to may go at any time.
    """
    _GIVERS[:] = [one for one in _GIVERS if one() is not None]
    _GIVERS.append(WeakMethod(give))


def let_go(error: BaseException) -> None:
    """Give back what the steps that ran out of memory hold, what nobody uses, and what is cached on the device."""
    traceback.clear_frames(error.__traceback__)  # what they hold would not be given back
    for giver in list(_GIVERS):
        give = giver()
        if give is not None:
            give()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def running_out_as(told: InspectorError) -> Iterator[None]:
    """Turn running out of memory, on any device, into another error; what was cached on the device is given back."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if ran_out(error):
            let_go(error)
            raise told from None
        raise


def halves(items: Sequence[One]) -> tuple[Sequence[One], Sequence[One]]:
    """Return the two halves of at least two things, in their order; the first is not the smaller one."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def halved(work: Callable[[Sequence[One]], list[Got]], items: Sequence[One]) -> list[Got]:
    """Do work on many things at once; where memory runs out, once more on each half of them.

    Args:
        work: Returns what it found, in the order of what it got; a call that fails must leave nothing behind.
        items: At least one.
    """
    if len(items) > 1:
        try:
            return work(items)
        except Exception as error:
            if not ran_out(error):
                raise
            let_go(error)
        first, second = halves(items)  # no longer within the handler, which holds the error and all below it
        return [*work(first), *work(second)]
    return work(items)
