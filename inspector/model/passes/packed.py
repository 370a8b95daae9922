"""Several texts that begin alike in one row: what they share is computed once.

Answers to one prompt differ behind it only, and prompts of one chat template begin with the same system text. A row
holds the shared beginning once and the rest of each text behind it; a mask lets each rest see the beginning and itself,
and positions go on from the beginning for each. So every token's states are what they are in a text of its own, but for
the rounding of sums in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from inspector.model.hooks import stopping_before
from inspector.model.inspected import InspectedModel

WIDEST = (128, 192, 256, 384, 512, 768, 1024)
"""Most tokens of a row that are tried; attention's share of the work grows with it."""
WORTH = 0.9
"""Texts are packed where the work is at most this share of what it is without."""
LIKE = 0.25
"""Share of a text that has to be shared with its row: what is not shared only makes attention longer."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 8e-3}
"""Largest difference of a state from that of the text by itself, as a share of the position's size."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_PACKS: WeakKeyDictionary[InspectedModel, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Row:
    """Consecutive texts that share their first tokens."""

    texts: list[list[int]]
    shared: int

    @property
    def tokens(self) -> int:
        return self.shared + sum(len(text) - self.shared for text in self.texts)


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts in rows; in the order of rows and of counted positions within them, the texts are in their own order.

    Attributes:
        ids: ``[rows, tokens]``, padded on the right.
        mask: ``[rows, 1, tokens, tokens]``, in the model's dtype; added to attention's scores.
        positions: ``[rows, tokens]``, each token's place in its own text.
        counted: The counted positions of each row; one of the shared beginning comes once a text that counts it.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    counted: list[list[int]] = field(repr=False)

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the network is called with beside the ids."""
        return {"attention_mask": self.mask, "position_ids": self.positions}


def packed(
    model: InspectedModel, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]
) -> Packed | None:
    """Pack texts whose beginnings are alike into rows; takes the lock the first time a model packs.

    Args:
        sequences: Token ids of each text.
        counted: Positions of each text whose logits are wanted.

    Returns:
        The rows; ``None`` where it does not pay, or where the family does not compute the same of them: it knows no
        mask of this kind, or no positions, or looks only so far back that it would see less of a long text. That is
        tried once a model, on a few tokens. On a GPU texts are not packed: a pass that is captured takes ids alone.
    """
    texts = [list(ids) for ids in sequences]
    if model.device.type != "cpu" or len(texts) < 2 or max(map(len, texts)) > _reach(model):
        return None
    rows = _cheapest(texts, model.architecture.d_model)
    if rows is None or not _packs(model):
        return None
    return _laid_out(model, rows, counted)


def _reach(model: InspectedModel) -> float:
    """Return how many tokens every layer sees at least."""
    config = model.network.config.get_text_config()
    sizes = [getattr(config, name, None) for name in _WINDOWS]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=float("inf"))


def _work(rows: int, tokens: int, width: int) -> float:
    """Return the work of a batch in units of one token's products: attention adds as much at three times the width."""
    return rows * tokens * (1 + tokens / (3 * width))


def _cheapest(texts: list[list[int]], width: int) -> list[_Row] | None:
    """Return the rows that cost least, ``None`` where none pays."""
    limit = WORTH * _work(len(texts), max(map(len, texts)), width)
    best: list[_Row] | None = None
    for widest in WIDEST:
        rows = _rows(texts, widest)
        work = _work(len(rows), max(row.tokens for row in rows), width)
        if work <= limit:
            best, limit = rows, work
    return best


def _rows(texts: list[list[int]], widest: int) -> list[_Row]:
    """Put texts into rows of at most so many tokens, one after the other, as long as they begin alike."""
    rows: list[_Row] = []
    for text in texts:
        if rows:
            last = rows[-1]
            shared = _common(last.texts[0][: last.shared], text)
            longer = _Row([*last.texts, text], shared)
            if shared >= LIKE * max(map(len, longer.texts)) and longer.tokens <= widest:
                rows[-1] = longer
                continue
        rows.append(_Row([text], len(text)))
    return rows


def _common(first: list[int], second: list[int]) -> int:
    """Return how many tokens two texts share from their start on."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _laid_out(model: InspectedModel, rows: list[_Row], counted: Sequence[Sequence[int]]) -> Packed:
    longest = max(row.tokens for row in rows)
    ids = torch.full((len(rows), longest), model.pad)
    positions = torch.zeros_like(ids)
    seen = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)  # a pad sees itself
    places: list[list[int]] = []
    wanted = iter(counted)
    for number, row in enumerate(rows):
        shared = row.shared
        ids[number, :shared] = torch.tensor(row.texts[0][:shared])
        positions[number, :shared] = torch.arange(shared)
        seen[number, : row.tokens, :shared] = True
        seen[number, :shared, :shared] = torch.ones(shared, shared, dtype=torch.bool).tril()
        start, of_row = shared, list[int]()
        for text in row.texts:
            rest = len(text) - shared
            end = start + rest
            ids[number, start:end] = torch.tensor(text[shared:], dtype=torch.long)
            positions[number, start:end] = torch.arange(shared, len(text))
            seen[number, start:end, start:end] = torch.ones(rest, rest, dtype=torch.bool).tril()
            of_row += [place if place < shared else start + place - shared for place in next(wanted)]
            start = end
        places.append(of_row)
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)
    device = model.device
    return Packed(ids.to(device), mask.unsqueeze(1).to(device), positions.to(device), places)


def _packs(model: InspectedModel) -> bool:
    """Tell whether the vanilla model computes of packed texts what it does of each by itself; tried once a model."""
    if model not in _PACKS:
        with model.lock:
            _PACKS[model] = _tried(model)
    return _PACKS[model]


@torch.no_grad()
def _tried(model: InspectedModel) -> bool:
    """Compare the states behind the last block, of two short texts that begin alike."""
    some = [number % model.architecture.vocabulary for number in range(7, 7 + 13 * 29, 29)]
    texts = [some[:8], [*some[:5], *some[8:]]]
    row = _laid_out(model, [_Row(texts, 5)], [range(len(text)) for text in texts])
    try:
        alone = torch.cat([_states(model, torch.tensor([text], device=model.device), {})[0] for text in texts])
        together = _states(model, row.ids, row.arguments)[0][row.counted[0]]
    except (TypeError, ValueError, RuntimeError, IndexError):  # the family takes no such mask, or no positions
        return False
    size = torch.stack([alone, together]).float().abs().amax(dim=(0, 2)).clamp(min=1e-6)
    error = (alone.float() - together.float()).abs().amax(dim=-1)
    return bool((error <= _TOLERANCE.get(model.dtype, 1e-4) * size).all())


def _states(model: InspectedModel, ids: Tensor, arguments: dict[str, Tensor]) -> Tensor:
    """Return what leaves the last block, ``[rows, tokens, d_model]``."""
    architecture = model.architecture
    end = architecture.final_norm or architecture.unembedding
    found: list[Tensor] = []
    with model.running(), stopping_before(end, found.append):
        model.network(input_ids=ids, use_cache=False, **arguments)
    return found[0]
