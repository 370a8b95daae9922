"""What the suffix prompt S does alone, the weights alone, and both.

    python -m benchmarks.suffixes                        the embedded model, one case a category
    python -m benchmarks.suffixes --cases 1 --suffix "politely=Answer politely."
    python -m benchmarks.suffixes --routed               the edit as Operate makes it first, only where harm is detected

Edits are `corrected` at the calibration's recommended layer (--layer for another), made in their own prompt format,
with the paper's S, and act on every prompt; with --routed they are made to be routed and act only where the
calibration's detector fires. Each is then asked with every suffix, and so is vanilla. Asked are the case's own prompts
(DS, DG-Avg) and harmless prompts of the gate (DL, still answers, over-refusal, harmless KL). DL and still
answers are against vanilla without a suffix, so that a suffix's own damage shows; the harmless KL of the edit is
against vanilla with the same suffix. The last row of the table, the yardstick of that damage, is what rounding does by
itself: the same weights in bfloat16, without an edit and without a suffix, on the harmless prompts. Two suffixes are
the paper's, S and the one of its appendix D.3; Self-Reminder's is this project's own wording, and further ones are
added with --suffix NAME=TEXT.

The table is printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from editing import dinm, preset, run
from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_format, add_model, finished, format_of, load_model, teller, told_format
from editing.gate.choice import acts_by
from editing.memory import memory_told
from editing.methods.dinm import DinmSettings, to_be_routed
from editing.progress import EditEvents
from editing.stacking import edit_on_top
from editing.suffixes import SUFFIXES, SuffixSettings, suffix_study
from inspector.errors import REFUSALS, EditError
from inspector.model import Detector, InspectedModel, Row
from inspector.safeedit import Case, bundled_cases


def chosen_cases(count: int) -> tuple[Case, ...]:
    """Return cases that may be edited on, the last of each category: the layer was chosen on the first of some."""
    return tuple({case.category: case for case in bundled_cases() if case.split == "edit"}.values())[:count]


def edited(
    model: InspectedModel,
    case: Case,
    layer: int,
    settings: DinmSettings,
    detector: Detector | None = None,
    below: tuple[Case, Row] | None = None,
) -> Row:
    """Return the edit of a case, which acts on every prompt; with a detector one made to act only where that fires.

    Args:
        settings: Those of an edit that acts on every prompt.
        detector: The model's.
        below: An edit that it is made on top of, with its case; the stack of both is returned then.

    Raises:
        InspectorError: There is no edit, or its detector cannot be made.
    """
    chosen = settings if detector is None else to_be_routed(settings)

    def start(of: InspectedModel) -> EditEvents:
        return dinm(of, case, layer, chosen)

    row = run(start(model) if below is None else edit_on_top(model, below[1], start)).row()
    if detector is None:
        return row
    beside: dict[str, Any] = {} if below is None else {"below": (below[0],), "acted_by": below[1].detector}
    return replace(row, detector=run(acts_by(model, detector, case, settings.format, **beside)))


def recommended_layer(model: InspectedModel) -> int:
    """Return the calibration's recommended layer; the model's kept answers to harmless prompts are taken from it, too.

    Raises:
        EditError: The model is not calibrated, or no layer is recommended.
    """
    calibration = load_calibration(model)
    calibration.teach(model)
    if calibration.layers.recommended is None:
        raise EditError("No layer defends more than this model does by itself. Name one with --layer.")
    return calibration.layers.recommended


def named_suffixes(given: Sequence[str]) -> dict[str, str]:
    """Return the known suffixes and those of the command line, ``NAME=TEXT``.

    Raises:
        EditError: One has no name or no text.
    """
    found = dict(SUFFIXES)
    for entry in given:
        name, _, text = entry.partition("=")
        if not name.strip() or not text.strip():
            raise EditError(f"The suffix '{entry}' has no name or no text. Write NAME=TEXT.")
        found[name.strip()] = text.strip()
    return found


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run the study and print its table.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--layer", type=int, default=None, help="the recommended one by default")
    parser.add_argument("--cases", type=int, default=9)
    parser.add_argument("--harmless", type=int, default=16, help="harmless prompts of the gate")
    parser.add_argument("--suffix", action="append", default=[], metavar="NAME=TEXT", help="a further one")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--routed", action="store_true", help="edits that act only where harm is found")
    options = parser.parse_args(arguments)
    return finished(lambda: _study(options, loader))


def _study(options: argparse.Namespace, loader: Loader) -> None:
    asked = SuffixSettings(named_suffixes(options.suffix), options.harmless, options.max_new_tokens)
    model = loader(options)
    layer = recommended_layer(model) if options.layer is None else options.layer
    detector = load_calibration(model).detector if options.routed else None
    settings = preset("corrected", **vars(format_of(options)))
    edits: list[tuple[Case, Row]] = []
    left_out: list[str] = []
    for case in chosen_cases(options.cases):
        begun = time.perf_counter()
        try:
            with memory_told():
                edits.append((case, edited(model, case, layer, settings, detector)))
        except (EditError, *REFUSALS) as error:
            left_out.append(str(case.identifier))
            print(f"Left out: case {case.identifier}: {error.user_message()}")
            continue
        print(f"case {case.identifier}: edit {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    study = run(suffix_study(model, edits, asked, rounding=True), teller())
    assert study is not None  # nobody cancels it
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    named = ", ".join(str(case.identifier) for case, _ in edits)
    if left_out:
        named += f"; left out: {', '.join(left_out)}"
    kind = "made to be routed" if options.routed else "corrected"
    print(
        f"{kind} at layer {layer}{told_format(options)}, {study.cases} edits (cases {named}), {options.harmless} "
        f"harmless prompts, most {options.max_new_tokens} tokens; exams {time.perf_counter() - begun:.0f} s"
    )
    for name, text in study.suffixes.items():
        print(f"  {name}: {text or '(nothing)'}")
    print(f"\n{study.table()}\n\n{study.reading}")
    print(study.resampled)
    print(study.rounded_as)


if __name__ == "__main__":
    sys.exit(main())
