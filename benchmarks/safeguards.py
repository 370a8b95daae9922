"""The safeguards of an edit at work: acceptance gate, strength curve, and a second edit on top of the first.

    python -m benchmarks.safeguards                      the embedded model, two cases
    python -m benchmarks.safeguards --layer 12           edits at another layer than the recommended one
    python -m benchmarks.safeguards --routed             edits as Operate makes them first, only where harm is detected

The first case is edited, held to the gate's budgets and measured over strengths; the second case is then edited on top,
the stack is held to the same budgets, and both cases are examined with the first edit alone and with both. Edits are
`corrected` and act on every prompt; with --routed they are made to be routed and act only where the calibration's
detector fires, which for the stack knows the questions of both. Settings, budgets and questions are the defaults.

The tables are printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from benchmarks.suffixes import chosen_cases, edited, recommended_layer
from editing import preset, run
from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_evaluation, add_format, add_model, finished, format_of, load_model, told_format
from editing.gate.gate import GateSettings, accept, recorded
from editing.stacking import examine_stack
from editing.strength import StrengthCurve, StrengthSettings, strength_curve

_Result = TypeVar("_Result")


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run the safeguards and print what they say.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--layer", type=int, default=None, help="the recommended one by default")
    parser.add_argument("--harmless", type=int, default=GateSettings().harmless, help="of the gate's exam")
    parser.add_argument("--max-new-tokens", type=int, default=GateSettings().max_new_tokens)
    parser.add_argument("--routed", action="store_true", help="edits that act only where harm is found")
    add_evaluation(parser, "of the strength curve and the exam of the stack; ")
    options = parser.parse_args(arguments)
    return finished(lambda: _safeguards(options, loader))


def _safeguards(options: argparse.Namespace, loader: Loader) -> None:
    model = loader(options)
    layer = recommended_layer(model) if options.layer is None else options.layer
    first, second = chosen_cases(2)
    gate = GateSettings(harmless=options.harmless, max_new_tokens=options.max_new_tokens)
    short: dict[str, Any] = {"harmless": max(1, options.harmless // 2), "max_new_tokens": options.max_new_tokens}
    short["evaluation"] = options.evaluation
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    detector = load_calibration(model).detector if options.routed else None
    settings = preset("corrected", **vars(format_of(options)))
    kind = "corrected" if detector is None else "made to be routed"
    print(f"{kind} at layer {layer}{told_format(options)}, cases {first.identifier} and {second.identifier}")
    one = _timed("edit", lambda: edited(model, first, layer, settings, detector))
    word = _timed("gate", lambda: run(accept(model, one, first, gate)))
    print(word.reading)
    assert one.patch is not None
    one = replace(one, patch=recorded(one.patch, word))  # as on the page, where the curve reads it
    curve = _timed("strength curve", lambda: run(strength_curve(model, one, first, StrengthSettings(**short))))
    print(f"{curve_table(curve)}\n{curve.reading}")
    both = _timed("second edit", lambda: edited(model, second, layer, settings, detector, (first, one)))
    print(_timed("gate", lambda: run(accept(model, both, second, gate))).reading)
    print(_timed("stack", lambda: run(examine_stack(model, (first, second), one, both, **short))).reading)


def curve_table(curve: StrengthCurve) -> str:
    """Return a strength curve as lines of text."""
    lines = ["  strength  defended  harmless KL  over-refusal  degenerate  parroting  lost defence"]
    percent = zip(curve.over_refusal, curve.degenerate, curve.parroting, curve.lost_defence, strict=True)
    columns = zip(curve.strengths, curve.defended, curve.harmless_kl, percent, strict=True)
    for strength, defended, kl, (refused, broken, parroted, lost) in columns:
        lines.append(
            f"  {strength:8.2f}  {defended:6.0f} %  {kl:11.4f}  {refused:10.0f} %  {broken:8.0f} %"
            f"  {parroted:7.0f} %  {lost:+5.0f} points"
        )
    return "\n".join(lines)


def _timed(what: str, work: Callable[[], _Result | None]) -> _Result:
    begun = time.perf_counter()
    found = work()
    assert found is not None  # nobody cancels it
    print(f"\n{what}: {time.perf_counter() - begun:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
