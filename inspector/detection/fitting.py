"""Making and measuring a detector of harmful prompts (:class:`inspector.model.Detector`) from bundled texts.

One case alone would teach its topic, not harm: the detector is fitted once a model on many mild harmful questions and
as many harmless prompts, look-alikes among them, both bare and in the same attack templates, so that the template
itself says nothing. A window of the prompt is what is read, and what is learnt from is the window that stands for its
text: of a harmful prompt the one on its question that reads most harmful, of a harmless one those that do, wherever
they are (multiple-instance learning, as Andrews et al. 2002 do it for support vector machines). The threshold comes
from texts whose question and template were both held out of the fit; false alarms and misses are counted on
questions, prompts and templates of another split.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inspector.detection.scores import area
from inspector.detection.texts import Sample, drawn
from inspector.errors import PatchError
from inspector.model import Detector, InspectedModel, PromptFormat, encode
from inspector.model.routing import AT_ONCE, mlp_inputs, windows

PENALTY = 1e-2
"""Squared penalty of the logistic fit on standardised windows, per text."""
ROUNDS = 2
"""Fits in turn with the choice of the windows that they learn from."""
FALSE_ALARMS = 0.15
"""Share of the harmless texts, most of them look-alikes, held out of the fit, that may lie above the threshold."""
DEPTH = (0.53, 0.67)
"""Blocks that are read, as shares of the model's depth."""
WINDOW, STRIDE = 12, 3
"""Tokens of a window, and from one to the next."""


_LARGEST = 6e4
"""What half precision holds."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a prompt's windows are.

    Attributes:
        states: ``[windows, features]`` float16: means of what enters the MLPs, block after block.
        asking: Numbers of the windows in the middle of the question: those that a harmful prompt can be learnt from.
    """

    states: np.ndarray
    asking: tuple[int, ...]


def readings_of(
    model: InspectedModel,
    texts: Sequence[Sample],
    blocks: Sequence[int],
    formats: Sequence[PromptFormat],
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, list[Reading] | None]:
    """Read the windows of each prompt.

    Args:
        formats: Each text is read in one of them, see :func:`drawn`.

    Yields:
        The share that is done.

    Returns:
        The readings; ``None`` when cancelled.
    """
    used = drawn(texts, formats)
    prompts = [encode(model, sample.text, None, format).prompt for sample, format in zip(texts, used, strict=True)]
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    work = sum(map(len, prompts))
    found: dict[int, Reading] = {}
    done = 0
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        for place, states in mlp_inputs(model, blocks, [prompts[n] for n in chosen]):
            number = chosen[place]
            means = windows(states, WINDOW, STRIDE).flatten(1).clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
            if not np.isfinite(means).all():
                raise PatchError("The model's states are not finite numbers. Load it in float32.")
            found[number] = Reading(means, _asking(model, texts[number], used[number], prompts[number], len(means)))
            done += len(prompts[number])
        yield done / work
        if cancel():
            return None
    return [found[number] for number in range(len(texts))]


def _asking(
    model: InspectedModel, sample: Sample, format: PromptFormat, prompt: Sequence[int], count: int
) -> tuple[int, ...]:
    """Return the windows in the middle of the question: where the prompt differs from the same one about nothing."""
    other = encode(model, sample.text.replace(sample.bare, "It.", 1), None, format).prompt
    shortest = min(len(prompt), len(other))
    first = next((n for n in range(shortest) if prompt[n] != other[n]), shortest - 1)
    after = next((n for n in range(shortest - first) if prompt[-1 - n] != other[-1 - n]), 0)
    middle, reach = (first + len(prompt) - after) / 2, max(2.0, (len(prompt) - after - first - WINDOW) / 2 + 1)
    last = len(prompt) - WINDOW
    centres = [min(number * STRIDE, max(0, last)) + min(WINDOW, len(prompt)) / 2 for number in range(count)]
    near = tuple(number for number, centre in enumerate(centres) if abs(centre - middle) <= reach)
    return near or (int(np.argmin([abs(centre - middle) for centre in centres])),)


