"""A detector of harmful prompts: a linear reading of the vanilla model's states, window by window of a prompt.

A *routed* edit is a patch beside a detector (:class:`~inspector.model.patch.Row`); :mod:`inspector.model.routing`
reads the prompts and decides for each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from inspector.errors import PatchError
from inspector.validated import read_record


@dataclass(frozen=True)
class _Record:
    """A detector without its weights, as JSON holds it."""

    blocks: tuple[int, ...]
    bias: float
    threshold: float
    window: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    fingerprint: str
    about: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Detector:
    """A linear reading of what enters the MLPs of some blocks, a mean over each window of a prompt's tokens.

    A prompt's score is that of its highest window: the harmful request may stand anywhere in it, and what is around
    it, an attack template or a suffix, does not water it down.

    Attributes:
        blocks: Their numbers, ascending.
        weights: ``[blocks, d_model]`` float32; a token's reading is their sum of products with its states, plus
            :attr:`bias`.
        bias: See there.
        threshold: Score from which a prompt counts as harmful.
        fingerprint: Of the base model.
        window: Tokens of a window; a shorter prompt is one window.
        stride: Tokens from the start of one window to that of the next; the last window ends with the prompt.
        about: How it was made, for the record: numbers of texts, false alarms, misses.

    Raises:
        PatchError: Blocks and weights do not fit, or a number is out of range.
    """

    blocks: tuple[int, ...]
    weights: Tensor
    bias: float
    threshold: float
    fingerprint: str
    window: int = 12
    stride: int = 3
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [*self.weights.flatten().tolist(), self.bias, self.threshold]
        if self.weights.dim() != 2 or len(self.weights) != len(self.blocks) or not self.blocks:
            raise PatchError("The detector's weights do not fit its blocks. Make it again.")
        if not all(map(math.isfinite, numbers)):
            raise PatchError("The detector holds values that are not finite numbers. Make it again.")
        if self.window < 1 or self.stride < 1:
            raise PatchError("The detector's windows must have at least one token. Make it again.")

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name all that decides for which prompts it fires."""
        numbers = [list(self.blocks), self.bias, self.threshold, self.window, self.stride, self.fingerprint]
        found = hashlib.sha256(json.dumps(numbers).encode())
        found.update(self.weights.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return everything but the weights as JSON can hold it."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(_Record)}
        return asdict(_Record(**{**values, "about": dict(self.about)}))

    @classmethod
    def from_record(cls, record: Mapping[str, Any], weights: Tensor) -> Detector:
        """Return the detector of a :meth:`record` and its weights.

        Raises:
            PatchError: See the class.
            ValueError: An entry of the record is missing, unknown or of another type.
        """
        return cls(weights=weights.float(), **vars(read_record(_Record, record)))

    def fires(self, score: float) -> bool:
        """Tell whether a prompt of this score counts as harmful.

        Raises:
            PatchError: The score is not a number: the model's states are not finite, so nothing can be decided.
        """
        if math.isnan(score):
            raise PatchError("The detector read states that are not finite numbers. Load the model in float32.")
        return score >= self.threshold
