"""Who does the work of a sweep: this process, or the workers of a Ray cluster. Both give the same results."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from editing.calibrating.calibration import calibration_of
from editing.memory import memory_told
from editing.sweep.crew import Crew, Died
from editing.sweep.fitting import fitting, left_out_by_kind, left_out_told
from editing.sweep.settings import SweepSettings
from editing.sweep.store import CaseRecord, Finished, Status
from editing.sweep.vanilla import Batch, answered, asked_first, shared_batches
from editing.sweep.work import texts_of, work
from editing.sweep.yardstick import Rounded, rounded_of
from inspector.errors import EditError
from inspector.model import InspectedModel, load, read_max_memory, read_paths
from inspector.model.placement import chosen_device
from inspector.safeedit.cases import Case
from inspector.safeedit.judges import load_judge
from inspector.safeedit.known import Answer, Asked, Known
from inspector.safeedit.verdict import Judge

SweepLoader = Callable[[SweepSettings], tuple[InspectedModel, Judge]]
"""Loads the model and the judge that a sweep's settings name; tests give their own."""
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
        paths=read_paths(settings.paths),
    )
    return model, load_judge(settings.judge, device=settings.device)


def local(
    model: InspectedModel,
    judge: Judge,
    settings: SweepSettings,
    todo: Todo,
    detector: str = "",
    keep: Callable[[Rounded], None] | None = None,
) -> Iterator[Finished]:
    """Do the cases one after the other in this process, after the vanilla answers that they share.

    Args:
        detector: Digest of the detector that all patches have to act by, see :func:`editing.sweep.work.work`.
        keep: Takes the rounding row, which is made before the first case; ``None`` where none is wanted.

    Raises:
        EditError: The model's calibration is damaged.
    """
    _learn(model)
    texts = fitting(model, settings, texts_of(settings))
    if texts.left_out:
        print(left_out_told(left_out_by_kind(texts)), file=sys.stderr, flush=True)
    known: dict[Asked, Answer] = {}
    batches = shared_batches(model, settings, texts)
    if batches:
        print(asked_first(batches), file=sys.stderr, flush=True)
    for batch in batches:
        known |= answered(model, batch) or {}
    if keep is not None:
        keep(rounded_of(model, settings, texts, known))
    for number, case in todo:
        begun = time.perf_counter()
        status, record = work(model, judge, case, settings, texts, known, number, detector)
        yield _finished(number, case, status, record, time.perf_counter() - begun)


def _learn(model: InspectedModel) -> None:
    """Let a process's edits of a model start from its calibration, where it has one, as those of the page do."""
    known = calibration_of(model)
    if known is not None:
        known.teach(model)


@dataclass(frozen=True)
class Cluster:
    """Where and how wide a Ray engine runs.

    Attributes:
        address: ``local`` starts a cluster on this machine, ``auto`` finds the one that runs, else its address.
        workers: Number of model replicas.
        gpus_per_worker: GPUs that each has; may be a fraction. Workers without one compute on CPUs.
        cpus_per_worker: CPU cores that each has.
    """

    address: str = "auto"
    workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0


def require_devices(settings: SweepSettings, cluster: Cluster) -> None:
    """Check that workers have what they compute on: Ray hides no card from those that have asked for none.

    Raises:
        EditError: They would all load on the first card of their machine.
        ModelLoadError: There is no such device.
    """
    device = chosen_device(settings.device)
    if not cluster.gpus_per_worker and device.type != "cpu":
        raise EditError(
            f"Ray workers without a GPU of their own would all load the model on {device}. Use --gpus-per-worker 1 or "
            "--device cpu."
        )


def on_ray(
    settings: SweepSettings,
    todo: Todo,
    cluster: Cluster,
    loader: SweepLoader = load_all,
    identity: tuple[str, str] | None = None,
    detector: str = "",
    keep: Callable[[Rounded], None] | None = None,
) -> Iterator[Finished]:
    """Do the cases on Ray workers, each with its own model; results come as they are ready, in any order.

    First the workers make the vanilla answers that the cases share; the object store lends all of them to each. A case
    whose worker dies is given to another one, once, and so is a batch of vanilla answers; where that fails as well, its
    prompts are asked as ever.

    Args:
        identity: Fingerprint of the base weights and data type of the driver's model, which every worker's must have;
            ``None`` for no check. The model itself is not needed: a worker may have to lie where it did.
        detector: As for :func:`local`.
        keep: Takes the rounding row, which one worker makes while the others are at the first cases.

    Raises:
        EditError: Ray is not installed, there is no such cluster, it cannot hold a worker, workers die while they load,
            or a worker's model is not the driver's.
        OutOfMemory: No worker is left, as none had the memory to load the model.
        InspectorError: What a worker says of its model, its judge or its texts.
    """
    try:
        import ray
    except ImportError:
        raise EditError("The engine ray needs its package. Run 'pip install -r requirements-cluster.txt'.") from None
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    try:
        _require_room(ray.nodes(), cluster)
        if not cluster.gpus_per_worker and chosen_device(settings.device).type == "cpu":
            settings = replace(settings, device="cpu")  # whatever cards the workers' machines have
        remote = ray.remote(num_gpus=cluster.gpus_per_worker, num_cpus=cluster.cpus_per_worker)(_Worker)
        crew = Crew(
            lambda: remote.remote(settings, loader, identity, detector), max(1, min(cluster.workers, len(todo)))
        )
        lent = ray.put(_answered_by(crew) if settings.vanilla == "shared" else {})
        given: list[tuple[int, Case] | None] = [*todo] if keep is None else [None, *todo]
        for item, found in crew.do(
            given,
            lambda worker, item: worker.rounded.remote([lent]) if item is None else worker.do.remote(*item, [lent]),
        ):
            if item is None:
                assert keep is not None  # or it was not asked for
                died = isinstance(found, Died)
                keep(Rounded(f"No rounding row: two workers died on it ({found.why})") if died else found)
                continue
            number, case = item
            if isinstance(found, Died):
                why = f"Two workers died on this case ({found.why}). Give workers more memory or fewer of them."
                yield _finished(number, case, "failed", CaseRecord(why), 0.0)
            else:
                yield found
    finally:
        if started:
            ray.shutdown()


