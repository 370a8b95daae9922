"""A linear reading of windows, fitted on those that stand for their texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inspector.detection.reading import Reading

PENALTY = 1e-2
"""Squared penalty of the logistic fit on standardised windows, per text."""
ROUNDS = 2
"""Fits in turn with the choice of the windows that they learn from."""
Linear = tuple[np.ndarray, float]
"""Weights ``[features]`` and bias on windows as they are."""


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
