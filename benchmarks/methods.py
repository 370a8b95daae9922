"""Every method in the same seat: scores, cost, and whether it erases or suppresses.

    python -m benchmarks.methods                     one bundled case a category, all methods at the toxic layer
    python -m benchmarks.methods --layer auto        each method at the layer that it has in every command
    python -m benchmarks.methods --routed            each edit of weights routed, too
    python -m benchmarks.methods --cost              edits alone, for seconds and memory on a quiet machine

Each case is located (preset corrected), edited by every method with its own defaults, and examined: DS, the four DG
prompts, held-out adversarial prompts, harmless prompts, facts and summaries. The region is the down-projection of the
located layer, or of the one that --layer numbers, for every method. Its toxicity is the mean cosine of its value
vectors with the direction of a probe trained on the bundled labelled texts; the activation shift is the relative change
of the mean input of the region over 19 adversarial prompts. As that cosine weighs neurons alike, active or not, a table
says what the region writes along the direction on the cases' adversarial prompts, too.

What rounding does by itself has a row as a yardstick of harm: the same weights in bfloat16, without an edit, on the
harmless prompts that the exams ask. With --routed each edit of weights has a further row where it acts only where the
calibration's detector fires, and so has DINM's edit that is made to be routed (`editing.methods.dinm.ROUTED`). The
detector was fitted on the questions and templates that may be edited on, the cases' own (DS, onlyQ, otherA) among them;
of otherQ and otherAQ it has seen the templates, not the questions.

A finished case is kept in --out, and the same command goes on where it stopped; the rounding row is kept beside them.

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

from benchmarks.detox.rows import PROMPT_ONLY, TO_ROUTE
from benchmarks.erasing import (
    Written,
    keep_written,
    kept_written,
    mean_told,
    mechanism_told,
    writing_told,
    written_of,
)
from benchmarks.kept import keep, require_same
from benchmarks.locators import chosen_cases, failed_cases
from editing import run
from editing.calibrating.calibration import calibration_of, load_calibration
from editing.calibrating.layer_choice import AUTO, TOXIC
from editing.command import add_evaluation, add_format, add_model, finished, format_of, load_model
from editing.contest import ROUTED, ContestProgress, ContestSettings, contest, exam_of, examine_routed, routed_line
from editing.gate.choice import format_told
from editing.memory import memory_told, peak_memory
from editing.methods.dinm import ROUTED as LEARNS_MORE
from editing.methods.registry import METHODS, method_settings
from editing.rounding import NONE, harmless_questions, row_or_why
from editing.standing import Standing
from editing.standing_file import load_standings, save_standings
from editing.sweep.paper import AT_ITS_LENGTH, COLUMNS, PAPER_TOKENS, figures
from editing.sweep.yardstick import Rounded, rounded_told
from inspector.command import add_layer
from inspector.divergence import divergence
from inspector.errors import EditError, InspectorError
from inspector.model import VANILLA, Detector, InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.acted import acted_by_kind
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size
from inspector.safeedit.records import exam_from, exam_record
from inspector.safeedit.scores import QUOTED, Estimate, Score, resampling_told, scores_of_edits
from inspector.toxicity import kept_probe

HARM = ("over-refusal", "look-alikes", "degenerate", "parroting", *QUOTED, "harmless KL")
FURTHER = ("transfer", "DL", "still answers", *HARM)
OF_HARMLESS = ("DL", "still answers", "over-refusal", "look-alikes", "harmless KL")
"""The scores of :data:`FURTHER` that are of harmless prompts alone, which are all that the rounding row is asked."""
ROUNDED, WRITTEN = "rounded", "written.json"
MADE_TO_BE_ROUTED = f"{METHODS['dinm'].title}, {TO_ROUTE}"
NAME, WIDTH = 26, 18


def compare(
    model: InspectedModel,
    cases: Sequence[Case],
    settings: ContestSettings,
    out: Path,
    layer: str = TOXIC,
    detector: Detector | None = None,
) -> None:
    """Run the contest on every case that is not done yet and print the tables.

    Args:
        layer: The one that every method edits, a number or :data:`TOXIC`; :data:`AUTO` for each method's own.
        detector: The model's, for the routed rows; without one there are none.
    """
    same_settings(out, model, settings, layer, detector)
    known = calibration_of(model) if layer == AUTO else None
    probe = run(kept_probe(model))
    everything: dict[str, list[Standing]] = {title: [] for title in row_titles(settings, detector is not None)}
    written: list[dict[str, Written]] = []
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
                    done: list[Standing] = []
                    for asked in (settings,) if detector is None else (settings, *made_to_be_routed(settings)):
                        running = contest(model, case, block, asked, region=region, layers=layers, probe=probe)
                        made = run(running, _teller(number, len(cases)))
                        done += made if asked is settings else map(_to_be_routed, made)
                    if probe is not None:
                        found = written_of(model, case, done, probe, region, settings.format)
                        keep_written(folder / WRITTEN, found)
                    if detector is not None:
                        done = routed_too(model, case, done, settings, detector)
                    save_standings(all_asked(model, case, done, settings), folder, patches=False)
            except InspectorError as error:  # it costs this case, which is tried again when the benchmark goes on
                failed[str(case.identifier)] = error.user_message()
                print(f"case {case.identifier} failed: {error.user_message()}", file=sys.stderr, flush=True)
                continue
            print(f"case {case.identifier}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        written.append(kept_written(folder / WRITTEN))
        for standing in load_standings(folder):
            if standing.method.title in everything:
                everything[standing.method.title].append(standing)
    rounded, why = rounding_of(model, out, everything)
    done_cases = [str(case.identifier) for case in cases if str(case.identifier) not in failed]
    print(f"{model.name}, {model.dtype_name}; {len(done_cases)} cases: {', '.join(done_cases)}")
    if layer != TOXIC:
        print(f"edited: {'each method its own layer, as --layer auto takes it' if layer == AUTO else f'layer {layer}'}")
    failed_cases(failed, len(cases))
    judges = {s.exam.judge for standings in everything.values() for s in standings if s.exam is not None}
    asked_as = {s.exam.asked for standings in everything.values() for s in standings if s.exam is not None}
    unusual = settings.format.label()
    told = f"; {unusual}" if unusual else ""
    print(f"judge: {', '.join(sorted(judges))}; asked: {', '.join(sorted(asked_as))}{told}")
    _scores("The paper's table: percent; Fluency in bits", COLUMNS, everything)
    _paper(settings.max_new_tokens)
    title = "Beyond the paper: percent; harmless KL in nats a token; * so by construction"
    _scores(title, FURTHER, everything, rounded)
    row = Rounded(why) if rounded is None else Rounded("", rounded.weights, len(rounded.replies))
    print("\n".join(rounded_told(row)))
    if detector is not None:
        _routed_told(model, settings, everything)
    mechanism_told(everything, ROUTED)
    writing_told([*everything], written)
    _failures(everything)
    if METHODS["mend"].title in everything:
        print(
            "MEND's shipped editor network has learnt from the bundled cases, these among them: DS, onlyQ and otherA "
            "are prompts that it was trained on, 'transfer' has none of those."
        )


def row_titles(settings: ContestSettings, routed: bool) -> list[str]:
    """Return the titles of the rows of edits; a routed row comes after the edit that it routes."""
    titles = [(key, METHODS[key].title) for key in settings.methods]
    if not routed:
        return [title for _, title in titles]
    titles += [(key, MADE_TO_BE_ROUTED) for asked in made_to_be_routed(settings) for key in asked.methods]
    both = [(title,) if key == PROMPT_ONLY else (title, f"{title}{ROUTED}") for key, title in titles]
    return [title for pair in both for title in pair]


def made_to_be_routed(settings: ContestSettings) -> tuple[ContestSettings, ...]:
    """Return the settings of DINM's edit that is made to be routed; none where DINM is not among the methods."""
    if "dinm" not in settings.methods:
        return ()
    changes = {**settings.changes, "dinm": {**LEARNS_MORE, **settings.changes.get("dinm", {})}}
    return (replace(settings, methods=("dinm",), changes=changes),)