def fit(
    model: InspectedModel,
    texts: Sequence[Sample],
    readings: Sequence[Reading],
    blocks: Sequence[int],
    penalty: float = PENALTY,
) -> Detector:
    """Fit a detector and set its threshold on texts held out of the fit, question and template both.

    Args:
        texts: The labelled prompts.
        readings: Theirs, as :func:`readings_of` returns them.
        blocks: The blocks that were read.
        penalty: See :data:`PENALTY`.
    """
    harmful = np.array([sample.harmful for sample in texts])
    folds = np.array([sample.fold for sample in texts])
    held_out = np.zeros(len(texts))
    for fold in sorted(set(folds.tolist())):
        fitted, left = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        held_out[left] = _highest(
            [readings[n] for n in left.tolist()], *fitted_linear(readings, harmful, fitted, penalty)
        )
    weights, bias = fitted_linear(readings, harmful, np.arange(len(texts)), penalty)
    threshold = float(np.quantile(held_out[~harmful], 1 - FALSE_ALARMS))
    about: dict[str, Any] = {
        "harmful_texts": int(harmful.sum()),
        "harmless_texts": int((~harmful).sum()),
        "questions": len({sample.bare for sample in texts if sample.harmful}),
        "harmless_prompts": len({sample.bare for sample in texts if not sample.harmful}),
        "false_alarms_held_out": float((held_out[~harmful] >= threshold).mean()),
        "found_held_out": float((held_out[harmful] >= threshold).mean()),
        "auc_held_out": area(held_out, harmful),
    }
    matrix = torch.tensor(weights.reshape(len(blocks), -1), dtype=torch.float32)
    return Detector(tuple(blocks), matrix, float(bias), threshold, model.fingerprint, WINDOW, STRIDE, about)


Linear = tuple[np.ndarray, float]
"""Weights ``[features]`` and bias on windows as they are."""


def _highest(readings: Sequence[Reading], weights: np.ndarray, bias: float) -> np.ndarray:
    return np.array([float((reading.states @ weights.astype(np.float32)).max()) for reading in readings]) + bias


def fitted_linear(readings: Sequence[Reading], harmful: np.ndarray, chosen: np.ndarray, penalty: float) -> Linear:
    """Fit on the windows that stand for the chosen texts, and choose them anew by that fit, in turn."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    used: dict[int, set[int]] = {}
    for number in chosen.tolist():
        reading = readings[number]
        if harmful[number]:
            used[number] = {reading.asking[len(reading.asking) // 2]}
        else:
            count = len(reading.states)
            used[number] = set(random.choice(count, min(3, count), replace=False).tolist())
    some = np.concatenate([readings[number].states[::4] for number in used]).astype(np.float32)
    mean, scale = some.mean(axis=0), some.std(axis=0) + 1e-3
    weights, bias = np.zeros(len(mean)), 0.0
    for round in range(ROUNDS):
        if round > 0:
            for number, known in used.items():
                reading = readings[number]
                highest = np.argsort(-(reading.states @ weights.astype(np.float32)))
                if harmful[number]:
                    used[number] = {next(n for n in highest.tolist() if n in reading.asking)}
                else:
                    known.update(highest[:2].tolist())
        states = np.concatenate([readings[number].states[sorted(known)] for number, known in used.items()])
        labels = np.concatenate([np.full(len(known), harmful[number]) for number, known in used.items()])
        each = np.concatenate([np.full(len(known), 1 / len(known)) for known in used.values()])
        for label in (True, False):  # a text weighs the same as another, and so do both kinds of them
            each[labels == label] *= len(used) / 2 / each[labels == label].sum()
        standard = (states.astype(np.float32) - mean) / scale
        found = LogisticRegression(C=1 / (penalty * len(used)), max_iter=400).fit(standard, labels, sample_weight=each)
        weights = np.ravel(found.coef_) / scale
        bias = float(np.ravel(found.intercept_)[0] - mean @ weights)
    return weights, bias
