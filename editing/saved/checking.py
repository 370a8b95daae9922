"""Does what was written answer as the live edit does? Compared by its logits on a few prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from inspector.model import VANILLA, InspectedModel, Row, encode
from inspector.model.counted import Counted, counted_logits, only_counted
from inspector.safeedit import Case
from inspector.safeedit.sets import harmless_prompts, spread

PROMPTS = 3
AT_ONCE = 128
"""Positions whose logits are in memory together."""


def probes(model: InspectedModel, row: Row) -> list[tuple[int, ...]]:
    """Return the token ids of a few bundled harmless prompts, in the edit's own format."""
    assert row.patch is not None
    return [encode(model, item.prompt, None, row.patch.format).prompt for item in spread(harmless_prompts(), PROMPTS)]


def logits_of(
    model: InspectedModel, row: Row, prompt: Sequence[int], places: Sequence[int] | None = None
) -> torch.Tensor:
    """Return the live edit's float32 logits ``[places, vocabulary]`` of a prompt, at all its positions by default."""
    with torch.no_grad(), model.running([row]):
        return counted_logits(model, [prompt], [range(len(prompt)) if places is None else places])


@torch.no_grad()
def _logits_in(model: InspectedModel, written: Any, prompt: Sequence[int], places: Sequence[int]) -> torch.Tensor:
    """Return the same of what was written: a network, or the row of a patch that was read back."""
    if isinstance(written, Row):
        return logits_of(model, written, prompt, places)
    with only_counted(written.get_output_embeddings(), Counted([places])):
        return written(input_ids=model.batch(prompt), use_cache=False).logits.float()


def _parts(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], range]]:
    """Yield each prompt with its positions, so many at a time: logits of long ones are larger than a model."""
    for prompt in prompts:
        for start in range(0, len(prompt), AT_ONCE):
            yield prompt, range(start, min(start + AT_ONCE, len(prompt)))


def case_probe(model: InspectedModel, case: Case, row: Row) -> tuple[int, ...]:
    """Return the token ids of the prompt that an edit was made on, in the edit's own format."""
    assert row.patch is not None
    return encode(model, case.adversarial_prompt, None, row.patch.format).prompt


@torch.no_grad()
def share_of_the_edit(
    model: InspectedModel, row: Row, written: torch.nn.Module, prompts: Sequence[Sequence[int]]
) -> float:
    """Return how far a written network is from the live edit, as a share of how far that is from vanilla.

    Both distances are Frobenius norms over all logits of the prompts; 1 is what the unedited base has.
    """
    apart = moved = 0.0
    for prompt, places in _parts(prompts):
        live, vanilla = (logits_of(model, one, prompt, places) for one in (row, VANILLA))
        other = _logits_in(model, written, prompt, places)
        apart += float((other - live).double().square().sum())
        moved += float((live - vanilla).double().square().sum())
    return float("inf") if moved == 0 < apart else (apart / moved) ** 0.5 if moved else 0.0


def largest_difference(
    model: InspectedModel, row: Row, written: Any, prompts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Compare a written model's logits with the live edit's.

    Args:
        written: A network, or the row of a patch that was read back.

    Returns:
        The largest difference of a logit, and the standard deviation of the live edit's logits.
    """
    differences: list[float] = []
    count, total, squares = 0, 0.0, 0.0
    for prompt, places in _parts(prompts):
        live = logits_of(model, row, prompt, places)
        differences.append(float((live - _logits_in(model, written, prompt, places)).abs().max()))
        count += live.numel()
        total += float(live.sum(dtype=torch.float64))
        squares += float(live.double().square().sum())
    spread = max((squares - total**2 / count) / (count - 1), 0.0) ** 0.5
    return float(torch.tensor(differences).max()), spread  # what is no number stays none
