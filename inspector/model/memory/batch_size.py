"""How many prompts a batch of answers may have: as many as fit into the memory that is free, up to a bound.

A batch that does not fit is asked anew in two halves (:mod:`inspector.model.answers.batching`), which costs what it had
done.
"""

from __future__ import annotations

import torch

from inspector.model.inspected import InspectedModel
from inspector.model.memory.memory_need import free_memory, key_width, scores_held_whole
from inspector.model.offloaded import place

MOST = 12
"""Prompts of a batch on a CPU where memory is no matter, and of a sweep's everywhere: twice as many gain little
(``python -m benchmarks.scoring_speed``), and a batch of another shape may round differently."""
MOST_ALONE = 32
"""The same where each prompt has a single line."""
ELSEWHERE = 64
"""Both on an accelerator, which computes a token of many lines in about the time of one: it reads the weights once."""
SHARE = 0.8
"""Share of what is free that a batch may take; what it takes is an estimate."""


def prompts_that_fit(
    model: InspectedModel, tokens: int, rows: int, most: int | None = None, alone: bool = False
) -> int:
    """Return how many prompts may share a batch, each answered with several rows of weights; 1 at least.

    Args:
        tokens: Of the longest prompt with its answer.
        rows: Lines a prompt has.
        most: Upper bound; by default that of the device's kind.
        alone: Whether the vanilla weights answer apart from the others, which the CPU's own bound depends on.
    """
    if most is None:
        most = (MOST_ALONE if alone else MOST) if model.device.type == "cpu" else ELSEWHERE
    lines = min(SHARE * free_memory(device) / size for device, size in line_bytes(model, tokens).items())
    return max(1, min(most, int(lines / rows)))


def line_bytes(model: InspectedModel, tokens: int) -> dict[torch.device, int]:
    """Return about how many bytes a line of so many tokens takes on each device that computes.

    Everywhere its states in one block while the prompt is read, float32; for each block there its keys and values,
    twice, as they are while they are copied; with the unembedding its logits, twice.
    """
    architecture, config = model.architecture, model.network.config
    heads = config.get_text_config().num_attention_heads if scores_held_whole(config) else 0
    states = 4 * (4 * architecture.d_model + 3 * architecture.d_ff) + 4 * heads * tokens
    found = dict.fromkeys(model.devices, tokens * states)
    for block in architecture.blocks:
        found[place(block)] += 2 * tokens * 2 * key_width(config) * model.dtype.itemsize
    found[architecture.head_device] += 2 * 4 * architecture.vocabulary
    return found
