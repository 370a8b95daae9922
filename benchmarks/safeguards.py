"""The safeguards of an edit at work: acceptance gate, strength curve, and a second edit on top of the first.

    python -m benchmarks.safeguards                      the embedded model, two cases
    python -m benchmarks.safeguards --layer 12           edits at another layer than the recommended one

The first case is edited, held to the gate's budgets and measured over strengths; the second case is then edited on top,
the stack is held to the same budgets, and both cases are examined with the first edit alone and with both. Edits are
`corrected`; its settings, budgets and questions are the defaults.

The tables are printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from benchmarks.suffixes import chosen_cases, recommended_layer
from editing import dinm, preset, run
from editing.command import Loader, add_evaluation, add_format, add_model, finished, format_of, load_model, told_format
from editing.gate.gate import GateSettings, accept, recorded
from editing.stacking import edit_on_top, examine_stack
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
    settings = preset("corrected", **vars(format_of(options)))
    print(f"corrected at layer {layer}{told_format(options)}, cases {first.identifier} and {second.identifier}")
    one = _timed("edit", dinm(model, first, layer, settings)).row()
    word = _timed("gate", accept(model, one, first, gate))
    print(word.reading)
    assert one.patch is not None
    one = replace(one, patch=recorded(one.patch, word))  # as on the page, where the curve reads it
    curve = _timed("strength curve", strength_curve(model, one, first, replace(StrengthSettings(), **short)))
    print(f"{curve_table(curve)}\n{curve.reading}")
    both = _timed("second edit", edit_on_top(model, one, lambda carried: dinm(carried, second, layer, settings))).row()
    print(_timed("gate", accept(model, both, second, gate)).reading)
    print(_timed("stack", examine_stack(model, (first, second), one, both, **short)).reading)


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


def _timed(what: str, running: Generator[Any, None, _Result | None]) -> _Result:
    begun = time.perf_counter()
    found = run(running)
    assert found is not None  # nobody cancels it
    print(f"\n{what}: {time.perf_counter() - begun:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
