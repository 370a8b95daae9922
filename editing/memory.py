"""Memory: the peak of a piece of work, what is free, and running out of it in words."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from inspector.errors import OutOfMemory
from inspector.model import InspectedModel
from inspector.model.memory.halving import running_out_as
from inspector.model.memory.memory_need import free_memory, smaller_types

INTERVAL = 0.02
"""Seconds between two looks at the process's memory."""


class MemoryPeak:
    """Largest growth of memory since the start, in MiB; grows while it is measured."""

    def __init__(self) -> None:
        self.mebibytes = 0.0


@contextmanager
def peak_memory(*devices: torch.device) -> Iterator[MemoryPeak]:
    """Measure how far memory grows above what is in use at the start.

    On CUDA that is what torch has allocated, the sum of each device's peak; elsewhere the resident memory of the whole
    process, looked at every 20 ms, so other visitors' work counts as well. Free memory that the process still holds is
    given back first (on Linux); without that it would be used again unseen.
    """
    peak = MemoryPeak()
    cards = [device for device in devices if device.type == "cuda"]
    if cards:
        start = sum(torch.cuda.memory_allocated(device) for device in cards)
        for device in cards:
            torch.cuda.reset_peak_memory_stats(device)
        try:
            yield peak
        finally:
            peak.mebibytes = (sum(torch.cuda.max_memory_allocated(device) for device in cards) - start) / 2**20
        return
    import psutil

    give_back_free_memory()
    process = psutil.Process()
    start = process.memory_info().rss
    ended = threading.Event()

    def look() -> None:
        peak.mebibytes = max(peak.mebibytes, (process.memory_info().rss - start) / 2**20)

    def watch() -> None:
        while not ended.wait(INTERVAL):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        look()
        ended.set()
        thread.join()


@contextmanager
def memory_told(model: InspectedModel | None = None, settings: Any = None) -> Iterator[None]:
    """Turn running out of memory, on any device, into an error of this program's family.

    Args:
        model: Whose work it is, where that is known: the error names a type only that takes less than its own.
        settings: Of the edit that is made, if it is one: the error names what takes less than they do.

    Raises:
        OutOfMemory: The device or the process has no memory left; what was cached on the device is given back.
    """
    with running_out_as(OutOfMemory(f"The device ran out of memory. {_less(model, settings)}")):
        yield


def _less(model: InspectedModel | None, settings: Any) -> str:
    """Say what takes less memory than this model and an edit with these settings, in one sentence."""
    ways = ["shorten prompt and answers"]
    if getattr(settings, "harmless_prompts", 2) > 1:
        ways.append("watch fewer harmless prompts")
    if getattr(settings, "scope", None) == "full":
        ways.append("train LoRA factors instead of full weights")
    smaller = ("a smaller type",) if model is None else smaller_types(model.network.config, model.dtype_name)
    ways.append(f"load the model in {smaller[0]}" if smaller else "use a larger machine")
    first, *others = ways
    return f"{first.capitalize()}{''.join(f', {way}' for way in others[:-1])}, or {others[-1]}."


def require_free_memory(
    device: torch.device,
    needed: int,
    what: str = "Full training of this model",
    remedy: str = "Set scope to 'LoRA', or use a larger machine.",
) -> None:
    """Check that so many bytes are free before they are taken.

    Args:
        device: Where they are taken.
        needed: Bytes.
        what: What takes them, for the error.
        remedy: What to do instead, for the error.

    Raises:
        OutOfMemory: They are not.
    """
    free = free_memory(device)
    if needed > free:
        raise OutOfMemory(f"{what} takes about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free. {remedy}")


def give_back_free_memory() -> None:
    """Collect what nothing refers to, then :func:`trim`."""
    gc.collect()
    trim()


def give_back_model() -> None:
    """Give back what a model took that nothing refers to any more, wherever it lay."""
    give_back_free_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim() -> None:
    """Ask the C library to return free memory to the system; does nothing where it cannot (not glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_few_pools() -> bool:
    """Let all threads of this process share two pools of memory; tells whether the C library does so (glibc).

    By itself glibc gives each of many threads a pool of its own, up to eight a core, and keeps what is freed there: a
    page with many visitors grew to more than twice its memory.
    """
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2))
    return False


_M_ARENA_MAX = -8
"""The number of that setting in glibc's malloc.h."""