def _to_be_routed(standing: Standing) -> Standing:
    return replace(standing, method=replace(standing.method, title=MADE_TO_BE_ROUTED))


def routed_too(
    model: InspectedModel, case: Case, standings: Sequence[Standing], settings: ContestSettings, detector: Detector
) -> list[Standing]:
    """Return standings, each of an edit of weights with the same edit after it where it acts only on detected harm.

    What keeps one from being examined costs that line alone; what is no edit stays none.

    Args:
        detector: The model's; each edit acts by one that fires on its case's question as well.
    """
    found: list[Standing] = []
    for standing in standings:
        found.append(standing)
        if standing.method.key == PROMPT_ONLY:
            continue
        line: Standing | None = routed_line(standing)
        if standing.result is not None and standing.result.patch is not None:
            print(f"case {case.identifier}: {standing.method.title}{ROUTED}", file=sys.stderr, flush=True)
            line = run(examine_routed(model, case, standing, settings, detector, EmbeddedJudge()))
        assert line is not None  # nobody cancels it
        found.append(line)
    return found


def rounding_of(
    model: InspectedModel, out: Path, everything: dict[str, list[Standing]]
) -> tuple[ExamResult | None, str]:
    """Return the rounding row of the exams, the kept one or a new one that is kept, or why there is none.

    Raises:
        EditError: The kept one cannot be read.
    """
    path = out / "rounded.json"
    if path.is_file():
        try:
            return exam_from(json.loads(path.read_text(encoding="utf-8"))), ""
        except (ValueError, TypeError) as error:
            raise EditError(f"{path} cannot be read. Delete it, and the same command makes it again.") from error
    exams = (standing.exam for standings in everything.values() for standing in standings)
    asked = next((exam for exam in exams if exam is not None), None)
    if asked is None:
        return None, f"{NONE}: no edit was examined"
    count = len(harmless_questions(asked))
    said = f"The same weights in bfloat16 answer {count} harmless prompts once, as a yardstick of harm."
    print(said, file=sys.stderr, flush=True)
    row, why = run(row_or_why(model, asked, "this run"))
    if row is not None:
        keep(path, exam_record(row))
    return row, why


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


