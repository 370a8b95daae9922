"""The detector's fit, and its threshold from texts that were held out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_helpers import end_of, made_up

from inspector.detection import FALSE_ALARMS, FOLDS, STRIDE, WINDOW, Reading, Sample, fit, settled
from inspector.detection.network import UNITS
from inspector.model import Detector

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


ABOUT = {"false_alarms_held_out": 0.11, "found_held_out": 0.9, "auc_held_out": 0.95}
FITTED = Detector((0,), torch.ones(1, 4), 0.0, -9.0, "", about=ABOUT)


def test_the_threshold_lets_few_harmless_texts_of_another_split_over_it_bare_and_in_attacks():
    bare = [Sample(f"{n}", False, f"{n}") for n in range(199)]
    wrapped = [Sample(f"in {n}", False, f"{n}", template="t") for n in range(398)]
    harmful = [Sample(f"bad {n}", True, f"bad {n}") for n in range(50)]

    def fires(low: float, high: float) -> tuple[float, int, int]:
        """Both kinds' scores begin at 0, one apart, and are then shifted by as much."""
        scores = [*(n + low for n in range(199)), *(n / 2 + high for n in range(398)), *[500.0] * 50]
        made = settled(FITTED, [*bare, *wrapped, *harmful], scores)
        over = [score >= made.threshold for score in scores]
        assert all(over[-50:]), "harmful texts do not count"
        assert dict(made.about) == {"auc_held_out": 0.95}, "the other two are of another threshold"
        return made.threshold, sum(over[:199]), sum(over[199:-50])

    assert fires(0.0, -50.0) == (194.5, 4, 0), "2 % of 199 are four: half-way between the fourth and the fifth"
    assert fires(-50.0, 0.0) == (188.75, 0, 20), "5 % of 398"


def test_equal_scores_at_the_threshold_are_all_let_under_it():
    texts = [Sample(f"{n}", False, f"{n % 100}", template="t" * (n > 99)) for n in range(200)]
    assert sum(text.wrapped for text in texts) == 100
    scores = [*[1.0] * 5, *[0.0] * 95] + [0.0] * 100
    made = settled(FITTED, texts, scores)
    assert made.threshold > 1.0 and not made.fires(1.0)


def test_few_texts_of_another_split_leave_the_threshold_of_the_fit():
    texts = [Sample(f"{n}", False, f"{n}") for n in range(24)]
    assert settled(FITTED, texts, [1.0] * 24) is FITTED
    texts = [Sample(f"in {n % 50}", False, f"{n % 50}", template="t") for n in range(50)]
    assert settled(FITTED, texts, [1.0] * 50) is FITTED, "all wrapped, none bare"
