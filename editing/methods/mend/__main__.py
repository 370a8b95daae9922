"""Train and evaluate MEND's editor network.

    python -m editing.methods.mend train               for the embedded model, on the bundled cases
    python -m editing.methods.mend train --model NAME --cases zjunlp/SafeEdit --split train --limit 500
    python -m editing.methods.mend evaluate            the shipped or trained editor on the held-out bundled cases

A training writes FINGERPRINT.safetensors and FINGERPRINT.txt (its log) to the cache, or to --out. What was found is
JSON on the output, the log goes to the error stream, too. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TextIO

import torch

from editing.command import add_format, add_model, finished, format_of, load_model, say, tell
from editing.methods.mend.network import EditorNetwork
from editing.methods.mend.store import kept_in, load_editor, places, save_editor
from editing.methods.mend.training import MendTraining, Report, evaluate, lessons_of, new_editor, train, watched_prompts
from editing.progress import run
from inspector.command import require_target
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.model.whole_file import replacing
from inspector.safeedit import Case, bundled_cases, bundled_constraint_prompts, bundled_harmless
from inspector.safeedit.layouts import read_cases, serves
from inspector.safeedit.sets import held_out_cases

EVERY = 20
"""Updates that one line of the log averages over."""
WATCHED = 12
"""Harmless prompts of an evaluation; none of them is trained on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    return finished(lambda: _do(options, arguments))


def _do(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    if options.command == "train":
        _require_targets(options.out or kept_in() / "FINGERPRINT.safetensors")
    model = load_model(options)
    if options.command == "train":
        _train(model, options, shlex.join(["python", "-m", "editing.methods.mend", *(arguments or sys.argv[1:])]))
    else:
        editor, record = load_editor(model, options.editor)
        found = _evaluate(model, editor, options, sys.stderr, record.training)
        tell({"model": model.name, "fingerprint": model.fingerprint, "dtype": model.dtype_name, **found})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m editing.methods.mend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    own: dict[str, Any] = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    training = commands.add_parser("train", help="train an editor network", **own)
    scoring = commands.add_parser("evaluate", help="measure one on the cases that are kept for scoring", **own)
    for command in (training, scoring):
        add_model(command, dtype="float32")
        command.add_argument("--limit", type=int, default=None, help="most cases")
    add_format(training)
    training.add_argument("--cases", default="bundled", help="bundled, a file, a folder, or a hub dataset")
    training.add_argument("--split", default="train", help="split of a hub dataset")
    training.add_argument("--out", type=Path, default=None, help="file to write; the cache by default")
    for entry in fields(MendTraining):
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            kind = type(entry.default)
            training.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default)
    scoring.add_argument("--editor", type=Path, default=None, help="file of the editor; the model's own by default")
    return parser


def _cases(options: argparse.Namespace) -> list[Case]:
    if options.cases == "bundled":
        found = [case for case in bundled_cases() if case.split != "score"]
    else:
        found = [case for case in read_cases(options.cases, options.split).cases if "edit" in serves(case)]
    return found[: options.limit]


def _require_targets(path: Path) -> None:
    """Refuse, before a model is loaded, an editor or a log that could not be written in the end.

    Raises:
        EditError: Both have one name, or one of them cannot be written.
    """
    if path.suffix == ".txt":
        raise EditError(f"{path} would be the log's own name. Let --out end in .safetensors.")
    for target in (path, path.with_suffix(".txt")):
        require_target(target)


def _train(model: InspectedModel, options: argparse.Namespace, command: str) -> None:
    numbers = {f.name: getattr(options, f.name) for f in fields(MendTraining) if hasattr(options, f.name)}
    settings = replace(MendTraining(), **numbers, format=format_of(options))
    cases = _cases(options)
    asked = [case.constraint.prompt for case in cases if case.constraint]
    harmless = list(dict.fromkeys([*bundled_constraint_prompts(), *asked]))[:64]
    path = options.out or places(model)[1]
    # The log of an editor that is there stays until this one is made.
    with replacing(path.with_suffix(".txt")) as partial, partial.open("w", encoding="utf-8") as log:
        _tell(log, f"$ {command}")
        _tell(log, f"{model.name} ({model.fingerprint}, {model.dtype_name}), torch {torch.__version__}, {settings}")
        _tell(log, f"{len(cases)} cases, {len(harmless)} harmless prompts")
        editor = run(train(model, cases, harmless, settings), _Averages(log))
        _tell(log, f"step sizes: {' '.join(f'{alpha:.2e}' for alpha in editor.alphas.tolist())}")
        editor.eval()
        found = _evaluate(model, editor, options, log, settings)
        about = {"fingerprint": model.fingerprint, "model": model.name, "command": command, **asdict(settings)}
        save_editor(editor, path, about)
        _tell(log, f"written: {path.name}, {path.stat().st_size / 1e6:.1f} MB")
    tell({"model": model.name, "fingerprint": model.fingerprint, "file": str(path), **found})


class _Averages:
    """Writes one line of means every :data:`EVERY` updates."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._reports: list[Report] = []

    def __call__(self, report: Report) -> None:
        self._reports.append(report)
        if len(self._reports) == EVERY:
            _tell(self._log, _line(self._reports))
            self._reports = []


def _line(reports: Sequence[Report]) -> str:
    def mean(name: str) -> float:
        return sum(getattr(report, name) for report in reports) / len(reports)

    return (
        f"update {reports[-1].step + 1:5}: loss {mean('loss'):.3f}, -log P(safe) {mean('safe_before'):.2f} to "
        f"{mean('safe_after'):.2f}, harmless KL {mean('kl'):.4f}, {reports[-1].seconds:.0f} s"
    )


def _evaluate(
    model: InspectedModel,
    editor: EditorNetwork,
    options: argparse.Namespace,
    out: TextIO,
    settings: MendTraining,
) -> dict[str, Any]:
    """Tell, and return, what the trained and the untrained editor on the bundled cases that are kept for scoring."""
    cases = [case for case in held_out_cases() if case.safe][: options.limit]
    if not cases:
        raise EditError("There is no case to evaluate on. Raise --limit.")
    lessons = lessons_of(model, cases, editor, settings, others=False)
    watched = watched_prompts(model, bundled_harmless()[:WATCHED], editor, settings)
    untrained = new_editor(model, replace(settings, top_blocks=model.blocks - editor.shape.first))
    for name in untrained.transforms:
        untrained.transforms[name].mean = editor.transforms[name].mean
        untrained.transforms[name].deviation = editor.transforms[name].deviation
    _tell(out, f"held out: {len(cases)} cases, {len(watched)} harmless prompts, none of them trained on")
    told: dict[str, Any] = {"cases": len(cases), "harmless_prompts": len(watched)}
    for name, each in (("untrained", untrained), ("trained", editor)):
        found = evaluate(each, lessons, watched, settings.edit_weight)
        told[name] = asdict(found)
        _tell(
            out,
            f"{name:>10}: -log P(safe) {found.safe_before:.3f} to {found.safe_after:.3f}, harmless KL {found.kl:.4f}",
        )
    return told


def _tell(out: TextIO, line: str) -> None:
    print(line, file=out, flush=True)
    if out is not sys.stderr:
        say(line)


if __name__ == "__main__":
    sys.exit(main())
