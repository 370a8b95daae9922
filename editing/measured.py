"""The vital signs of any row of weights, for methods that make their edit in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from editing.optimising.training import Pair
from editing.progress import Step
from inspector.kl import kl_by_token, not_negative
from inspector.model import VANILLA, InspectedModel, Row
from inspector.model.counted import counted_logits, of_tokens
from inspector.model.encoding import Encoded
from inspector.model.memory.halving import halved
from inspector.model.waiting import read


@torch.no_grad()
def measured_step(
    model: InspectedModel,
    pair: Pair,
    harmless: Sequence[Encoded],
    row: Row,
    step: int,
    steps: int,
    prompted: Sequence[Encoded] | None = None,
) -> Step:
    """Measure a row of weights on a case's two answers and on the vanilla model's answers to harmless prompts.

    Args:
        pair: The safe answer (wanted) and the unsafe one.
        harmless: Harmless prompts with the vanilla model's own answers; may be empty.
        row: The weights.
        step: Number of the step.
        steps: Step limit.
        prompted: The harmless answers after the prompts as this row gets them, where they differ.
    """
    begun = time.perf_counter()
    answers = [pair.wanted, pair.other, *(harmless if prompted is None else prompted)]
    rows = [row] * len(answers) + [VANILLA] * len(harmless)
    asked = [*answers, *harmless]

    def log_probabilities(some: Sequence[tuple[Encoded, Row]]) -> list[Tensor]:
        answers = [answer for answer, _ in some]
        with model.running([weights for _, weights in some]):
            logits = counted_logits(model, [a.tokens for a in answers], [a.predicting for a in answers])
        return list(logits.log_softmax(dim=-1).split([len(answer.response) for answer in answers]))

    scored = halved(log_probabilities, list(zip(asked, rows, strict=True)))
    safe, unsafe = (
        of_tokens(values, answer.response).mean() for values, answer in zip(scored[:2], asked[:2], strict=True)
    )
    kl: Tensor | float = 0.0
    if harmless:
        edited, vanilla = torch.cat(scored[2 : 2 + len(harmless)]), torch.cat(scored[2 + len(harmless) :])
        kl = not_negative(kl_by_token(vanilla, edited))
    likely, *chances, cost = read([safe, safe.exp(), unsafe.exp(), kl])  # one wait for the device
    return Step(
        step=step,
        steps=steps,
        edit_loss=-likely,
        constraint_kl=cost,
        total_loss=-likely,
        safe_probability=chances[0],
        unsafe_probability=chances[1],
        gradient_norm=None,
        delta_norm=0.0 if row.patch is None else row.patch.norm * row.strength,
        seconds=time.perf_counter() - begun,
    )
