"""Where the weights of a spread model would go, and what is left beside them; nothing is loaded.

As accelerate does it: over all cards alike, what they cannot hold in CPU memory, what that cannot hold on disk. It
moves whole blocks, and bytes are counted here: a device may hold a block more or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from inspector.errors import NoRoom
from inspector.model.memory.memory_need import MemoryNeed, free_memory, in_gb

Device = int | str
"""A card's number, ``cpu`` or ``disk``."""
MADE = ("nf4", "fp4", "int8")
"""Quantisations that are made on the device, for which a tenth of what it may hold stays free."""


@dataclass(frozen=True)
class Places:
    """Where a model's weights are.

    Attributes:
        weights: Bytes on each device.
        left: Bytes that are free beside them on the device that has least of those that compute: the cards, or the CPU
            where none holds any of it.
        tightest: That device.
    """

    weights: Mapping[Device, int]
    left: int
    tightest: Device

    @property
    def fetched(self) -> int:
        """Bytes that do not lie where they are computed with, and are fetched for each pass."""
        on_cards = any(isinstance(device, int) and size for device, size in self.weights.items())
        return self.weights["disk"] + (self.weights.get("cpu", 0) if on_cards else 0)

    def room_for(self, need: MemoryNeed) -> str:
        """Return what there is room for: ``edit``, ``read`` or ``nothing``.

        An edit's matrix, its states and the blocks above are counted as if they were all on the device that has least
        left: several cards share them, so less may do.
        """
        if self.fetched and need.dtype in (*MADE, "fp8"):
            return "nothing"  # quantised weights stay where they compute
        fetched = need.loading if self.fetched else 0
        if max(need.loading, fetched + need.reading) > self.left:
            return "nothing"
        return "edit" if fetched + need.editing <= self.left else "read"


def placed(need: MemoryNeed, may_hold: Mapping[Device, int], free: Mapping[Device, int]) -> Places:
    """Spread a model's weights over devices.

    Args:
        need: What the model needs.
        may_hold: Most bytes of them on each card and in CPU memory.
        free: Bytes that are free on each of these devices before.
    """
    if need.dtype in MADE:
        may_hold = {device: int(0.9 * size) for device, size in may_hold.items()}
    cards = sorted(device for device in may_hold if isinstance(device, int))
    held: dict[Device, int] = dict.fromkeys(cards, 0)
    rest = need.weights
    alike = -(-need.weights // len(cards)) if cards else 0
    for card in cards:  # each but the last gets its share at most, however much room it has
        held[card] = min(may_hold[card], rest, rest if card == cards[-1] else alike)
        rest -= held[card]
    if "cpu" in may_hold:
        held["cpu"] = min(rest, may_hold["cpu"])
        rest -= held["cpu"]
    held["disk"] = rest
    computing: list[Device] = [card for card in cards if held[card]] or ["cpu"]
    left = {device: free.get(device, 0) - held.get(device, 0) for device in computing}
    tightest = min(left, key=lambda device: left[device])
    return Places(held, left[tightest], tightest)


def rooms(max_memory: Mapping[Device, int] | None) -> tuple[dict[Device, int], dict[Device, int]]:
    """Return what each card and CPU memory may hold of the weights, and what is free there.

    A card that this machine has not is taken to have free what it may hold.

    Args:
        max_memory: What each may hold; ``None`` for what transformers lets them.
    """
    cards = torch.cuda.device_count()
    known: dict[Device, torch.device] = {"cpu": torch.device("cpu")}
    known |= {number: torch.device("cuda", number) for number in range(cards)}
    free = {name: free_memory(place) for name, place in known.items() if max_memory is None or name in max_memory}
    if max_memory is None:  # of CPU memory transformers leaves a tenth, and of a single card for what computes
        spared = {"cpu"} if cards != 1 else set(free)
        return {name: int(0.9 * size) if name in spared else size for name, size in free.items()}, free
    free = {name: free.get(name, size) for name, size in max_memory.items()}
    return {name: min(size, free[name]) for name, size in max_memory.items()}, free


def require_spread_room(need: MemoryNeed, may_hold: Mapping[Device, int], free: Mapping[Device, int]) -> None:
    """Check that a spread model can be read, before anything of it is loaded; devices as for :func:`placed`.

    Where bitsandbytes' weights would lie beside the cards, transformers says so itself.

    Raises:
        NoRoom: It cannot; the message has what is left, what is needed and what would do.
    """
    found = placed(need, may_hold, free)
    if (found.fetched and need.dtype in MADE) or found.room_for(need) != "nothing":
        return
    needed = max(need.loading, need.reading + (need.loading if found.fetched else 0))
    less = holding_less(need, may_hold, free)
    ways = "use more or larger cards, or a smaller type" if less is None else f"load it with {_options(less)}"
    where = f"card {found.tightest}" if isinstance(found.tightest, int) else found.tightest
    if found.fetched and need.dtype == "fp8":
        raise NoRoom(
            f"FP8 weights have to lie where they are computed with, and {in_gb(found.fetched)} GB of them would not: "
            "use more or larger cards. python -m inspector.memory --device-map auto has the table."
        )
    raise NoRoom(
        f"The model in {need.dtype}, spread, leaves {in_gb(max(0, found.left))} GB on {where}, and reading takes "
        f"{in_gb(needed)}: {ways}. python -m inspector.memory --device-map auto has the table."
    )


def holding_less(
    need: MemoryNeed, may_hold: Mapping[Device, int], free: Mapping[Device, int]
) -> dict[Device, int] | None:
    """Return what devices may hold so that a spread model can be edited, or at least read; ``None`` where nothing does.

    Those that compute hold less, in whole MiB; what they leave goes to CPU memory or disk.
    """
    computing: set[Device] = {device for device in may_hold if isinstance(device, int)} or {"cpu"}
    for beside in (need.loading + need.editing, need.loading + need.reading):
        less = {
            device: min(size, free.get(device, 0) - beside) if device in computing else size
            for device, size in may_hold.items()
        }
        less = {device: size // 2**20 * 2**20 for device, size in less.items() if size >= 2**20}
        if less and placed(need, less, free).room_for(need) != "nothing":
            return less
    return None


def _options(may_hold: Mapping[Device, int]) -> str:
    return " ".join(f"--max-memory {device}={size // 2**20}MiB" for device, size in may_hold.items())
