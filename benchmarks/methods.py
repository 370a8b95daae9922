"""Every method in the same seat: scores, cost, and whether it erases or suppresses.

    python -m benchmarks.methods                     one bundled case a category, all methods at the toxic layer
    python -m benchmarks.methods --layer auto        each method at the layer that it has in every command
    python -m benchmarks.methods --cost              edits alone, for seconds and memory on a quiet machine

Each case is located (preset corrected), edited by every method with its own defaults, and examined: DS, the four DG
prompts, held-out adversarial prompts, harmless prompts, facts and summaries. The region is the down-projection of the
located layer, or of the one that --layer numbers, for every method. Its toxicity is the mean cosine of its value
vectors with the direction of a probe trained on the bundled labelled texts; the activation shift is the relative change
of the mean input of the region over 19 adversarial prompts. A finished case is kept in --out, and the same command goes
on where it stopped.

The tables are printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kept import require_same
from benchmarks.locators import chosen_cases, failed_cases
from editing import run
from editing.calibrating.calibration import calibration_of
from editing.calibrating.layer_choice import AUTO, TOXIC
from editing.command import add_evaluation, add_format, add_model, finished, format_of, load_model
from editing.contest import ContestProgress, ContestSettings, contest, exam_of
from editing.memory import memory_told, peak_memory
from editing.methods.registry import METHODS, method_settings
from editing.standing import Standing
from editing.standing_file import load_standings, save_standings
from editing.sweep.paper import AT_ITS_LENGTH, COLUMNS, PAPER_TOKENS, figures
from inspector.command import add_layer
from inspector.divergence import divergence
from inspector.errors import InspectorError
from inspector.model import VANILLA, InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size
from inspector.safeedit.scores import QUOTED, Estimate, Score, mean, resampling_told, scores_of_edits
from inspector.toxicity import kept_probe

HARM = ("over-refusal", "look-alikes", "degenerate", "parroting", *QUOTED, "harmless KL")
FURTHER = ("transfer", "DL", "still answers", *HARM)
NAME, WIDTH = 26, 17


def compare(
    model: InspectedModel, cases: Sequence[Case], settings: ContestSettings, out: Path, layer: str = TOXIC
) -> None:
    """Run the contest on every case that is not done yet and print the tables.

    Args:
        layer: The one that every method edits, a number or :data:`TOXIC`; :data:`AUTO` for each method's own.
    """
    same_settings(out, model, settings, layer)
    known = calibration_of(model) if layer == AUTO else None
    probe = run(kept_probe(model))
    everything: dict[str, list[Standing]] = {key: [] for key in settings.methods}
    failed: dict[str, str] = {}
    for number, case in enumerate(cases):
        folder = out / str(case.identifier)
        if not (folder / "standings.json").is_file():
            begun = time.perf_counter()
            try:
                with memory_told():
                    region = divergence(model, case, format=settings.format).toxic_layer()
                    if layer.isdecimal():
                        region = int(layer)
                    block, layers = None if layer == AUTO else region, None if known is None else known.layers
                    running = contest(model, case, block, settings, region=region, layers=layers, probe=probe)
                    done = run(running, _teller(number, len(cases)))
                    save_standings(all_asked(model, case, done, settings), folder, patches=False)
            except InspectorError as error:  # it costs this case, which is tried again when the benchmark goes on
                failed[str(case.identifier)] = error.user_message()
                print(f"case {case.identifier} failed: {error.user_message()}", file=sys.stderr, flush=True)
                continue
            print(f"case {case.identifier}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        for standing in load_standings(folder):
            if standing.method.key in everything:
                everything[standing.method.key].append(standing)
    done_cases = [str(case.identifier) for case in cases if str(case.identifier) not in failed]
    print(f"{model.name}, {model.dtype_name}; {len(done_cases)} cases: {', '.join(done_cases)}")
    if layer != TOXIC:
        print(f"edited: {'each method its own layer, as --layer auto takes it' if layer == AUTO else f'layer {layer}'}")
    failed_cases(failed, len(cases))
    judges = {s.exam.judge for standings in everything.values() for s in standings if s.exam is not None}
    asked = {s.exam.asked for standings in everything.values() for s in standings if s.exam is not None}
    unusual = settings.format.label()
    told = f"; {unusual}" if unusual else ""
    print(f"judge: {', '.join(sorted(judges))}; asked: {', '.join(sorted(asked))}{told}")
    _scores("The paper's table: percent; Fluency in bits", COLUMNS, everything)
    _paper(settings.max_new_tokens)
    _scores("Beyond the paper: percent; harmless KL in nats a token; * so by construction", FURTHER, everything)
    _mechanism(everything)
    _failures(everything)
    if "mend" in everything:
        print(
            "MEND's shipped editor network has learnt from the bundled cases, these among them: DS, onlyQ and otherA "
            "are prompts that it was trained on, 'transfer' has none of those."
        )


def all_asked(
    model: InspectedModel, case: Case, standings: Sequence[Standing], settings: ContestSettings
) -> tuple[Standing, ...]:
    """Give a refused edit the scores of what it leaves, the vanilla weights: all methods over the same cases."""
    kept: dict[PromptFormat, ExamResult] = {}

    def vanilla(format: PromptFormat) -> ExamResult:
        if format not in kept:
            kept[format] = run(exam_of(model, case, VANILLA, settings, format, EmbeddedJudge()))
        return kept[format]

    return tuple(
        replace(standing, exam=vanilla(settings.of(standing.method.key).format)) if standing.refused else standing
        for standing in standings
    )


def same_settings(out: Path, model: InspectedModel, settings: ContestSettings, layer: str = TOXIC) -> None:
    """Refuse to go on in a folder of other settings or another model."""
    told = {"model": model.fingerprint, "dtype": model.dtype_name, "layer": layer, **asdict(settings)}
    require_same(out, json.dumps(told, sort_keys=True), "*/standings.json")


def _scores(title: str, names: Sequence[str], everything: dict[str, list[Standing]]) -> None:
    print(f"\n{title}; 95 % interval and number of answers under each")
    print(f"{'':{NAME}}" + "".join(f"{name:>{WIDTH}}" for name in names))
    vanilla_shown, told, lengths = False, "No edit was examined.", []
    for key, standings in everything.items():
        exams = [standing.exam for standing in standings if standing.exam is not None]
        if not exams:
            reasons = list(dict.fromkeys(s.failed or s.unmeasured for s in standings if s.failed or s.unmeasured))
            print(f"{METHODS[key].title:{NAME}}not possible: {' '.join(reasons) or 'no case was run.'}")
            continue
        scores = scores_of_edits([exam.replies for exam in exams], exams[0].judge)
        table = {s.name: s for s in scores}
        for side in ("edited",) if vanilla_shown else ("vanilla", "edited"):
            fewer = f", {len(exams)} of {len(standings)}" if len(exams) < len(standings) else ""
            title = METHODS[key].title + fewer
            _score_lines("vanilla" if side == "vanilla" else title, names, table, side)
        vanilla_shown = True
        told = resampling_told(scores)
        if "Fluency" in names and "Fluency" in table:
            lengths.append(f"Fluency, {METHODS[key].title}: {table['Fluency'].meaning}; {table['Fluency'].source}")
    print("\n".join([*lengths, told]))


def _score_lines(title: str, names: Sequence[str], table: dict[str, Score], side: str) -> None:
    found: list[Estimate] = [getattr(table[n], side) if n in table else Estimate(None, 0) for n in names]
    forced = [side == "vanilla" and n in table and table[n].forced for n in names]
    shown = ["-" if e.value is None else f"{e.value:.2f}{'*' if f else ''}" for e, f in zip(found, forced, strict=True)]
    print(f"{title:{NAME}}" + "".join(f"{value:>{WIDTH}}" for value in shown))
    print(f"{'':{NAME}}" + "".join(f"{_range(e):>{WIDTH}}" for e in found))


def _range(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"({estimate.n})"
    places = 0 if estimate.high >= 10 else 2
    return f"{estimate.low:.{places}f}-{estimate.high:.{places}f} ({estimate.n})"


def _paper(max_new_tokens: int) -> None:
    print("\nThe paper's own figures (7B models, its own test set and judge: not the same measure)")
    for (model, method), values in figures(max_new_tokens).items():
        cells = "".join(f"{'-' if value is None else f'{value:.2f}':>{WIDTH}}" for value in values)
        print(f"{f'{model} {method}':{NAME}}{cells}")
    if max_new_tokens < PAPER_TOKENS:
        print(AT_ITS_LENGTH)
    print(
        "Mistral, in the text: DINM lowers the toxicity of its region by 2.72 % without any activation shift, SFT and"
    )
    print("DPO leave the toxicity almost as it was with a clear shift.")


def _mechanism(everything: dict[str, list[Standing]]) -> None:
    print("\nErase or suppress? Means over cases [95 % interval]; * forced by construction in every case")
    counts: set[int] = set()
    heads = ("toxicity, %", "neurons less toxic, %", "input shift, %", "source shift, %", "norm", "weights changed")
    print(f"{'':16}{'n':>4}" + "".join(f"{head:>26}" for head in heads))
    for key, standings in everything.items():
        done = [s for s in standings if s.shift is not None and s.toxicity is not None]
        if not done:
            continue
        counts.add(len(done))
        toxicities, shifts = [s.toxicity for s in done if s.toxicity], [s.shift for s in done if s.shift]
        untouched, still = all(t.forced for t in toxicities), all(s.forced for s in shifts)
        cells = (
            _mean([100 * t.region.change for t in toxicities]) + ("*" if untouched else ""),
            _mean([100 * t.less_toxic for t in toxicities]) + ("*" if untouched else ""),
            _mean([100 * s.mean_input_shift for s in shifts]) + ("*" if still else ""),
            _mean([100 * s.source_shift for s in shifts]) + ("*" if still else ""),
            _mean([s.delta_norm for s in done]),
            f"{np.mean([s.parameters_changed for s in done]):,.0f}",
        )
        print(f"{METHODS[key].title:16}{len(done):>4}" + "".join(f"{cell:>26}" for cell in cells))
    if len(counts) > 1:
        print("Not the same cases for all: an edit that was refused, or not measured, is in no mean here.")
    sizes = [s.toxicity.region for s in next(iter(everything.values())) if s.toxicity is not None]
    if sizes:
        print(
            f"The vanilla region's mean cosine is {np.mean([r.before for r in sizes]):.5f}, a single neuron's "
            f"{np.mean([r.typical for r in sizes]):.4f} in size: a relative change of so small a mean says little."
        )


def _mean(values: Sequence[float]) -> str:
    found = mean(list(values))
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _failures(everything: dict[str, list[Standing]]) -> None:
    everyone = [(key, standing) for key, found in everything.items() for standing in found]
    failed = [(key, standing) for key, standing in everyone if standing.failed]
    print(f"\nNo edit: {len(failed)} of {len(everyone)}")
    for key, standing in failed:
        counted = "refused, the vanilla model's answers are in its scores" if standing.refused else "in no score"
        print(f"  {METHODS[key].title} ({counted}): {standing.failed}")
    unmeasured = [(key, standing) for key, standing in everyone if standing.unmeasured]
    print(f"Edits that could not be examined or measured: {len(unmeasured)} of {len(everyone)}")
    for key, standing in unmeasured:
        counted = "in no score" if standing.exam is None else "in the scores, not in the means above"
        print(f"  {METHODS[key].title} ({counted}): {standing.unmeasured}")


def cost(model: InspectedModel, cases: Sequence[Case]) -> None:
    """Print seconds, steps and memory of every method's edit, without any exam."""
    ways: list[tuple[str, str, dict[str, Any]]] = [(key, METHODS[key].title, {}) for key in METHODS]
    ways += [(key, f"{METHODS[key].title}, full", {"scope": "full"}) for key in ("sft", "dpo")]
    with suppress(InspectorError), memory_told():  # else each method says what is wrong by itself
        first = cases[0]
        block = divergence(model, first).toxic_layer()
        run(METHODS["dinm"].run(model, first, block, method_settings("dinm", steps=1)))  # harmless answers
    print(f"\n{model.name}, {model.dtype_name}, edits at the located layer; {len(cases)} cases")
    print(f"{'':18}{'seconds':>22}{'to DINM':>10}{'updates':>22}{'a step, s':>12}{'peak memory, MiB':>28}")
    base = 0.0
    for key, title, changes in ways:
        seconds, steps, each, memory = [], [], [], []
        failed: dict[str, str] = {}
        for case in cases:
            settings = method_settings(key, **changes)
            try:
                with memory_told():
                    block = divergence(model, case).toxic_layer()
                    with peak_memory(*model.devices) as peak:
                        result = run(METHODS[key].run(model, case, block, settings))
            except InspectorError as error:
                failed[str(case.identifier)] = error.user_message()
                continue
            seconds.append(result.seconds)
            steps.append(result.last.step)  # with Ext-Sub's subtraction, as in the committed table
            each.append(float(np.mean([step.seconds for step in result.trace])))
            memory.append(peak.mebibytes)
        for name, why in failed.items():
            print(f"  {title}, case {name} failed: {why}", flush=True)
        if not seconds:
            print(f"{title:18}{f'{len(failed)} failed':>22}", flush=True)
            continue
        base = base or float(np.mean(seconds))
        print(
            f"{title:18}{_mean(seconds):>22}{np.mean(seconds) / base:>10.2f}{_mean(steps):>22}{np.mean(each):>12.2f}"
            f"{_mean(memory):>28}" + (f"  {len(failed)} failed" if failed else ""),
            flush=True,
        )


