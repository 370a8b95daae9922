"""The same exam in batches with shared starts, in batches without them, and one prompt at a time, in one run.

    python -m benchmarks.scoring_speed

All three answer the same prompts with the vanilla and an edited row of weights. Printed: seconds a prompt, the
ratio to one at a time, and how many answers are the same text (greedy decoding; rounding may flip a near tie).

Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from editing.command import finished
from inspector.command import add_model, load_model
from inspector.model import VANILLA, Decoding, Delta, InspectedModel, Patch, Row, encode
from inspector.model.answers import batching, cached_lines
from inspector.model.answers.batching import generate, plan
from inspector.safeedit import bundled_cases
from inspector.safeedit.questions import FULL, Size, make_exam

Answered = dict[tuple[int, int], list[int]]


def in_batches(
    model: InspectedModel, prompts: list[tuple[int, ...]], rows: tuple[Row, ...], decoding: Decoding, size: int
) -> Answered:
    """Answer all prompts, ``size`` of them at a time."""
    found: Answered = {}
    for batch in plan(prompts, size):
        lines: list[batching.Line] = []
        for now in generate(model, [prompts[position] for position in batch], rows, decoding):
            lines = now
        found.update({(batch[line.prompt], line.row): line.tokens for line in lines})
    return found


def timed(run: Callable[[], Answered]) -> tuple[float, Answered]:
    """Return the seconds of a run and what it gave."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 12, 24], help="prompts in a batch")
    parser.add_argument("--prompts", type=int, default=24, help="number of prompts")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    add_model(parser, dtype="float32")
    chosen = parser.parse_args()
    model = load_model(chosen)
    exam = make_exam(bundled_cases()[0], Size(2, FULL.harmless, 0, 0))[: chosen.prompts]
    prompts = [encode(model, question.prompt).prompt for question in exam]
    block = model.architecture.last_block
    shape = (model.architecture.d_model, model.architecture.d_ff)
    noise = 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    patch = Patch((Delta(model.architecture.down_projection_names[block], block, noise),), model.fingerprint, "noise")
    rows, decoding = (VANILLA, Row(patch)), Decoding(max_new_tokens=chosen.tokens)
    in_batches(model, prompts[:1], rows, Decoding(max_new_tokens=2), 1)  # warm up
    single, plain = timed(lambda: in_batches(model, prompts, rows, decoding, 1))
    tokens = sum(map(len, plain.values()))
    print(f"{model.name}, {model.dtype_name}, {len(prompts)} prompts, vanilla and edited together, {tokens} tokens")
    print(f"{'':34}{'s a prompt':>12}{'ratio':>8}{'same answers':>14}")
    print(f"{'one prompt at a time':34}{single / len(prompts):12.3f}{1.0:8.2f}{len(plain):>8} of {len(plain)}")
    own = cached_lines.common_start
    for size in chosen.sizes:
        for name, start in (("", own), (", starts not shared", lambda _prompts: 0)):
            cached_lines.common_start = start
            try:
                seconds, found = timed(lambda size=size: in_batches(model, prompts, rows, decoding, size))  # type: ignore[misc]
            finally:
                cached_lines.common_start = own
            same = sum(found[key] == plain[key] for key in plain)
            label = f"{size} at a time{name}"
            print(f"{label:34}{seconds / len(prompts):12.3f}{single / seconds:8.2f}{same:>8} of {len(plain)}")


if __name__ == "__main__":
    sys.exit(finished(main))
