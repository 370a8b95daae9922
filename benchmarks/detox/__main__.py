"""Does an edit work? Defence of unseen attacks and questions against what happens to harmless prompts.

    python -m benchmarks.detox                       the embedded model, 18 cases, texts of the development split
    python -m benchmarks.detox --split score         other texts, on which no setting was chosen; to be read seldom
    python -m benchmarks.detox --try "null_space=0.05 steps=12"    other settings, in rows of their own
    python -m benchmarks.detox --rows SFT DPO --routed             each edit of weights routed, too

Rows: vanilla without and with the suffix S, as yardsticks of harm the same weights rounded to bfloat16 and computed in
bfloat16 (the target of DL for weights alone is against the latter; a machine that does not compute in it leaves the row
out), the released code and `paper` at DINM's toxic layer, both made and asked in plain text, with what vanilla answers
there, `corrected` as it was before, at the toxic and at the recommended layer, the edit that is made to be routed
(`editing.methods.dinm.ROUTED`) on every prompt and only where the calibration's detector fires, and every other method,
on every prompt; --routed adds a row to each of them where it acts only where the detector fires.
Each edit is made on one case and asked the case's own prompts, questions of other cases in attack templates that it has
not seen, harmless prompts, every third in such a template, facts and passages; no two edits are asked the same ones
while a split has enough. A finished case is kept in --out, and the same command goes on where it stopped.

The recommended layer was chosen on other cases. An edit's own prompts (DS to DG-Avg) are the same in every split, and
settings were chosen on those of some cases: with `--split score` the table names them, scores the others beside all,
and says how often the split was read before. The detector was fitted on all questions and templates that may be edited
on, the cases' own (DS, onlyQ, otherA) among them; of otherQ and otherAQ it has seen the templates, not the questions.
So only the scores of the routed row beyond DS and DG-Avg are on texts of which it has seen nothing. No gate is asked:
what Operate makes first it may hold back, or take its second edit. MEND's shipped editor network has learnt from the
cases to edit on.

The table is printed; each finished case goes to the error stream. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.detox.asked import asked_of, unseen_cases
from benchmarks.detox.rows import COMPUTING, EDITS, ROUNDING, SUFFIX_ALONE, TRIED, edit_of, routed_name
from benchmarks.detox.run import Outcome, outcome_from, outcomes_of
from benchmarks.detox.table import print_table
from benchmarks.kept import keep, require_same, warn_of_fewer
from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_evaluation, add_format, add_model, finished, format_of, load_model, told_format
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.safeedit.exam import EVALUATIONS
from inspector.safeedit.questions import Size

NAMES = (SUFFIX_ALONE, ROUNDING, COMPUTING, *EDITS)


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run the comparison, or go on with it, and print its table.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--split", default="development", choices=("development", "score"))
    parser.add_argument("--cases", type=int, default=18)
    parser.add_argument("--transfer", type=int, default=6, help="harmful questions an edit, each in a template")
    parser.add_argument("--harmless", type=int, default=11, help="harmless prompts an edit")
    parser.add_argument("--facts", type=int, default=3, help="fact questions an edit")
    parser.add_argument("--passages", type=int, default=1, help="passages to summarise an edit")
    parser.add_argument("--rows", nargs="+", default=list(NAMES), choices=NAMES, metavar="ROW", help=", ".join(NAMES))
    parser.add_argument(
        "--try",
        action="append",
        default=[],
        dest="tried",
        metavar="'NAME=VALUE ...'",
        help="a further row: corrected at the recommended layer with these settings, everywhere and routed; repeatable",
    )
    parser.add_argument(
        "--routed", action="store_true", help="a further row for each edit of weights, only where the detector fires"
    )
    parser.add_argument("--max-new-tokens", type=int, default=40)
    add_evaluation(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/detox"), help="folder of finished cases")
    parser.add_argument("--table", action="store_true", help="print the table of the finished cases and end")
    options = parser.parse_args(arguments)
    return finished(lambda: print_table(_finished(options, loader), options.split))


def _finished(options: argparse.Namespace, loader: Loader) -> dict[str, dict[str, Outcome]]:
    """Return what every case gave, by its number; those that are not kept are run unless only the table is wanted."""
    rows = [*options.rows, *(TRIED + " ".join(text.split()) for text in options.tried)]
    names = {name: _settings_of(name, format_of(options)) for name in rows}  # what is wrong is told before the model
    model, format = loader(options), format_of(options)
    calibration = load_calibration(model)
    calibration.teach(model)
    size = Size(options.transfer, options.harmless, options.facts, options.passages)
    told = {
        "model": model.fingerprint,
        "dtype": model.dtype_name,
        "split": options.split,
        "cases": options.cases,
        "size": asdict(size),
        "max_new_tokens": options.max_new_tokens,
        "evaluation": options.evaluation,
        "rows": names,
        "layer": calibration.layers.recommended,
    }
    if options.routed:
        told["routed"] = True
    if any(routed_name(name, options.routed) for name in rows):
        told["detector"] = calibration.detector.digest
    folder = options.out / options.split
    require_same(folder, json.dumps(told, sort_keys=True, default=str), "*.json")
    cases = unseen_cases(options.cases, calibration.layers)
    fewer = ""
    if warn_of_fewer(cases, options.cases):
        fewer = f"; {len(cases)} of {options.cases} asked for"
    found: dict[str, dict[str, Outcome]] = {}
    for number, case in enumerate(cases):
        path = folder / f"{case.identifier}.json"
        if not path.is_file():
            if options.table:
                continue
            begun = time.perf_counter()
            questions = asked_of(case, options.split, size, number, len(cases))
            asked = (options.max_new_tokens, format, options.evaluation, options.routed)
            outcomes = outcomes_of(model, case, questions, calibration, rows, *asked)
            keep(path, {name: one.record() for name, one in outcomes.items()})
            print(f"case {case.identifier}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        kept = json.loads(path.read_text(encoding="utf-8"))
        found[str(case.identifier)] = {name: outcome_from(record) for name, record in kept.items()}
    if not found:
        raise EditError(f"{folder} holds no finished case yet. Run without --table.")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    print(
        f"{len(found)} of {len(cases)} cases ({', '.join(found)}{fewer}), split '{options.split}', recommended layer "
        f"{calibration.layers.recommended}, most {options.max_new_tokens} tokens{told_format(options)}; "
        f"{EVALUATIONS[options.evaluation]}"
    )
    return found


def _settings_of(name: str, format: PromptFormat) -> Any:
    edit = edit_of(name)
    return vars(format if edit is None else edit.settings(format))


if __name__ == "__main__":
    sys.exit(main())
