"""What an edit moves: block outputs per block and token, and the edited region's own input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.errors import PatchError
from inspector.model.encoding import encode
from inspector.model.hooks import observe_inputs, observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat


def cannot_shift(model: InspectedModel, row: Row, block: int) -> bool:
    """Tell whether a row of weights cannot change the input of a block's down-projection, whatever it holds."""
    if row.reminder is not None:
        return False
    down = model.architecture.down_projection_names[block]
    deltas = row.patch.deltas if row.patch is not None else ()
    return all(delta.block > block or delta.module == down for delta in deltas)


@dataclass(frozen=True, eq=False)
class Shift:
    """Relative change of the activations on one prompt and answer.

    Attributes:
        by_token: ``[blocks, tokens]`` norm of the change of a block output over the norm of the vanilla one.
        region: The block whose down-projection is the region.
        input_change: Relative change of the input of that down-projection, over all tokens of the text.
        forced: It is zero by construction: nothing before the region is edited.
        tokens: Text of each token.
        prompt_tokens: How many of them belong to the prompt.
        blocks_edited: The blocks that the patch touches.
    """

    by_token: np.ndarray
    region: int
    input_change: float
    forced: bool
    tokens: tuple[str, ...]
    prompt_tokens: int
    blocks_edited: tuple[int, ...]

    @property
    def by_block(self) -> np.ndarray:
        """``[blocks]`` mean over tokens."""
        return self.by_token.mean(axis=1)


@torch.no_grad()
def activation_shift(
    model: InspectedModel,
    text: str,
    answer: str,
    row: Row,
    *,
    region: int | None = None,
    format: PromptFormat = PromptFormat(),
) -> Shift:
    """Compare vanilla and edited activations on one prompt with its answer, both in one batch.

    Args:
        text: The user's text, without suffix.
        answer: The answer whose tokens are run after it.
        row: The edited weights.
        region: The block whose down-projection's input is measured; the first edited one by default.

    Raises:
        PromptError: Empty or too long texts.
        PatchError: The row has no patch, or one of another model.
        NotFinite: A state is not a finite number, so that no change can be told.
    """
    if row.patch is None:
        raise PatchError("An activation shift compares vanilla with a patch, and these weights have none. Edit first.")
    encoded = encode(model, text, answer, format=format.open())
    by_token = np.zeros((model.blocks, len(encoded.tokens)), dtype=np.float32)
    seen = {"change": 0.0, "size": 0.0}
    region = row.patch.blocks[0] if region is None else model.architecture.check_block(region)

    def on_block(block: int, states: Tensor) -> None:
        vanilla, edited = states[0].float(), states[1].float()
        by_token[block] = ((edited - vanilla).norm(dim=-1) / vanilla.norm(dim=-1).clamp(min=1e-12)).cpu().numpy()

    def on_region(_position: int, states: Tensor) -> None:
        pair = states.reshape(2, -1, states.shape[-1]).float()
        seen["change"] = float((pair[1] - pair[0]).norm())
        seen["size"] = float(pair[0].norm())

    architecture = model.architecture
    with (
        model.running([VANILLA, row]),
        stopping_before(architecture.final_norm or architecture.unembedding),
        observe_outputs(architecture.blocks, on_block),
        observe_inputs([architecture.down_projections[region]], on_region),
    ):
        model.network(input_ids=model.batch(encoded.tokens, encoded.tokens), use_cache=False)
    model.require_finite("activation shift", [by_token, *seen.values()])
    return Shift(
        by_token=by_token,
        region=region,
        input_change=seen["change"] / max(seen["size"], 1e-12),
        forced=cannot_shift(model, row, region),
        tokens=model.token_texts(encoded.tokens),
        prompt_tokens=len(encoded.prompt),
        blocks_edited=row.patch.blocks,
    )