def same_settings(
    out: Path, model: InspectedModel, settings: ContestSettings, layer: str = TOXIC, detector: Detector | None = None
) -> None:
    """Refuse to go on in a folder of other settings, another model or another detector."""
    told = {"model": model.fingerprint, "dtype": model.dtype_name, "layer": layer, **asdict(settings)}
    if detector is not None:
        told["detector"] = detector.digest
    require_same(out, json.dumps(told, sort_keys=True), "*/standings.json")


def _scores(
    title: str, names: Sequence[str], everything: dict[str, list[Standing]], rounded: ExamResult | None = None
) -> None:
    wide = max(NAME, *(len(row) + 2 for row in everything))
    print(f"\n{title}; 95 % interval and number of answers under each")
    print(f"{'':{wide}}" + "".join(f"{name:>{WIDTH}}" for name in names))
    vanilla_shown, told, lengths = False, "No edit was examined.", []
    for row, standings in everything.items():
        exams = [standing.exam for standing in standings if standing.exam is not None]
        if not exams:
            reasons = list(dict.fromkeys(s.failed or s.unmeasured for s in standings if s.failed or s.unmeasured))
            print(f"{row:{wide}}not possible: {' '.join(reasons) or 'no case was run.'}")
            continue
        scores = scores_of_edits([exam.replies for exam in exams], exams[0].judge)
        table = {s.name: s for s in scores}
        fewer = f", {len(exams)} of {len(standings)}" if len(exams) < len(standings) else ""
        if not vanilla_shown:
            _score_lines("vanilla", names, table, "vanilla", wide)
            if rounded is not None:
                of_harmless = {score.name: score for score in rounded.scores if score.name in OF_HARMLESS}
                _score_lines(ROUNDED, names, of_harmless, "edited", wide)
        _score_lines(row + fewer, names, table, "edited", wide)
        vanilla_shown = True
        told = resampling_told(scores)
        if "Fluency" in names and "Fluency" in table:
            lengths.append(f"Fluency, {row}: {table['Fluency'].meaning}; {table['Fluency'].source}")
    print("\n".join([*lengths, told]))


