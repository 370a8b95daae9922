"""A detector of harmful prompts: a small reading of the vanilla model's states, window by window of a prompt.

A *routed* edit is a patch beside a detector (:class:`~inspector.model.patches.patch.Row`);
:mod:`inspector.model.patches.routing` reads the prompts and decides for each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from inspector.errors import NotFinite, PatchError
from inspector.validated import read_record

TENSORS = tuple(f"detector.{part}" for part in ("weights", "cases", "hidden.weights", "hidden.biases", "hidden.outer"))
"""Names of its tensors in a file; a detector has the first one and may lack the others."""


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


@dataclass(frozen=True)
class DetectorReading:
    """What a detector reads of a prompt.

    Attributes:
        score: The prompt's: that of its highest window.
        threshold: Score from which a prompt counts as harmful.
    """

    score: float
    threshold: float

    @property
    def fires(self) -> bool:
        """Whether the prompt counts as harmful."""
        return self.score >= self.threshold


@dataclass(frozen=True, eq=False)
class Hidden:
    """A hidden layer of a detector.

    Attributes:
        weights: ``[units, blocks, d_model]`` float32, on a window's states.
        biases: ``[units]`` float32, before the activation (GELU).
        outer: ``[units]`` float32: what each unit adds to the reading.
    """

    weights: Tensor
    biases: Tensor
    outer: Tensor

    def fits(self, weights: Tensor) -> bool:
        """Tell whether it reads the same states as linear weights ``[blocks, d_model]``."""
        units = (len(self.weights),)
        return self.weights.shape[1:] == weights.shape and self.biases.shape == units == self.outer.shape

    def of(self, means: Tensor) -> Tensor:
        """Return what the layer adds to the reading of windows ``[windows, blocks * d_model]``, a number each."""
        units = means @ self.weights.flatten(1).T + self.biases
        return torch.nn.functional.gelu(units) @ self.outer

    def to(self, device: torch.device) -> Hidden:
        """Return it on a device."""
        return Hidden(self.weights.to(device), self.biases.to(device), self.outer.to(device))


@dataclass(frozen=True, eq=False)
class Detector:
    """A reading of what enters the MLPs of some blocks, a mean over each window of a prompt's tokens.

    It is linear, with a hidden layer beside that if there is one. A prompt's score is that of its highest window: the
    harmful request may stand anywhere in it, and what is around it, an attack template or a suffix, does not water it
    down. Beside the reading of harm in general there may be one for the question of each case that an edit was made on
    (:func:`inspector.detection.for_case`), which is linear: what it is above 0 counts above the threshold.

    Attributes:
        blocks: Their numbers, ascending.
        weights: ``[blocks, d_model]`` float32; a window's reading is their sum of products with its states, plus
            :attr:`bias` and what the hidden layer adds.
        bias: See there.
        threshold: Score from which a prompt counts as harmful.
        fingerprint: Of the base model.
        window: Tokens of a window; a shorter prompt is one window.
        stride: Tokens from the start of one window to that of the next; the last window ends with the prompt.
        about: How it was made, for the record: numbers of texts, false alarms, misses.
        cases: ``[cases, blocks, d_model]`` float32, the readings of single questions; ``None`` for none.
        case_biases: Theirs; a prompt with a window from 0 on counts as harmful.
        hidden: The hidden layer; ``None`` for none.

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
    hidden: Hidden | None = None

    def __post_init__(self) -> None:
        if self.weights.dim() != 2 or len(self.weights) != len(self.blocks) or not self.blocks:
            raise PatchError("The detector's weights do not fit its blocks. Make it again.")
        if (0 if self.cases is None else len(self.cases)) != len(self.case_biases) or (
            self.cases is not None and self.cases.shape[1:] != self.weights.shape
        ):
            raise PatchError("The detector's readings of cases do not fit it. Make it again.")
        if self.hidden is not None and not self.hidden.fits(self.weights):
            raise PatchError("The detector's hidden layer does not fit it. Make it again.")
        numbers = (self.bias, self.threshold, *self.case_biases)
        if not all(map(math.isfinite, numbers)) or not all(bool(t.isfinite().all()) for t in self.tensors().values()):
            raise PatchError("The detector holds values that are not finite numbers. Make it again.")
        if self.window < 1 or self.stride < 1:
            raise PatchError("The detector's windows must have at least one token. Make it again.")

    def score(self, means: Tensor) -> float:
        """Return the score of a prompt: the reading of its highest window.

        Args:
            means: ``[windows, blocks * d_model]`` float32, the mean states of each window.
        """
        return self.scores([means])[0]

    def scores(self, prompts: Sequence[Tensor]) -> list[float]:
        """Return the :meth:`score` of each prompt's windows; one wait for their device, however many there are."""
        if not prompts:
            return []
        placed = self._on(prompts[0].device)
        highest = torch.stack([placed._highest(means) for means in prompts]).tolist()
        return [self._score(*readings) for readings in highest]

    def _highest(self, means: Tensor) -> Tensor:
        """Return the highest reading over a prompt's windows, in general and, with cases, of their questions."""
        general = means @ self.weights.flatten() + self.bias
        if self.hidden is not None:
            general = general + self.hidden.of(means)
        if self.cases is None:
            return general.max().reshape(1)
        assert self._case_biases is not None
        own = means @ self.cases.flatten(1).T + self._case_biases
        return torch.stack([general.max(), own.max()])

    def _score(self, general: float, own: float | None = None) -> float:
        return general if own is None or math.isnan(general) else max(general, self.threshold + own)

    @cached_property
    def _case_biases(self) -> Tensor | None:
        """The biases of the cases, where their readings are."""
        return None if self.cases is None else self.cases.new_tensor(self.case_biases)

    @cached_property
    def _elsewhere(self) -> dict[torch.device, Detector]:
        """This detector on other devices: copied there once, and not for each prompt."""
        return {}

    def _on(self, device: torch.device) -> Detector:
        """Return it on a device."""
        if self.weights.device == device:
            return self
        if device not in self._elsewhere:
            cases = None if self.cases is None else self.cases.to(device)
            hidden = None if self.hidden is None else self.hidden.to(device)
            self._elsewhere[device] = replace(self, weights=self.weights.to(device), cases=cases, hidden=hidden)
        return self._elsewhere[device]

    def general(self) -> Detector:
        """Return the detector without its readings of single questions."""
        return replace(self, cases=None, case_biases=())

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds beside the :meth:`record`, by the names of :data:`TENSORS`."""
        hidden = self.hidden
        layer = (None, None, None) if hidden is None else (_shortest(hidden.weights), hidden.biases, hidden.outer)
        found = zip(TENSORS, (self.weights, self.cases, *layer), strict=True)
        return {name: tensor for name, tensor in found if tensor is not None}

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name all that decides for which prompts it fires."""
        numbers = [list(self.blocks), self.bias, self.threshold, self.window, self.stride, self.fingerprint]
        found = hashlib.sha256(json.dumps([*numbers, *self.case_biases]).encode())
        for tensor in self.tensors().values():
            found.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return everything but the weights as JSON can hold it."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(_Record)}
        return asdict(_Record(**{**values, "about": dict(self.about)}))

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """Return the detector of a :meth:`record` and its :meth:`tensors`.

        Raises:
            KeyError: A tensor is missing.
            PatchError: See the class.
            ValueError: An entry of the record is missing, unknown or of another type.
        """
        read = {name: tensor.float() for name, tensor in tensors.items()}
        hidden = Hidden(*(read[name] for name in TENSORS[2:])) if TENSORS[2] in read else None
        told = vars(read_record(_Record, record))
        return cls(weights=read[TENSORS[0]], cases=read.get(TENSORS[1]), hidden=hidden, **told)

    def fires(self, score: float) -> bool:
        """Tell whether a prompt of this score counts as harmful.

        Raises:
            NotFinite: The score is not a finite number: the model's states are not finite, so nothing can be decided.
        """
        if not math.isfinite(score):
            raise NotFinite(
                "The detector read states that are not finite numbers. Load the model in float32 (--dtype float32)."
            )
        return score >= self.threshold


def _shortest(tensor: Tensor) -> Tensor:
    """Return a tensor in half precision if that holds its values."""
    half = tensor.half()
    return half if torch.equal(half.float(), tensor.float()) else tensor