def _teller(number: int, of: int):
    said: list[str] = []

    def tell(event: ContestProgress) -> None:
        line = f"case {number + 1} of {of}: {event.method.title}"
        if not said or said[-1] != line:
            said.append(line)
            print(line, file=sys.stderr, flush=True)

    return tell


def _layer(given: str) -> str:
    if given not in (AUTO, TOXIC) and not given.isdecimal():
        raise argparse.ArgumentTypeError(f"'{given}' is neither '{AUTO}', '{TOXIC}' nor a number")
    return given


def main() -> None:
    """Run the comparison or the timing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--limit", type=int, default=None, help="number of cases")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder of finished cases")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--scope", default="LoRA", choices=("LoRA", "full"), help="for SFT and DPO")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    add_evaluation(parser)
    add_layer(
        parser,
        default=TOXIC,
        type=_layer,
        help="a number; auto, the layer that each method has with --layer auto in other commands; or toxic (default), "
        "where each case's answers part, for every method. --cost times edits there",
    )
    parser.add_argument("--cost", action="store_true", help="time the edits alone")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    model = load_model(options)
    cases = chosen_cases(False, options.limit)
    if options.cost:
        cost(model, cases)
        return
    settings = ContestSettings(
        methods=tuple(options.methods),
        scope=options.scope,
        size=Size(transfer=1, harmless=8, facts=4, passages=2),
        max_new_tokens=options.max_new_tokens,
        format=format_of(options),
        evaluation=options.evaluation,
    )
    compare(model, cases, settings, options.out, options.layer)


if __name__ == "__main__":
    sys.exit(finished(main))
