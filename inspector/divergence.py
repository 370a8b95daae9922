"""Where the safe and the unsafe answer part: the distance of their block outputs, block by block.

Three presets:

- ``reference``: what the authors' released code computes. Both answers alone (no prompt, no suffix, no
  chat template) as one padded batch; Frobenius norm of the difference of the whole padded slab, pads
  included; for the last block the state after the final norm, which has another scale.
- ``paper``: both answers alone, block outputs only, L2 norm of the difference of the slabs, in which
  padded positions hold zero. The padding side is the alignment: right starts the answers together.
- ``corrected``: both answers after the prompt they answer, mean over response tokens, then L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from inspector.errors import CaseError
from inspector.model.answers.continuation import continue_prompt
from inspector.model.encoding import Encoded, encode, tokenise_whole
from inspector.model.hooks import observe_inputs, observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.passes.captured import batch_of, replayed
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.presets import PRESETS, Preset
from inspector.safeedit.cases import Case

Padding = Literal["right", "left"]
Distance = Literal["l2", "relative", "cosine", "growth"]

DISTANCES: tuple[Distance, ...] = ("l2", "relative", "cosine", "growth")


@dataclass(frozen=True, eq=False)
class Divergence:
    """Distance of the safe and the unsafe answer's block outputs.

    Attributes:
        preset: How it was computed.
        padding: Padding side (``paper`` and ``reference``).
        l2: ``[blocks]`` L2 distance of the pooled states, in the model's activation units.
        relative: ``[blocks]`` L2 distance over the mean norm of the two pooled states; 0 to 2.
        cosine: ``[blocks]`` one minus their cosine; 0 to 2.
        growth: ``[blocks]`` L2 distance minus that of the block before (of the embeddings for block 0).
        token_l2: ``[blocks, tokens]`` L2 distance of the i-th token of one answer and the i-th of the other.
        token_relative: ``[blocks, tokens]`` the same over the mean norm of the two states.
        safe_tokens: Text of the compared tokens of the safe answer.
        unsafe_tokens: Text of the compared tokens of the unsafe answer.
    """

    preset: Preset
    padding: Padding
    l2: np.ndarray
    relative: np.ndarray
    cosine: np.ndarray
    growth: np.ndarray
    token_l2: np.ndarray
    token_relative: np.ndarray
    safe_tokens: tuple[str, ...]
    unsafe_tokens: tuple[str, ...]

    def by(self, distance: Distance) -> np.ndarray:
        """Return the curve ``[blocks]`` of one distance."""
        return getattr(self, distance)

    def toxic_layer(self, distance: Distance = "l2") -> int:
        """Return the block where the distance is largest (DINM's toxic layer for ``l2``)."""
        return int(np.argmax(self.by(distance)))

    def reason(self, distance: Distance = "l2") -> str:
        """Say why that is the toxic layer, in a sentence."""
        return f"The answers part most at layer {self.toxic_layer(distance)} of 0-{len(self.l2) - 1}."


class _Collector:
    """Reduces block outputs to a few numbers as they pass; no state is kept.

    The numbers stay on their devices, of which blocks may have several, until all blocks have run.
    """

    def __init__(self, blocks: int) -> None:
        self._pooled: list[Tensor | None] = [None] * blocks
        self._by_token: list[Tensor | None] = [None] * blocks
        self._embedding: Tensor | float = 0.0

    def pooled(self, block: int, safe: Tensor, unsafe: Tensor) -> None:
        """Take two pooled states of any equal shape."""
        self._pooled[block] = _pooled(safe.flatten(), unsafe.flatten())

    def by_token(self, block: int, safe: Tensor, unsafe: Tensor) -> None:
        """Take the states ``[tokens, d_model]`` of the compared tokens."""
        self._by_token[block] = _by_token(safe, unsafe)

    def embedding(self, safe: Tensor, unsafe: Tensor) -> None:
        """Take the pooled input of block 0."""
        self._embedding = (safe - unsafe).norm()

    def all_blocks(self, safe: Tensor, unsafe: Tensor, shared: int) -> None:
        """Take the states ``[blocks, tokens, d_model]`` of both answers; ``shared`` tokens are compared."""
        self._pooled = list(_pooled(safe.mean(dim=1), unsafe.mean(dim=1)))
        self._by_token = list(_by_token(safe[:, :shared], unsafe[:, :shared]))

    def result(self, preset: Preset, padding: Padding, safe: tuple[str, ...], unsafe: tuple[str, ...]) -> Divergence:
        l2, size, other, product = _together(self._pooled).astype(float).T
        token_l2, token_relative = _together(self._by_token).swapaxes(0, 1)
        return Divergence(
            preset=preset,
            padding=padding,
            l2=l2,
            relative=2 * l2 / np.maximum(size + other, 1e-12),
            cosine=1 - product / np.maximum(size * other, 1e-12),
            growth=np.diff(l2, prepend=float(self._embedding)),
            token_l2=token_l2,
            token_relative=token_relative,
            safe_tokens=safe,
            unsafe_tokens=unsafe,
        )


def _pooled(safe: Tensor, unsafe: Tensor) -> Tensor:
    """Return ``[..., 4]``: distance, both sizes and the product of pooled states ``[..., values]``."""
    sizes = [states.norm(dim=-1) for states in (safe - unsafe, safe, unsafe)]
    return torch.stack([*sizes, (safe * unsafe).sum(dim=-1)], dim=-1)


def _by_token(safe: Tensor, unsafe: Tensor) -> Tensor:
    """Return ``[..., 2, tokens]``: distance, and relative distance, of states ``[..., tokens, d_model]``."""
    distance = (safe - unsafe).norm(dim=-1)
    size = (safe.norm(dim=-1) + unsafe.norm(dim=-1)) / 2
    return torch.stack([distance, distance / size.clamp(min=1e-12)], dim=-2)


def _together(values: Sequence[Tensor | None]) -> np.ndarray:
    """Return float32 values of every block as ``[blocks, ...]``; one wait for a device."""
    found = [value for value in values if value is not None]
    return torch.stack([value.to(found[0].device) for value in found]).cpu().numpy()


def check_padding(padding: Padding) -> None:
    """Check a padding side.

    Raises:
        CaseError: It is unknown.
    """
    if padding not in get_args(Padding):
        raise CaseError(f"Unknown padding side '{padding}'. Valid sides: {', '.join(get_args(Padding))}.")


def divergence(
    model: InspectedModel,
    case: Case,
    preset: Preset = "corrected",
    *,
    row: Row = VANILLA,
    padding: Padding = "right",
    masked: bool = False,
    format: PromptFormat = PromptFormat(),
) -> Divergence:
    """Measure how far the two answers of a case are apart after every block.

    Args:
        case: Its adversarial prompt (``corrected`` only), safe and unsafe answer.
        preset: See the module's text.
        row: Weights to run with; vanilla by default.
        padding: Padding side of ``paper`` and ``reference``; ``corrected`` has no padding.
        masked: Count in ``reference`` only the positions where both answers have a token, which the released code
            does not do.
        format: Suffix and chat template of ``corrected``; its answers are compared without the end of a turn.

    Raises:
        CaseError: An answer is empty, both are the same, or the preset or the padding side is unknown.
        PromptError: The prompt is empty, or it or an answer is too long.
        NotFinite: A distance is not a finite number, so that no layer can be told from it.
    """
    case.require_answers()
    check_padding(padding)
    if preset == "corrected":
        found = _corrected(model, case, row, format.open())
    elif preset in ("paper", "reference"):
        found = _answers_alone(model, case, preset, row, padding, masked)
    else:
        raise CaseError(f"Unknown preset '{preset}'. Valid presets: {', '.join(PRESETS)}.")
    model.require_finite("divergence", (*map(found.by, DISTANCES), found.token_l2, found.token_relative))
    return found


def _corrected(model: InspectedModel, case: Case, row: Row, format: PromptFormat) -> Divergence:
    safe = encode(model, case.adversarial_prompt, case.safe, format)
    unsafe = encode(model, case.adversarial_prompt, case.unsafe, format)
    lengths = len(safe.response), len(unsafe.response)
    shared = min(lengths)
    collector = _Collector(model.blocks)

    def on_block(block: int, states: Tensor) -> None:
        one, two = states[0, : lengths[0]].float(), states[1, : lengths[1]].float()
        collector.pooled(block, one.mean(dim=0), two.mean(dim=0))
        collector.by_token(block, one[:shared], two[:shared])

    def on_embedding(states: Tensor) -> None:
        one, two = states[0, : lengths[0]].float(), states[1, : lengths[1]].float()
        collector.embedding(one.mean(dim=0), two.mean(dim=0))

    if row != VANILLA or not _seen_whole(model, safe, unsafe, collector):
        continue_prompt(
            model, safe.prompt, (safe.response, unsafe.response), (row,), on_block=on_block, on_embedding=on_embedding
        )
    return collector.result(
        "corrected",
        "right",
        model.token_texts(safe.response[:shared]),
        model.token_texts(unsafe.response[:shared]),
    )


@torch.no_grad()
def _seen_whole(model: InspectedModel, safe: Encoded, unsafe: Encoded, collector: _Collector) -> bool:
    """Take the states from a captured pass over both whole sequences; ``False`` where passes are not captured."""
    with model.lock:
        seen = replayed(model, batch_of(model, (safe.tokens, unsafe.tokens)))
        if seen is None:
            return False
        start = len(safe.prompt)
        one, two = (
            torch.stack([states[row, start : start + len(each.response)] for states in seen.outputs.values()]).float()
            for row, each in enumerate((safe, unsafe))
        )
        collector.all_blocks(one, two, min(one.shape[1], two.shape[1]))
        args, kwargs = seen.calls[0]
        entering = args[0] if args else kwargs["hidden_states"]
        first, second = (
            entering[row, start : start + len(each.response)].float().mean(dim=0)
            for row, each in enumerate((safe, unsafe))
        )
        collector.embedding(first, second)
    return True


@torch.no_grad()
def _answers_alone(
    model: InspectedModel, case: Case, preset: Preset, row: Row, padding: Padding, masked: bool
) -> Divergence:
    architecture = model.architecture
    answers = [tokenise_whole(model, text, "answer") for text in (case.safe, case.unsafe)]
    longest = max(map(len, answers))
    pad = model.tokenizer.eos_token_id or 0  # as the released code pads, whatever the tokenizer's own pad is
    reference = preset == "reference"
    # `reference` runs the padded batch as it is. `paper` runs it padded on the right, where no real
    # position sees a pad, and moves the states to the asked-for side afterwards.
    left_input = reference and padding == "left"
    filled, masks = [], []
    for ids in answers:
        pads = longest - len(ids)
        filled.append([pad] * pads + ids if left_input else ids + [pad] * pads)
        masks.append([0] * pads + [1] * len(ids) if left_input else [1] * len(ids) + [0] * pads)
    collector = _Collector(model.blocks)

    def slabs(states: Tensor) -> tuple[Tensor, Tensor]:
        states = states.float()
        if reference:
            if masked:
                shared = torch.tensor(masks, device=states.device).prod(dim=0)
                states = states * shared.unsqueeze(-1)
            return states[0], states[1]
        arranged = torch.zeros_like(states)
        for index, ids in enumerate(answers):
            place = slice(longest - len(ids), longest) if padding == "left" else slice(0, len(ids))
            arranged[index, place] = states[index, : len(ids)]
        return arranged[0], arranged[1]

    def on_state(block: int, states: Tensor) -> None:
        safe, unsafe = slabs(states)
        collector.pooled(block, safe, unsafe)
        collector.by_token(block, safe, unsafe)

    def on_embedding(_position: int, states: Tensor) -> None:
        safe, unsafe = slabs(states)
        collector.embedding(safe, unsafe)

    watched = list(architecture.blocks)
    if reference:  # what `hidden_states[-1]` holds
        watched[-1] = architecture.project_out or architecture.final_norm or watched[-1]
    with (
        model.running([row, row]),
        stopping_before(architecture.unembedding),
        observe_outputs(watched, on_state),
        observe_inputs(architecture.blocks[:1], on_embedding),
    ):
        model.network(
            input_ids=torch.tensor(filled, device=model.device),
            attention_mask=torch.tensor(masks, device=model.device) if reference else None,
            use_cache=False,
        )

    def labels(ids: list[int]) -> tuple[str, ...]:
        texts = list(model.token_texts(ids))
        pads = ["(pad)"] * (longest - len(ids))
        return tuple(pads + texts if padding == "left" else texts + pads)

    return collector.result(preset, padding, labels(answers[0]), labels(answers[1]))
