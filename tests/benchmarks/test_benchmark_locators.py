"""A fault costs the benchmark of the locators one case, and a layer without an edit is no layer of value zero."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.locators import REGRETS, achieved, compare, interval_of
from editing import run
from editing.atlas import Atlas, AtlasSettings, Entry, make_atlas
from inspector.errors import OutOfMemory, RefusedEdit
from inspector.locators import LOCATORS
from inspector.model import PromptFormat
from inspector.safeedit.intervals import mean
from inspector.safeedit.judges import EmbeddedJudge

QUICK = AtlasSettings(
    steps=1,
    learning_rate=0.01,
    format=PromptFormat(""),
    harmless_prompts=1,
    harmless_tokens=2,
    answers=True,
    max_new_tokens=2,
)


@pytest.mark.parametrize("error", [RefusedEdit("No layer has an edit."), OutOfMemory("No memory."), MemoryError()])
def test_one_fault_costs_its_case_and_is_told(llama, case, monkeypatch, capsys, error):
    module = sys.modules[compare.__module__]
    monkeypatch.setattr(module, "LOCATORS", dict(list(LOCATORS.items())[:2]))
    asked_in = []
    monkeypatch.setattr(module, "locate_with", lambda model, case, setup: asked_in.append(setup.format) or ())
    made = run(make_atlas(llama, case, QUICK))

    def atlas(_model, chosen, _settings):
        if chosen.identifier == 8:
            raise error
        return made
        yield

    monkeypatch.setattr(module, "make_atlas", atlas)
    compare(llama, [replace(case, identifier=number) for number in (7, 8, 9)], QUICK)
    told = capsys.readouterr().out
    assert asked_in == [QUICK.format] * 3
    assert "case 8 failed: " in told and "\n2 cases, 1 updates" in told and "failed, in no table: 1 of 3 cases" in told
    assert told.rstrip().splitlines()[-1].endswith("(2)"), "the tables are over the cases that are done"


def test_a_layer_without_an_edit_has_no_value_in_any_quantity(case):
    (safe, unsafe) = EmbeddedJudge().judge([("Q", "I'm sorry, I will not."), ("Q", "Do it like this.")])
    assert safe.safe and not unsafe.safe
    entries = (Entry(0, -1, -2, 0.1, 1, {"DS": safe}), Entry(2, -1, -2, 0.5, 1, {"DS": safe}))
    found = achieved(Atlas(entries, -2, -2, {"DS": unsafe}, QUICK, 3, 1.0, {1: "Not finite."}))
    assert all(np.isnan(values[1]) for values in found.values())
    assert found["within budget"][[0, 2]].tolist() == [1, 0]


def test_no_interval_leaves_what_its_quantity_can_be():
    """Of nine cases all five prompts are lost in seven, as in the committed table: Student's interval passes 1."""
    lost = [1.0] * 7 + [0.4, 0.6]
    assert mean(lost).high > 1 and interval_of(lost, *REGRETS["within budget"]).endswith("1.00] (9)")
    nothing = [0.0] * 8 + [0.5]
    assert mean(nothing).low < 0
    for truth in ("margin", "defended", "within budget"):
        assert "[0.00, " in interval_of(nothing, *REGRETS[truth])
    assert interval_of([1.0, 3.0], *REGRETS["margin"]).split()[2] == "14.71]", "a margin may be any size"
    assert interval_of([-1.0, 0.9], -1.0, 1.0) == "-0.05 [-1.00, 1.00] (2)"
    assert interval_of([0.5], *REGRETS["defended"]) == "0.50 (n 1)" and interval_of([], 0.0, 1.0) == "-"


def test_the_printed_tables_stay_within_them(llama, case, monkeypatch, capsys):
    module = sys.modules[compare.__module__]
    monkeypatch.setattr(module, "locate_with", lambda model, case, setup: ())
    made = run(make_atlas(llama, case, QUICK))
    blocks = iter(([0.0, 1.0, 1.0], [0.0, 1.0, 0.9]))

    def atlas(_model, _case, _settings):
        return made
        yield

    monkeypatch.setattr(module, "make_atlas", atlas)
    monkeypatch.setattr(module, "achieved", lambda atlas: dict.fromkeys(REGRETS, np.array(next(blocks))))
    compare(llama, [replace(case, identifier=number) for number in (7, 9)], QUICK)
    told = capsys.readouterr().out.partition("\nregret")[2]
    (last,) = (line for line in told.splitlines() if line.startswith("always last"))
    assert last.split("always last")[1].count("0.05 [0.00, ") == 3, last
