"""The same sweep in this process and with 1, 2 and 4 Ray workers, vanilla answers paired and shared, in one run.

    python -m benchmarks.sweep_speed --out benchmarks/results/sweep_speed.json
    OMP_NUM_THREADS=1 python -m benchmarks.sweep_speed --model path/to/folder --limit 4 --steps 2

Every row is a whole sweep into a store of its own, on one local Ray cluster, after a case in this process that is not
counted; workers prepare anew what a model prepares once. Printed, and written as JSON:

- ``start``: seconds until the first worker has its model; none for this process, which has loaded it before;
- ``work``: seconds from there to the last case on disk, shared vanilla answers and comparisons among them;
- ``cases a minute`` in that time, and its ratio to the first row;
- ``same answers``: how many vanilla and edited answers are, as text, those of the first row (rounding may flip a near
  tie), and what the sweep itself found when it compared shared with paired answers.

A Ray worker computes with one thread unless OMP_NUM_THREADS says more, this process with one for each core: set it for
a fair ratio. Workers beyond the cores of the machine, or of one device, share them and gain nothing.

Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from editing.command import finished
from editing.memory import memory_told
from editing.sweep import Cluster, Finished, Store, SweepSettings, cases_of, load_all, local, on_ray
from editing.sweep.report import pairing_of
from editing.sweep.work import chosen_layer
from inspector.command import add_spread
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.safeedit.known import Pairing
from inspector.safeedit.questions import Size
from inspector.safeedit.verdict import Judge


@dataclass(frozen=True)
class Measured:
    """One row.

    Attributes:
        engine: ``local`` or ``ray``.
        workers: Number of models.
        vanilla: ``paired`` or ``shared``.
        cases: Number of cases done.
        start: Seconds until the first worker was loaded.
        work: Seconds from there to the last case on disk.
        pairing: What the sweep found when it compared shared with paired answers.
        same: Answers as in the first row.
        answers: Answers in all.
    """

    engine: str
    workers: int
    vanilla: str
    cases: int
    start: float
    work: float
    pairing: Pairing
    same: int
    answers: int

    @property
    def cases_a_minute(self) -> float:
        """Throughput without the start of the workers."""
        return 60 * self.cases / self.work


def texts_of_answers(finished: Sequence[Finished]) -> list[str]:
    """Return all answers in order, vanilla and edited.

    Raises:
        EditError: A case has failed.
    """
    failed = [result for result in finished if result.status == "failed"]
    if failed:
        raise EditError(f"Case {failed[0].case} failed, so times say nothing: {failed[0].record.error}")
    ordered = sorted(finished, key=lambda result: result.number)
    return [text for one in ordered for reply in one.replies for text in (reply.vanilla.text, reply.edited.text)]


def measured(
    model: InspectedModel, judge: Judge, settings: SweepSettings, workers: int | None, first: list[str]
) -> Measured:
    """Run one sweep.

    Args:
        workers: Ray workers; ``None`` for this process.
        first: Answers of the first row, filled by it.
    """
    todo = list(enumerate(cases_of(settings)))
    with tempfile.TemporaryDirectory(prefix="sweep-speed-") as name:
        folder = Path(name)

        def noting(chosen: SweepSettings) -> tuple[InspectedModel, Judge]:
            loaded = load_all(chosen)
            (folder / f"loaded-{os.getpid()}").write_text(str(time.time()), encoding="utf-8")
            return loaded

        store = Store(folder)
        begun = time.time()
        try:
            if workers is None:
                run = local(model, judge, settings, todo)
            else:
                run = on_ray(settings, todo, Cluster("local", workers), noting, (model.fingerprint, model.dtype_name))
            for finished in run:
                store.save(finished)
            ended = time.time()
            found = list(store.results())
        finally:
            store.close()
        loaded = [float(path.read_text(encoding="utf-8")) for path in folder.glob("loaded-*")]
    texts = texts_of_answers(found)
    first.extend([] if first else texts)
    start = min(loaded, default=begun)
    return Measured(
        "local" if workers is None else "ray",
        workers or 1,
        settings.vanilla,
        len(found),
        start - begun,
        ended - start,
        pairing_of(found),
        sum(one == other for one, other in zip(texts, first, strict=True)),
        len(texts),
    )


def table(rows: Sequence[Measured]) -> str:
    """Return the rows as a table."""
    lines = [
        f"{'engine':<8}{'workers':>8}{'vanilla':>9}{'start, s':>10}{'work, s':>10}{'cases a minute':>16}{'ratio':>7}"
        f"{'same answers':>16}{'differ when compared':>22}"
    ]
    for row in rows:
        differ = (
            f"{row.pairing.vanilla} + {row.pairing.edited} of {row.pairing.compared}" if row.pairing.compared else ""
        )
        lines.append(
            f"{row.engine:<8}{row.workers:>8}{row.vanilla:>9}{row.start:>10.1f}{row.work:>10.1f}"
            f"{row.cases_a_minute:>16.2f}{row.cases_a_minute / rows[0].cases_a_minute:>7.2f}"
            f"{f'{row.same} of {row.answers}':>16}{differ:>22}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the record if a file is named.

    Returns:
        0, or 2 for what a person can mend.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="hub id, folder or .gguf file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    add_spread(parser)
    parser.add_argument("--cases", default="bundled")
    parser.add_argument("--limit", type=int, default=12, help="cases of each row")
    parser.add_argument("--steps", type=int, default=None, help="most steps of an edit (default: the preset's)")
    parser.add_argument("--transfer", type=int, default=2, help="held-out prompts per category")
    parser.add_argument("--harmless", type=int, default=48)
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--passages", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="Ray workers of each pair of rows")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args(arguments)
    return finished(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    rows, about = _rows(options)
    print(about["machine"])
    print(table(rows))
    record = about | {
        "rows": [{**asdict(row), "cases a minute": round(row.cases_a_minute, 3)} for row in rows],
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(record))


def _rows(options: argparse.Namespace) -> tuple[list[Measured], dict[str, object]]:
    settings = {
        way: SweepSettings(
            cases=options.cases,
            limit=options.limit,
            changes={} if options.steps is None else {"steps": options.steps},
            size=Size(options.transfer, options.harmless, options.facts, options.passages),
            max_new_tokens=options.max_new_tokens,
            model=options.model,
            device=options.device,
            dtype=options.dtype,
            device_map=options.device_map,
            max_memory=tuple(options.max_memory),
            vanilla=way,
        )
        for way in ("paired", "shared")
    }
    with memory_told():
        model, judge = load_all(settings["paired"])
    cases = cases_of(settings["paired"])
    ray = _cluster(max(options.workers, default=0))
    rows: list[Measured] = []
    first: list[str] = []
    one = replace(settings["paired"], limit=1)
    one = replace(one, block=chosen_layer(model, one, cases).layer)
    measured(model, judge, one, None, [])  # what a model prepares once, it has from here on
    try:
        for workers in (None, *options.workers):
            for way in ("paired", "shared"):
                layer = chosen_layer(model, settings[way], cases).layer
                rows.append(measured(model, judge, replace(settings[way], block=layer), workers, first))
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    finally:
        if ray is not None:
            ray.shutdown()
    machine = (
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads "
        f"in this process; {model.name} ({model.dtype_name}, {options.device}), {len(cases)} cases, judge {judge.name}"
    )
    return rows, {"machine": machine, "settings": json.loads(settings["shared"].as_json())}


def _cluster(workers: int) -> Any:
    """Start one local cluster for all rows, with room for the most workers; none where no row needs it.

    Raises:
        EditError: Ray is not installed.
    """
    if not workers:
        return None
    try:
        import ray
    except ImportError:
        raise EditError("Rows with workers need Ray. Run 'pip install -r requirements-cluster.txt'.") from None
    options: dict[str, Any] = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    ray.init(address="local", num_cpus=workers, **options)
    return ray


if __name__ == "__main__":
    sys.exit(main())
