"""Who does the work of a sweep: this process, or the workers of a Ray cluster. Both give the same results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from editing.memory import memory_told
from editing.sweep.settings import SweepSettings
from editing.sweep.store import Finished
from editing.sweep.work import texts_of, work
from inspector.errors import EditError, InspectorError, OutOfMemory
from inspector.model import InspectedModel, load, read_max_memory
from inspector.safeedit.cases import Case
from inspector.safeedit.judges import load_judge
from inspector.safeedit.questions import QuestionSets
from inspector.safeedit.verdict import Judge

Loader = Callable[[SweepSettings], tuple[InspectedModel, Judge]]
Todo = Sequence[tuple[int, Case]]


def load_all(settings: SweepSettings) -> tuple[InspectedModel, Judge]:
    """Load the model and the judge that the settings name."""
    name = None if settings.model == "embedded" else settings.model
    model = load(
        name,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        device_map=settings.device_map,
        max_memory=read_max_memory(settings.max_memory),
    )
    return model, load_judge(settings.judge, device=settings.device)


def local(model: InspectedModel, judge: Judge, settings: SweepSettings, todo: Todo) -> Iterator[Finished]:
    """Do the cases one after the other in this process."""
    texts = texts_of(settings)
    for number, case in todo:
        begun = time.perf_counter()
        status, record = work(model, judge, case, settings, texts)
        yield _finished(number, case, status, record, time.perf_counter() - begun)


@dataclass(frozen=True)
class Cluster:
    """Where and how wide a Ray engine runs.

    Attributes:
        address: ``local`` starts a cluster on this machine, ``auto`` finds the one that runs, else its address.
        workers: Number of model replicas.
        gpus_per_worker: GPUs that each has; may be a fraction.
        cpus_per_worker: CPU cores that each has.
    """

    address: str = "auto"
    workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0


def on_ray(
    settings: SweepSettings, todo: Todo, cluster: Cluster, loader: Loader = load_all, like: InspectedModel | None = None
) -> Iterator[Finished]:
    """Do the cases on Ray workers, each with its own model; results come as they are ready, in any order.

    A case whose worker dies is given to another one, once. A worker whose memory does not suffice for the model is let
    go, and the others do its case.

    Args:
        like: The driver's model, whose base weights and data type every worker must have; ``None`` for no check.

    Raises:
        EditError: Ray is not installed, there is no such cluster, it cannot hold a worker, or a worker's model is not
            the driver's.
        OutOfMemory: No worker is left, as none had the memory to load the model.
        InspectorError: What a worker says of its model, its judge or its texts.
    """
    identity = None if like is None else (like.fingerprint, like.dtype_name)
    try:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
    except ImportError:
        raise EditError("The engine ray needs its package. Run 'pip install -r requirements-cluster.txt'.") from None
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    try:
        remote = ray.remote(num_gpus=cluster.gpus_per_worker, num_cpus=cluster.cpus_per_worker)(_Worker)
        count = max(1, min(cluster.workers, len(todo)))
        waiting, tried = list(todo), dict.fromkeys((number for number, _ in todo), 0)
        running: dict[Any, tuple[Any, tuple[int, Case]]] = {}
        worth_another = False  # a worker has done something since one was last started in another's place

        def give(worker: Any) -> None:
            if waiting:
                number, case = waiting.pop(0)
                tried[number] += 1
                running[worker.do.remote(number, case)] = (worker, (number, case))

        for _ in range(count):
            give(remote.remote(settings, loader, identity))
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            worker, (number, case) = running.pop(ready[0])
            try:
                finished = ray.get(ready[0])
            except RayTaskError as error:
                if isinstance(error.cause, OutOfMemory):  # while it loaded: in a case it is that case's outcome
                    ray.kill(worker)
                    waiting.insert(0, (number, case))
                    print("A worker has not the memory to load the model and is let go.", file=sys.stderr, flush=True)
                    if not running and not worth_another:
                        raise OutOfMemory(_NO_WORKER) from None
                    if not running:  # those that could have gone when there was no case left
                        worth_another = False
                        give(remote.remote(settings, loader, identity))
                    continue
                if isinstance(error.cause, InspectorError):
                    raise error.cause from None  # its own words, without the worker's stack
                raise
            except (RayActorError, OutOfMemoryError) as error:
                if tried[number] > 1:  # it costs this case, not the others
                    first = str(error).strip().splitlines()[0]
                    why = f"Two workers died on this case ({first}). Give workers more memory or fewer of them."
                    yield _finished(number, case, "failed", {"error": why}, 0.0)
                else:
                    waiting.insert(0, (number, case))
                give(remote.remote(settings, loader, identity))
            else:
                worth_another = True
                give(worker)  # before the result is written, so that no worker waits for the disk
                yield finished
    finally:
        if started:
            ray.shutdown()


_NO_WORKER = (
    "No worker has the memory to load the model. Give each worker a whole device (--gpus-per-worker 1), use fewer "
    "workers on larger machines, or load the model in bfloat16 (--dtype bfloat16)."
)


def _connect(ray: Any, cluster: Cluster) -> None:
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if cluster.address == "local":
        options |= {"include_dashboard": False, "num_cpus": max(1, round(cluster.workers * cluster.cpus_per_worker))}
    try:
        ray.init(address=cluster.address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise EditError(
            f"There is no Ray cluster at '{cluster.address}' ({first}). Start one with 'ray start --head', give its "
            "address, or use --address local."
        ) from error


class _Worker:
    """One replica of model and judge on a Ray worker, loaded with its first case.

    An error while an actor is made reaches the driver as a dead worker; one in a case keeps its own words.
    """

    def __init__(self, settings: SweepSettings, loader: Loader, identity: tuple[str, str] | None) -> None:
        self._settings, self._loader, self._identity = settings, loader, identity
        self._loaded: tuple[InspectedModel, Judge, QuestionSets] | None = None

    def _load(self) -> tuple[InspectedModel, Judge, QuestionSets]:
        with memory_told():
            model, judge = self._loader(self._settings)
            found = (model.fingerprint, model.dtype_name)
        if self._identity is not None and found != self._identity:
            raise EditError(
                f"A worker has base weights {found[0]} in {found[1]}, this process {self._identity[0]} in "
                f"{self._identity[1]}. Give --dtype, and --revision for a hub model, so that all have the same."
            )
        return model, judge, texts_of(self._settings)

    def do(self, number: int, case: Case) -> Finished:
        if self._loaded is None:
            self._loaded = self._load()
        model, judge, texts = self._loaded
        begun = time.perf_counter()
        status, record = work(model, judge, case, self._settings, texts)
        return _finished(number, case, status, record, time.perf_counter() - begun)


def _finished(number: int, case: Case, status: str, record: dict[str, Any], seconds: float) -> Finished:
    name = "" if case.identifier is None else str(case.identifier)
    return Finished(number, name, case.category, status, record, seconds)
