"""Logits as a function of one down-projection: replayed from the edited block on, or computed whole.

An edit at block l cannot change anything below it. :class:`TailReplay` computes the states entering the
edited matrix once; each optimisation step then runs that matrix, the blocks above it, and the
unembedding of the positions whose loss counts. :class:`FullReplay` runs the whole model each time, as the
authors' released code does; the two must agree, which tests and ``benchmarks/edit_speed.py`` check.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspector.errors import EditError
from inspector.model.hooks import (
    block_output,
    observe_inputs,
    observe_outputs,
    record_calls,
    rewrite_output,
    stopping_before,
)
from inspector.model.inspected import InspectedModel


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

    Raises:
        EditError: The weight is not in memory (offloaded).
    """
    weight = model.architecture.down_weight(block)
    if weight.device.type == "meta":
        raise EditError(
            f"The weights of block {block} are offloaded, not in memory. Load the model without offloading, "
            "or on a larger device."
        )
    return weight.detach().float().clone()


def _project(module: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """Apply the projection with ``weight`` in place of its own, in float32, back in the inputs' dtype."""
    bias = getattr(module, "bias", None)
    return F.linear(inputs.float(), weight, None if bias is None else bias.float()).to(inputs.dtype)


def _positions(counted: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [row for row, positions in enumerate(counted) for _ in positions]
    places = [position for positions in counted for position in positions]
    return torch.tensor(rows, device=device), torch.tensor(places, device=device)


class FullReplay:
    """The plain computation: a full forward pass with all logits, at every call.

    Args:
        model: The base model.
        block: The edited block.
        sequences: Token ids of each sequence; shorter ones are padded on the right.
        counted: Positions of each sequence whose logits are wanted.
    """

    def __init__(
        self, model: InspectedModel, block: int, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._projection = model.architecture.down_projections[model.architecture.check_block(block)]
        self._ids = model.batch(*sequences)
        self._rows, self._places = _positions(counted, model.architecture.head_device)

    def logits(self, weight: Tensor) -> Tensor:
        """See :class:`Replay`."""

        def rewrite(inputs: Tensor, _output: Tensor) -> Tensor:
            return _project(self._projection, inputs, weight)

        with self._model.running(), rewrite_output(self._projection, rewrite):
            logits = self._model.network(input_ids=self._ids, use_cache=False).logits
        return logits[self._rows, self._places].float()


class TailReplay:
    """Only what the edited matrix can change: its own product, the blocks above, the counted logits.

    Where the family's map says so (and a comparison with the model's own output confirms it), the
    edited block is resumed at its down-projection and the last block's MLP runs on the counted
    positions only; otherwise whole blocks are run.

    Args: as for :class:`FullReplay`.
    """

    def __init__(
        self, model: InspectedModel, block: int, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]
    ) -> None:
        architecture = model.architecture
        self._model = model
        self._block = architecture.check_block(block)
        self._projection = architecture.down_projections[block]
        self._after_mlp = architecture.part_of_block(block, architecture.paths.after_mlp)
        self._rows, self._places = _positions(counted, model.device)
        with model.lock:
            self._capture(model.batch(*sequences))

    @torch.no_grad()
    def _capture(self, ids: Tensor) -> None:
        architecture = self._model.architecture
        block = self._block
        seen: dict[str, Tensor] = {}
        join = architecture.part_of_block(block, architecture.paths.after_attention)
        with ExitStack() as stack:
            stack.enter_context(self._model.running())
            stack.enter_context(stopping_before(architecture.final_norm or architecture.unembedding))
            calls = stack.enter_context(record_calls(architecture.blocks[block:]))
            keep = seen.__setitem__
            stack.enter_context(observe_inputs([self._projection], lambda _n, x: keep("inner", x)))
            stack.enter_context(observe_outputs([architecture.blocks[block]], lambda _n, x: keep("out", x)))
            if join is not None:
                stack.enter_context(observe_inputs([join], lambda _n, x: keep("residual", x)))
            self._model.network(input_ids=ids, use_cache=False)
        self._calls = [calls[number] for number in range(len(architecture.blocks) - block)]
        self._inner = seen["inner"].reshape(*ids.shape, -1)
        self._residual = seen.get("residual")
        self._resumes = self._residual is not None and self._confirms(master_weight(self._model, block), seen["out"])
        self._mlp = self._separate_mlp() if self._resumes else None
        if self._resumes and block == architecture.last_block:
            # Nothing above looks at other positions, so only the counted ones are kept.
            self._inner = self._inner[self._rows, self._places]
            assert self._residual is not None
            self._residual = self._residual[self._rows, self._places]

    def _confirms(self, weight: Tensor, own: Tensor) -> bool:
        """Tell whether resuming at the down-projection gives the block's own output."""
        resumed = self._resume(weight)
        tolerance = 1e-4 if own.dtype == torch.float32 else 2e-2
        return bool((resumed - own).abs().max() <= tolerance * own.abs().max().clamp(min=1e-6))

    def _separate_mlp(self) -> nn.Module | None:
        """Return the last block's MLP if the family has it as one module."""
        parent, _, _ = self._model.architecture.paths.down_projection.rpartition(".")
        return self._model.architecture.part_of_block(self._model.architecture.last_block, parent or None)

    def _resume(self, weight: Tensor) -> Tensor:
        written = _project(self._projection, self._inner, weight)
        if self._after_mlp is not None:
            written = self._after_mlp(written)
        return self._residual + written

    def logits(self, weight: Tensor) -> Tensor:
        """See :class:`Replay`."""
        architecture = self._model.architecture
        with self._model.lock:
            states = self._edited_block(weight)
            gathered = self._resumes and self._block == architecture.last_block
            for number in range(self._block + 1, len(architecture.blocks)):
                args, kwargs = self._calls[number - self._block]
                if number == architecture.last_block and self._mlp is not None:
                    states = self._last_block(states, args, kwargs)
                    gathered = True
                else:
                    states = _call(architecture.blocks[number], states, args, kwargs)
            if not gathered:
                states = states[self._rows, self._places]
            return architecture.logits(states).float()

    def _edited_block(self, weight: Tensor) -> Tensor:
        if self._resumes:
            return self._resume(weight)

        def rewrite(inputs: Tensor, _output: Tensor) -> Tensor:
            return _project(self._projection, inputs, weight)

        args, kwargs = self._calls[0]
        with rewrite_output(self._projection, rewrite):
            entering = args[0] if args else kwargs["hidden_states"]
            return _call(self._model.architecture.blocks[self._block], entering, args, kwargs)

    def _last_block(self, states: Tensor, args: tuple, kwargs: dict) -> Tensor:
        """Run the last block up to its MLP, then the MLP on the counted positions only."""
        architecture = self._model.architecture
        last = architecture.last_block
        norm = architecture.part_of_block(last, architecture.paths.after_attention)
        after_mlp = architecture.part_of_block(last, architecture.paths.after_mlp)
        assert norm is not None and self._mlp is not None
        seen: list[Tensor] = []
        with stopping_before(norm, seen.append):
            _call(architecture.blocks[last], states, args, kwargs)
        residual = seen[0][self._rows, self._places]
        written = self._mlp(norm(residual))
        return residual + (written if after_mlp is None else after_mlp(written))


def _call(block: nn.Module, states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Call a block with new states and the other arguments of its recorded call."""
    if args:
        return block_output(block(states, *args[1:], **kwargs))
    return block_output(block(**{**kwargs, "hidden_states": states}))
