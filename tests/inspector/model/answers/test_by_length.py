"""Which sequences share a pass."""

from __future__ import annotations

import itertools

import pytest
import torch

from inspector.model.answers.by_length import COST, ELSEWHERE, passes_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def cost(passes: list[list[int]], lengths: list[int], each: int) -> int:
    """Count the tokens of all passes, pads among them, and what each pass costs beside them."""
    return sum(each + len(places) * max(lengths[place] for place in places) for places in passes)


def partitions(places: list[int]) -> list[list[list[int]]]:
    """Return every way to put things into passes."""
    if not places:
        return [[]]
    first, *rest = places
    found = []
    for count in range(len(rest) + 1):
        for some in itertools.combinations(rest, count):
            others = [place for place in rest if place not in some]
            found += [[[first, *some], *more] for more in partitions(others)]
    return found


@pytest.mark.parametrize("lengths", [[5], [40, 300, 41, 290, 39, 30], [100] * 5, [1, 500, 2, 499, 3], [70, 64, 200, 3]])
def test_no_other_way_to_share_passes_costs_less(lengths):
    passes = passes_of(lengths, CPU)
    assert sorted(itertools.chain(*passes)) == list(range(len(lengths))) and all(one == sorted(one) for one in passes)
    least = min(cost(way, lengths, COST["cpu"]) for way in partitions(list(range(len(lengths)))))
    assert cost(passes, lengths, COST["cpu"]) == least
    longest = [max(lengths[place] for place in places) for places in passes]
    assert longest == sorted(longest), "from short to long"


def test_short_and_long_ones_part_sooner_on_a_processor_than_on_an_accelerator():
    lengths = [40, 300, 40, 300]
    assert passes_of(lengths, CPU) == [[0, 2], [1, 3]] and passes_of(lengths, CUDA) == [[0, 1, 2, 3]]
    assert passes_of([40, 40 + ELSEWHERE, 40], CUDA) == [[0, 2], [1]]
    assert passes_of([], CPU) == []
