"""The model under inspection: network, tokenizer, architecture map and the lock they share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inspector.errors import NotFinite, PromptError
from inspector.model.architecture import Architecture
from inspector.model.fair_lock import FairLock
from inspector.model.offloaded import place
from inspector.model.patches.patch import Row
from inspector.model.patches.standing import StandingPatches, live_patches
from inspector.model.prompt_format import Turn, has_chat_template, read_turn
from inspector.model.quantised import quantisation_of
from inspector.model.waiting import read


@dataclass(eq=False)
class InspectedModel:
    """One loaded model that any number of visitors read at once.

    The base weights are never written after loading. Hooks are set on shared modules, so every
    forward pass holds :attr:`lock` from its first hook to its last; a generator must never yield
    while it holds it, so that visitors take turns step by step.

    Attributes:
        name: What the person asked for: ``SmolLM2-135M-Instruct``, a hub id or a path.
        network: The transformers causal language model, in evaluation mode, gradients off.
        tokenizer: Its tokenizer.
        architecture: Where its parts are.
        fingerprint: Names the base weights (:func:`inspector.model.patches.patch.fingerprint`).
        revision: Branch, tag or commit of a hub model, if one was named.
        paths: Dotted paths that were given to complete the architecture map, by name.
        placed: What was said of where its parts go, by the names of :func:`inspector.model.load`: ``device``,
            ``device_map`` and ``max_memory``; nothing where that was left to it.
        public: Whether others than its operator read what is told of it: they are told no command, which would name
            where it is.
        lock: Held during every forward pass; it goes to whoever has waited longest.
    """

    name: str
    network: Any
    tokenizer: Any
    architecture: Architecture
    fingerprint: str
    revision: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    placed: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False
    lock: FairLock = field(default_factory=FairLock)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.architecture.blocks)

    @property
    def device(self) -> torch.device:
        """Device on which token ids are embedded, where they go."""
        return place(self.network.get_input_embeddings())

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Devices on which its parts compute, that of the embeddings first; several for a sharded model."""
        parts = (*self.architecture.blocks, self.architecture.unembedding)
        return tuple(dict.fromkeys((self.device, *map(place, parts))))

    @cached_property
    def on_one_device(self) -> bool:
        """Whether all weights are in the memory of one device, none sharded or offloaded."""
        return {parameter.device for parameter in self.network.parameters()} == {self.device}

    @cached_property
    def can_be_captured(self) -> bool:
        """Whether passes can be captured as CUDA graphs.

        All weights plain and on one CUDA device, every block sees all positions (no sliding window) through PyTorch's
        fused attention, and the rotary embedding does not look at the positions' values, for which it would wait.
        """
        config = self.network.config.get_text_config()
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        return (
            self.device.type == "cuda"
            and self.on_one_device
            and self.quantisation is None
            and window is None
            and rope in ("default", "linear", "llama3", "yarn")
            and getattr(config, "_attn_implementation", None) == "sdpa"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the base weights; of a quantised model that of its other weights and of its states."""
        return self.network.dtype

    @cached_property
    def quantisation(self) -> str | None:
        """How the projections are quantised: ``nf4``, ``int8``, ``fp8`` ...; ``None`` for plain weights."""
        return quantisation_of(self.network)

    @property
    def dtype_name(self) -> str:
        """``float32``, ``bfloat16``, ``nf4`` or another, for people and as ``--dtype`` takes it."""
        return self.quantisation or str(self.dtype).removeprefix("torch.")

    @property
    def embedded(self) -> int:
        """Number of token ids that have an embedding: a tokenizer may know markers beyond them."""
        return int(self.network.get_input_embeddings().num_embeddings)

    @property
    def pad(self) -> int:
        """Id that rows of a batch are filled up with, which nothing reads: the tokenizer's if it has an embedding."""
        own = self.tokenizer.pad_token_id
        return own if own is not None and own < self.embedded else 0

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and answer may have together.

        With rotary factors of type ``longrope`` those up to which the short ones hold: beyond, transformers takes the
        long ones for a whole batch, which do not go with the keys that a cache has.
        """
        config = self.network.config.get_text_config()
        limits = [getattr(config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        rotary = getattr(config, "rope_parameters", None) or {}
        for each in (rotary, *rotary.values()):  # one for all blocks, or one by kind of block
            if isinstance(each, dict) and each.get("rope_type") == "longrope":
                limits.append(each.get("original_max_position_embeddings"))
        return min(limit for limit in limits if limit)

    @cached_property
    def last_logits_only(self) -> dict[str, int]:
        """See :func:`only_last_logits`."""
        return only_last_logits(self.network)

    @cached_property
    def turn(self) -> Turn | None:
        """What the chat template puts around an answer; ``None`` for a tokenizer without one.

        Raises:
            PromptError: The template refuses a user's question, or does not show an answer as it is.
        """
        return read_turn(self.tokenizer) if has_chat_template(self.tokenizer) else None

    @property
    def gradient_scale(self) -> float:
        """Power of two that losses are scaled by for their backward pass, and gradients back again.

        Gradients of a mean over tokens fall below float16's smallest number; other types need no scale.
        """
        return 1024.0 if self.dtype == torch.float16 else 1.0

    def require_finite(self, what: str, values: Iterable[Tensor | np.ndarray | float]) -> None:
        """Check what was measured or differentiated: float16 has little range, whatever it is scaled by.

        Args:
            what: What it is, for the message: ``gradient``.

        Raises:
            NotFinite: An entry is not a finite number.
        """
        # Read together: a gradient in every block is as many tensors, and each look would wait for the device.
        if not all(read([torch.isfinite(torch.as_tensor(value)).all() for value in values])):
            raise self.not_finite(what)

    def not_finite(self, what: str) -> NotFinite:
        """Return the error that :meth:`require_finite` raises of a measurement, for what has looked by itself."""
        return NotFinite(
            f"The {what} of these texts is not a finite number in {self.dtype_name}. Load the model in float32 "
            "(--dtype float32) or shorten the texts."
        )

    @contextmanager
    def running(self, rows: Sequence[Row] | None = None) -> Iterator[None]:
        """Hold the model for forward passes whose batch rows run with the weights in ``rows``."""
        with self.lock, live_patches(self.network, self.fingerprint, rows):
            yield

    @contextmanager
    def standing(self, rows: Sequence[Row] | None = None) -> Iterator[StandingPatches]:
        """Give patches whose hooks are set once for many forward passes; each pass holds the lock and lets them act."""
        patches = StandingPatches(self.network, self.fingerprint, rows)
        try:
            yield patches
        finally:
            patches.close()

    def batch(self, *token_ids: Sequence[int]) -> Tensor:
        """Return rows of equal or unequal length as ``[rows, tokens]``, padded on the right.

        A causal model's real positions never see pads on their right, so no mask is needed; the
        pad positions themselves must not be read.
        """
        longest = max(map(len, token_ids))
        padded = [list(ids) + [self.pad] * (longest - len(ids)) for ids in token_ids]
        return torch.tensor(padded, device=self.device)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return token ids as text, without markers such as end-of-text."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token by itself, markers included."""
        return tuple(self.tokenizer.decode([token]) for token in token_ids)

    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer: the network's own, the tokenizer's, and the end of a turn in the chat template."""
        ends: set[int] = set()
        with suppress(PromptError):  # a template that cannot be read does not keep plain text from being answered
            if self.turn is not None and self.turn.marker is not None:
                ends.add(self.turn.marker)
        for source in (self.network.generation_config.eos_token_id, self.tokenizer.eos_token_id):
            if source is not None:
                ends.update(source if isinstance(source, list | tuple) else [source])
        return frozenset(ends)


def only_last_logits(network: Any) -> dict[str, int]:
    """Return the argument that makes a forward pass skip all logits but the last position's, if there is one.

    Args:
        network: A transformers causal language model.
    """
    takes = "logits_to_keep" in inspect.signature(network.forward).parameters
    return {"logits_to_keep": 1} if takes else {}
