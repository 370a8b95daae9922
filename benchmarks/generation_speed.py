"""Vanilla and edited answers together against transformers' own ``generate`` on the same two rows, in one run.

    python -m benchmarks.generation_speed             the embedded model
    python -m benchmarks.generation_speed --model NAME --device cuda --dtype bfloat16
    python -m benchmarks.generation_speed --model NAME --device auto --dtype bfloat16 --device-map auto

The ways take turns, so that a machine that gets slower meanwhile slows all of them. A token step's time is that of long
answers minus short ones, without the reading of the prompt. No answer ends before its length is reached.

A table is printed, and with --out written as JSON with model, dtype, device and threads. Exit codes: 0; 2 when it
cannot be done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu import Clock, answers, dense_patch, lora_patch, own_generate, require_tokens, shorter
from editing.command import add_model, finished, load_model
from inspector.model import VANILLA, InspectedModel, Row, encode
from inspector.safeedit import bundled_cases


def ways(model: InspectedModel, prompt: list[int]) -> dict[str, Callable[[int], Callable[[], Any]]]:
    """Return what answers a prompt in so many tokens, by name."""
    block = model.blocks * 28 // 32
    edited, everywhere = Row(dense_patch(model, block)), Row(lora_patch(model))
    return {
        "transformers' generate, two rows": partial(own_generate, model, prompt, 2),
        "vanilla and DINM": partial(answers, model, prompt, [VANILLA, edited]),
        "the same with the library's products": lambda tokens: _plain(
            answers(model, prompt, [VANILLA, edited], tokens)
        ),
        "vanilla and LoRA in every matrix": partial(answers, model, prompt, [VANILLA, everywhere]),
        "vanilla alone": partial(answers, model, prompt, [VANILLA]),
    }


def _plain(ask: Callable[[], Any]) -> Callable[[], Any]:
    def work() -> Any:
        with patch("inspector.model.answers.batching.thin_products", lambda _model, _rows: nullcontext()):
            return ask()

    return work


def measure(model: InspectedModel, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return seconds a token step and tokens a second beside ``generate``, by way."""
    case = bundled_cases()[0]
    prompt = list(encode(model, case.adversarial_prompt, None).prompt)
    clock, short = Clock(model.devices, 1), shorter(tokens)
    each: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, way in ways(model, prompt).items():
            step = (clock.seconds(way(tokens)) - clock.seconds(way(short))) / (tokens - short)
            each.setdefault(name, []).append(step)
    steps = {name: statistics.median(values) for name, values in each.items()}
    own, alone = steps["transformers' generate, two rows"], steps["vanilla alone"]
    return {
        name: {
            "a token step, ms": 1e3 * step,
            "of generate's tokens a second": own / step,
            "times one row": step / alone,
        }
        for name, step in steps.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the numbers")
    options = parser.parse_args(arguments)
    require_tokens(options.tokens, "--tokens")
    model = load_model(options)
    found = measure(model, options.tokens, options.rounds)
    print(f"{model.name}, {model.dtype_name}, {options.tokens} tokens")
    print(f"{'':37s} a token step   of generate's tokens a second   times one row")
    for name, numbers in found.items():
        step, share, times = numbers.values()
        print(f"{name:37s} {step:9.2f} ms {share:31.2f} {times:15.2f}")
    if options.out is not None:
        about = {
            "model": model.name,
            "dtype": model.dtype_name,
            "device": str(model.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "tokens": options.tokens,
            "rounds": options.rounds,
        }
        options.out.write_text(json.dumps({**about, "measured": found}, indent=1))


if __name__ == "__main__":
    sys.exit(finished(main))
