"""The Ray workers of a sweep: who is at what, and what happens when one dies or has not the memory to load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from inspector.errors import EditError, InspectorError, OutOfMemory

_Item = TypeVar("_Item")
TRIES = 2
"""Workers that may die on one piece of work; so many a place may die while they load."""


@dataclass(frozen=True)
class Died:
    """What a piece of work ends with on which two workers died.

    Attributes:
        why: The first line of what Ray says.
    """

    why: str


@dataclass
class _Given(Generic[_Item]):
    """A piece of work that a worker is at, and its place in the list."""

    worker: Any
    place: int
    item: _Item


class Crew:
    """Workers that are loaded and take one piece of work after the other.

    A piece whose worker dies is given to another one, once, and another worker is hired in its place; so is one that
    was done and whose outcome is lost with the worker's machine. A worker whose memory does not suffice to load the
    model is let go. Work goes only to workers that are loaded, so none waits for one that the cluster has no room for
    yet. One that has waited may have died meanwhile, with its machine: it is asked before it is given more, so that no
    piece is tried with a dead one.

    Args:
        hire: Starts a worker, a Ray actor with ``open``, which loads it; of one that is loaded it only answers.
        size: Number of workers.
    """

    def __init__(self, hire: Callable[[], Any], size: int) -> None:
        import ray

        self._ray, self._hire, self._size = ray, hire, size
        self._opening: dict[Any, Any] = {}
        self._asked: dict[Any, Any] = {}  # loaded ones, whether they are still alive
        self._idle: list[Any] = []
        self._useful = False  # a worker has done something since one was last hired in another's place
        self._dead_openings = 0
        for _ in range(size):
            self._begin()

    def do(self, items: Sequence[_Item], begin: Callable[[Any, _Item], Any]) -> Iterator[tuple[_Item, Any]]:
        """Yield each item with what a worker made of it, as they are ready, in any order.

        Args:
            begin: Gives a worker an item and returns the reference of the outcome.

        Raises:
            OutOfMemory: No worker is left, as none had the memory to load the model.
            EditError: Workers die while they load.
            InspectorError: What a worker says, in its own words.
        """
        from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

        waiting = list(range(len(items)))
        tried = [0] * len(items)
        running: dict[Any, _Given[_Item]] = {}

        def give() -> None:
            while waiting and self._idle:
                worker, place = self._idle.pop(0), waiting.pop(0)
                tried[place] += 1
                running[begin(worker, items[place])] = _Given(worker, place, items[place])

        self._ask()
        while waiting or running:
            (ready,), _ = self._ray.wait([*running, *self._asked, *self._opening], num_returns=1)
            if ready in self._asked:
                self._answered(ready)
                give()
                continue
            if ready in self._opening:
                self._opened(ready, bool(running))
                give()
                continue
            given = running.pop(ready)
            try:
                outcome = self._ray.get(ready)
            except RayTaskError as error:
                if isinstance(error.cause, InspectorError):
                    raise error.cause from None  # its own words, without the worker's stack
                raise
            except (RayActorError, OutOfMemoryError, ObjectLostError) as error:
                if isinstance(error, ObjectLostError):  # done, but lost with its machine before it was fetched
                    self._ray.kill(given.worker)
                self._begin()
                self._ask()
                if tried[given.place] < TRIES:  # it costs this piece, not the others
                    waiting.insert(0, given.place)  # for one that is loaded: the cluster may have no room for another
                    continue
                outcome = Died(_first_line(error))
            else:
                self._useful = True
                self._idle.append(given.worker)
                give()  # before the outcome is used, so that no worker waits for the disk
            yield given.item, outcome

    def _begin(self) -> None:
        worker = self._hire()
        self._opening[worker.open.remote()] = worker

    def _ask(self) -> None:
        """Ask the workers that wait whether they are still alive."""
        self._asked |= {worker.open.remote(): worker for worker in self._idle}
        self._idle.clear()

    def _answered(self, ready: Any) -> None:
        """See whether a worker is still alive; another one is hired in a dead one's place."""
        from ray.exceptions import OutOfMemoryError, RayActorError

        worker = self._asked.pop(ready)
        try:
            self._ray.get(ready)
        except (RayActorError, OutOfMemoryError):
            self._begin()
        else:
            self._idle.append(worker)

    def _opened(self, ready: Any, others_work: bool) -> None:
        """See how a worker has loaded."""
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        worker = self._opening.pop(ready)
        try:
            self._ray.get(ready)
        except RayTaskError as error:
            if not isinstance(error.cause, OutOfMemory):
                raise (error.cause if isinstance(error.cause, InspectorError) else error) from None
            self._ray.kill(worker)
            print("A worker has not the memory to load the model and is let go.", file=sys.stderr, flush=True)
            if others_work or self._opening or self._asked or self._idle:
                return
            if not self._useful:
                raise OutOfMemory(_NO_WORKER) from None
            self._useful = False
            self._begin()
        except (RayActorError, OutOfMemoryError) as error:
            self._dead_openings += 1
            if self._dead_openings > TRIES * self._size:
                raise EditError(
                    f"Workers die while they load the model ({_first_line(error)}). Give workers more memory or fewer "
                    "of them."
                ) from None
            self._begin()
        else:
            self._dead_openings = 0
            self._idle.append(worker)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


_NO_WORKER = (
    "No worker has the memory to load the model. Give each worker a whole device (--gpus-per-worker 1), use fewer "
    "workers on larger machines, or load the model in bfloat16 (--dtype bfloat16)."
)
