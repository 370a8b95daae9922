"""How close locating, editing and answering come to what a device can do, on a model that needs no download.

    python -m benchmarks.gpu                        a random-weight model of Llama-2-7B's shape, on CUDA
    python -m benchmarks.gpu --shape 70b --dtype nf4    Llama-2-70B's, each matrix drawn and quantised on the device
    python -m benchmarks.gpu --shape small          small enough for a CPU
    python -m benchmarks.gpu --device-map auto      the model spread over all cards, CPU memory and disk
    python -m benchmarks.gpu --out results.json     all numbers

It needs torch, transformers and this repository. Weights are drawn on the device; the tokenizer is trained here on the
bundled texts. A model that is spread is drawn in CPU memory, written to a temporary folder and loaded from there as any
other; the device's own rates are those of the first one. Everything is measured in one run: the device's own
matrix-product rate and copy bandwidth, one plain forward pass, locating against it, locating with a 10-step edit
(preset ``reference``) by tail replay and the plain way, locating with the default edit (preset ``corrected``) and, at
the last of the layers, with the one that Operate makes first, to be routed, and vanilla and edited answers together
against the time that reading the weights takes. Every row of an edit names its preset. Times are medians of warm runs.

A line a number is printed. What is known is written to --out after each part, so that a run that is cut loses no more
than one (``complete`` is false until the end). Memory is that of the devices that compute: weights that lie on disk, or
in CPU memory beside cards, are in ``weights by device`` alone.

Exit codes: 0; 1 when an edit of the small shape is further from the same in float32 on the CPU than
:data:`TOLERANCES`; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

from benchmarks.edit_speed import PLAIN, PLAIN_WAY, predicted_need, sized_case
from benchmarks.random_models import SHAPES, random_model, spread_model
from editing import preset, run
from editing.command import finished
from editing.memory import peak_memory
from editing.methods.dinm import ROUTED, dinm
from editing.optimising.replay import ReplayFactory, TailReplay
from inspector.command import add_layer, add_spread
from inspector.divergence import divergence
from inspector.errors import EditError
from inspector.model import VANILLA, Decoding, Delta, InspectedModel, Patch, Row, encode, from_parts
from inspector.model.answers.batching import generate
from inspector.model.architecture import canonical_shape
from inspector.model.encoding import tokenise
from inspector.model.memory.memory_need import MemoryNeed, bytes_of, predict
from inspector.model.placement import read_max_memory, spread_options
from inspector.model.quantised import beside_parameters
from inspector.model.whole_file import write_whole
from inspector.safeedit import Case

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.2}
"""How far deltas may be from those of float32 on the CPU, as a share of their norm. Adam follows signs, so that a small
gradient whose sign bfloat16 turns moves its weight the other way: that is most of the second."""
LORA_RANK = 8
SHORT = 2
"""Tokens of a short answer, at least: the first one reads the prompt, the second is a token step."""


class Clock:
    """Times work on a device.

    Args:
        devices: The devices, waited for before and after.
        repeats: Runs of which the median counts; one more comes first and does not.
    """

    def __init__(self, devices: Sequence[torch.device], repeats: int) -> None:
        self._cards, self._repeats = [device for device in devices if device.type == "cuda"], repeats

    def wait(self) -> None:
        """Wait until the devices have done all that was asked."""
        for card in self._cards:
            torch.cuda.synchronize(card)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return the median seconds of warm runs."""
        found = []
        for _ in range(self._repeats + 1):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - begun)
        return statistics.median(found[1:])


