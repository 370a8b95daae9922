"""Sequences of unequal length in passes of their own, so that short ones are not padded to the longest.

A pass computes its pads like any other token, and costs something beside its tokens: the weights are read once a pass,
and a device waits for it. :func:`passes_of` weighs the one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

COST = {"cpu": 64}
"""What a pass costs beside its tokens, in tokens, by kind of device."""
ELSEWHERE = 1024
"""The same on an accelerator, which computes hundreds of tokens while it reads the weights once."""


def passes_of(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Return the places of sequences that share a pass, so that passes and their pads cost the least in all.

    Args:
        lengths: Tokens of each sequence.
        device: Where they are computed.

    Returns:
        The passes from short to long; in each the places in the order in which they were given.
    """
    each = COST.get(device.type, ELSEWHERE)
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    least, starts = [0.0], [0]  # of the shortest n sequences: the least cost, and where the last pass of those begins
    for n in range(1, len(order) + 1):
        longest = lengths[order[n - 1]]
        costs = [least[start] + each + (n - start) * longest for start in range(n)]
        starts.append(min(range(n), key=costs.__getitem__))
        least.append(costs[starts[n]])
    passes, end = list[list[int]](), len(order)
    while end:
        passes.append(sorted(order[starts[end] : end]))
        end = starts[end]
    return passes[::-1]
