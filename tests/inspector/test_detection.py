"""The detector's making: which texts, what is held out of them, and how hits and false alarms are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inspector.detection import FALSE_ALARMS, Sample, area, drawn, fit, measure, samples, states_of
from inspector.model import Detector, PromptFormat, encode
from inspector.model.detector import mlp_inputs

FORMATS = (PromptFormat("Be good."), PromptFormat(""))


def made_up(count: int) -> list[Sample]:
    """Return labelled prompts, each bare and in a template."""
    bare = [Sample(f"text {n}", n % 2 == 0, f"text {n}") for n in range(count)]
    return [each for one in bare for each in (one, replace(one, text=f"Sing: {one.bare}", language="en"))]


def test_what_is_measured_is_unseen_in_question_prompt_and_template():
    fitted, chosen, scored = (samples(split) for split in ("detector", "development", "score"))
    for one, other in ((fitted, chosen), (fitted, scored), (chosen, scored)):
        assert not {s.bare for s in one} & {s.bare for s in other}
    for texts, harmful, harmless in ((fitted, 189, 315), (chosen, 45, 120), (scored, 63, 240)):
        assert len({s.bare for s in texts if s.harmful}) == harmful
        assert len({s.bare for s in texts if not s.harmful}) == harmless
        assert sum(s.wrapped for s in texts if s.harmful) == 2 * harmful
        assert sum(s.wrapped for s in texts if not s.harmful) == harmless
    assert {s.language for s in scored} == {"", "en", "de", "fr", "es", "it"}


def test_the_format_tells_neither_bare_from_wrapped_nor_harmful_from_harmless():
    texts = samples("detector")
    for harmful in (True, False):
        for wrapped in (True, False):
            found = [
                format == FORMATS[0]
                for sample, format in zip(texts, drawn(texts, FORMATS), strict=True)
                if (sample.harmful, sample.wrapped) == (harmful, wrapped)
            ]
            assert 0.4 < sum(found) / len(found) < 0.6


def test_states_are_those_of_each_prompt_in_its_own_format(llama):
    texts = made_up(3)
    reading = states_of(llama, texts, (0, 2), FORMATS)
    shares = []
    with pytest.raises(StopIteration) as end:
        while True:
            shares.append(next(reading))
    assert shares[-1] == 1.0
    for sample, format, found in zip(texts, drawn(texts, FORMATS), end.value.value, strict=True):
        prompt = encode(llama, sample.text, None, format).prompt
        assert found == pytest.approx(mlp_inputs(llama, (0, 2), [prompt])[0].numpy(), abs=1e-4)


def test_a_cancel_ends_the_reading(llama):
    reading = states_of(llama, made_up(20), (0,), FORMATS, cancel=lambda: True)
    next(reading)
    with pytest.raises(StopIteration) as end:
        next(reading)
    assert end.value.value is None


def test_a_fit_finds_the_direction_and_lets_few_held_out_harmless_texts_over_the_threshold(llama):
    texts = made_up(400)
    random = np.random.default_rng(0)
    states = random.normal(size=(len(texts), 2, 32)) * np.linspace(0.1, 20, 32)
    harmful = np.array([sample.harmful for sample in texts])
    states[harmful, 1, 5] += 6 * np.linspace(0.1, 20, 32)[5]
    made = fit(llama, texts, states, (0, 2), ridge=0.01)
    scale = made.weights.numpy() * np.linspace(0.1, 20, 32)
    assert np.unravel_index(np.abs(scale).argmax(), scale.shape) == (1, 5)
    scores = (states * made.weights.numpy()).sum(axis=(1, 2)) + made.bias
    assert (scores[~harmful] >= made.threshold).mean() <= 2 * FALSE_ALARMS and (scores[harmful] >= made.threshold).all()
    told = dict(made.about)
    assert (told["harmful_texts"], told["harmless_texts"], told["questions"]) == (400, 400, 200)
    assert told["auc_held_out"] > 0.999 and made.fingerprint == llama.fingerprint


def test_texts_that_share_their_question_are_held_out_together(llama):
    """Each question alone carries a mark of its own, so a fit that had seen it would find it again."""
    texts = made_up(60)
    states = np.zeros((len(texts), 1, 60))
    for number in range(len(texts)):
        states[number, 0, number // 2] = 1.0
    made = fit(llama, texts, states, (0,), ridge=1e-6)
    assert made.about["auc_held_out"] < 0.6


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert area(np.array([0.1, 0.4, 0.35, 0.8]), np.array([-1, -1, 1, 1])) == 0.75


def test_hits_and_false_alarms_are_counted_by_kind():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    texts = [
        Sample("a", True, "a", "mental harm"),
        Sample("x a", True, "a", "mental harm", language="en"),
        Sample("y a", True, "a", "offensiveness", language="de"),
        Sample("b", False, "b"),
        Sample("c", False, "c", look_alike=True),
        Sample("x b", False, "b", language="en"),
    ]
    found = measure(texts, [2.0, 1.0, 0.5, 0.0, 3.0, 0.9], detector)
    assert {name: (share.value, share.n) for name, share in found.found.items()} == {
        "bare": (100.0, 1),
        "wrapped": (50.0, 2),
        "mental harm": (100.0, 2),
        "offensiveness": (0.0, 1),
        "in en": (100.0, 1),
        "in de": (0.0, 1),
    }
    assert {name: (share.value, share.n) for name, share in found.false_alarms.items()} == {
        "bare": (50.0, 2),
        "ordinary": (0.0, 1),
        "look-alike": (100.0, 1),
        "wrapped": (0.0, 1),
        "in en": (0.0, 1),
        "in de": (None, 0),
    }
    assert found.auc == pytest.approx(5 / 9)
