"""The same DINM edit by tail replay and the plain way, in one run.

    python -m benchmarks.edit_speed

The plain way runs a full forward and backward pass of the model at every step, as the authors' released
code does. Both ways run one after the other in this process, over several blocks, in float32 and with
a bfloat16 base (the edited matrix is always a float32 master copy), so the ratios hold whatever the
machine's speed is today. Printed for each block: seconds of both, their ratio, the largest difference and
the cosine of the two deltas, and the share of the machine's own matrix-product rate that a tail step reaches.

Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial

import torch

from editing import EditResult, preset, run
from editing.command import add_model, finished, load_model
from editing.methods.dinm import DinmSettings, dinm
from editing.optimising.objectives import reference_constraint
from editing.optimising.replay import FullReplay, ReplayFactory, TailReplay
from inspector.command import add_layer
from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.architecture import canonical_shape
from inspector.model.encoding import tokenise, tokenise_whole, with_suffix
from inspector.model.memory.memory_need import EditTexts, MemoryNeed, predict
from inspector.safeedit import Case, bundled_cases

PLAIN_WAY = partial(FullReplay, every_logit=True)
"""What an edit costs without tails."""
PLAIN = PromptFormat(chat=False, turn_end=False)
"""The format of the preset ``reference``."""


def sized_case(model: InspectedModel, prompt_tokens: int, answer_tokens: int) -> Case:
    """Return a bundled case whose prompt (with suffix) and safe answer have these numbers of tokens."""
    cases = bundled_cases()
    suffix = len(encode(model, "a", None, PLAIN).prompt) - 1
    prompt = tokenise(model, " ".join(c.adversarial_prompt for c in cases[:4]), special=False)
    answer = tokenise(model, " ".join(c.safe for c in cases[:4]), special=False)
    return replace(
        cases[0],
        adversarial_prompt=model.decode(prompt[: prompt_tokens - suffix]),
        safe=model.decode(answer[:answer_tokens]),
    )


def matrix_product_rate(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """Return the measured rate of one large matrix product in GFLOP/s (best of five)."""
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        begun = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - begun)
    return 2 * rows * inner * columns / best / 1e9


@dataclass(frozen=True)
class Worked:
    """How much of a text is worked on.

    Attributes:
        positions: Positions that run.
        counted: Those whose logits are computed.
    """

    positions: int
    counted: int


def worked_on(model: InspectedModel, case: Case) -> tuple[Worked, Worked]:
    """Return what every step of the preset ``reference`` runs: the prompt with the safe answer, and the constraint."""
    target = f" {case.safe}"  # with a space of its own and another one before it, as in the released code
    answer = tokenise_whole(model, f"{with_suffix(case.adversarial_prompt, PLAIN.suffix)} {target}", "answer")
    tokens, held = reference_constraint(model, case, PLAIN)
    return Worked(len(answer), len(tokenise_whole(model, target, "answer"))), Worked(len(tokens), len(held))


def block_weights(model: InspectedModel, block: int) -> int:
    """Return the number of weights in a block's matrices, however they are stored."""
    return sum(math.prod(canonical_shape(part)) for part in model.architecture.projections(block).values())


def tail_gflop(model: InspectedModel, block: int, text: Worked) -> float:
    """Return the work of the matrix products of one tail evaluation, GFLOP: two flops a weight and position."""
    architecture = model.architecture
    down = architecture.d_model * architecture.d_ff
    last = architecture.last_block
    per_block = block_weights(model, last)
    mlp = sum(math.prod(canonical_shape(part)) for part in architecture.mlp_projections(last).values())
    above = last - block
    full_blocks = max(0, above - 1) * per_block * text.positions
    last_block = ((per_block - mlp) * text.positions + mlp * text.counted) if above else 0
    edited = down * (text.positions if above else text.counted)
    unembedding = math.prod(canonical_shape(architecture.unembedding)) * text.counted
    return 2 * (full_blocks + last_block + edited + unembedding) / 1e9


def step_gflop(model: InspectedModel, block: int, answer: Worked, constraint: Worked) -> float:
    """Return the work of one step, GFLOP: the answer forward and backward, the constraint forward alone.

    Backward takes as much as forward: what goes to the states, and in the edited matrix its own gradient instead. The
    constraint's KL has no gradient in the preset ``reference``.
    """
    return 2 * tail_gflop(model, block, answer) + tail_gflop(model, block, constraint)


def pass_gflop(model: InspectedModel, positions: int, counted: int) -> float:
    """Return the work of the matrix products of one forward pass, GFLOP."""
    architecture = model.architecture
    blocks = sum(block_weights(model, block) for block in range(model.blocks))
    return 2 * (blocks * positions + math.prod(canonical_shape(architecture.unembedding)) * counted) / 1e9


