"""A detector of harmful prompts: a linear reading of the vanilla model's states at a prompt's last token.

A *routed* edit is a patch beside a detector (:class:`~inspector.model.patch.Row`); :mod:`inspector.model.routing`
decides for each prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inspector.errors import PatchError
from inspector.model.hooks import observe_inputs, stopping_before

if TYPE_CHECKING:
    from inspector.model.inspected import InspectedModel

AT_ONCE = 12
"""Prompts of one forward pass."""


@dataclass(frozen=True, eq=False)
class Detector:
    """A linear reading of what enters the MLPs of some blocks at a prompt's last token.

    Attributes:
        blocks: Their numbers, ascending.
        weights: ``[blocks, d_model]`` float32; the score is their sum of products with the states, plus :attr:`bias`.
        bias: See there.
        threshold: Score from which a prompt counts as harmful.
        fingerprint: Of the base model.
        about: How it was made, for the record: numbers of texts, false alarms, misses.

    Raises:
        PatchError: Blocks and weights do not fit, or a number is not finite.
    """

    blocks: tuple[int, ...]
    weights: Tensor
    bias: float
    threshold: float
    fingerprint: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [*self.weights.flatten().tolist(), self.bias, self.threshold]
        if self.weights.dim() != 2 or len(self.weights) != len(self.blocks) or not self.blocks:
            raise PatchError("The detector's weights do not fit its blocks. Make it again.")
        if not all(map(math.isfinite, numbers)):
            raise PatchError("The detector holds values that are not finite numbers. Make it again.")

    def record(self) -> dict[str, Any]:
        """Return everything but the weights as JSON can hold it."""
        return {
            "blocks": list(self.blocks),
            "bias": self.bias,
            "threshold": self.threshold,
            "fingerprint": self.fingerprint,
            "about": dict(self.about),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], weights: Tensor) -> Detector:
        """Return the detector of a :meth:`record` and its weights.

        Raises:
            PatchError: See the class.
            LookupError, TypeError, ValueError: The record is damaged.
        """
        return cls(
            tuple(map(int, record["blocks"])),
            weights.float(),
            float(record["bias"]),
            float(record["threshold"]),
            str(record["fingerprint"]),
            dict(record["about"]),
        )

    def fires(self, score: float) -> bool:
        """Tell whether a prompt of this score counts as harmful."""
        return score >= self.threshold

    def scores(self, model: InspectedModel, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each prompt, token ids as the model gets them.

        Raises:
            PatchError: The detector was made for another base model.
        """
        if model.fingerprint != self.fingerprint:
            raise PatchError(
                f"The detector was made for another base model ({self.fingerprint}, this is {model.fingerprint}). "
                "Calibrate this model."
            )
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
        found = [0.0] * len(prompts)
        for start in range(0, len(order), AT_ONCE):
            chosen = order[start : start + AT_ONCE]
            states = mlp_inputs(model, self.blocks, [prompts[n] for n in chosen])
            scored = (states * self.weights.to(states)).sum(dim=(1, 2)) + self.bias
            for number, score in zip(chosen, scored.tolist(), strict=True):
                found[number] = score
        return found


@torch.no_grad()
def mlp_inputs(model: InspectedModel, blocks: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return ``[prompts, blocks, d_model]`` float32: what enters each block's MLP at each prompt's last token.

    The forward pass ends after the last of the blocks.
    """
    architecture = model.architecture
    entries = [next(iter(architecture.mlp_projections(block).values())) for block in blocks]
    following = max(blocks) + 1
    end = (
        architecture.blocks[following]
        if following < model.blocks
        else architecture.final_norm or architecture.unembedding
    )
    seen: dict[int, Tensor] = {}
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    with model.running(), stopping_before(end), observe_inputs(entries, seen.__setitem__):
        model.network(input_ids=model.batch(*prompts), use_cache=False)
    rows = torch.arange(len(prompts))
    # OPT flattens [rows, tokens, d] to [rows * tokens, d] before its MLP.
    return torch.stack(
        [seen[n].reshape(len(prompts), -1, seen[n].shape[-1])[rows, last].float().cpu() for n in range(len(blocks))],
        dim=1,
    )