def limits(clock: Clock, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure the device: matrix products in TFLOP/s, copies in GB/s (bytes read and written)."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = clock.seconds(lambda: [a @ b for _ in range(5)]) / 5
    exact = clock.seconds(lambda: a.float() @ b.float())
    numbers = torch.randn((1 << 30) if on_gpu else (1 << 24), device=device, dtype=torch.bfloat16)
    target = torch.empty_like(numbers)
    copy = clock.seconds(lambda: [target.copy_(numbers) for _ in range(5)]) / 5
    return {
        "matrix product, TFLOP/s": 2 * size**3 / product / 1e12,
        "float32 matrix product with its casts, TFLOP/s": 2 * size**3 / exact / 1e12,
        "copy, GB/s": 2 * numbers.nbytes / copy / 1e9,
    }


def edit(model: InspectedModel, case: Case, block: int, way: ReplayFactory, steps: int) -> Any:
    """Locate where the answers part, then edit a block; the result of the edit."""
    divergence(model, case)
    settings = preset("reference", steps=steps, watch_unsafe=False)
    return run(dinm(model, case, block, settings, replay=way))


def default_edit(model: InspectedModel, case: Case, block: int, changes: Mapping[str, Any]) -> Any:
    """Locate as the page does, then make its edit of a block; the result of the edit."""
    divergence(model, case)
    return run(dinm(model, case, block, preset("corrected", **changes)))


@contextmanager
def launched() -> Iterator[None]:
    """Let the steps of edits inside run launch by launch, none of them as a CUDA graph."""
    with patch("editing.optimising.descent.captured", lambda work, *_: work):
        yield


def weight_bytes(model: InspectedModel) -> int:
    """Return the bytes that every token step reads: all weights but embeddings, of which it takes a row.

    Embeddings that are the unembedding as well are read whole, as that; of quantised weights the scales as well.
    """
    tables = {id(part.weight) for part in model.network.modules() if isinstance(part, torch.nn.Embedding)}
    tables -= {id(model.architecture.unembedding.weight)}
    beside = (tensor for _, tensor in beside_parameters(model.network))
    return sum(t.nbytes for t in (*model.network.parameters(), *beside) if id(t) not in tables)


def lora_patch(model: InspectedModel) -> Patch:
    """Return a patch of rank-8 changes of every matrix of every block."""
    generator = torch.Generator(model.device).manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.01 * torch.randn(*shape, generator=generator, device=model.device)

    deltas = []
    for block in range(model.blocks):
        for name, module in model.architecture.projections(block).items():
            rows, columns = canonical_shape(module)
            deltas.append(Delta(name, block, drawn(rows, LORA_RANK), drawn(LORA_RANK, columns)))
    return Patch(tuple(deltas), model.fingerprint, "LoRA")


def dense_patch(model: InspectedModel, block: int) -> Patch:
    """Return a patch of one down-projection, small enough to change no more than an edit does."""
    name = model.architecture.down_projection_names[block]
    shape = (model.architecture.d_model, model.architecture.d_ff)
    delta = 1e-4 * torch.randn(shape, generator=torch.Generator(model.device).manual_seed(0), device=model.device)
    return Patch((Delta(name, block, delta),), model.fingerprint, "DINM")


@contextmanager
def endless(model: InspectedModel) -> Iterator[None]:
    """Let no answer end before its length is reached inside, so that a number of tokens is one of steps."""
    with patch.object(model, "end_tokens", frozenset):
        yield


def answers(model: InspectedModel, prompt: list[int], rows: list[Row], tokens: int) -> Callable[[], int]:
    """Return what answers a prompt with every row of weights; it returns how many tokens each answer has."""

    def ask() -> int:
        last: list[int] = []
        with endless(model):
            for lines in generate(model, [prompt], rows, Decoding(tokens)):
                last = [len(line.tokens) for line in lines]
        return max(last)

    return ask


def own_generate(model: InspectedModel, prompt: list[int], rows: int, tokens: int) -> Callable[[], Any]:
    """Return what answers the same rows with transformers' own loop, vanilla."""
    ids = model.batch(*([prompt] * rows))
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    return lambda: model.network.generate(ids, attention_mask=torch.ones_like(ids), **options)


def shorter(tokens: int) -> int:
    """Return the length of the short answers whose time is taken from that of long ones: so the prompt is left out."""
    return max(SHORT, tokens // 4)


def require_tokens(tokens: int, option: str) -> None:
    """Refuse long answers that are no longer than the short ones.

    Raises:
        EditError: They are not.
    """
    if tokens <= SHORT:
        raise EditError(
            f"{tokens} tokens are too few: a token's time is that of long answers minus that of answers of {SHORT} "
            f"tokens. Give {option} {SHORT + 1} or more."
        )


def token_seconds(clock: Clock, asked: Callable[[int], Callable[[], Any]], tokens: int) -> float:
    """Return the seconds of one token step: long answers minus short ones."""
    short = shorter(tokens)
    return (clock.seconds(asked(tokens)) - clock.seconds(asked(short))) / (tokens - short)


def measure(
    shape: str, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Measure everything; yield the numbers by name after each part."""
    four_bit, held = options.dtype == "nf4", read_max_memory(options.max_memory)
    spread = spread_options(device, options.device_map, held)
    rates = limits(Clock([device], options.repeats), device, dtype)
    say(rates)
    yield {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "shape": shape,
        "dtype": "nf4" if four_bit else str(dtype).removeprefix("torch."),
        "limits": rates,
    }
    if not spread:
        yield from measured(random_model(shape, device, dtype, four_bit=four_bit), options, rates)
        return
    with spread_model(shape, device, dtype, four_bit, held) as model:
        places = {f"{place}, GiB": size / 2**30 for place, size in weights_by_place(model.network).items()}
        say(places)
        yield {"weights by device": places, **beside_cards(model)}
        yield from measured(model, options, rates)


def measured(model: InspectedModel, options: argparse.Namespace, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Measure a model; yield the numbers by name after each part. The machine's own rates are given."""
    clock, found = Clock(model.devices, options.repeats), dict[str, Any]()
    case = sized_case(model, options.prompt_tokens, options.answer_tokens)
    prompt = encode(model, case.adversarial_prompt, None, PLAIN).prompt
    sequence = [*prompt, *tokenise(model, case.safe, special=False)]
    found["tokens"] = [len(prompt), len(sequence) - len(prompt)]
    ids = model.batch(sequence)

    @torch.no_grad()
    def forward() -> None:
        model.network(input_ids=ids, use_cache=False)

    plain_pass = clock.seconds(forward)
    found["forward pass, s"] = plain_pass
    for name in ("reference", "corrected"):
        located = clock.seconds(partial(divergence, model, case, name))
        found[f"locate ({name}), s"] = located
        found[f"locate ({name}), forward passes"] = located / plain_pass
    say({key: value for key, value in found.items() if "locate" in key or "forward" in key})
    found["weights, GiB"] = sum(bytes_of(model.network).values()) / 2**30
    found["predicted weights, GiB"] = predicted_need(model, case, model.blocks // 2).weights / 2**30
    yield found
    blocks = options.layers or _blocks(model)
    edits, default = list[dict[str, Any]](), list[dict[str, Any]]()
    for block in blocks:
        edits.append(_edits(clock, model, case, block, options))
        yield {"edits": edits, **_largest(edits)}
    for block, changes in (*((block, {}) for block in blocks), (blocks[-1], ROUTED)):
        default.append(_default_edits(clock, model, case, block, changes))
        yield {"default edits": default, **_largest([*edits, *default])}
    yield from _answers(clock, model, list(prompt), rates["copy, GB/s"], options)


def _largest(edits: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the most memory of some edits."""
    return {
        "peak memory, GiB": max(edit["weights and peak, GiB"] for edit in edits),
        "predicted peak memory, GiB": max(edit["predicted weights and peak, GiB"] for edit in edits),
    }


def weights_by_place(network: torch.nn.Module) -> dict[str, int]:
    """Return the bytes of all weights and buffers by where they lie: a card, ``cpu`` or ``disk``.

    Offloaded ones are counted where accelerate keeps them, not where they are fetched to.
    """
    found = Counter({str(device): size for device, size in bytes_of(network).items() if device.type != "meta"})
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.device.type == "meta":
            parts = (part for part in network.hf_device_map if f"{name}.".startswith(f"{part}." if part else ""))
            found[str(network.hf_device_map[max(parts, key=len)])] += tensor.numel() * tensor.element_size()
    return dict(found)


def held_bytes(model: InspectedModel) -> int:
    """Return the bytes of the weights that lie where a peak is looked at: on the cards, without any in CPU memory."""
    places = weights_by_place(model.network)
    cards = [str(device) for device in model.devices if device.type == "cuda"]
    return sum(places.get(place, 0) for place in cards or ["cpu"])


def beside_cards(model: InspectedModel) -> dict[str, float]:
    """Return what of the weights lies in CPU memory and is fetched to the cards, GiB; nothing where there is none."""
    held = weights_by_place(model.network).get("cpu", 0)
    on_cards = any(device.type == "cuda" for device in model.devices)
    return {"weights in CPU memory beside cards, GiB": held / 2**30} if on_cards and held else {}


def _memory(model: InspectedModel, growth: float, need: MemoryNeed) -> dict[str, float]:
    """Return how far memory has grown in an edit, MiB, and all that was held then, beside what is predicted.

    What is held is counted where the growth is: on the cards, or without any in CPU memory.
    """
    held = held_bytes(model) / 2**30
    return {
        "peak, MiB": growth,
        "predicted, MiB": need.editing / 2**20,
        "weights and peak, GiB": held + growth / 1024,
        "predicted weights and peak, GiB": held + (need.edit - need.weights) / 2**30,
    }


def _blocks(model: InspectedModel) -> list[int]:
    """Return the middle block, and the one that is as high as 28 of 32."""
    return [model.blocks // 2, model.blocks * 28 // 32]


def _edits(clock: Clock, model: InspectedModel, case: Case, block: int, options: argparse.Namespace) -> dict[str, Any]:
    tail = clock.seconds(partial(edit, model, case, block, TailReplay, options.steps))
    with peak_memory(*model.devices) as peak:
        result = edit(model, case, block, TailReplay, options.steps)
    steps = [step.seconds for step in result.trace]
    with launched():
        apart = edit(model, case, block, TailReplay, options.steps)
    plain = edit(model, case, block, PLAIN_WAY, options.steps)
    seconds = clock.seconds(partial(edit, model, case, block, PLAIN_WAY, options.steps))
    ours, theirs, ungraphed = (each.patch.deltas[0].dense().flatten().double() for each in (result, plain, apart))
    found = {
        "preset": "reference",
        "block": block,
        "locate and edit, s": tail,
        "plain way, s": seconds,
        "times faster": seconds / tail,
        "a step, ms": 1e3 * statistics.median(steps[2:] or steps),
        "first steps, ms": [round(1e3 * value, 2) for value in steps[:3]],
        "cosine with the plain way's delta": float(torch.cosine_similarity(ours, theirs, dim=0)),
        "relative difference": float((ours - theirs).norm() / theirs.norm()),
        "relative difference, as a graph and not": float((ours - ungraphed).norm() / ungraphed.norm()),
        **_memory(model, peak.mebibytes, predicted_need(model, case, block)),
    }
    say(found)
    return found


def _default_edits(
    clock: Clock, model: InspectedModel, case: Case, block: int, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Time an edit of the page; what it learns once of a model, as the harmless answers, is known but for the first.

    Args:
        changes: Of `corrected`; ``ROUTED`` gives the edit that is made first, to be routed.
    """
    once = partial(default_edit, model, case, block, changes)
    clock.wait()
    begun = time.perf_counter()
    once()
    clock.wait()
    first = time.perf_counter() - begun
    seconds = clock.seconds(once)
    with peak_memory(*model.devices) as peak:
        result = once()
    steps = [step.seconds for step in result.trace]
    rest = str(model.dtype).removeprefix("torch.")
    found = {
        "preset": "corrected",
        "made to be routed": bool(changes),
        "block": block,
        "first locate and edit, s": first,
        "locate and edit, s": seconds,
        "updates": result.kept,
        "ended because": result.stop_reason,
        "a step, ms": 1e3 * statistics.median(steps[2:] or steps),
        **_memory(model, peak.mebibytes, predict(model.network.config, model.dtype_name, rest, block)),
    }
    say(found)
    return found


def _answers(
    clock: Clock, model: InspectedModel, prompt: list[int], bandwidth: float, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    bound = weight_bytes(model) / (bandwidth * 1e9)
    found: dict[str, Any] = {"reading the weights once, ms": 1e3 * bound}
    block = _blocks(model)[1]
    chosen: dict[str, Callable[[], list[Row]]] = {
        "vanilla and DINM": lambda: [VANILLA, Row(dense_patch(model, block))],
        "vanilla and LoRA in every matrix": lambda: [VANILLA, Row(lora_patch(model))],
        "vanilla alone": lambda: [VANILLA],
    }
    for name, made in chosen.items():
        step = token_seconds(clock, partial(answers, model, prompt, made()), options.new_tokens)
        found[name] = {"a token step, ms": 1e3 * step, "share of the bound": bound / step}
        say({name: found[name]})
        yield {"answers": found}
    own = token_seconds(clock, partial(own_generate, model, prompt, 2), options.new_tokens)
    found["transformers' generate, two vanilla rows"] = {
        "a token step, ms": 1e3 * own,
        "share of the bound": bound / own,
    }
    say({"transformers' generate": 1e3 * own})
    yield {"answers": found}


def against_cpu(device: torch.device, steps: int) -> dict[str, float]:
    """Compare an edit of a small shape on the device with the same in float32 on the CPU: deltas and tokens."""
    found = {}
    exact = random_model("small", torch.device("cpu"), torch.float32)
    case = sized_case(exact, 60, 20)
    block = _blocks(exact)[1]
    theirs = edit(exact, case, block, TailReplay, steps).patch.deltas[0].dense().flatten().double()
    for dtype in (torch.float32, torch.bfloat16):
        model = from_parts(
            AutoModelForCausalLM.from_config(exact.network.config, dtype=dtype).to(device), exact.tokenizer, "copy"
        )
        model.network.load_state_dict({k: v.to(device, dtype) for k, v in exact.network.state_dict().items()})
        ours = edit(model, case, block, TailReplay, steps).patch.deltas[0].dense().flatten().double().cpu()
        name = str(dtype).removeprefix("torch.")
        found[f"{name}: relative difference"] = float((ours - theirs).norm() / theirs.norm())
        found[f"{name}: cosine"] = float(torch.cosine_similarity(ours, theirs, dim=0))
    return found


def beyond(found: dict[str, float]) -> list[str]:
    """Name what :func:`against_cpu` has found beyond its tolerance."""
    distances = {dtype: found[f"{dtype}: relative difference"] for dtype in TOLERANCES}
    return [
        f"{dtype}: {away:.2g}, {TOLERANCES[dtype]:g} allowed"
        for dtype, away in distances.items()
        if not away <= TOLERANCES[dtype]
    ]


def say(numbers: dict[str, Any]) -> None:
    """Print numbers as they come."""
    for name, value in numbers.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", flush=True)


def _keep(out: Path | None, found: Mapping[str, Any]) -> None:
    """Write what is known, where it is to be written."""
    if out is not None:
        write_whole(out, json.dumps(found, indent=1))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b", choices=SHAPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        default=None,
        choices=("bfloat16", "float32", "nf4"),
        help="bfloat16 on CUDA, else float32; nf4 quantises the blocks' matrices (bitsandbytes), all else by default",
    )
    add_spread(parser)
    add_layer(parser, several=True, type=int, nargs="+", default=None, help="the middle one and 28 of 32 by default")
    parser.add_argument("--prompt-tokens", type=int, default=103)
    parser.add_argument("--answer-tokens", type=int, default=68)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for all numbers")
    options = parser.parse_args(arguments)
    require_tokens(options.new_tokens, "--new-tokens")
    device = torch.device(options.device)
    plain = "bfloat16" if device.type == "cuda" else "float32"
    name = plain if options.dtype in (None, "nf4") else options.dtype
    found: dict[str, Any] = {"complete": False}
    for part in measure(options.shape, device, getattr(torch, name), options):
        _keep(options.out, found := found | part)
    small = against_cpu(device, options.steps)
    say(small)
    _keep(options.out, found | {"small shape against float32 on the CPU": small, "complete": True})
    too_far = beyond(small)
    if too_far:
        print(f"Too far from float32 on the CPU: {'; '.join(too_far)}", file=sys.stderr)
    return int(bool(too_far))


if __name__ == "__main__":
    sys.exit(finished(main))