def edit_gflop(model: InspectedModel, block: int, answer: Worked, constraint: Worked, steps: int) -> float:
    """Return the work of the first edit of the preset ``reference`` in a block, GFLOP; for later ones the constraint's
    states are kept.

    The blocks up to the edited one run over both texts once. Then there are so many steps, of which the first evaluates
    the constraint for its vanilla distributions, and one more evaluation of what they have made.
    """
    below = sum(block_weights(model, number) for number in range(block + 1))
    prepared = 2 * below * (answer.positions + constraint.positions) / 1e9
    last = tail_gflop(model, block, answer) + tail_gflop(model, block, constraint)
    return prepared + steps * step_gflop(model, block, answer, constraint) + last


def plain_gflop(model: InspectedModel, block: int, answer: Worked, constraint: Worked, steps: int) -> float:
    """Return the work of the same edit the plain way, GFLOP: whole passes with the logits of every position.

    The edited matrix's own product is made and replaced in each, so there are two. Backward goes no lower than that
    matrix.
    """
    architecture = model.architecture
    down = architecture.d_model * architecture.d_ff
    forward = sum(
        pass_gflop(model, text.positions, text.positions) + 2 * down * text.positions / 1e9
        for text in (answer, constraint)
    )
    above = sum(block_weights(model, number) for number in range(block + 1, model.blocks))
    backward = 2 * (above + down + math.prod(canonical_shape(architecture.unembedding))) * answer.positions / 1e9
    return steps * (forward + backward) + forward


def predicted_need(model: InspectedModel, case: Case, block: int) -> MemoryNeed:
    """Predict the memory of an edit of the preset ``reference``: its own texts in the place of the default edit's."""
    answer, constraint = worked_on(model, case)
    texts = EditTexts(
        safe_answers=1,
        counted=answer.counted,
        harmless=1,
        at_once=1,
        tokens=constraint.positions,
        harmless_counted=constraint.counted,
    )
    rest = str(model.dtype).removeprefix("torch.")
    return predict(model.network.config, model.dtype_name, rest, block, answer.positions, texts)


def edit(
    model: InspectedModel, case: Case, block: int, settings: DinmSettings, way: ReplayFactory
) -> tuple[EditResult, float]:
    """Run one edit and return it with its seconds."""
    begun = time.perf_counter()
    result = run(dinm(model, case, block, settings, replay=way))
    return result, time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu")
    add_layer(parser, several=True, type=int, nargs="+", default=[0, 8, 15, 22, 28, 29])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompt-tokens", type=int, default=103)
    parser.add_argument("--answer-tokens", type=int, default=68)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()

    settings = preset("reference", steps=options.steps, watch_unsafe=False)
    plain_float32: dict[int, tuple[EditResult, float]] = {}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    for dtype in options.dtypes:
        model = load_model(argparse.Namespace(**{**vars(options), "dtype": dtype}))
        if model.device.type != "cpu":
            raise EditError(
                "Edits are timed here beside a CPU's rate. Use --device cpu, or run python -m benchmarks.gpu for a GPU."
            )
        case = sized_case(model, options.prompt_tokens, options.answer_tokens)
        prompt = len(encode(model, case.adversarial_prompt, None, PLAIN).prompt)
        target = len(tokenise(model, case.safe, special=False))
        rate = matrix_product_rate(model.dtype, target, model.architecture.d_model, model.architecture.vocabulary)
        print(f"\n{model.name}, base {dtype}, {prompt} + {target} tokens, {options.steps} steps")
        print(f"matrix products of this machine in {dtype}: {rate:.0f} GFLOP/s (unembedding's shape)")
        print("block   plain s   tail s   ratio   ratio to float32 plain   largest |difference|   cosine   of the rate")
        edit(model, case, options.layers[-1], replace(settings, steps=1), TailReplay)  # warm up
        for block in options.layers:
            tail, tail_seconds = edit(model, case, block, settings, TailReplay)
            plain, plain_seconds = edit(model, case, block, settings, PLAIN_WAY)
            plain_float32.setdefault(block, (plain, plain_seconds))
            base_plain, base_seconds = plain_float32[block]
            assert tail.patch is not None and plain.patch is not None and base_plain.patch is not None
            ours, theirs = tail.patch.deltas[0].dense(), plain.patch.deltas[0].dense()
            exact = base_plain.patch.deltas[0].dense()
            cosine = torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0)
            step = sorted(s.seconds for s in tail.trace[:-1])[len(tail.trace[:-1]) // 2]
            work = step_gflop(model, block, *worked_on(model, case))
            print(
                f"{block:5d} {plain_seconds:9.2f} {tail_seconds:8.2f} {plain_seconds / tail_seconds:7.2f}"
                f" {base_seconds / tail_seconds:24.2f} {(ours - theirs).abs().max():22.2e} {cosine:8.4f}"
                f" {work / step / rate:12.0%}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(finished(main))
