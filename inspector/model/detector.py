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

import torch
from pydantic import Field
from torch import Tensor

from inspector.errors import PatchError
from inspector.validated import read_record

WEIGHTS, CASES = "detector.weights", "detector.cases"
"""Names of its tensors in a file."""


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
    case_biases: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Detector:
    """A linear reading of what enters the MLPs of some blocks, a mean over each window of a prompt's tokens.

    A prompt's score is that of its highest window: the harmful request may stand anywhere in it, and what is around
    it, an attack template or a suffix, does not water it down. Beside the reading of harm in general there may be one
    for the question of each case that an edit was made on (:func:`inspector.detection.for_case`): what it is above 0
    counts above the threshold.

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
        cases: ``[cases, blocks, d_model]`` float32, the readings of single questions; ``None`` for none.
        case_biases: Theirs; a prompt with a window from 0 on counts as harmful.

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
    cases: Tensor | None = None
    case_biases: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights.dim() != 2 or len(self.weights) != len(self.blocks) or not self.blocks:
            raise PatchError("The detector's weights do not fit its blocks. Make it again.")
        if (0 if self.cases is None else len(self.cases)) != len(self.case_biases) or (
            self.cases is not None and self.cases.shape[1:] != self.weights.shape
        ):
            raise PatchError("The detector's readings of cases do not fit it. Make it again.")
        if not all(map(math.isfinite, (*self.biases, self.threshold))) or not bool(self.readings.isfinite().all()):
            raise PatchError("The detector holds values that are not finite numbers. Make it again.")
        if self.window < 1 or self.stride < 1:
            raise PatchError("The detector's windows must have at least one token. Make it again.")

    @property
    def readings(self) -> Tensor:
        """``[1 + cases, blocks, d_model]``: the reading of harm in general, then those of single questions."""
        general = self.weights.unsqueeze(0)
        return general if self.cases is None else torch.cat([general, self.cases])

    @property
    def biases(self) -> tuple[float, ...]:
        """Those of :attr:`readings`."""
        return self.bias, *self.case_biases

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds beside the :meth:`record`."""
        return {WEIGHTS: self.weights} | ({} if self.cases is None else {CASES: self.cases})

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name all that decides for which prompts it fires."""
        numbers = [list(self.blocks), self.bias, self.threshold, self.window, self.stride, self.fingerprint]
        found = hashlib.sha256(json.dumps([*numbers, *self.case_biases]).encode())
        found.update(self.readings.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return everything but the weights as JSON can hold it."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(_Record)}
        return asdict(_Record(**{**values, "about": dict(self.about)}))

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """Return the detector of a :meth:`record` and its :meth:`tensors`.

        Raises:
            KeyError: There are no weights.
            PatchError: See the class.
            ValueError: An entry of the record is missing, unknown or of another type.
        """
        cases = tensors[CASES].float() if CASES in tensors else None
        return cls(weights=tensors[WEIGHTS].float(), cases=cases, **vars(read_record(_Record, record)))

    def fires(self, score: float) -> bool:
        """Tell whether a prompt of this score counts as harmful.

        Raises:
            PatchError: The score is not a number: the model's states are not finite, so nothing can be decided.
        """
        if math.isnan(score):
            raise PatchError("The detector read states that are not finite numbers. Load the model in float32.")
        return score >= self.threshold
