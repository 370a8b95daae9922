"""What a detector is learnt from: the windows of each prompt, and those on its question."""

from __future__ import annotations

import pytest
from detection_helpers import FORMATS, end_of, made_up

from inspector.detection import STRIDE, WINDOW, Sample, drawn, readings_of
from inspector.model import encode
from inspector.model.patches.routing import mlp_inputs, windows


def test_readings_are_the_windows_of_each_prompt_in_its_own_format(llama):
    texts = made_up(3)
    reading = readings_of(llama, texts, (0, 2), FORMATS)
    shares = []
    with pytest.raises(StopIteration) as end:
        while True:
            shares.append(next(reading))
    assert shares[-1] == 1.0
    for sample, format, found in zip(texts, drawn(texts, FORMATS), end.value.value, strict=True):
        prompt = encode(llama, sample.text, None, format).prompt
        ((_, states),) = mlp_inputs(llama, (0, 2), [prompt])
        assert found.states == pytest.approx(windows(states, WINDOW, STRIDE).flatten(1).numpy(), abs=2e-3)


def test_the_windows_that_ask_stand_on_the_question_wherever_it_is(llama):
    long = "how do I tell my friend such a lie that nobody finds out"
    for before, after in (("", ""), ("Sing a song about the sea and then say ", ""), ("", " Then sing about the sea.")):
        text = Sample(f"{before}{long}{after}", True, long)
        (reading,) = end_of(readings_of(llama, [text], (0,), FORMATS[1:]))
        prompt = encode(llama, text.text, None, FORMATS[1]).prompt
        asked = llama.decode(prompt).index(long)
        for window in reading.asking:
            start = min(window * STRIDE, len(prompt) - WINDOW)
            inside = llama.decode(prompt[start : start + WINDOW]).strip()
            at = llama.decode(prompt).index(inside)
            assert asked - 2 <= at and at + len(inside) <= asked + len(long) + 2
        assert len(reading.asking) > 5


def test_a_cancel_ends_the_reading(llama):
    reading = readings_of(llama, made_up(20), (0,), FORMATS, cancel=lambda: True)
    next(reading)
    with pytest.raises(StopIteration) as end:
        next(reading)
    assert end.value.value is None
