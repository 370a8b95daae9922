"""Records from disk: what is whole comes back as it was, what is not is named."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from inspector.errors import PromptError
from inspector.locators import Located
from inspector.model import Decoding, PromptFormat
from inspector.region import RegionShift
from inspector.validated import read_record

SHIFT = {
    "block": 1,
    "mean_input_shift": 0.5,
    "by_block": [0.0, 1.5],
    "vanilla": [[1.0, 2.0]],
    "edited": [[1.0, 3.0]],
    "source": "block input",
    "forced": False,
}


def test_lists_of_a_file_come_back_as_arrays():
    found = read_record(RegionShift, json.loads(json.dumps(SHIFT)))
    assert found.block == 1 and found.by_block.tolist() == [0.0, 1.5] and found.edited.shape == (1, 2)
    located = Located("DINM", "nats", "parts most", np.array([0.25, 0.5]), 0.1)
    again = read_record(Located, {**asdict(located), "scores": located.scores.tolist()})
    assert again.block == 1 and again.scores.tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"block": "one"}, "block"),
        ({"more": 1}, "more"),
        ({"source": None}, "source"),
        ({"forced": [1]}, "forced"),
    ],
)
def test_a_broken_entry_is_named(change, named):
    with pytest.raises(ValueError, match=f"RegionShift is broken at {named}"):
        read_record(RegionShift, {**SHIFT, **change})


def test_a_missing_entry_is_named():
    with pytest.raises(ValueError, match="broken at mean_input_shift"):
        read_record(RegionShift, {name: value for name, value in SHIFT.items() if name != "mean_input_shift"})


def test_settings_out_of_range_and_unknown_parts_say_so():
    for kind, wrong in ((Decoding, {"temperature": -1.0}), (Decoding, {"top_p": 0.0}), (PromptFormat, {"prefix": "a"})):
        (name,) = wrong
        with pytest.raises(PromptError, match=name):
            kind(**wrong)


def test_of_a_value_that_is_long_an_error_shows_the_beginning():
    for wrong in ({"max_new_tokens": -(10**400)}, {"top_p": "9" * 20_000}):
        with pytest.raises(PromptError) as told:
            Decoding(**wrong)
        assert next(iter(wrong)) in str(told.value) and len(str(told.value)) < 300
