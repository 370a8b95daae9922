"""Does what was written answer as the live edit does? Compared by its logits on a few prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inspector.model import InspectedModel, Row, encode
from inspector.safeedit.sets import harmless_prompts, spread

PROMPTS = 3


def probes(model: InspectedModel) -> list[tuple[int, ...]]:
    """Return the token ids of a few bundled harmless prompts."""
    return [encode(model, item.prompt).prompt for item in spread(harmless_prompts(), PROMPTS)]


@torch.no_grad()
def logits_of(model: InspectedModel, row: Row, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the live edit's float32 logits ``[tokens, vocabulary]`` of each prompt, one a pass."""
    found = []
    for prompt in prompts:
        with model.running([row]):
            found.append(model.network(input_ids=model.batch(prompt), use_cache=False).logits[0].float())
    return found


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
