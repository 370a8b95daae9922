"""The logit lens: what each block's output would say if the model stopped there.

The block's output goes through the final norm and the unembedding (nostalgebraist, "interpreting GPT: the logit
lens", 2020). At the last block this is the model's own prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.errors import PromptError
from inspector.model.encoding import encode
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat


@dataclass(frozen=True, eq=False)
class Lens:
    """Predictions of every block's output at some positions of one text, for one row of weights.

    Attributes:
        positions: The positions, each predicting the token after it.
        tokens: Text of the token at each position.
        following: Text of the token that really follows, empty after the last one.
        top: ``[blocks, positions, top]`` ids of the likeliest next tokens, likeliest first.
        words: Text of the likeliest one, block by block and position by position.
        probability: ``[blocks, positions, top]`` their probabilities, 0 to 1.
        rank: ``[blocks, positions]`` rank of the token that really follows, 0 for the likeliest; -1 where none does.
        final: ``[positions, vocabulary]`` log-probabilities after the last block.
        prompt_tokens: How many tokens of the text belong to the prompt.
    """

    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    following: tuple[str, ...]
    top: np.ndarray
    words: tuple[tuple[str, ...], ...]
    probability: np.ndarray
    rank: np.ndarray
    final: np.ndarray
    prompt_tokens: int


def lens_positions(prompt: int, answer: int, before: int = 4, after: int = 16) -> range:
    """Return the positions worth reading: the end of the prompt and the start of the answer."""
    return range(max(0, prompt - before), min(prompt + answer, prompt + after))


@torch.no_grad()
def logit_lens(
    model: InspectedModel,
    text: str,
    answer: str,
    rows: Sequence[Row] = (VANILLA,),
    *,
    positions: Sequence[int] | None = None,
    top: int = 5,
    format: PromptFormat = PromptFormat(),
) -> list[Lens]:
    """Read every block's output on a prompt with an answer.

    Args:
        text: The user's text, without suffix.
        answer: The answer that follows it.
        rows: The weights; all run in one batch.
        positions: Positions to read; by default the last four of the prompt and the first 16 of the answer.
        top: How many likeliest tokens to keep.

    Returns:
        One lens a row.

    Raises:
        PromptError: Empty or too long texts, or a position that the text does not have.
        NotFinite: A probability of some block, or a log-probability after the last one, is not a finite number.
    """
    encoded = encode(model, text, answer, format=format.open())
    ids = encoded.tokens
    chosen = tuple(lens_positions(len(encoded.prompt), len(encoded.response)) if positions is None else positions)
    if not chosen or min(chosen) < 0 or max(chosen) >= len(ids):
        raise PromptError(f"The text has positions 0 to {len(ids) - 1}. Choose some of those.")
    top = min(top, model.architecture.vocabulary)
    shape = (len(rows), model.blocks, len(chosen))
    found, likely = np.zeros((*shape, top), dtype=np.int64), np.zeros((*shape, top), dtype=np.float32)
    rank = np.full(shape, -1, dtype=np.int64)
    final: list[Tensor] = []
    following = [ids[position + 1] if position + 1 < len(ids) else -1 for position in chosen]
    places = torch.tensor(chosen)

    def on_block(block: int, states: Tensor) -> None:
        for number in range(len(rows)):
            logits = model.architecture.logits(states[number, places.to(states.device)])
            scored = logits.float().log_softmax(dim=-1)
            best = scored.topk(top, dim=-1)
            found[number, block] = best.indices.cpu().numpy()
            likely[number, block] = best.values.exp().cpu().numpy()
            wanted = torch.tensor(following, device=scored.device).clamp(min=0).unsqueeze(-1)
            above = (scored > scored.gather(-1, wanted)).sum(dim=-1).cpu().numpy()
            rank[number, block] = np.where(np.array(following) >= 0, above, -1)
            if block == model.architecture.last_block:
                final.append(scored.cpu())

    architecture = model.architecture
    with (
        model.running(rows),
        stopping_before(architecture.final_norm or architecture.unembedding),
        observe_outputs(architecture.blocks, lambda n, x: states_of.__setitem__(n, x)),
    ):
        states_of: dict[int, Tensor] = {}
        model.network(input_ids=model.batch(*[ids] * len(rows)), use_cache=False)
    with model.lock:
        for block in range(model.blocks):
            on_block(block, states_of.pop(block))
    model.require_finite("logit lens", [likely, *final])
    texts = model.token_texts([ids[position] for position in chosen])
    after = tuple(model.token_texts([token])[0] if token >= 0 else "" for token in following)
    known = {int(token): model.token_texts([int(token)])[0] for token in np.unique(found[..., 0])}
    return [
        Lens(
            positions=chosen,
            tokens=texts,
            following=after,
            top=found[n],
            words=tuple(tuple(known[int(token)] for token in line) for line in found[n, :, :, 0]),
            probability=likely[n],
            rank=rank[n],
            final=final[n].numpy(),
            prompt_tokens=len(encoded.prompt),
        )
        for n in range(len(rows))
    ]


@dataclass(frozen=True)
class Peak:
    """A token that some block's output makes likely at one position.

    Attributes:
        token: Its text.
        block: The block where it is likeliest.
        probability: Its probability there.
        edited: Whether that is with the edited weights, which make it likelier than vanilla does at any block.
        rank_before: Its rank after the last block, vanilla, 0 for the likeliest.
        rank_after: The same, edited.
    """

    token: str
    block: int
    probability: float
    edited: bool
    rank_before: int
    rank_after: int

    @property
    def arrow(self) -> str:
        """Whether the edit moved it up, down or not at all."""
        return "↑" if self.rank_after < self.rank_before else "↓" if self.rank_after > self.rank_before else "="


def peaks(model: InspectedModel, before: Lens, after: Lens, place: int, least: float = 0.05) -> list[Peak]:
    """List the tokens that are among the likeliest at any block of either, and what the edit did to their final rank.

    Args:
        before: Vanilla lens.
        after: Edited lens of the same text.
        place: Which of the lenses' positions, counted from 0.
        least: Probability that a token must reach at some block.

    Returns:
        The tokens by the block of their peak, then by probability.
    """
    best: dict[int, tuple[float, int, bool]] = {}
    for edited, lens in enumerate((before, after)):
        for block in range(lens.top.shape[0]):
            for token, probability in zip(lens.top[block, place], lens.probability[block, place], strict=True):
                if probability >= least and probability > best.get(int(token), (0.0, 0, False))[0]:
                    best[int(token)] = (float(probability), block, bool(edited))
    ranked = {
        token: tuple(int((lens.final[place] > lens.final[place, token]).sum()) for lens in (before, after))
        for token in best
    }
    found = [
        Peak(model.token_texts([token])[0], block, probability, edited, *ranked[token])
        for token, (probability, block, edited) in best.items()
    ]
    return sorted(found, key=lambda peak: (peak.block, -peak.probability))
