"""Making a detector of harmful prompts (:class:`inspector.model.Detector`) from bundled texts.

One case alone would teach its topic, not harm: the detector is fitted once a model on many mild harmful questions and
as many harmless prompts, look-alikes among them, both bare and in the same attack templates, so that the template
itself says nothing. A window of the prompt is what is read, and what is learnt from is the window that stands for its
text: of a harmful prompt the one on its question that reads most harmful, of a harmless one those that do, wherever
they are (multiple-instance learning, as Andrews et al. 2002 do it for support vector machines). A linear reading and a
small network are fitted without one group of texts and then read it, and so for each group: the
mean of all of these readings is the detector. Its threshold comes from questions, prompts and templates of another
split, or, where a model can read too few of those, from texts whose question and template were both held out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from inspector.detection.linear import PENALTY, Linear, fitted_linear
from inspector.detection.network import Network, components_of, fitted, side_by_side, windows_read
from inspector.detection.reading import STRIDE, WINDOW, Reading
from inspector.detection.scores import area
from inspector.detection.shares import share_of
from inspector.detection.texts import Sample
from inspector.model import Detector, InspectedModel

FALSE_ALARMS = 0.11
"""Share of the harmless texts held out of a fit, a third of them look-alikes, that may lie above its threshold."""
MOST_BARE, MOST_WRAPPED = 0.02, 0.05
"""Shares of another split's harmless texts, bare and in attack templates, on which a detector may fire, to the nearest
text."""
_AT_A_THRESHOLD = ("false_alarms_held_out", "found_held_out")
DEPTH = (0.43, 0.53, 0.67, 0.77)
"""Blocks that are read, as shares of the model's depth."""


def fit(
    model: InspectedModel,
    texts: Sequence[Sample],
    readings: Sequence[Reading],
    blocks: Sequence[int],
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, Detector | None]:
    """Fit a detector and set a first threshold on texts held out of the fit, question and template both.

    Args:
        texts: The labelled prompts.
        readings: Theirs, as :func:`inspector.detection.reading.readings_of` returns them.
        blocks: The blocks that were read.

    Yields:
        The share that is done.

    Returns:
        The detector; ``None`` when cancelled.
    """
    harmful = np.array([sample.harmful for sample in texts])
    folds = np.array([sample.fold for sample in texts])
    components = components_of(readings, len(blocks))
    inputs = [components.of(reading.states) for reading in readings]
    linears: list[Linear] = []
    networks: list[Network] = []
    read: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * len(texts)
    groups = sorted(set(folds.tolist()))
    for number, fold in enumerate(groups):
        others = np.flatnonzero(folds != fold)
        fitting = fitted(inputs, readings, harmful, others, number, cancel=cancel)
        network = yield from share_of(fitting, number / len(groups), (number + 1) / len(groups))
        if network is None:
            return None
        networks.append(network)
        linears.append(fitted_linear(readings, harmful, others, PENALTY))
        for left in np.flatnonzero(folds == fold).tolist():
            read[left] = _linear(linears[-1], readings[left]), windows_read(network, inputs[left])
    first, second = (1 / max(float(np.std([one[way].max() for one in read])), 1e-6) for way in (0, 1))
    held_out = np.array([(first * linear + second * hidden).max() for linear, hidden in read])
    threshold = float(np.quantile(held_out[~harmful], 1 - FALSE_ALARMS))
    hidden, bias = side_by_side(networks, components, len(blocks))
    hidden = replace(hidden, outer=second * hidden.outer)
    weights = first * np.mean([one for one, _ in linears], axis=0)
    bias = second * bias + first * float(np.mean([one for _, one in linears]))
    about: dict[str, Any] = {
        "harmful_texts": int(harmful.sum()),
        "harmless_texts": int((~harmful).sum()),
        "questions": len({sample.bare for sample in texts if sample.harmful}),
        "harmless_prompts": len({sample.bare for sample in texts if not sample.harmful}),
        "false_alarms_held_out": float((held_out[~harmful] >= threshold).mean()),
        "found_held_out": float((held_out[harmful] >= threshold).mean()),
        "auc_held_out": area(held_out, harmful),
    }
    return Detector(
        tuple(blocks),
        torch.tensor(weights.reshape(len(blocks), -1), dtype=torch.float32),
        bias,
        threshold,
        model.fingerprint,
        WINDOW,
        STRIDE,
        about,
        hidden=hidden,
    )


def settled(detector: Detector, texts: Sequence[Sample], scores: Sequence[float]) -> Detector:
    """Return a detector with the lowest threshold at which it fires on few enough harmless texts of another split.

    Held-out texts of the fit are harder than those, by how much depends on the model. The threshold lies half-way
    between two scores, so that rounding turns no text over. Texts too few to tell such shares leave that of the fit.

    Args:
        texts: Labelled prompts that it was not fitted on.
        scores: Theirs.

    Returns:
        The detector; its record has no shares of held-out texts any more where the threshold has changed.
    """
    thresholds: list[float] = []
    for wrapped, most in ((False, MOST_BARE), (True, MOST_WRAPPED)):
        chosen = [not text.harmful and text.wrapped == wrapped for text in texts]
        found = sorted((score for score, own in zip(scores, chosen, strict=True) if own), reverse=True)
        allowed = round(most * len(found))
        if not allowed:
            return detector
        last, first = found[allowed - 1], found[allowed]  # that may fire, and that may not
        thresholds.append(max((last + first) / 2, math.nextafter(first, math.inf)))
    about = {name: told for name, told in detector.about.items() if name not in _AT_A_THRESHOLD}
    return replace(detector, threshold=max(thresholds), about=about)


def _linear(linear: Linear, reading: Reading) -> np.ndarray:
    weights, bias = linear
    return reading.states @ weights.astype(np.float32) + bias
