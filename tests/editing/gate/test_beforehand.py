"""What no case has a part in is done once, before the first edit asks for it."""

from __future__ import annotations

import math
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch
from word_models import word_model

from editing import run
from editing.gate.answers import unanswered
from editing.gate.beforehand import get_ready
from editing.gate.exam import small_exam
from editing.gate.gate import GateSettings
from editing.gate.turns import attempts
from editing.methods.dinm import FURTHER_ANSWERS, ROUTED, dinm, preset
from editing.methods.dinm.settings import COMPANIONS_AT_ONCE
from editing.texts.harmless import companions
from editing.values import LONGEST_COMPANION
from inspector.detection import case as case_reading
from inspector.detection import read_harmless
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.model.passes import tails
from inspector.model.patches.routing import scores
from inspector.safeedit import bundled_cases
from inspector.safeedit.asking import encoded
from inspector.safeedit.questions import CASE_PROMPTS

QUICK, FORMAT = GateSettings(harmless=6, questions=4, max_new_tokens=4), PromptFormat("")
OTHER = bundled_cases()[5]
ASKED = small_exam(OTHER, QUICK.harmless, QUICK.questions)
BLOCK = 1
PARTS = 3
"""Of the companions, which take turns."""


@pytest.fixture
def model(monkeypatch) -> InspectedModel:
    monkeypatch.setattr(case_reading, "HARMLESS", 5)
    return word_model([question.prompt for question in ASKED], seed=1)


def detector(model: InspectedModel) -> Detector:
    return Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint)


def passes_of(model: InspectedModel, work) -> int:
    made: list[int] = []
    handle = model.network.get_input_embeddings().register_forward_pre_hook(lambda _module, _args: made.append(1))
    try:
        work()
    finally:
        handle.remove()
    return len(made)


def test_another_case_s_gate_finds_all_answers_but_those_to_its_own_prompts_and_all_readings(model):
    assert len(unanswered(model, ASKED, FORMAT, QUICK.decoding)) == len(ASKED)
    shares = list(get_ready(model, detector(model), QUICK, FORMAT))
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1
    left = {ASKED[n].kind for n in unanswered(model, ASKED, FORMAT, QUICK.decoding)}
    assert left == set(CASE_PROMPTS)
    prompts = [encoded(model, one, one.prompt, FORMAT, 4) for one in ASKED if one.kind not in CASE_PROMPTS]
    assert passes_of(model, lambda: scores(model, detector(model), prompts, keep=[True] * len(prompts))) == 0
    assert passes_of(model, lambda: list(read_harmless(model, detector(model), FORMAT))) == 0
    assert passes_of(model, lambda: list(get_ready(model, detector(model), QUICK, FORMAT))) == 0


def test_a_cancel_ends_it_and_a_model_without_a_detector_has_answers_only(model):
    asked = iter([False, True])
    cut = list(get_ready(model, detector(model), QUICK, FORMAT, cancel=lambda: next(asked, True)))
    assert len(cut) == 2 and unanswered(model, ASKED, FORMAT, QUICK.decoding)
    shares = list(get_ready(model, None, QUICK, FORMAT))
    assert shares[-1] == 0.5 and case_reading._HARMLESS.get(model) is None


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many texts each pass had whose states an edit replays; none is known yet."""
    found: list[int] = []
    really = tails.Tails._read

    def counted(self, sequences, *given):
        found.append(len(sequences))
        return really(self, sequences, *given)

    monkeypatch.setattr(tails, "_KEPT", WeakKeyDictionary())
    monkeypatch.setattr(tails.Tails, "_read", counted)
    return found


def test_an_edit_finds_the_companions_read_that_it_learns_from_and_is_the_same_to_the_bit(model, read):
    settings = attempts(preset("corrected", format=FORMAT), detector(model))[0]
    few = replace(settings, steps=4, harmless_prompts=2, harmless_tokens=4, learning_rate=0.05)

    def edited() -> torch.Tensor:
        read.clear()
        return run(dinm(model, OTHER, BLOCK, few)).patch.deltas[0].dense()

    cold = edited()
    assert read.count(COMPANIONS_AT_ONCE) == PARTS == settings.companions / COMPANIONS_AT_ONCE
    tails._KEPT.clear()
    read.clear()
    shares = list(get_ready(model, detector(model), QUICK, FORMAT, BLOCK))
    assert read == [COMPANIONS_AT_ONCE] * PARTS and shares == sorted(shares) and shares[-1] == 1
    assert torch.equal(edited(), cold) and cold.any()
    assert read and COMPANIONS_AT_ONCE not in read


def test_all_bundled_cases_but_one_have_the_companions_that_are_read(model):
    def texts(apart: str = "") -> list[str]:
        return [*companions(model, ROUTED["companions"], LONGEST_COMPANION, FURTHER_ANSWERS[0], FORMAT, apart)]

    shared = texts()
    others = [case for case in bundled_cases() if texts(case.question) != shared]
    assert len(shared) == ROUTED["companions"] and len(others) <= 1 and OTHER not in others


def test_what_is_read_stays_known_while_both_edits_of_a_case_are_made(model):
    routed, held = attempts(preset("corrected"), detector(model))
    assert routed.constraint_weight == 0 and routed.damage_budget is None, "it has two parts: to measure, and to watch"
    assert held.harmless_at_once
    harmless = 2 + math.ceil((held.harmless_prompts + held.own_refusals) / held.harmless_at_once)
    assert PARTS + harmless <= tails.MOST_KEPT


def test_a_cancel_ends_it_between_companions_and_without_a_detector_or_a_layer_none_are_read(model, read):
    assert list(get_ready(model, detector(model), QUICK, FORMAT, BLOCK, cancel=lambda: True)) == [0.0]
    assert read == [COMPANIONS_AT_ONCE]
    read.clear()
    list(get_ready(model, None, QUICK, FORMAT, BLOCK))
    list(get_ready(model, detector(model), QUICK, FORMAT))
    assert read == []


def test_where_memory_runs_out_for_the_companions_all_else_is_done_and_another_fault_is_told(model, monkeypatch):
    def fails(error: Exception) -> None:
        def read(*_given):
            raise error

        monkeypatch.setattr(tails.Tails, "_read", read)

    fails(MemoryError())
    list(get_ready(model, detector(model), QUICK, FORMAT, BLOCK))
    assert {ASKED[n].kind for n in unanswered(model, ASKED, FORMAT, QUICK.decoding)} == set(CASE_PROMPTS)
    assert not tails._KEPT.get(model)
    fails(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        list(get_ready(model, detector(model), QUICK, FORMAT, BLOCK))
