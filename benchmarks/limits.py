"""What locating, editing, the atlas and answering cost beside the plain computation and the machine's own limit.

    python -m benchmarks.limits                      all parts, the embedded model
    python -m benchmarks.limits --parts edit rows    some of them
    python -m benchmarks.limits --parts compile      what torch.compile brings an edit; needs a C++ compiler
    python -m benchmarks.limits --out results/limits writes limits.json, limits.txt and limits.svg

Everything is measured in one run, so the ratios hold whatever the machine's speed is today. The *plain way* is what the
same result costs without this program's shortcuts: whole passes with every hidden state, whole forward and backward
passes at every step, one block's plain edit for every block (that of the middle one, as often as there are blocks), one
prompt or one row at a time. The *limit* is the time
that the machine's measured matrix-product rate allows for the products of the work (of states with weights; attention's
own are left out) or, where a token step reads every weight for a few lines and that takes longer, its copy bandwidth
for the weights: ``share`` is the limit over the measured time. Peak is the growth of memory while it is done, MiB,
beside what is predicted of it from the model's configuration.
All this is for a CPU; ``python -m benchmarks.gpu`` measures a GPU.

A table is printed. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.edit_speed import (
    PLAIN_WAY,
    Worked,
    edit_gflop,
    matrix_product_rate,
    pass_gflop,
    predicted_need,
    sized_case,
    tail_gflop,
    worked_on,
)
from benchmarks.gpu import dense_patch, endless, shorter, weight_bytes
from benchmarks.limits_result import HEAD, Measured, write
from benchmarks.random_models import random_model
from editing import preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.calibrating.calibration import calibration_of, make_calibration
from editing.command import finished
from editing.gate.turns import attempts
from editing.memory import peak_memory
from editing.methods.dinm import dinm
from editing.optimising.replay import ReplayFactory, TailReplay
from editing.progress import Step
from editing.texts.harmless import harmless_answers
from inspector.command import add_model, load_model
from inspector.divergence import divergence
from inspector.errors import EditError
from inspector.model import VANILLA, Decoding, Encoded, InspectedModel, Row, encode, from_parts
from inspector.model.answers.batching import generate, plan
from inspector.model.answers.cached_lines import common_start
from inspector.model.memory.memory_need import predict
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.questions import FULL, Size, make_exam

PARTS = ("locate", "first", "edit", "atlas", "pair", "stress", "size", "length", "rows", "calibration")
FURTHER = ("compile",)
"""Parts that are measured where they are asked for only."""
SIZES = ("tiny", "small", "medium")
"""Shapes of random models that are edited."""
STEPS = 10
"""Updates of an edit, the paper's number."""
COPIED = 1 << 26
"""Numbers that are copied: more than any cache holds."""


@dataclass(frozen=True)
class Machine:
    """The machine's own limits: GFLOP/s of matrix products, GB/s of copies (bytes read and written)."""

    rate: float
    bandwidth: float

    def products(self, gflop: float) -> float:
        """Return the seconds that products take at best."""
        return gflop / self.rate

    def token(self, model: InspectedModel, lines: int) -> float:
        """Return the seconds that one token a line takes at best: reading all weights, or the products of all lines."""
        reading = weight_bytes(model) / (self.bandwidth * 1e9)
        return max(reading, self.products(pass_gflop(model, lines, lines)))


def machine(model: InspectedModel, positions: int) -> Machine:
    """Measure the machine with products of the model's unembedding and copies larger than any cache."""
    architecture = model.architecture
    rate = matrix_product_rate(model.dtype, positions, architecture.d_model, architecture.vocabulary)
    source = torch.randn(COPIED)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source))[0] for _ in range(5))
    return Machine(rate, 2 * source.nbytes / best / 1e9)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of some work, and what it gave."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def median(work: Callable[[], Any], rounds: int = 3) -> float:
    """Return the median seconds of some rounds."""
    return statistics.median(timed(work)[0] for _ in range(rounds))


