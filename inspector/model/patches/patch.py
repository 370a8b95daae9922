"""Weight patches: what an edit returns, and how it acts without the base weights being written.

A patch is an immutable set of weight deltas with the fingerprint of the base model it belongs to. It
acts through forward hooks, for the rows of the batch that ask for it, and is gone when the context
manager ends: ``W x`` of the base stays as computed and ``strength * delta x`` is added to it. Vanilla
and edited rows can therefore share one batch, and the vanilla rows are untouched bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inspector.errors import PatchError
from inspector.model.memory.halving import when_memory_runs_out
from inspector.model.offloaded import named_weights
from inspector.model.patches.detector import Detector
from inspector.model.prompt_format import PromptFormat
from inspector.model.quantised import name_bytes
from inspector.model.waiting import read

IN_FLOAT64 = 2**24
"""Numbers of a delta that are looked at in float64 at once."""


def square_norm(left: Tensor, right: Tensor | None) -> Tensor:
    """Return the squared Frobenius norm of a delta, a single float64 number; from its factors where there are some.

    Of a dense one no more than a few rows are there in float64 at once.
    """
    if right is None:
        parts = left.split(max(1, IN_FLOAT64 // left.shape[1]))
        return torch.stack([part.double().square().sum() for part in parts]).sum()
    inner = (left.T.double() @ left.double()) * (right.double() @ right.T.double())
    return inner.sum().clamp(min=0)


@dataclass(frozen=True, eq=False)
class Delta:
    """The change of one weight matrix, dense or low-rank.

    Attributes:
        module: Dotted name of the projection in the model, ``model.layers.28.mlp.down_proj``.
        block: Number of the block it stands in.
        left: ``[out, in]`` for a dense delta, ``[out, rank]`` for a low-rank one. Float32.
        right: ``None`` for a dense delta, ``[rank, in]`` for a low-rank one. Float32.
    """

    module: str
    block: int
    left: Tensor
    right: Tensor | None = None

    def __post_init__(self) -> None:
        if any(part.dim() != 2 or part.dtype != torch.float32 for part in self.parts):
            raise PatchError(f"The delta of {self.module} must be made of float32 matrices.")
        if self.right is not None and self.left.shape[1] != self.right.shape[0]:
            raise PatchError(
                f"The factors of the low-rank delta of {self.module} do not fit: "
                f"{tuple(self.left.shape)} times {tuple(self.right.shape)}."
            )

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Left and, low-rank, right."""
        return (self.left,) if self.right is None else (self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the matrix that is changed."""
        right = self.left if self.right is None else self.right
        return self.left.shape[0], right.shape[1]

    def dense(self) -> Tensor:
        """Return the delta as one matrix ``[out, in]``."""
        return self.left if self.right is None else self.left @ self.right

    @property
    def square_norm(self) -> float:
        """Squared Frobenius norm, from the factors where there are some."""
        return float(square_norm(self.left, self.right))

    @property
    def column_norms(self) -> Tensor:
        """``[in]`` norm of each column, float32; from the factors where there are some."""
        if self.right is None:
            return self.left.norm(dim=0)
        right = self.right.double()
        inner = self.left.T.double() @ self.left.double()
        return ((inner @ right) * right).sum(dim=0).clamp(min=0).sqrt().float()

    @property
    def parameters_changed(self) -> int:
        """Number of weights that differ from the base: those of all changed columns or, low-rank, of the matrix."""
        if self.right is None:
            return int((self.left != 0).sum())
        touched = (self.right != 0).any(dim=0)
        return int((self.left != 0).any(dim=1).sum()) * int(touched.sum())

    def apply(self, inputs: Tensor, parts: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """Return ``delta @ x`` for inputs ``[..., in]`` as float32 ``[..., out]``.

        Args:
            parts: What :meth:`on` has returned for the inputs' device, where that is held.
        """
        left, right = self.on(inputs.device) if parts is None else parts
        inputs = inputs.float()
        if inputs.is_cuda and inputs.numel() == inputs.shape[-1]:  # one token: reading the matrix is all there is to do
            vector = inputs.reshape(-1)
            changed = left @ (vector if right is None else right @ vector)
            return changed.reshape(*inputs.shape[:-1], -1)
        if right is not None:
            inputs = inputs @ right.T
        return inputs @ left.T

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return left and right on a device; where that is another than theirs, they are copied to it once."""
        if self.left.device == device:
            return self.left, self.right
        known = _COPIES.setdefault(self, {})
        if device not in known:
            if _bytes_copied() + self.bytes > MOST_COPIED:
                _COPIES.clear()
                known = _COPIES.setdefault(self, {})
            known[device] = (self.left.to(device), None if self.right is None else self.right.to(device))
        return known[device]

    @property
    def bytes(self) -> int:
        """Memory that left and right take."""
        return sum(part.numel() * part.element_size() for part in self.parts)


MOST_COPIED = 4 * 2**30
"""Bytes of deltas that are kept on other devices than their own; beyond them all copies are made anew."""
_COPIES: WeakKeyDictionary[Delta, dict[torch.device, tuple[Tensor, Tensor | None]]] = WeakKeyDictionary()
when_memory_runs_out(_COPIES.clear)


def _bytes_copied() -> int:
    deltas = [kept() for kept in _COPIES.keyrefs()]  # a list: another thread may let them go meanwhile
    return sum(delta.bytes * len(_COPIES.get(delta, ())) for delta in deltas if delta is not None)


@dataclass(frozen=True)
class Taught:
    """An answer that an edit was trained on.

    Attributes:
        text: The answer.
        fits_any: It declines in words that fit any question, so that it is no wrong answer to another harmful one.
    """

    text: str
    fits_any: bool = False


@dataclass(frozen=True, eq=False)
class Patch:
    """An immutable edit of one base model.

    Attributes:
        deltas: The changed matrices.
        fingerprint: :attr:`InspectedModel.fingerprint` of the base model.
        method: The method that made it, for example ``DINM``.
        settings: The method's settings, for the record.
        format: The prompt format that it was made in, and is asked in.
        taught: Every answer that it was trained on; none where that is not known.
    """

    deltas: tuple[Delta, ...]
    fingerprint: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: PromptFormat = PromptFormat()
    taught: tuple[Taught, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        if not self.deltas:
            raise PatchError("A patch needs at least one changed matrix.")
        names = [delta.module for delta in self.deltas]
        if len(set(names)) != len(names):
            raise PatchError("A patch may change each matrix only once.")
        # All at once: a patch of every matrix has hundreds of parts, and each look would wait for the device.
        finite = read([torch.stack([part.isfinite().all() for part in delta.parts]).all() for delta in self.deltas])
        if broken := [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]:
            raise PatchError(f"The delta of {broken[0]} holds values that are not finite numbers.")

    @cached_property
    def identifier(self) -> str:
        """Eight hexadecimal digits that name the content of the deltas."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for delta in self.deltas:
            digest.update(delta.module.encode())
            for part in (delta.left, delta.right):
                if part is not None:
                    digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that the patch touches, ascending."""
        return tuple(sorted({delta.block for delta in self.deltas}))

    def where(self) -> str:
        """Say in a few words which blocks and how many matrices the patch changes."""
        blocks, count = self.blocks, len(self.deltas)
        if len(blocks) > 3 and blocks == tuple(range(blocks[0], blocks[-1] + 1)):
            place = f"layers {blocks[0]} to {blocks[-1]}"
        else:
            place = f"layer{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
        return place if count == 1 else f"{place}, {count} matrices"

    @cached_property
    def norm(self) -> float:
        """Frobenius norm over all deltas; one wait for their device."""
        return float(sum(read([square_norm(delta.left, delta.right) for delta in self.deltas])) ** 0.5)

    @property
    def parameters_changed(self) -> int:
        """Number of the base model's weights that the patch changes."""
        return sum(delta.parameters_changed for delta in self.deltas)

    @property
    def bytes(self) -> int:
        """Memory that the deltas take."""
        return sum(delta.bytes for delta in self.deltas)


STRONGEST = 1.5
"""Largest factor on a patch."""


@dataclass(frozen=True)
class Reminder:
    """What a prompt-only method puts around the user's text.

    Attributes:
        method: The method's name.
        before: Put before the text, with a blank line between.
        after: Put after it, likewise.
    """

    method: str
    before: str
    after: str

    def wrap(self, text: str) -> str:
        """Return the user's text with the reminder around it."""
        return "\n\n".join(part for part in (self.before, text, self.after) if part)


@dataclass(frozen=True)
class Row:
    """The weights that one row of a batch runs with, or the reminder around its prompt.

    Attributes:
        patch: The patch, or ``None`` for vanilla.
        strength: Factor on the patch's deltas; 0 is vanilla, 1 the edit as made, at most :data:`STRONGEST`.
        reminder: A prompt-only method. Whoever encodes the prompt has to ask :meth:`prompted` for it; a forward
            pass refuses a row that still has one.
        detector: The patch acts only on prompts for which it fires; ``None`` for all. Whoever knows the prompt has to
            ask :func:`inspector.model.patches.routing.decided`; a forward pass refuses a row that still has one.

    Raises:
        PatchError: The strength is out of range, or a detector has no patch.
    """

    patch: Patch | None = None
    strength: float = 1.0
    reminder: Reminder | None = None
    detector: Detector | None = None

    def __post_init__(self) -> None:
        # A negative strength would push the model away from the safe answer, which no part of this offers.
        if not 0.0 <= self.strength <= STRONGEST:
            raise PatchError(f"The strength {self.strength:g} is out of range. Choose one from 0 to {STRONGEST:g}.")
        if self.patch is not None and self.reminder is not None:
            raise PatchError("A row has a patch or a reminder around its prompt, not both. Leave one out.")
        if self.detector is not None and self.patch is None:
            raise PatchError("A detector routes a patch, and this row has none. Give a patch or leave it out.")

    def prompted(self, text: str) -> str:
        """Return the user's text as this row's model gets it."""
        return text if self.reminder is None else self.reminder.wrap(text)

    def weights(self) -> Row:
        """Return the row without its reminder, for a prompt that has it already."""
        return replace(self, reminder=None)

    def always(self) -> Row:
        """Return the row without its detector: the patch as it acts on every prompt."""
        return replace(self, detector=None)

    def label(self) -> str:
        """Name these weights in one line for a badge."""
        if self.reminder is not None:
            return f"{self.reminder.method} · vanilla weights, reminder around the prompt"
        if self.patch is None or self.strength == 0:
            return "vanilla"
        patch = self.patch
        routed = "" if self.detector is None else " · only where harm is detected"
        return f"{patch.method} · {patch.where()} · strength {self.strength:g} · patch {patch.identifier}{routed}"

    @property
    def key(self) -> tuple[str, str]:
        """What tells whether a measurement is of these weights: the label, and the digest of the detector, if any.

        The label alone does not: one detector fires where another is silent.
        """
        return self.label(), "" if self.detector is None else self.detector.digest


VANILLA = Row()


def fingerprint(model: nn.Module) -> str:
    """Name a base model by its parameters: 16 hexadecimal digits.

    Of each parameter its name and shape count, some 256 evenly spaced values, and of a matrix two whole rows and two
    whole columns: a few rewritten neurons, which are a row of one matrix and a column of another, make another model.
    Values are rounded to bfloat16, so that the same checkpoint has one fingerprint in float32 and in bfloat16, and few
    enough that a large model is named in well under a second. In float16 it has another: below 6e-5 that type has not
    even the digits of bfloat16. Values of one byte, which quantised weights are made of,
    count as they are, with their scales and the way they are quantised: the same checkpoint in 4 bits is another base
    model. Offloaded ones are fetched for it, one at a time.
    """
    digest = hashlib.sha256(str(model.config.model_type).encode())
    for name, parameter in named_weights(model):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        if parameter.device.type == "meta":
            continue
        for sample in _sampled(parameter.detach()):
            digest.update(sample.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    for part in name_bytes(model):
        digest.update(part)
    return digest.hexdigest()[:16]


def _sampled(values: Tensor) -> Iterator[Tensor]:
    flat = values.reshape(-1)
    yield flat[:: max(1, flat.numel() // 256)]
    if values.dim() == 2 and min(values.shape) > 1:
        for third in (1, 2):
            yield values[third * len(values) // 3]
            yield values[:, third * values.shape[1] // 3].contiguous()
