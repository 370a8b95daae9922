"""What no case has a part in is done once, before the first edit asks for it."""

from __future__ import annotations

import pytest
import torch
from word_models import word_model

from editing.gate.answers import unanswered
from editing.gate.beforehand import get_ready
from editing.gate.exam import small_exam
from editing.gate.gate import GateSettings
from inspector.detection import case as case_reading
from inspector.detection import read_harmless
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.model.patches.routing import scores
from inspector.safeedit import bundled_cases
from inspector.safeedit.asking import encoded
from inspector.safeedit.questions import CASE_PROMPTS

QUICK, FORMAT = GateSettings(harmless=6, questions=4, max_new_tokens=4), PromptFormat("")
OTHER = bundled_cases()[5]
ASKED = small_exam(OTHER, QUICK.harmless, QUICK.questions)


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
