"""Work of fixed shapes captured as one CUDA graph: replayed, it costs its host one launch instead of thousands.

What is captured must not wait for the device, copy from the host's memory, or depend on numbers that only the host
knows. Run it once before it is captured, so that everything that is made on first use exists.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch

from inspector.model.memory.halving import let_go, ran_out

_Result = TypeVar("_Result")


CAPTURING = threading.RLock()
"""Held while something is captured, and by whatever else runs on a side stream: models have locks of their own, but
share streams and modules' functions. A thread that needs a model's lock as well takes that one first."""
_WARM: set[torch.device] = set()


def warm(device: torch.device) -> bool:
    """Tell whether work was captured on a device before, so that more of its kind can be captured without a run."""
    return device in _WARM


def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that a device's captures are made on.

    Autograd remembers the stream that a leaf was first used on. Work that is to be captured with its backward pass has
    to run on this one before, too (:func:`beside`).
    """
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Run what is inside on :func:`side_stream`, after all that was asked before and before all that is asked later.

    All models of a device share that stream, so :data:`CAPTURING` is held: what one enqueues may not get into the
    capture of another.
    """
    with CAPTURING:
        stream, current = side_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            current.wait_stream(stream)


@dataclass(eq=False)
class Pool:
    """The memory of graphs that take turns: what one gives is used before the next is replayed, which may overwrite it.

    Attributes:
        handle: CUDA's name of it while one of its graphs lives; ``None`` for memory that the next graph is to make.
    """

    handle: Any = None


class Graph(Generic[_Result]):
    """One captured piece of work.

    Args:
        work: What is captured; it runs on the tensors that it finds, in place.
        device: The CUDA device of all of them.
        pool: The memory that it shares with others; one of its own by default.

    Attributes:
        result: What the work returned: the same tensors after every replay.

    Raises:
        RuntimeError: The work waits for the device or does something else that cannot be captured.
    """

    def __init__(self, work: Callable[[], _Result], device: torch.device, pool: Pool | None = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        within: dict[str, Any] = {}
        if pool is not None and pool.handle is not None:
            within["pool"], pool.handle = pool.handle, None  # a capture that fails leaves it unfit for others
        with beside(device):
            # Not torch.cuda.graph(): it gives all cached memory back first, which costs more than the capture. Other
            # threads may go on using the device meanwhile.
            self._graph.capture_begin(**within, capture_error_mode="thread_local")
            try:
                self.result = work()
            except BaseException:
                with suppress(RuntimeError):  # says that the capture has failed; why is the error that goes on
                    self._graph.capture_end()
                raise
            self._graph.capture_end()
        if pool is not None:
            pool.handle = self._graph.pool()
        _WARM.add(device)

    def replay(self) -> _Result:
        """Enqueue the work again and return its tensors; does not wait for them."""
        self._graph.replay()
        return self.result


TRIES = 2
"""Captures of one kind of work that may fail in a row before no more are tried: one may have met what ran beside it."""
_FAILED: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()


def given_up(owner: Any, what: str) -> bool:
    """Tell whether captures of a kind of work have failed so often that no more of them are tried.

    Args:
        owner: Whose work it is: a model, or what lives shorter.
        what: The kind.
    """
    return _FAILED.get(owner, Counter())[what] >= TRIES


def failed(owner: Any, what: str) -> None:
    """Remember that a capture has failed, and not for want of memory."""
    _FAILED.setdefault(owner, Counter())[what] += 1


def worked(owner: Any, what: str) -> None:
    """Forget the captures that have failed before this one."""
    _FAILED.setdefault(owner, Counter())[what] = 0


def _with_room(work: Callable[[], _Result], device: torch.device, pool: Pool | None) -> Graph[_Result]:
    """Capture; once more where memory runs out, since a capture gets none of what other graphs had or torch caches."""
    try:
        return Graph(work, device, pool)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        let_go(error)
    return Graph(work, device, pool)  # no longer within the handler, which holds the error and all below it


def captured(
    work: Callable[[], _Result], device: torch.device, what: str, owner: Any, pool: Pool | None = None
) -> Callable[[], _Result]:
    """Return what runs the work as a graph, or the work itself where it cannot be captured, which is said.

    Args:
        device: Where it runs; only CUDA has graphs.
        what: What it is, for the warning.
        owner: As for :func:`given_up`; what it has given up is not tried.
        pool: As for :class:`Graph`.
    """
    if device.type != "cuda" or given_up(owner, what):
        return work
    try:
        graph = _with_room(work, device, pool)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        warnings.warn(f"{what} cannot be captured as a CUDA graph and runs step by step ({first}).", stacklevel=2)
        if ran_out(error):
            let_go(error)  # the work itself has the same memory to run in
        else:
            failed(owner, what)
        return work
    worked(owner, what)
    return graph.replay
