"""Does what was written answer as the live edit does? Compared by its logits on a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inspector.model import VANILLA, InspectedModel, Row, encode
from inspector.safeedit import Case
from inspector.safeedit.sets import harmless_prompts, spread

PROMPTS = 3


def probes(model: InspectedModel, row: Row) -> list[tuple[int, ...]]:
    """Return the token ids of a few bundled harmless prompts, in the edit's own format."""
    assert row.patch is not None
    return [encode(model, item.prompt, None, row.patch.format).prompt for item in spread(harmless_prompts(), PROMPTS)]


@torch.no_grad()
def logits_of(model: InspectedModel, row: Row, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the live edit's float32 logits ``[tokens, vocabulary]`` of each prompt, one a pass."""
    found = []
    for prompt in prompts:
        with model.running([row]):
            found.append(model.network(input_ids=model.batch(prompt), use_cache=False).logits[0].float())
    return found


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
    for prompt, live, vanilla in zip(
        prompts, logits_of(model, row, prompts), logits_of(model, VANILLA, prompts), strict=True
    ):
        other = written(input_ids=model.batch(prompt), use_cache=False).logits[0].float()
        apart += float((other - live).double().square().sum())
        moved += float((live - vanilla).double().square().sum())
    return float("inf") if moved == 0 < apart else (apart / moved) ** 0.5 if moved else 0.0


@torch.no_grad()
def largest_difference(
    model: InspectedModel, row: Row, written: Any, prompts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Compare a written model's logits with the live edit's.

    Args:
        written: A network, or the row of a patch that was read back.

    Returns:
        The largest difference of a logit, and the standard deviation of the live edit's logits.
    """
    live = logits_of(model, row, prompts)
    if isinstance(written, Row):
        other = logits_of(model, written, prompts)
    else:
        other = [written(input_ids=model.batch(prompt), use_cache=False).logits[0].float() for prompt in prompts]
    difference = max(float((one - two).abs().max()) for one, two in zip(live, other, strict=True))
    return difference, float(torch.cat([one.flatten() for one in live]).std())
