"""What a detector is learnt from: the windows of each prompt, and which of them stand on its question."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.detection.texts import Sample, drawn
from inspector.errors import TooLong
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.patches.routing import AT_ONCE, mlp_inputs, windows

WINDOW, STRIDE = 12, 3
"""Tokens of a window, and from one to the next."""
_LARGEST = 6e4
"""What half precision holds."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a prompt's windows are.

    Attributes:
        states: ``[windows, features]`` float16: means of what enters the MLPs, block after block.
        asking: Numbers of the windows in the middle of the question: those that a harmful prompt can be learnt from.
    """

    states: np.ndarray
    asking: tuple[int, ...]


def that_fit(model: InspectedModel, texts: Sequence[Sample], formats: Sequence[PromptFormat]) -> list[Sample]:
    """Return the texts that are within the model's context in each of the formats, in their order.

    Raises:
        PromptError: A text is empty, or the chat template takes none.
    """
    found = []
    for sample in texts:
        try:
            for format in formats:
                encode(model, sample.text, None, format)
        except TooLong:
            continue
        found.append(sample)
    return found


def readings_of(
    model: InspectedModel,
    texts: Sequence[Sample],
    blocks: Sequence[int],
    formats: Sequence[PromptFormat],
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, list[Reading] | None]:
    """Read the windows of each prompt.

    Args:
        formats: Each text is read in one of them, see :func:`drawn`.

    Yields:
        The share that is done.

    Returns:
        The readings; ``None`` when cancelled.

    Raises:
        PromptError: A text is longer than the model's context (:func:`that_fit`).
        NotFinite: The model's states are not finite numbers.
    """
    used = drawn(texts, formats)
    prompts = [encode(model, sample.text, None, format).prompt for sample, format in zip(texts, used, strict=True)]
    work = sum(map(len, prompts))
    found: dict[int, Reading] = {}
    done = 0
    for number, states in mlp_inputs(model, blocks, prompts):
        means = windows(states, WINDOW, STRIDE).flatten(1)
        model.require_finite("MLP input", [means])
        held = means.clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
        found[number] = Reading(held, _asking(model, texts[number], used[number], prompts[number], len(held)))
        done += len(prompts[number])
        if len(found) % AT_ONCE == 0 or len(found) == len(prompts):
            yield done / work
            if cancel():
                return None
    return [found[number] for number in range(len(texts))]


def _asking(
    model: InspectedModel, sample: Sample, format: PromptFormat, prompt: Sequence[int], count: int
) -> tuple[int, ...]:
    """Return the windows in the middle of the question: where the prompt differs from the same one about nothing."""
    other = encode(model, sample.text.replace(sample.bare, "It.", 1), None, format).prompt
    shortest = min(len(prompt), len(other))
    first = next((n for n in range(shortest) if prompt[n] != other[n]), shortest - 1)
    after = next((n for n in range(shortest - first) if prompt[-1 - n] != other[-1 - n]), 0)
    middle, reach = (first + len(prompt) - after) / 2, max(2.0, (len(prompt) - after - first - WINDOW) / 2 + 1)
    last = len(prompt) - WINDOW
    centres = [min(number * STRIDE, max(0, last)) + min(WINDOW, len(prompt)) / 2 for number in range(count)]
    near = tuple(number for number, centre in enumerate(centres) if abs(centre - middle) <= reach)
    return near or (int(np.argmin([abs(centre - middle) for centre in centres])),)
