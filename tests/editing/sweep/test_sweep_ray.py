"""Ray workers give what this process gives, and a worker that dies costs what it was at, nothing else."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sweep_helpers import HERE, PLAIN, SHORT, finished, is_first, loader, note, noted, stripped, watch, write_cases

from benchmarks import sweep_speed
from editing.sweep import Finished, Store, SweepSettings
from editing.sweep.__main__ import main
from editing.sweep.yardstick import Rounded
from inspector.safeedit.judges import MATCHER

ray = pytest.importorskip("ray", reason="ray is not installed (requirements-cluster.txt)")

ENGINE = ["--engine", "ray", "--address", "local"]
MORE = [*SHORT, *PLAIN, "--harmless", "30"]
"""Two batches of harmless prompts and one of facts are shared."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray cluster of two workers; a sweep uses the one that runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HERE.parent}{os.pathsep}{HERE}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # else they wait for whatever else these cores do
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        yield
        ray.shutdown()


def test_ray_workers_give_what_this_process_gives_whoever_dies_or_has_not_the_memory_to_load(
    tmp_path, capsys, monkeypatch, one_thread
):
    """One is killed amid its second case, and the next to load has not the memory.

    A death costs what the worker was at, and nothing is done twice. One sweep for all, as every worker loads torch.
    """
    driver, lost, victim, saved = os.getpid(), tmp_path / "lost", tmp_path / "victim", []

    def waiting(begun: int) -> None:
        """Wait to be killed amid the second case of whichever process is first at one, in the other for a third one."""
        if begun == 2 and is_first(tmp_path / "chosen"):
            note(victim, os.getpid())
            time.sleep(600)
        until = time.monotonic() + 300
        while begun == 2 and not lost.exists() and time.monotonic() < until:
            time.sleep(0.02)

    def deadly(settings: SweepSettings):
        if os.getpid() != driver:
            if not (is_first(tmp_path / "one") or is_first(tmp_path / "two")) and is_first(lost):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            watch(tmp_path, waiting)
        return loader(settings)

    def kill() -> None:
        until = time.monotonic() + 300
        while not noted(victim) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(int(noted(victim)[0][0]), signal.SIGKILL)

    own = Store.save

    def save(store: Store, result: Finished) -> None:
        saved.append(result.number)
        own(store, result)

    monkeypatch.setattr(Store, "save", save)
    killer = threading.Thread(target=kill)
    killer.start()
    cases, out = write_cases(tmp_path, 4), tmp_path / "ray"
    assert main(["--cases", cases, "--out", str(out), *ENGINE, "--workers", "3", *MORE], deadly) == 0
    killer.join()
    said = capsys.readouterr().err
    assert lost.exists() and said.count("A worker has not the memory to load the model and is let go.") == 1
    assert "The vanilla weights answer 31 prompts once, for all cases." in said
    made = Counter(tuple(prompt) for _, *prompt in noted(tmp_path / "batches"))
    assert sorted(made.values()) == [1, 1, 1], "a batch is made once"

    ((killed,),) = noted(victim)
    at: dict[str, list[str]] = {}
    for process, prompt in noted(tmp_path / "cases"):
        at.setdefault(prompt, []).append(process)
    finished_before, cut = (prompt for prompt, processes in at.items() if killed in processes)
    assert at[finished_before] == [killed], "what it had finished is not done again"
    first, second = at[cut]
    assert first == killed != second, "its case is given to another worker, once"
    assert [len(processes) for prompt, processes in at.items() if prompt != cut] == [1] * 3
    assert sorted(saved) == list(range(4)), "each case is written once"

    monkeypatch.undo()
    assert main(["--cases", cases, "--out", str(tmp_path / "local"), *MORE], loader) == 0
    found = finished(out)
    assert [result.status for result in found] == ["done"] * 4
    assert stripped(found) == stripped(finished(tmp_path / "local"))
    rows = [rounded(folder) for folder in (out, tmp_path / "local")]
    assert rows[0] == rows[1] and rows[0].prompts == 30, "one worker has made the rounding row"
    assert sum(result.record.pairing.compared for result in found) == 12 + 12 + 6 + 1
    assert main(["--out", str(out), "--report"], loader) == 0
    assert "Compared with paired batches: 31 answers of each, all the same." in capsys.readouterr().err


def rounded(folder: Path) -> Rounded | None:
    """Return the rounding row of a sweep."""
    store = Store(folder)
    try:
        return store.rounded()
    finally:
        store.close()


def test_the_benchmark_of_sweeps_has_rows_of_workers_with_the_answers_of_this_process(
    tmp_path, monkeypatch, one_thread
):
    """Their start is told apart from their work; the cluster is the one that runs.

    This process makes the paired row in a worker's place: it asks nothing of workers that the shared one does not.
    """
    asked_for, row = [], sweep_speed.measured

    def measured(model, judge, settings, workers, first):
        asked_for.append((workers, settings.vanilla))
        return row(model, judge, settings, workers if settings.vanilla == "shared" else None, first)

    monkeypatch.setattr(sweep_speed, "measured", measured)
    own, few = sweep_speed.SweepSettings, {"null_space": None, "own_refusals": 0}
    few |= {"harmless_prompts": 1, "harmless_tokens": 2}
    monkeypatch.setattr(
        sweep_speed,
        "SweepSettings",
        lambda **asked: own(**{**asked, "changes": asked["changes"] | few, "judge": MATCHER}),
    )
    monkeypatch.setattr(sweep_speed, "_cluster", lambda _workers: None)
    model, _ = loader(SweepSettings())
    model.network.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    size = ["--transfer", "0", "--harmless", "1", "--facts", "1", "--passages", "0", "--max-new-tokens", "4"]
    asked = ["--model", str(tmp_path / "model"), "--cases", write_cases(tmp_path, 1), "--steps", "1", *size]
    assert sweep_speed.main([*asked, "--workers", "1", "--out", str(tmp_path / "speed.json")]) == 0
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert asked_for[1:] == [(workers, way) for workers in (None, 1) for way in ("paired", "shared")]
    found = [(row["engine"], row["vanilla"], row["cases"]) for row in rows]
    assert found == [("local", "paired", 1), ("local", "shared", 1), ("local", "paired", 1), ("ray", "shared", 1)]
    assert all(row["same"] == row["answers"] == 14 for row in rows)
    assert rows[3]["start"] > 0 and rows[3]["work"] > 0
    assert [row["pairing"]["compared"] for row in rows] == [0, 1, 0, 1]
