"""Where the weights of a spread model would go, and what is left beside them; nothing is loaded.

As accelerate does it: over all cards alike, what they cannot hold in CPU memory, what that cannot hold on disk. It
moves whole blocks, and bytes are counted here: a device may hold a block more or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspector.model.memory.memory_need import MemoryNeed

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
    """

    weights: Mapping[Device, int]
    left: int

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
    return Places(held, min(free.get(device, 0) - held.get(device, 0) for device in computing))
