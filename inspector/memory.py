"""How much memory does a model need? ``python -m inspector.memory --model NAME`` tells it; no weight is read.

    python -m inspector.memory --model meta-llama/Llama-2-70b-chat-hf
    python -m inspector.memory --model FOLDER --dtype nf4 --tokens 256    a folder with a config.json will do
    python -m inspector.memory --model NAME --device-map auto --max-memory 0=70GiB --max-memory cpu=200GiB

Weights are exact. Reading (two rows, their key-value cache included) and editing (the default edit of the middle layer,
or of --layer) are estimates for prompts of --tokens. With --device-map the weights are spread as they would be, over
the cards, CPU memory and disk. What is left beside them is then that of the card with least, and an edit is counted as
if all of it were there: which blocks lie where, and that several cards share an edit's states, is not predicted. A card
that this machine has not is taken to have free what --max-memory says. A mixture of experts is refused, as it would be
by whatever loads it. The output is JSON, in bytes; a table in GB (10^9 bytes) goes to the error stream. Exit codes: 0;
1 where none of the types fits; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.command import add_spread, finished, say, tell
from inspector.errors import ArchitectureError, ModelLoadError
from inspector.model.embedded import ensure
from inspector.model.families import require_dense, require_paths
from inspector.model.loading import DTYPES, QUANTISED, configuration
from inspector.model.memory.memory_need import TOKENS, MemoryNeed, free_memory, in_gb, predict, quantised_in
from inspector.model.memory.spread_need import Device, placed, rooms
from inspector.model.placement import chosen_device, read_max_memory, spread_options

_Bytes = Mapping[Device, int]
MADE = ("int8", "nf4")
"""Quantisations that are told of unasked; fp4 takes as much as nf4."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or folder; the embedded model by default")
    parser.add_argument("--revision", help="of a hub model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    add_spread(parser)
    parser.add_argument(
        "--dtype", choices=[*DTYPES, *QUANTISED], help="one type alone (default: all that are possible)"
    )
    parser.add_argument("--layer", type=int, help="the one that is edited (default: the middle one)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of prompt and answer (default: {TOKENS})")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _predicted(chosen))


def _predicted(chosen: argparse.Namespace) -> int:
    device = chosen_device(chosen.device)
    config = configuration(chosen.model or str(ensure()), chosen.revision)
    require_dense(config)
    last = config.get_text_config().num_hidden_layers - 1
    if chosen.layer is not None and not 0 <= chosen.layer <= last:
        raise ModelLoadError(
            f"Layer {chosen.layer} does not exist: this model has layers 0 to {last}. Pick one of those."
        )
    if chosen.tokens < 1:
        raise ModelLoadError("A prompt has at least one token. Give --tokens 1 or more.")
    spread = spread_options(device, chosen.device_map, read_max_memory(chosen.max_memory))
    needs = [predict(config, name, block=chosen.layer, tokens=chosen.tokens) for name in _types(config, chosen.dtype)]
    name = chosen.model or "the embedded model"
    try:
        require_paths(config)
    except ArchitectureError as error:  # its memory can be told none the less
        say(error.user_message())
    if spread:
        return _told_spread(needs, name, chosen.tokens, *rooms(spread.get("max_memory")))
    free = free_memory(device)
    say(f"{name}, {in_gb(free)} GB free on {device}, prompts of {chosen.tokens} tokens")
    say(f"{'GB':<10}{'weights':>9}{'loading':>9}{'reading':>9}{'editing':>9}{'to read':>9}{'to edit':>9}  fits")
    for need in needs:
        say(f"{need.dtype:<10}{''.join(f'{in_gb(part):>9}' for part in _parts(need).values())}  {_fits(need, free)}")
    types = {need.dtype: {**_parts(need), "fits": _fits(need, free)} for need in needs}
    tell({"model": name, "device": str(device), "free": free, "tokens": chosen.tokens, "types": types})
    return 0 if any(need.read <= free for need in needs) else 1


def _told_spread(needs: Sequence[MemoryNeed], name: str, tokens: int, may_hold: _Bytes, free: _Bytes) -> int:
    """Tell what a model needs that is spread over devices."""
    there = ", ".join(f"{in_gb(size)} GB free on {_named(device)}" for device, size in free.items())
    found = [(need, placed(need, may_hold, free)) for need in needs]
    heads = ("weights", *map(_named, found[0][1].weights), "left", "reading", "editing")
    say(f"{name}, spread; {there}; prompts of {tokens} tokens")
    say(f"{'GB':<10}{''.join(f'{head:>9}' for head in heads)}  fits")
    types = {}
    for need, where in found:
        sizes = (need.weights, *where.weights.values(), max(0, where.left), need.reading, need.editing)
        fits = _ROOM[where.room_for(need)]
        say(f"{need.dtype:<10}{''.join(f'{in_gb(size):>9}' for size in sizes)}  {fits}")
        parts = {key: size for key, size in _parts(need).items() if not key.startswith("to_")}
        types[need.dtype] = {**parts, "places": dict(where.weights), "left": where.left, "fits": fits}
    tell({"model": name, "device_map": "auto", "free": free, "tokens": tokens, "types": types})
    return 0 if any(kept["fits"] != "no" for kept in types.values()) else 1


_ROOM = {"edit": "yes", "read": "to read", "nothing": "no"}


def _named(device: Device) -> str:
    return f"card {device}" if isinstance(device, int) else device


def _parts(need: MemoryNeed) -> dict[str, int]:
    """Return what a model needs for what, bytes, in the order of the table."""
    return {
        "weights": need.weights,
        "loading": need.loading,
        "reading": need.reading,
        "editing": need.editing,
        "to_read": need.read,
        "to_edit": need.edit,
    }


def _types(config: Any, dtype: str | None) -> list[str]:
    """Return the types to tell of: those that a model can be loaded in, or the one that is asked for.

    Raises:
        ModelLoadError: The model cannot be had in that type.
    """
    own = quantised_in(config)
    possible = [*DTYPES, *MADE] if own is None else [*DTYPES, own] if own == "fp8" else [own]
    if dtype is None:
        return [name for name in possible if name != "float16"]  # as large as bfloat16
    if dtype not in possible and not (own is None and dtype == "fp4"):
        raise ModelLoadError(f"This model cannot be loaded in {dtype}. Its types: {', '.join(possible)}.")
    return [dtype]


def _fits(need: MemoryNeed, free: int) -> str:
    if need.edit <= free:
        return "yes"
    return "to read" if need.read <= free else "no"


if __name__ == "__main__":
    sys.exit(main())