def _answered_by(crew: Crew) -> dict[Asked, Answer]:
    """Return the vanilla answers that the cases share, made by the workers, each batch by one."""
    ((_, batches),) = crew.do(["what"], lambda worker, _: worker.batches.remote())
    known: dict[Asked, Answer] = {}
    if isinstance(batches, Died) or not batches:
        return known
    print(asked_first(batches), file=sys.stderr, flush=True)
    for _, found in crew.do(batches, lambda worker, batch: worker.answer.remote(batch)):
        known |= {} if found is None or isinstance(found, Died) else found
    return known


def _connect(ray: Any, cluster: Cluster) -> None:
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if cluster.address == "local":
        options |= {
            "include_dashboard": False,
            "num_cpus": max(1, math.ceil(cluster.workers * cluster.cpus_per_worker)),
        }
    try:
        ray.init(address=cluster.address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise EditError(
            f"There is no Ray cluster at '{cluster.address}' ({first}). Start one with 'ray start --head', give its "
            "address, or use --address local."
        ) from error


def _require_room(nodes: Sequence[Mapping[str, Any]], cluster: Cluster) -> None:
    """Check that some machine of a cluster could hold a worker, were it idle; Ray would wait for one for ever.

    Raises:
        EditError: None could.
    """
    wanted = {"GPU": cluster.gpus_per_worker, "CPU": cluster.cpus_per_worker}
    rooms: list[dict[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(room.get(kind, 0) >= count for kind, count in wanted.items()) for room in rooms):
        return
    beyond = [kind for kind, count in wanted.items() if all(room.get(kind, 0) < count for room in rooms)] or [*wanted]
    largest: dict[str, float] = max(rooms, key=lambda room: [room.get(kind, 0) for kind in beyond], default={})
    ways = {"GPU": "--gpus-per-worker (0 with --device cpu)", "CPU": "--cpus-per-worker"}
    raise EditError(
        f"No machine of this Ray cluster can hold a worker with {wanted['GPU']:g} GPUs and {wanted['CPU']:g} CPU "
        f"cores: the largest has {largest.get('GPU', 0):g} and {largest.get('CPU', 0):g}. Lower "
        f"{' or '.join(ways[kind] for kind in beyond)}, or add a larger machine."
    )


class _Worker:
    """One replica of model and judge on a Ray worker.

    An error while an actor is made reaches the driver as a dead worker; one of ``open`` keeps its own words.
    """

    def __init__(
        self, settings: SweepSettings, loader: SweepLoader, identity: tuple[str, str] | None, detector: str = ""
    ) -> None:
        self._settings, self._loader, self._identity, self._detector = settings, loader, identity, detector
        self._known: Known | None = None
        self._is_open = False

    def open(self) -> None:
        """Load model, judge and texts, and what the model's calibration knows; once loaded, only answer."""
        if self._is_open:
            return
        with memory_told():
            self._model, self._judge = self._loader(self._settings)
            found = (self._model.fingerprint, self._model.dtype_name)
        if self._identity is not None and found != self._identity:
            raise EditError(
                f"A worker has base weights {found[0]} in {found[1]}, this process {self._identity[0]} in "
                f"{self._identity[1]}. Give --dtype, and --revision for a hub model, so that all have the same."
            )
        _learn(self._model)
        self._texts = fitting(self._model, self._settings, texts_of(self._settings))
        self._is_open = True

    def batches(self) -> tuple[Batch, ...]:
        """Say what the cases have in common."""
        return shared_batches(self._model, self._settings, self._texts)

    def answer(self, batch: Batch) -> Known | None:
        """Answer a part of it with the vanilla weights."""
        return answered(self._model, batch)

    def do(self, number: int, case: Case, lent: list[Any]) -> Finished:
        """Do a case.

        Args:
            lent: The reference of the shared vanilla answers, in a list, so that they are fetched once a worker.
        """
        known = self._taken(lent)
        begun = time.perf_counter()
        status, record = work(
            self._model, self._judge, case, self._settings, self._texts, known, number, self._detector
        )
        return _finished(number, case, status, record, time.perf_counter() - begun)

    def rounded(self, lent: list[Any]) -> Rounded:
        """Make the rounding row.

        Args:
            lent: As for :meth:`do`.
        """
        return rounded_of(self._model, self._settings, self._texts, self._taken(lent))

    def _taken(self, lent: list[Any]) -> Known:
        if self._known is None:
            import ray

            self._known = ray.get(lent[0])
        assert self._known is not None
        return self._known


def _finished(number: int, case: Case, status: Status, record: CaseRecord, seconds: float) -> Finished:
    name = "" if case.identifier is None else str(case.identifier)
    return Finished(number, name, case.category, status, record, seconds)
