"""What a region writes along the toxic direction, token by token, before and after an edit.

The region's mean cosine with that direction (:mod:`inspector.toxicity.weights`) weighs all neurons alike, active or
not, and is close to zero. What the down-projection writes on adversarial prompts, ``(W_down x) . direction`` with the
inner activations ``x`` of a token, weighs them by what they do there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.errors import CaseError, PatchError
from inspector.model.encoding import encode
from inspector.model.hooks import observe_inputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case

PROMPTS = ("adversarial_prompt", "other_attack", "other_question", "other_both")
"""The case's adversarial prompts; the unsafe answer follows the first two, which ask its own question."""


@dataclass(frozen=True, eq=False)
class RegionWriting:
    """What a block's down-projection writes along a direction, means over tokens.

    Attributes:
        block: The block.
        prompts: Which of the case's prompts, as the case names them.
        prompt: ``[2, prompts]`` mean over the prompt's tokens (all but the first), vanilla and edited.
        answer: ``[2, prompts]`` mean over the tokens of the unsafe answer; not a number where it does not follow.
        size: ``[2, prompts]`` mean length of all that is written at the prompt's tokens, whatever its direction.
    """

    block: int
    prompts: tuple[str, ...]
    prompt: np.ndarray
    answer: np.ndarray
    size: np.ndarray

    @property
    def before(self) -> float:
        """Mean over prompts at their tokens, vanilla."""
        return float(self.prompt[0].mean())

    @property
    def after(self) -> float:
        """Mean over prompts at their tokens, edited."""
        return float(self.prompt[1].mean())

    @property
    def shares(self) -> tuple[float, float]:
        """:attr:`before` and :attr:`after` in percent of the mean length of all that is written before the edit."""
        length = max(float(self.size[0].mean()), 1e-12)
        return 100 * self.before / length, 100 * self.after / length

    @property
    def answer_shares(self) -> tuple[float, float] | None:
        """The same of the unsafe answer's tokens, in percent of that length; ``None`` where it follows no prompt."""
        if np.isnan(self.answer).all():
            return None
        length = max(float(self.size[0].mean()), 1e-12)
        before, after = (100 * float(np.nanmean(side)) / length for side in self.answer)
        return before, after

    @property
    def reading(self) -> str:
        """The measurement in one or two plain sentences."""
        first = (
            f"On {self.prompt.shape[1]} adversarial prompts the MLP of layer {self.block} writes {_along(self.before)} "
            f"a token ({abs(self.shares[0]):.1f} % of the length of all that it writes), and {_along(self.after)} with "
            "the edit."
        )
        if np.isnan(self.answer).all():
            return first
        before, after = (float(np.nanmean(side)) for side in self.answer)
        return f"{first} While it reads the unsafe answer: {_along(before)}, and {_along(after)} with the edit."


def _along(amount: float) -> str:
    if amount == 0:
        return "nothing along the toxic direction"
    return f"{abs(amount):.3g} {'along' if amount > 0 else 'against'} the toxic direction"


@torch.no_grad()
def region_writing(
    model: InspectedModel,
    case: Case,
    row: Row,
    direction: np.ndarray,
    block: int,
    *,
    format: PromptFormat = PromptFormat(),
) -> RegionWriting:
    """Measure what a block's down-projection writes along a direction, with the vanilla weights and a row's.

    It is what the matrix writes: without its bias, and before any norm that a family has after its MLP. Vanilla and
    edited share each batch and read the same texts, the unsafe answer among them.

    Args:
        case: Gives the adversarial prompts, and the unsafe answer that follows those of its own question.
        row: The edited weights.
        direction: ``[d_model]``, as :attr:`inspector.toxicity.Probe.direction`; its length does not matter.
        block: The block of the region.
        format: Suffix and chat template; that of the edit.

    Raises:
        CaseError: The direction is not one of this model's width, or is zero.
        PatchError: The row has a reminder or a detector, or a patch of another base model.
        PromptError: A prompt is empty or too long.
        ArchitectureError: The block does not exist.
        NotFinite: What is written is not a finite number.
    """
    architecture = model.architecture
    architecture.check_block(block)
    line = torch.as_tensor(np.asarray(direction), dtype=torch.float64)
    if line.shape != (architecture.d_model,) or not float(line.norm()) > 0:
        raise CaseError(
            f"The toxic direction has the shape {tuple(line.shape)} or no length; this model's states have "
            f"{architecture.d_model} values. Train the probe on this model."
        )
    if row.detector is not None or row.reminder is not None:
        raise PatchError("What a region writes is measured for weights. Give the patch itself (Row.always()).")
    vanilla = architecture.down_weight(block).detach().double().cpu()
    weights = vanilla, vanilla + _change(model, row, block)
    named = {name: text for name in PROMPTS if (text := getattr(case, name))}
    followed = [name in PROMPTS[:2] and bool(case.unsafe) for name in named]
    prompt, answer, size = (np.full((2, len(named)), np.nan) for _ in range(3))
    for place, text in enumerate(named.values()):
        follows = case.unsafe if followed[place] else None
        encoded = encode(model, text, follows, format.open())
        kept: list[Tensor] = []
        with (
            model.running([VANILLA, row]),
            stopping_before(architecture.final_norm or architecture.unembedding),
            observe_inputs([architecture.down_projections[block]], _into(kept)),
        ):
            model.network(input_ids=model.batch(encoded.tokens, encoded.tokens), use_cache=False)
        # OPT flattens [rows, tokens, d] to [rows * tokens, d] before its MLP.
        inner = kept[0].reshape(2, -1, kept[0].shape[-1]).double().cpu()
        length = len(encoded.prompt)
        # The first token's state is the same for every text and much longer than all others.
        first = 1 if length > 1 else 0
        for side in range(2):
            written = inner[side] @ weights[side].T
            along = written @ (line / line.norm())
            prompt[side, place] = float(along[first:length].mean())
            size[side, place] = float(written[first:length].norm(dim=-1).mean())
            if follows is not None:
                answer[side, place] = float(along[length:].mean())
    model.require_finite("writing of the region", [prompt, size, answer[:, followed]])
    return RegionWriting(block, tuple(named), prompt, answer, size)


def _into(kept: list[Tensor]) -> Callable[[int, Tensor], None]:
    return lambda _position, inner: kept.append(inner)


def _change(model: InspectedModel, row: Row, block: int) -> Tensor | float:
    """Return what a row adds to a block's down-projection, ``[d_model, d_ff]``, or 0."""
    name = model.architecture.down_projection_names[block]
    if row.patch is not None and row.patch.fingerprint != model.fingerprint:
        raise PatchError(f"Patch {row.patch.identifier} was made for another base model. Load that model or edit anew.")
    for delta in row.patch.deltas if row.patch is not None else ():
        if delta.module == name:
            return row.strength * delta.dense().double().cpu()
    return 0.0
