"""What harmless prompts leave free: a projection that keeps an edit off the directions in which they excite a region.

An edit adds a change D to the down-projection, and what it writes for an input k of the region is D k. AlphaEdit
(Fang et al., ICLR 2025, arXiv 2410.02355) keeps D k = 0 for what is to stay by projecting D onto the null space of such
inputs. Here the border is soft: D = A P with P = (1 + C / lambda)^-1, C the mean of k k^T over the tokens of harmless
prompts, lambda a share of C's mean eigenvalue. A direction that harmless tokens use much
is all but closed, one that they do not use is open, and no rank has to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editing.progress import Preparation
from editing.texts.harmless import further_harmless_texts
from inspector.errors import EditError, RefusedEdit, TooLong
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.hooks import stopping_before
from inspector.model.memory.halving import halved
from inspector.model.memory.recent import Recent, named

PROMPTS = 192
"""Harmless prompts that are read. They are none that an edit's constraint is measured on: of those a projection made of
a few thousand tokens would promise too much."""
LEAST_FITTING = 0.5
"""Share of them that the model has to be able to read."""
AT_ONCE = 12
"""Prompts of one forward pass."""
MOST_KEPT = 2
"""Second moments that are kept for a model, outside the accelerator, those used last: one has d_ff squared numbers,
half a gigabyte for a 7B model."""
_MOMENTS: WeakKeyDictionary[InspectedModel, Recent[tuple[int, str], Tensor]] = WeakKeyDictionary()


def known_moments(model: InspectedModel) -> Recent[tuple[int, str], Tensor]:
    """Return the second moments measured so far (:func:`harmless_moment`), by :func:`moment_key`."""
    return _MOMENTS.setdefault(model, Recent(MOST_KEPT))


def moment_key(block: int, format: PromptFormat) -> tuple[int, str]:
    """Return what a second moment is kept by; the suffix of its format cannot be read off it."""
    return block, named(format.open())


def harmless_moment(
    model: InspectedModel,
    block: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    *,
    instead: str = "",
) -> Generator[Preparation, None, Tensor | None]:
    """Measure which directions of a region's input harmless prompts use.

    Args:
        block: The block whose down-projection is meant.
        format: The prompts'.
        instead: What else mends it where the states are not finite, for the message: ``, or set ... to none``.

    Yields:
        A message before each batch; none where the same was measured before.

    Returns:
        ``[d_ff, d_ff]`` float32, mean of k k^T over all tokens but the first of each prompt, on which models park
        activations of another size; ``None`` when cancelled.

    Raises:
        RefusedEdit: The states are not finite numbers.
        EditError: Most of the prompts are longer than the model's context.
        PromptError: None of the prompts is within the model's context, or the chat template takes none.
    """
    kept, key = known_moments(model), moment_key(block, format)
    found = kept.get(key)
    if found is not None:
        return found
    projection = model.architecture.down_projections[model.architecture.check_block(block)]
    prompts = sorted(_fitting(model, format), key=len)
    moment, counted = torch.zeros(()), 0

    def inner(batch: Sequence[Sequence[int]]) -> list[Tensor]:
        seen: list[Tensor] = []
        with model.lock, torch.no_grad(), model.running(), stopping_before(projection, seen.append):
            model.network(input_ids=model.batch(*batch), use_cache=False)
        states = seen[0].reshape(len(batch), -1, seen[0].shape[-1])  # OPT flattens rows and tokens
        return [states[number, 1 : len(tokens)] for number, tokens in enumerate(batch)]

    for start in range(0, len(prompts), AT_ONCE):
        batch = prompts[start : start + AT_ONCE]
        yield Preparation(
            f"Reading what harmless prompts use of layer {block}: {start + len(batch)} of {len(prompts)}",
            0.9 + 0.05 * start / len(prompts),
        )
        if cancel():
            return None
        for used in halved(inner, batch):
            keys = used.float()
            moment = moment.to(keys.device) + keys.T @ keys
            counted += len(keys)
    moment = moment / max(1, counted)
    if not bool(torch.isfinite(moment).all()):
        raise RefusedEdit(
            f"What harmless prompts use of layer {block} is not a finite number in {model.dtype_name}. Load the model "
            f"in float32 (--dtype float32){instead}."
        )
    kept[key] = moment = moment.cpu()  # as large as d_ff squared
    return moment


def _fitting(model: InspectedModel, format: PromptFormat) -> list[Sequence[int]]:
    """Return the ids of those harmless prompts that are within the model's context."""
    found, wrong, texts = list[Sequence[int]](), None, further_harmless_texts(PROMPTS)
    for text in texts:
        try:
            found.append(encode(model, text, None, format).prompt)
        except TooLong as error:
            wrong = error
    if not found and wrong is not None:
        raise wrong
    if len(found) < LEAST_FITTING * len(texts):
        raise EditError(
            f"{model.name} reads at most {model.context_length:,} tokens, and only {len(found)} of the {len(texts)} "
            "harmless prompts are that short: too few to tell what they use of a layer. Use a shorter suffix, or a "
            "model that reads longer prompts."
        )
    return found


def soft_null_space(moment: Tensor, border: float) -> Tensor:
    """Return the projection ``[d_ff, d_ff]`` onto what is left free.

    Args:
        moment: See :func:`harmless_moment`, or some of its rows and columns.
        border: Lambda as a share of the mean eigenvalue: a direction used as much as that is halved. The smaller, the
            less of the region is free. A share, so that it means the same whatever the scale of the region.
    """
    size = len(moment)
    scale = border * float(moment.diagonal().mean())
    if scale <= 0:
        return torch.eye(size, device=moment.device)
    whole = torch.eye(size, device=moment.device, dtype=torch.float64) + moment.double() / scale
    return torch.cholesky_inverse(torch.linalg.cholesky(whole)).float()
