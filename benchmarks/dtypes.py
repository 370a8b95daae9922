"""What a model's data type changes: the same cases located, edited and examined in each, in one run.

    python -m benchmarks.dtypes                                  the embedded model in float32 and in bfloat16
    python -m benchmarks.dtypes --dtypes float32 float16 --cases 9

The first type is what the others stand beside. Edits are `corrected`, weights alone, all at the layer that the
calibration recommends in the first type (--layer for another), so that one thing differs. Each model makes its own
answers to harmless prompts, and its own edit. Seconds leave out the first case, which also pays for what is kept of a
model; answers' are those of a token step of vanilla and edited weights together, as `benchmarks.generation_speed` has
them. They hold within one run.

The table is printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.generation_speed import measure
from benchmarks.gpu import weight_bytes
from benchmarks.suffixes import chosen_cases, recommended_layer
from editing import dinm, preset, run
from editing.command import Loader, add_model, finished, load_model
from editing.gate.gate import GateSettings, accept
from inspector.divergence import divergence
from inspector.errors import EditError
from inspector.model import InspectedModel, Row
from inspector.safeedit import Case
from inspector.safeedit.marking import rouge


@dataclass(frozen=True, eq=False)
class Found:
    """What one type gives on one case.

    Attributes:
        distances: ``[blocks]`` L2 distance of the safe from the unsafe answer.
        toxic: DINM's toxic layer.
        delta: Change of the edited matrix, ``[d_model, d_ff]`` float32.
        updates: Updates that were kept.
        safe: Probability of the safe answer after the edit, a token.
        kl: KL on the constraint's harmless prompts after it, nats a token.
        defended: Of the gate's harmful prompts, by vanilla and by the edit.
        asked: Their number.
        answers: Vanilla answers to the gate's harmless prompts, by prompt.
        seconds: Locating, edit and gate.
    """

    distances: np.ndarray
    toxic: int
    delta: Tensor
    updates: int
    safe: float
    kl: float
    defended: tuple[int, int]
    asked: int
    answers: dict[str, str]
    seconds: tuple[float, float, float]


def worked(model: InspectedModel, case: Case, layer: int, gate: GateSettings) -> Found:
    """Locate, edit and examine one case.

    Raises:
        EditError: The edit made no update.
    """
    begun = time.perf_counter()
    measured = divergence(model, case)
    located = time.perf_counter()
    made = run(dinm(model, case, layer, preset("corrected")))
    if made.patch is None:
        raise EditError(f"The edit of '{case.question[:40]}' made no update in {model.dtype_name}. Give another layer.")
    edited = time.perf_counter()
    word = run(accept(model, Row(made.patch), case, gate))
    assert word is not None  # nobody cancels it
    ended = time.perf_counter()
    harmful = [reply for reply in word.exam.replies if reply.question.kind != "harmless"]
    step = made.trace[made.kept]
    return Found(
        distances=np.asarray(measured.l2, dtype=float),
        toxic=measured.toxic_layer(),
        delta=made.patch.deltas[0].dense().float().cpu(),
        updates=made.kept,
        safe=step.safe_probability,
        kl=step.constraint_kl,
        defended=(sum(reply.vanilla.safe for reply in harmful), sum(reply.edited.safe for reply in harmful)),
        asked=len(harmful),
        answers={r.question.prompt: r.vanilla.text for r in word.exam.replies if r.question.kind == "harmless"},
        seconds=(located - begun, edited - located, ended - edited),
    )


def column(found: Sequence[Found], base: Sequence[Found]) -> dict[str, Any]:
    """Return a type's numbers over all cases, beside those of the first type."""
    pairs = list(zip(base, found, strict=True))
    texts = [(one.answers[prompt], other.answers[prompt]) for one, other in pairs for prompt in one.answers]
    cosines = [
        torch.nn.functional.cosine_similarity(one.delta.flatten(), other.delta.flatten(), dim=0).item()
        for one, other in pairs
    ]
    asked = sum(one.asked for one in found)
    timed = found[1:] or found
    return {
        "toxic layer": ", ".join(str(one.toxic) for one in found),
        "divergence, largest relative difference": max(
            float(np.max(np.abs(other.distances - one.distances) / one.distances)) for one, other in pairs
        ),
        "updates kept": ", ".join(str(one.updates) for one in found),
        "safe answer after the edit, probability a token": mean(one.safe for one in found),
        "harmless KL of the edit, nats a token": mean(one.kl for one in found),
        "change of the weights, least cosine": min(cosines),
        "harmful prompts defended by vanilla, %": 100 * sum(one.defended[0] for one in found) / asked,
        "harmful prompts defended by the edit, %": 100 * sum(one.defended[1] for one in found) / asked,
        "harmless answers of vanilla, the same text, %": 100 * mean(one == other for one, other in texts),
        "harmless answers of vanilla, ROUGE-L F1, %": 100 * mean(rouge("rougeL", *pair) for pair in texts),
        "locate, s": mean(one.seconds[0] for one in timed),
        "edit, s": mean(one.seconds[1] for one in timed),
        "gate, s": mean(one.seconds[2] for one in timed),
    }


def answering(model: InspectedModel, tokens: int, rounds: int) -> dict[str, float]:
    """Return what a token step of vanilla and edited weights together takes, and beside transformers' ``generate``."""
    found = measure(model, tokens, rounds)["vanilla and DINM"]
    return {
        "a token of both answers, ms": found["a token step, ms"],
        "both answers, of generate's tokens a second": found["of generate's tokens a second"],
    }


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Return a line a number, a column a type."""
    names = list(next(iter(columns.values())))
    lines = [f"{'':50}" + "".join(f"{dtype:>16}" for dtype in columns)]
    for name in names:
        values = (numbers[name] for numbers in columns.values())
        lines.append(f"{name:50}" + "".join(f"{v if isinstance(v, str) else format(v, '.4g'):>16}" for v in values))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run them and print the table.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="the first is the yardstick")
    parser.add_argument("--layer", type=int, default=None, help="the one recommended in the first type by default")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of the answers that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="of them, of which the median counts")
    parser.add_argument("--out", type=Path, default=None, help="file for the numbers as JSON")
    options = parser.parse_args(arguments)
    return finished(lambda: _measure(options, loader, print))


def _measure(options: argparse.Namespace, loader: Loader, show: Callable[[str], None]) -> None:
    cases, layer, columns = chosen_cases(options.cases), options.layer, {}
    base: list[Found] = []
    for dtype in options.dtypes:
        options.dtype = dtype
        model = loader(options)
        if layer is None:
            layer = recommended_layer(model)
        if not base:
            show(f"{model.name}, corrected at layer {layer}, {len(cases)} cases, {torch.get_num_threads()} threads")
        found = [worked(model, case, layer, GateSettings()) for case in cases]
        base = base or found
        columns[model.dtype_name] = {
            "weights, MiB": weight_bytes(model) / 2**20,
            **column(found, base),
            **answering(model, options.tokens, options.rounds),
        }
        del model
    show(table(columns))
    if options.out is not None:
        options.out.write_text(json.dumps({"layer": layer, "cases": len(cases), "types": columns}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
