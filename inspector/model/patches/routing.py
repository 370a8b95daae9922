"""Edits that act only where a detector fires: decided once for each prompt, before the first token of its answer.

Where the detector fires the patch's weights answer, else the vanilla ones, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from inspector.errors import PatchError
from inspector.model.hooks import observe_inputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.memory.halving import halved, when_memory_runs_out
from inspector.model.memory.recent import Recent, named
from inspector.model.passes.shared_rows import Alike, batched, laid_out
from inspector.model.patches.detector import Detector, DetectorReading
from inspector.model.patches.patch import VANILLA, Row

AT_ONCE = 12
"""Most prompts of one forward pass; where prompts share rows, most rows of it, of no more tokens."""
MOST_KEPT = 134
"""Prompts whose states are kept of a model, those read last: the bundled ones of the gate's exam in two formats."""
_KEPT: WeakKeyDictionary[InspectedModel, Recent[str, Tensor]] = WeakKeyDictionary()
when_memory_runs_out(_KEPT.clear)


@dataclass(frozen=True)
class Decision:
    """What answers a prompt, and why.

    Attributes:
        weights: The row without its detector, or vanilla where that does not fire.
        held_back: Whether it does not.
        reading: What it reads of the prompt; ``None`` of a row without one.
    """

    weights: Row
    held_back: bool = False
    reading: DetectorReading | None = None


def decided(model: InspectedModel, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[Row]:
    """Return the weights that each prompt is answered with, those of its :func:`decisions`."""
    return [decision.weights for decision in decisions(model, prompts, rows)]


def decisions(
    model: InspectedModel, prompts: Sequence[Sequence[int]], rows: Sequence[Row], keep: Sequence[bool] = ()
) -> list[Decision]:
    """Return what answers each prompt: a routed row's patch where its detector fires.

    Args:
        prompts: Token ids of each prompt.
        rows: The row that each prompt asks for; those without a detector stay as they are.
        keep: Whether to keep what is read of each prompt, as :func:`scores` does; of none by default.

    Raises:
        PatchError: A detector was made for another base model.
        NotFinite: A score is not a finite number.
    """
    found = list(map(Decision, rows))
    for detector in dict.fromkeys(row.detector for row in rows if row.detector is not None):
        asking = [n for n, row in enumerate(rows) if row.detector is detector]
        different = list(dict.fromkeys(tuple(prompts[n]) for n in asking))
        kept = {tuple(prompts[n]) for n in asking if keep and keep[n]}
        scored = scores(model, detector, different, [prompt in kept for prompt in different])
        of = dict(zip(different, scored, strict=True))
        for n in asking:
            score = of[tuple(prompts[n])]
            fires = detector.fires(score)
            weights = rows[n].always() if fires else VANILLA
            found[n] = Decision(weights, not fires, DetectorReading(score, detector.threshold))
    return found


def scores(
    model: InspectedModel, detector: Detector, prompts: Sequence[Sequence[int]], keep: Sequence[bool] = ()
) -> list[float]:
    """Return a detector's score of each prompt, token ids as the model gets them.

    Args:
        keep: Whether to keep what was read of each prompt, for others who ask it by detectors of the same blocks and
            windows; of none by default.

    Raises:
        PatchError: The detector was made for another base model.
    """
    if model.fingerprint != detector.fingerprint:
        raise PatchError(
            f"The detector was made for another base model ({detector.fingerprint}, this is {model.fingerprint}). "
            "Calibrate this model."
        )
    of = detector.blocks, detector.window, detector.stride
    kept = _KEPT.setdefault(model, Recent(MOST_KEPT)) if any(keep) else Recent[str, Tensor](0)
    names = [named(of, tuple(prompt)) for prompt in prompts]
    known = {n: kept.get(name) for n, name in enumerate(names)}
    means = {n: found for n, found in known.items() if found is not None}
    fresh = [n for n in range(len(prompts)) if n not in means]
    for number, states in mlp_inputs(model, detector.blocks, [prompts[n] for n in fresh]):
        n = fresh[number]
        means[n] = windows(states, detector.window, detector.stride).flatten(1)
        if keep and keep[n]:
            kept[names[n]] = means[n]
    return detector.scores([means[n] for n in range(len(prompts))])


def windows(values: Tensor, window: int, stride: int) -> Tensor:
    """Return ``[windows, ...]``, the means over windows of values ``[tokens, ...]``; the last one ends with them."""
    length = len(values)
    if length <= window:
        return values.mean(dim=0, keepdim=True)
    found = values.unfold(0, window, stride).mean(dim=-1)
    if (length - window) % stride:
        found = torch.cat([found, values[-window:].mean(dim=0, keepdim=True)])
    return found


def mlp_inputs(
    model: InspectedModel, blocks: Sequence[int], prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Tensor]]:
    """Yield each prompt's number and ``[tokens, blocks, d_model]`` float32: what enters the blocks' MLPs.

    Prompts that begin alike share rows where that pays (:mod:`inspector.model.passes.shared_rows`), rows of similar
    length a batch; the forward pass ends where the MLP of the last of the blocks begins.
    """
    architecture = model.architecture
    entries = [next(iter(architecture.mlp_projections(block).values())) for block in blocks]
    end = entries[blocks.index(max(blocks))]
    row_of: dict[int, int] = {}

    def entering(chosen: Sequence[int]) -> list[Callable[[], Tensor]]:
        texts, seen = [prompts[n] for n in chosen], dict[int, Tensor]()
        rows = [Alike.of([prompts[n] for n in row]) for _, row in groupby(chosen, row_of.__getitem__)]
        whole = laid_out(model, rows) if len(rows) < len(texts) else None
        ids = model.batch(*texts) if whole is None else whole.ids
        # What is observed last has to be seen before the pass ends there.
        with torch.no_grad(), model.running(), observe_inputs(entries, seen.__setitem__), stopping_before(end):
            model.network(input_ids=ids, use_cache=False, **({} if whole is None else whole.arguments))
        # OPT flattens [rows, tokens, d] to [rows * tokens, d] before its MLP.
        states = [seen[n].reshape(len(ids), -1, seen[n].shape[-1]) for n in range(len(blocks))]
        # Gathered text by text, as each one is a copy of all that its row shares.
        return [
            partial(_of_text, states, number, row.shared, rest) for number, row in enumerate(rows) for rest in row.rests
        ]

    size = prompts_that_fit(model, max(map(len, prompts), default=0), 1, AT_ONCE)
    for batch in batched(model, prompts, size):
        row_of.update({n: number for number, row in enumerate(batch) for n in row})
        chosen = [n for row in batch for n in row]
        for number, states in zip(chosen, halved(entering, chosen), strict=True):
            yield number, states()


def _of_text(states: Sequence[Tensor], row: int, shared: int, rest: slice) -> Tensor:
    """Return ``[tokens, blocks, d_model]`` float32 of a text from what each block has of its row."""
    parts = [torch.cat([each[row, :shared], each[row, rest]]).float() for each in states]
    # Blocks may lie on different devices.
    return torch.stack([part.to(parts[0].device) for part in parts], dim=1)
