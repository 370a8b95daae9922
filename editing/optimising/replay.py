"""Logits as a function of one down-projection: replayed from the edited block on, or computed whole.

An edit at block l cannot change anything below it. :class:`TailReplay` computes the states entering the
edited matrix once; each optimisation step then runs that matrix, the blocks above it, and the
unembedding of the positions whose loss counts. :class:`FullReplay` runs the whole model each time; the two must
agree, which tests and ``benchmarks/edit_speed.py`` check.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from inspector.errors import EditError
from inspector.model.counted import Counted, only_counted
from inspector.model.hooks import rewrite_output
from inspector.model.inspected import InspectedModel
from inspector.model.offloaded import is_offloaded
from inspector.model.passes.tails import Tails, with_weight


class Replay(Protocol):
    """Logits of chosen positions as a differentiable function of one block's down-projection."""

    def logits(self, weight: Tensor) -> Tensor:
        """Return float32 logits ``[positions, vocabulary]`` for ``weight`` ``[d_model, d_ff]``."""
        ...


class ReplayFactory(Protocol):
    """Makes a replay: :class:`TailReplay` or :class:`FullReplay`."""

    def __call__(
        self, model: InspectedModel, block: int, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]
    ) -> Replay: ...


def master_weight(model: InspectedModel, block: int) -> Tensor:
    """Return a float32 copy ``[d_model, d_ff]`` of a block's down-projection, whatever the model's dtype.

    It lies where the block computes. An offloaded weight is fetched for it; the model's own stays where it is.
    """
    return model.architecture.down_weight(block).detach().float().clone()


def require_in_memory(module: nn.Module, block: int) -> None:
    """Check that the weights of a projection stay in memory while it is trained.

    Raises:
        EditError: They are offloaded.
    """
    if is_offloaded(module):
        raise EditError(
            f"The weights of block {block} are offloaded, not in memory, and all blocks cannot be trained like that. "
            "Load the model without offloading, or use a method that edits one matrix, DINM for example."
        )


class FullReplay:
    """The plain computation: a full forward pass at every call.

    Args:
        model: The base model.
        block: The edited block.
        sequences: Token ids of each sequence; shorter ones are padded on the right.
        counted: Positions of each sequence whose logits are wanted.
        every_logit: Compute the logits of every position and take the counted ones, as the released code does.
    """

    def __init__(
        self,
        model: InspectedModel,
        block: int,
        sequences: Sequence[Sequence[int]],
        counted: Sequence[Sequence[int]],
        *,
        every_logit: bool = False,
    ) -> None:
        self._model, self._every_logit = model, every_logit
        self._projection = model.architecture.down_projections[model.architecture.check_block(block)]
        self._ids = model.batch(*sequences)
        self._counted = Counted(counted)

    def logits(self, weight: Tensor) -> Tensor:
        """See :class:`Replay`."""

        unembedding = self._model.architecture.unembedding

        def rewrite(inputs: Tensor, _output: Tensor) -> Tensor:
            return with_weight(weight)(self._projection, inputs)

        gathered = nullcontext() if self._every_logit else only_counted(unembedding, self._counted)
        with self._model.running(), rewrite_output(self._projection, rewrite), gathered:
            logits = self._model.network(input_ids=self._ids, use_cache=False).logits
        return (self._counted.of(logits) if self._every_logit else logits).float()


class TailReplay:
    """Only what the edited matrix can change: its own product, the blocks above, the counted logits.

    Sequences that begin alike share a row where that pays (:mod:`inspector.model.passes.shared_rows`).

    Args: as for :class:`FullReplay`, and

        keep: Other edits of the block meet these texts as well: keep what enters the matrix.
    """

    def __init__(
        self,
        model: InspectedModel,
        block: int,
        sequences: Sequence[Sequence[int]],
        counted: Sequence[Sequence[int]],
        *,
        keep: bool = False,
    ) -> None:
        self._block = model.architecture.check_block(block)
        self._model = model
        self._tails = Tails(model, sequences, counted, [block], keep=keep, alike=True)

    def logits(self, weight: Tensor) -> Tensor:
        """See :class:`Replay`."""
        with self._model.lock:
            changed = self._tails.changed(self._block, with_weight(weight))
            return self._tails.logits({self._block: changed})[self._block]


def kept(replay: ReplayFactory) -> ReplayFactory:
    """Return a way of replaying texts that other edits of the block meet as well."""
    return partial(TailReplay, keep=True) if replay is TailReplay else replay