def with_peak(model: InspectedModel, work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds and the peak of one run."""
    with peak_memory(model.device) as peak:
        seconds, _ = timed(work)
    return seconds, peak.mebibytes


def edit_bytes(model: InspectedModel, case: Case, block: int) -> float:
    """Return the MiB that are predicted of :func:`edited`."""
    return predicted_need(model, case, block).editing / 2**20


def pair_bytes(model: InspectedModel, tokens: int) -> float:
    """Return the MiB that are predicted of reading two rows of so many tokens."""
    return predict(model.network.config, model.dtype_name, tokens=tokens).reading / 2**20


def edit_limit(model: InspectedModel, case: Case, block: int, of: Machine) -> float:
    """Return the seconds that the products of :func:`edited` take at best."""
    return of.products(edit_gflop(model, block, *worked_on(model, case), STEPS))


def edited(model: InspectedModel, case: Case, block: int, way: ReplayFactory, steps: int | None = None) -> Any:
    """Make so many updates of one block, the paper's number by default."""
    steps = STEPS if steps is None else steps
    settings = preset("reference", steps=steps, watch_unsafe=False)
    return run(dinm(model, case, block, settings, replay=way))


def locating(model: InspectedModel, case: Case, of: Machine) -> Iterator[Measured]:
    """Locate, beside two whole passes that return every hidden state."""
    texts = [encode(model, case.adversarial_prompt, answer).tokens for answer in (case.safe, case.unsafe)]

    @torch.no_grad()
    def plain() -> None:
        for tokens in texts:
            model.network(input_ids=model.batch(tokens), use_cache=False, output_hidden_states=True)

    prompt = len(encode(model, case.adversarial_prompt, None).prompt)
    positions = sum(map(len, texts)) - prompt  # the prompt runs once
    _, peak = with_peak(model, partial(divergence, model, case))
    seconds = median(partial(divergence, model, case))
    limit = of.products(pass_gflop(model, positions, 1))
    expected = pair_bytes(model, max(map(len, texts)))
    yield Measured("locate", f"{prompt} prompt tokens", seconds, median(plain), limit, peak, expected)


def first_steps(model: InspectedModel, case: Case, of: Machine) -> Iterator[Measured]:
    """Wait for what the page streams first of the edit that Operate makes: the unedited weights' signs, then an update.

    Then for the whole edit. It is timed alone: a press of Operate also locates. The model is calibrated, if it is, and
    has made that edit once: only what belongs to the case is done anew. The plain way computes texts that begin alike
    one by one, all else as ever. The limit is of the products that are made until then, counted in a round of their
    own.
    """
    calibration = calibration_of(model)
    block = model.blocks * 2 // 3
    if calibration is not None:
        calibration.teach(model)
        block = block if calibration.layers.recommended is None else calibration.layers.recommended
    settings = attempts(preset("corrected"), None if calibration is None else calibration.detector)[0]

    def reached(now: Callable[[], float]) -> tuple[float, float, float]:
        """Return what a clock says at the first step, at the second and at the end."""
        steps = [now() for event in dinm(model, case, block, settings) if isinstance(event, Step)]
        return steps[0], steps[1], now()

    def waited(rounds: int) -> list[float]:
        each = []
        for _ in range(rounds):
            begun = time.perf_counter()
            each.append([at - begun for at in reached(time.perf_counter)])
        return [statistics.median(times) for times in zip(*each, strict=True)]

    waited(1)
    seconds = waited(3)
    with patch("inspector.model.passes.tails.shared_rows", lambda *_: None):
        waited(1)
        plain = waited(3)
    with FlopCounterMode(display=False) as counted:
        work = reached(lambda: counted.get_total_flops() / 1e9)
    names = ("step", "update", "whole edit")
    for name, shared, apart, gflop in zip(names, seconds, plain, work, strict=True):
        yield Measured("first", f"{name}, layer {block}", shared, apart, of.products(gflop))


def editing(model: InspectedModel, case: Case, of: Machine) -> Iterator[Measured]:
    """Edit a low, the middle, a high and the last block."""
    last = model.architecture.last_block
    edited(model, case, last, TailReplay)  # warm
    for block in sorted({0, model.blocks // 2, model.blocks * 28 // 30, last}):
        seconds, peak = with_peak(model, partial(edited, model, case, block, TailReplay))
        plain, _ = timed(partial(edited, model, case, block, PLAIN_WAY))
        limit, expected = edit_limit(model, case, block, of), edit_bytes(model, case, block)
        yield Measured("edit", f"layer {block} of 0-{last}", seconds, plain, limit, peak, expected)


def compiling(model: InspectedModel, case: Case, of: Machine, block: int) -> Iterator[Measured]:
    """Edit a block with the blocks above it compiled, but for the last, beside the same edit without.

    The compilation is in none of them: it stands by itself, as what the first edit takes longer. No block is fetched:
    see :func:`require_unfetched`.
    """
    edit = partial(edited, model, case, block, TailReplay)
    edit()  # warm
    plain = median(edit)
    above = model.architecture.blocks[block + 1 : -1]
    try:
        for each in above:
            each.forward = torch.compile(each.forward, dynamic=False)
        first, _ = timed(edit)
        seconds = median(edit)
    except RuntimeError as error:
        told = str(error).strip().splitlines()[0]
        remedy = "Install a C++ compiler (Debian: g++), or leave compile out of --parts."
        raise EditError(f"torch.compile failed here ({told}). {remedy}") from error
    finally:
        for each in above:
            vars(each).pop("forward", None)
    limit = edit_limit(model, case, block, of)
    yield Measured("compile", f"layer {block}, {len(above)} blocks", seconds, plain, limit)
    yield Measured("compile", "the compilation", first - seconds)


def require_unfetched(model: InspectedModel) -> None:
    """Refuse to compile blocks whose weights are fetched for each pass.

    Raises:
        EditError: accelerate has put its own ``forward`` into one.
    """
    if any("forward" in vars(part) for block in model.architecture.blocks for part in block.modules()):
        raise EditError(
            "Blocks of this model fetch their weights for each pass, and such a block is not compiled. Leave compile "
            "out of --parts, or load the model onto one device (without --device-map)."
        )


def whole_atlas(model: InspectedModel, case: Case, of: Machine) -> Iterator[Measured]:
    """Edit every block a little, beside a plain edit of the middle block in as many updates, for every block."""
    settings = AtlasSettings()
    seconds, peak = with_peak(model, lambda: run(make_atlas(model, case, settings)))
    plain, _ = timed(partial(edited, model, case, model.blocks // 2, PLAIN_WAY, settings.steps))
    limit = of.products(atlas_gflop(model, case, settings))
    yield Measured("atlas", f"all {model.blocks} layers", seconds, model.blocks * plain, limit, peak)


def atlas_gflop(model: InspectedModel, case: Case, settings: AtlasSettings) -> float:
    """Return the least work of an atlas of all blocks whose harmless prompts are answered, GFLOP.

    Every block's tails: the safe answer forward and backward in every update but the first, whose gradients come from
    one pass for all blocks; then all texts forward, the harmless ones once more for a trial of the step size. Before
    that one pass over all texts. What texts share at their beginning counts once.
    """
    text, form = case.adversarial_prompt, settings.format
    asked = settings.harmless_prompts, settings.harmless_tokens
    answers = [encode(model, text, answer, form) for answer in (case.safe, case.unsafe)]
    safe, both = _worked(answers[:1]), _worked(answers)
    answered = run(harmless_answers(model, case, *asked, form))
    harmless = _worked(answered or [])
    trials = 1 + (settings.learning_rate is None)
    tails = sum(
        2 * (settings.steps - 1) * tail_gflop(model, block, safe)
        + tail_gflop(model, block, both)
        + trials * tail_gflop(model, block, harmless)
        for block in range(model.blocks)
    )
    passes = pass_gflop(model, both.positions + harmless.positions, 0)
    return tails + passes + 2 * pass_gflop(model, safe.positions, safe.counted)


def _worked(texts: list[Encoded]) -> Worked:
    """Return what the tails of texts run; a beginning that several share counts once."""
    places = {text.tokens[:end] for text in texts for end in range(1, len(text.tokens) + 1)}
    return Worked(len(places), sum(len(text.response) for text in texts))


def calibrating(model: InspectedModel) -> Iterator[Measured]:
    """Calibrate the model as ``python -m editing.calibrate`` does; nothing is kept.

    What other parts have learnt of the model is not known then: it is wrapped anew, and all that is kept belongs to the
    wrapper.
    """
    fresh = from_parts(model.network, model.tokenizer, model.name, model.paths)
    seconds, peak = with_peak(fresh, lambda: run(make_calibration(fresh)))
    yield Measured("calibration", "whole", seconds, None, None, peak)


def answered(model: InspectedModel, prompts: list[tuple[int, ...]], rows: list[Row], tokens: int, size: int) -> None:
    """Answer prompts with every row of weights, so many at a time, each in so many tokens."""
    with endless(model):
        for batch in plan(prompts, size):
            deque(generate(model, [prompts[place] for place in batch], rows, Decoding(tokens)), maxlen=0)


def token_steps(model: InspectedModel, prompt: tuple[int, ...], rows: list[Row], tokens: int) -> float:
    """Return the seconds of a token step: a long answer minus a short one."""
    short = shorter(tokens)
    times = [
        timed(partial(answered, model, [prompt], rows, tokens, 1))[0]
        - timed(partial(answered, model, [prompt], rows, short, 1))[0]
        for _ in range(3)
    ]
    return statistics.median(times) / (tokens - short)


def paired(model: InspectedModel, case: Case, of: Machine, numbers: tuple[int, ...], name: str) -> Iterator[Measured]:
    """Answer with several rows of weights at once, beside one row at a time; the time is that of a token step."""
    prompt = encode(model, case.adversarial_prompt, None).prompt
    patches = [dense_patch(model, model.blocks * 28 // 30)] * max(numbers)
    alone = token_steps(model, prompt, [VANILLA], 40)
    for count in numbers:
        rows = [VANILLA, *(Row(patch, (n + 1) / max(numbers)) for n, patch in enumerate(patches[: count - 1]))]
        _, peak = with_peak(model, partial(answered, model, [prompt], rows, 40, 1))
        step = token_steps(model, prompt, rows, 40)
        expected = pair_bytes(model, len(prompt) + 40) if count == 2 else None
        yield Measured(name, f"{count} rows, a token", step, count * alone, of.token(model, count), peak, expected)


def stress(model: InspectedModel, of: Machine) -> Iterator[Measured]:
    """Answer a stress test's prompts with both weights in batches, beside one prompt at a time."""
    prompts = [encode(model, q.prompt).prompt for q in make_exam(bundled_cases()[0], Size(2, FULL.harmless, 0, 0))[:24]]
    rows, tokens = [VANILLA, Row(dense_patch(model, model.blocks * 28 // 30))], 24
    batches = plan(prompts, 12)
    seconds, peak = with_peak(model, partial(answered, model, prompts, rows, tokens, 12))
    plain, _ = timed(partial(answered, model, prompts, rows, tokens, 1))
    limit = 0.0
    for batch in batches:
        lines = len(rows) * len(batch)
        positions = len(rows) * positions_read([prompts[place] for place in batch])
        limit += of.products(pass_gflop(model, positions, lines)) + (tokens - 1) * of.token(model, lines)
    yield Measured("stress", f"{len(prompts)} prompts, 2 rows", seconds, plain, limit, peak)


def positions_read(prompts: list[tuple[int, ...]]) -> int:
    """Return how many positions have to run for prompts of one batch: what all of them start with once."""
    shared = common_start(prompts) if len(prompts) > 1 else 0
    return shared + sum(len(prompt) - shared for prompt in prompts)


def sizes(of: Callable[[InspectedModel], Machine]) -> Iterator[Measured]:
    """Edit models of several sizes, random weights."""
    for shape in SIZES:
        model = random_model(shape, torch.device("cpu"), torch.float32)
        case, block = sized_case(model, 60, 30), model.blocks * 28 // 32
        seconds, peak = with_peak(model, partial(edited, model, case, block, TailReplay))
        plain, _ = timed(partial(edited, model, case, block, PLAIN_WAY))
        millions = sum(p.numel() for p in model.network.parameters()) / 1e6
        limit = edit_limit(model, case, block, of(model))
        expected = edit_bytes(model, case, block)
        yield Measured("size", f"{millions:.0f} M weights, edit", seconds, plain, limit, peak, expected)


def lengths(model: InspectedModel, of: Machine, prompts: tuple[int, ...]) -> Iterator[Measured]:
    """Edit the middle block with prompts of several lengths."""
    for length in prompts:
        case, block = sized_case(model, length, 40), model.blocks // 2
        seconds, peak = with_peak(model, partial(edited, model, case, block, TailReplay))
        plain, _ = timed(partial(edited, model, case, block, PLAIN_WAY))
        limit, expected = edit_limit(model, case, block, of), edit_bytes(model, case, block)
        yield Measured("length", f"{length} + 40 tokens, edit", seconds, plain, limit, peak, expected)


def titled(model: InspectedModel, of: Machine) -> str:
    """Return what stands above the table: model, type and the machine's own limits."""
    return f"{model.name}, {model.dtype_name}; {of.rate:.0f} GFLOP/s, copies {of.bandwidth:.1f} GB/s"


def measure(model: InspectedModel, parts: list[str], options: argparse.Namespace) -> tuple[Machine, list[Measured]]:
    """Measure the chosen parts, printing each as it comes.

    Raises:
        EditError: A part cannot be measured of this model; nothing has been measured then.
    """
    if "compile" in parts:
        require_unfetched(model)
    case = sized_case(model, options.prompt_tokens, options.answer_tokens)
    of = machine(model, options.answer_tokens)
    print(f"{titled(model, of)}\n{HEAD}", flush=True)
    work: dict[str, Callable[[], Iterator[Measured]]] = {
        "locate": lambda: locating(model, case, of),
        "first": lambda: first_steps(model, case, of),
        "edit": lambda: editing(model, case, of),
        "atlas": lambda: whole_atlas(model, case, of),
        "pair": lambda: paired(model, case, of, (2,), "pair"),
        "stress": lambda: stress(model, of),
        "size": lambda: sizes(lambda other: machine(other, 30)),
        "length": lambda: lengths(model, of, tuple(options.lengths)),
        "rows": lambda: paired(model, case, of, tuple(options.rows), "rows"),
        "calibration": lambda: calibrating(model),
        "compile": lambda: compiling(model, case, of, model.blocks // 2),
    }
    found = []
    for part in parts:
        for measured in work[part]():
            print(measured.line(), flush=True)
            found.append(measured)
    return of, found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS + FURTHER)
    parser.add_argument("--prompt-tokens", type=int, default=103)
    parser.add_argument("--answer-tokens", type=int, default=68)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 24])
    parser.add_argument("--out", type=Path, default=None, help="path without ending, for .json, .txt and .svg")
    options = parser.parse_args(arguments)
    model = load_model(options)
    if model.device.type != "cpu":
        raise EditError("These limits are measured on a CPU. Give --device cpu, or run python -m benchmarks.gpu.")
    of, found = measure(model, options.parts, options)
    if options.out is not None:
        about = {
            "model": model.name,
            "dtype": model.dtype_name,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": asdict(of),
        }
        write(options.out, titled(model, of), about, found)


if __name__ == "__main__":
    sys.exit(finished(main))
