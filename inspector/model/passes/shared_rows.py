"""Several texts that begin alike in one row: what they share is computed once.

Answers to one prompt differ behind it only, and prompts of one chat template begin with the same system text. A row
holds the shared beginning once and the rest of each text behind it; a mask lets each rest see the beginning and itself,
and positions go on from the beginning for each. So every token's states are what they are in a text of its own, but for
the rounding of sums in another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from inspector.model.hooks import stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import ran_out

WIDEST = (128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
"""Most tokens of a row that are tried; attention's share of the work grows with it."""
MOST_MASK = 2**26
"""Bytes that the masks of all rows may take."""
WORTH = 0.9
"""Texts share rows where the work is at most this share of what it is without."""
LIKE = 0.25
"""Share of a text that its row has to have already: what is not shared only makes attention longer."""
TRIED = 40
"""Tokens of the longest text on which a family is tried."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 8e-3}
"""Largest difference of a state from that of the text by itself, as a share of the position's size."""
TOLD_APART = 10
"""In half precision, without the mask or without the positions it has to be this many times as large."""
_REFUSED = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
"""What a family raises that takes no such mask, or no positions."""
_COMPUTES_THE_SAME: WeakKeyDictionary[InspectedModel, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Alike:
    """Consecutive texts that share their first tokens: one row.

    Attributes:
        texts: Token ids of each.
        shared: How many of the first tokens they share.
    """

    texts: tuple[tuple[int, ...], ...]
    shared: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Alike:
        """Return the row of texts that share what all of them begin with; a text alone is all shared."""
        return cls(tuple(map(tuple, texts)), min(_common(texts[0], text) for text in texts))

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.shared + sum(len(text) - self.shared for text in self.texts)

    @property
    def rests(self) -> list[slice]:
        """Where the rest of each text stands in the row, behind what all of them share."""
        ends = list(itertools.accumulate((len(text) - self.shared for text in self.texts), initial=self.shared))
        return [slice(start, end) for start, end in itertools.pairwise(ends)]

    def places(self, counted: Sequence[Sequence[int]]) -> list[int]:
        """Return where the counted positions of each text stand in the row, text after text.

        One of the shared beginning comes once for each text that counts it.
        """
        found: list[int] = []
        for rest, wanted in zip(self.rests, counted, strict=True):
            found += [place if place < self.shared else rest.start + place - self.shared for place in wanted]
        return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts in rows, in their own order.

    Attributes:
        ids: ``[rows, tokens]``, padded on the right.
        mask: ``[rows, 1, tokens, tokens]``, in the model's dtype; added to attention's scores.
        positions: ``[rows, tokens]``, each token's place in its own text.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the network is called with beside the ids."""
        return {"attention_mask": self.mask, "position_ids": self.positions}


def shared_rows(model: InspectedModel, sequences: Sequence[Sequence[int]]) -> list[Alike] | None:
    """Return which texts of one batch share a row; takes the lock the first time that a model is asked.

    Args:
        sequences: Token ids of each text.

    Returns:
        The rows; ``None`` where sharing does not pay, or the family does not compute the same of shared rows: it knows
        no mask of this kind, or no positions, or looks back only so far that it would see less of a long text. That is
        tried once a model, on a few short texts. Sharded, offloaded and quantised models and those on a GPU, where a
        pass that is captured takes ids alone, do not share.
    """
    texts = [tuple(ids) for ids in sequences]
    if not _is_plain(model) or len(texts) < 2 or max(map(len, texts)) > _reach(model):
        return None
    rows = _cheapest(texts, model)
    return None if rows is None or not _computes_the_same(model) else rows


def batched(model: InspectedModel, texts: Sequence[Sequence[int]], most: int) -> list[list[list[int]]]:
    """Return which texts run together: batches of rows, each row the numbers of its texts.

    Texts that begin alike share rows where all batches cost less for it, else each is a row of its own; rows of similar
    length are a batch. As many texts as one batch has are one.

    Args:
        texts: Token ids of each.
        most: How many texts as long as the longest one batch may have.
    """
    sharing = can_share(model)
    order = sorted(range(len(texts)), key=lambda n: tuple(texts[n]) if sharing else (len(texts[n]),))

    def apart(numbers: Sequence[int]) -> list[list[list[int]]]:
        batches = _in_batches([len(texts[n]) for n in numbers], lambda _: most)
        return [[[numbers[place]] for place in batch] for batch in batches]

    if len(texts) <= most:
        rows = shared_rows(model, [texts[n] for n in order])
        return [[[n] for n in order] if rows is None else _numbered(rows, order)] if texts else []
    near = [n for n in order if sharing and len(texts[n]) <= _reach(model)]
    alike = [tuple(texts[n]) for n in near]
    rows = _cheapest(alike, model, most) if len(near) > 1 else None
    if rows is None:
        return apart(order)
    numbers = _numbered(rows, near)
    batches = _in_batches([row.tokens for row in rows], _room(alike, model, most))
    far = [n for n in order if len(texts[n]) > _reach(model)]
    return [[numbers[place] for place in batch] for batch in batches] + apart(far)


def _numbered(rows: Sequence[Alike], order: Sequence[int]) -> list[list[int]]:
    """Return the numbers of each row's texts, which come in this order."""
    left = iter(order)
    return [[next(left) for _ in row.texts] for row in rows]


def can_share(model: InspectedModel) -> bool:
    """Tell whether texts of this model share rows where that pays, see :func:`shared_rows`."""
    return _is_plain(model) and _reach(model) > 0 and _computes_the_same(model)


def _is_plain(model: InspectedModel) -> bool:
    return model.device.type == "cpu" and model.on_one_device and model.quantisation is None


def counted_in(rows: Sequence[Alike], counted: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the counted positions of each row; row after row they are those of the texts in their order."""
    left = iter(counted)
    return [row.places([next(left) for _ in row.texts]) for row in rows]


def laid_out(model: InspectedModel, rows: Sequence[Alike]) -> Rows:
    """Lay rows out for the network."""
    longest = max(row.tokens for row in rows)
    ids = torch.full((len(rows), longest), model.pad)
    positions = torch.zeros_like(ids)
    unseen = torch.finfo(model.dtype).min
    mask = torch.full((len(rows), 1, longest, longest), unseen, dtype=model.dtype)
    mask.diagonal(dim1=-2, dim2=-1).zero_()  # a pad sees itself
    for number, row in enumerate(rows):
        shared, seen = row.shared, mask[number, 0]
        seen[: row.tokens, :shared] = 0
        seen[:shared, :shared] = _causal(shared, mask)
        ids[number, :shared] = torch.tensor(row.texts[0][:shared])
        positions[number, :shared] = torch.arange(shared)
        for text, rest in zip(row.texts, row.rests, strict=True):
            seen[rest, rest] = _causal(rest.stop - rest.start, mask)
            ids[number, rest] = torch.tensor(text[shared:], dtype=torch.long)
            positions[number, rest] = torch.arange(shared, len(text))
    return Rows(ids.to(model.device), mask.to(model.device), positions.to(model.device))


def _causal(tokens: int, like: Tensor) -> Tensor:
    """Return what hides the tokens behind each, ``[tokens, tokens]``."""
    hidden = torch.full((tokens, tokens), torch.finfo(like.dtype).min, dtype=like.dtype)
    return hidden.triu(diagonal=1)


def _reach(model: InspectedModel) -> float:
    """Return how many tokens every layer sees at least."""
    config = model.network.config.get_text_config()
    if getattr(config, "window_size", None):  # GPT-Neo's: a band of its own over rows, whatever the mask says
        return 0
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=float("inf"))


def _work(rows: int, tokens: int, width: int) -> float:
    """Return the work of a batch in units of one token's products: attention adds as much at three times the width."""
    return rows * tokens * (1 + tokens / (3 * width))


def _room(texts: Sequence[Sequence[int]], model: InspectedModel, most: int) -> Callable[[int], int]:
    """Return how many rows of so many tokens a batch may have: no more tokens than texts apart, nor masks too large."""
    tokens = most * max(map(len, texts))
    return lambda length: min(most, tokens // length, MOST_MASK // (length**2 * model.dtype.itemsize))


def _in_batches(lengths: Sequence[int], room: Callable[[int], int]) -> list[list[int]]:
    """Put rows of similar length into batches: their numbers, the longest last; one at least.

    Args:
        room: How many rows of so many tokens a batch may have.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and len(batches[-1]) < room(lengths[number]):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _cheapest(texts: Sequence[tuple[int, ...]], model: InspectedModel, most: int | None = None) -> list[Alike] | None:
    """Return the rows that cost least, ``None`` where none pays.

    Args:
        most: How many texts as long as the longest one batch may have; all rows are one batch by default.
    """
    width = model.architecture.d_model
    at_once = len(texts) if most is None else most

    def work(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
        return sum(_work(len(batch), lengths[batch[-1]], width) for batch in batches)

    lengths = list(map(len, texts))
    limit = WORTH * work(lengths, _in_batches(lengths, lambda _: at_once))
    room = _room(texts, model, at_once)
    best: list[Alike] | None = None
    for widest in WIDEST:
        rows = _grouped(texts, widest)
        lengths = [row.tokens for row in rows]
        batches = _in_batches(lengths, room)
        fit = all(room(row.tokens) for row in rows if len(row.texts) > 1) and (most is not None or len(batches) == 1)
        needed = work(lengths, batches)
        if fit and needed <= limit:
            best, limit = rows, needed
    return best


def _grouped(texts: Sequence[tuple[int, ...]], widest: int) -> list[Alike]:
    """Put texts into rows of at most so many tokens, one after the other, as long as they begin alike."""
    rows: list[Alike] = []
    for text in texts:
        if rows:
            last = rows[-1]
            longer = Alike((*last.texts, text), _common(last.texts[0][: last.shared], text))
            if longer.shared >= LIKE * max(map(len, longer.texts)) and longer.tokens <= widest:
                rows[-1] = longer
                continue
        rows.append(Alike((text,), len(text)))
    return rows


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts share from their start on."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _computes_the_same(model: InspectedModel) -> bool:
    """Tell whether the vanilla model computes of shared rows what it does of each text alone; tried once a model."""
    with model.lock:
        if model not in _COMPUTES_THE_SAME:
            _COMPUTES_THE_SAME[model] = _tried(model)
    return _COMPUTES_THE_SAME[model]


@torch.no_grad()
def _tried(model: InspectedModel) -> bool:
    """Compare the states behind the last block, of two rows of two texts each.

    In half precision a difference within the tolerance could be a mask or positions that the family does not heed:
    leaving out either has to show.
    """
    rows = _some_rows(model)
    texts = [text for row in rows for text in row.texts]
    every = [range(len(text)) for text in texts]
    shared = laid_out(model, rows)

    def states(arguments: dict[str, Tensor]) -> Tensor:
        found = _states(model, shared.ids, arguments)
        pairs = zip(found, counted_in(rows, every), strict=True)
        return torch.cat([of_row[places] for of_row, places in pairs]).float()

    batch = _states(model, model.batch(*texts), {})
    alone = torch.cat([of_text[: len(text)] for of_text, text in zip(batch, texts, strict=True)]).float()
    try:
        differs = _difference(alone, states(shared.arguments))
        if not differs <= TOLERANCE.get(model.dtype, 1e-4):
            return False
        if model.dtype == torch.float32:
            return True
    except _REFUSED as error:  # the family takes no such mask, or no positions
        if ran_out(error):
            raise
        return False

    def shows(left_out: str) -> bool:
        kept = {name: value for name, value in shared.arguments.items() if name != left_out}
        try:
            return _difference(alone, states(kept)) >= TOLD_APART * differs
        except _REFUSED as error:  # it is not without effect
            if ran_out(error):
                raise
            return True

    return all(map(shows, shared.arguments))


def _some_rows(model: InspectedModel) -> list[Alike]:
    """Return rows of made-up texts that every layer sees whole."""
    most = min(TRIED, _reach(model), getattr(model.network.config.get_text_config(), "max_position_embeddings", TRIED))
    numbers = torch.randint(model.architecture.vocabulary, (8, TRIED), generator=torch.Generator().manual_seed(0))
    drawn = [tuple(line) for line in numbers.tolist()]
    longer, shorter = int(most) * 5 // 8, int(most) // 4
    rests = ((longer, 3, int(most) - longer), (shorter, int(most) // 2, 4))
    return [
        Alike(tuple(drawn[4 * n][:begins] + drawn[4 * n + 1 + m][:rest] for m, rest in enumerate(each)), begins)
        for n, (begins, *each) in enumerate(rests)
    ]


def _difference(alone: Tensor, together: Tensor) -> float:
    """Return the largest difference of ``[positions, d_model]``, as a share of each position's size."""
    size = torch.stack([alone, together]).abs().amax(dim=(0, 2)).clamp(min=1e-6)
    return float(((alone - together).abs().amax(dim=-1) / size).max())


def _states(model: InspectedModel, ids: Tensor, arguments: dict[str, Tensor]) -> Tensor:
    """Return what leaves the last block, ``[rows, tokens, d_model]``."""
    architecture = model.architecture
    found: list[Tensor] = []
    with model.running(), stopping_before(architecture.final_norm or architecture.unembedding, found.append):
        model.network(input_ids=ids, use_cache=False, **arguments)
    return found[0]