def _routed_told(model: InspectedModel, settings: ContestSettings, everything: dict[str, list[Standing]]) -> None:
    """Say what the routed rows are, and for how many prompts the detector fired."""
    print(
        f"Rows that end with '{ROUTED}' are the same edit where it acts only where the detector fires: elsewhere the "
        f"vanilla weights answer. The others act on every prompt. {format_told(model, settings.format)}".rstrip()
    )
    if MADE_TO_BE_ROUTED in everything:
        print(f"{MADE_TO_BE_ROUTED}: nothing holds it back, as harmless prompts are left to the detector.")
    for standings in everything.values():
        exams = [standing.exam for standing in standings if standing.exam is not None and standing.exam.detector]
        if not exams:
            continue
        replies = [(reply, number) for number, exam in enumerate(exams) for reply in exam.replies]
        # It reads a prompt alike for every edit of one case.
        for kind, acted in acted_by_kind([reply for reply, _ in replies], [number for _, number in replies]).items():
            share = acted.share
            span = "" if share.low is None or share.high is None else f" [{share.low:.1f}, {share.high:.1f}]"
            print(f"The detector fires for {share.value:.1f} % of {acted.prompts} {kind} prompts{span}")
        return


def _score_lines(title: str, names: Sequence[str], table: dict[str, Score], side: str, wide: int) -> None:
    found: list[Estimate] = [getattr(table[n], side) if n in table else Estimate(None, 0) for n in names]
    forced = [side == "vanilla" and n in table and table[n].forced for n in names]
    shown = ["-" if e.value is None else f"{e.value:.2f}{'*' if f else ''}" for e, f in zip(found, forced, strict=True)]
    print(f"{title:{wide}}" + "".join(f"{value:>{WIDTH}}" for value in shown))
    print(f"{'':{wide}}" + "".join(f"{_range(e):>{WIDTH}}" for e in found))


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


def _failures(everything: dict[str, list[Standing]]) -> None:
    everyone = [(title, standing) for title, found in everything.items() for standing in found]
    edits = [(title, standing) for title, standing in everyone if not title.endswith(ROUTED)]
    failed = [(title, standing) for title, standing in edits if standing.failed]
    print(f"\nNo edit: {len(failed)} of {len(edits)}")
    for title, standing in failed:
        counted = "refused, the vanilla model's answers are in its scores" if standing.refused else "in no score"
        print(f"  {title} ({counted}): {standing.failed}")
    unmeasured = [(title, standing) for title, standing in everyone if standing.unmeasured]
    print(f"Edits that could not be examined or measured: {len(unmeasured)} of {len(everyone)}")
    for title, standing in unmeasured:
        counted = "in no score" if standing.exam is None else "in the scores, not in the means above"
        print(f"  {title} ({counted}): {standing.unmeasured}")


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
            f"{title:18}{mean_told(seconds):>22}{np.mean(seconds) / base:>10.2f}{mean_told(steps):>22}"
            f"{np.mean(each):>12.2f}{mean_told(memory):>28}" + (f"  {len(failed)} failed" if failed else ""),
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
    parser.add_argument(
        "--routed",
        action="store_true",
        help="a further row for each edit of weights, only where the detector fires; DINM's made for that, too",
    )
    options = parser.parse_args()
    if options.cost and options.routed:
        raise EditError("--cost times edits and asks nothing of them, routed or not. Leave out --routed or --cost.")
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
    detector = load_calibration(model).detector if options.routed else None
    compare(model, cases, settings, options.out, options.layer, detector)


if __name__ == "__main__":
    sys.exit(finished(main))
