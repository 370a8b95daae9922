"""The detector's fit, and its threshold from texts that were held out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_helpers import end_of, made_up

from inspector.detection import FALSE_ALARMS, FOLDS, STRIDE, WINDOW, Reading, fit
from inspector.detection.network import UNITS

SCALE = np.linspace(0.1, 20, 64)


def read(random: np.random.Generator, harmful: bool) -> Reading:
    """Return six windows of noise; a harmful text has a mark in one of those on its question."""
    states = random.normal(size=(6, 64)) * SCALE
    if harmful:
        states[random.integers(2, 5), 37] += 9 * SCALE[37]
    return Reading(states.astype(np.float16), (2, 3, 4))


def test_a_fit_finds_the_direction_and_lets_few_held_out_harmless_texts_over_the_threshold(llama):
    texts, random = made_up(100), np.random.default_rng(0)
    made = end_of(fit(llama, texts, [read(random, sample.harmful) for sample in texts], (0, 2)))
    scale = made.weights.numpy().ravel() * SCALE
    assert np.abs(scale).argmax() == 37 and (made.window, made.stride, made.blocks) == (WINDOW, STRIDE, (0, 2))
    assert made.hidden.weights.shape == (FOLDS * UNITS, 2, 32) and made.hidden.outer.abs().max() > 0
    others = [read(random, harmful) for harmful in (True, False) for _ in range(400)]
    found = np.array([made.score(torch.tensor(one.states).float()) for one in others])
    assert (found[400:] >= made.threshold).mean() <= 0.17 and (found[:400] >= made.threshold).mean() > 0.97
    told = dict(made.about)
    assert (told["harmful_texts"], told["harmless_texts"], told["questions"]) == (100, 100, 50)
    assert told["false_alarms_held_out"] == pytest.approx(FALSE_ALARMS, abs=1 / 100)
    assert told["auc_held_out"] > 0.99 and made.fingerprint == llama.fingerprint


def test_texts_that_share_their_question_are_held_out_together(llama):
    """Each question alone carries a mark of its own, so a fit that had seen it would find it again."""
    texts = made_up(40)
    marks = np.eye(40, dtype=np.float16)[np.arange(len(texts)) // 2][:, None]
    made = end_of(fit(llama, texts, [Reading(mark, (0,)) for mark in marks], (0,)))
    assert made.about["auc_held_out"] < 0.6


def test_a_fit_that_is_cancelled_makes_nothing(llama):
    texts, random = made_up(20), np.random.default_rng(0)
    fitting = fit(llama, texts, [read(random, sample.harmful) for sample in texts], (0, 2), cancel=lambda: True)
    assert end_of(fitting) is None
