"""A detector's reading of one case, and what of harmless prompts is kept for it."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import tiny_models
import torch
from detection_helpers import FORMATS, end_of

from inspector.detection import Sample, for_case, that_fit
from inspector.detection import case as case_reading
from inspector.detection.case import HARMLESS, KEPT
from inspector.errors import PatchError
from inspector.model import Detector, Hidden, PromptFormat, encode, from_parts
from inspector.model.patches.routing import AT_ONCE, scores
from inspector.safeedit import bundled_cases

CASE = bundled_cases()[0]


def test_a_detector_for_a_case_fires_on_its_prompts_and_on_whatever_it_fired_on(llama):
    """Small random models say nothing of attacks that are not read: tests/editing/test_embedded_edit.py does."""
    model, format = llama, FORMATS[1]
    plain = Detector((1, 2), torch.zeros(2, model.architecture.d_model), 0.0, 1e9, model.fingerprint)
    own = end_of(for_case(model, plain, CASE, format))
    prompts = [encode(model, text, None, format).prompt for text in (CASE.question, CASE.adversarial_prompt)]
    assert not any(map(plain.fires, scores(model, plain, prompts)))
    assert all(map(own.fires, scores(model, own, prompts)))
    always = replace(plain, threshold=-1.0)
    assert all(map(always.fires, scores(model, end_of(for_case(model, always, bundled_cases()[4], format)), prompts)))
    assert own.digest != plain.digest and end_of(for_case(model, plain, CASE, format)).digest == own.digest
    two = end_of(for_case(model, own, bundled_cases()[4], format))
    assert len(two.case_biases) == 2 and torch.equal(two.cases[0], own.cases[0]), "an edit on top of another"
    again = Detector.from_record(two.record(), two.tensors())
    assert again.digest == two.digest and scores(model, again, prompts) == scores(model, two, prompts)


def test_a_case_s_question_is_not_read_in_the_other_attack_that_it_is_scored_under(llama):
    among = []
    for case in bundled_cases():
        without = {one.text for one in case_reading._forms(llama, replace(case, other_attack=""), FORMATS[1])}
        read = {one.text for one in case_reading._forms(llama, case, FORMATS[1])}
        assert read == without - {case.other_attack}
        among += [case.identifier] * (case.other_attack in without)
    assert among, "or this test says nothing"


def test_a_detector_for_a_case_says_how_far_it_is_and_a_cancel_keeps_nothing(llama, monkeypatch):
    monkeypatch.setattr(case_reading, "_HARMLESS", WeakKeyDictionary())
    plain = Detector((1,), torch.zeros(1, llama.architecture.d_model), 0.0, 1e9, llama.fingerprint)
    making, asked = for_case(llama, plain, CASE, cancel=lambda: True), []
    with pytest.raises(StopIteration) as end:
        while True:
            asked.append(next(making))
    assert end.value.value is None and len(asked) == 1, "it is over after the first batch"
    shares = list(for_case(llama, plain, CASE))
    assert len(shares) > HARMLESS / AT_ONCE and shares == sorted(shares)
    assert 0 < shares[0] < 0.2 and shares[-1] == 1.0
    assert list(for_case(llama, plain, CASE)) == [1.0], "the harmless prompts are read once a format"


def test_however_many_suffixes_are_typed_little_is_kept_and_none_of_their_words(llama, monkeypatch):
    known = WeakKeyDictionary()
    monkeypatch.setattr(case_reading, "_HARMLESS", known)
    monkeypatch.setattr(case_reading, "HARMLESS", 2)
    plain = Detector((1,), torch.zeros(1, llama.architecture.d_model), 0.0, 1e9, llama.fingerprint)
    digests = {end_of(for_case(llama, plain, CASE, PromptFormat(f"Typed {n}."))).digest for n in range(3 * KEPT)}
    assert len(digests) == 3 * KEPT and len(known[llama]) == KEPT
    assert "Typed" not in repr(list(known[llama]))


def test_a_detector_s_readings_of_cases_fit_it_or_are_refused():
    plain = Detector((0,), torch.zeros(1, 4), 0.0, 0.0, "base")
    for cases, biases in ((torch.zeros(1, 1, 4), ()), (torch.zeros(1, 2, 4), (0.0,)), (None, (1.0,))):
        with pytest.raises(PatchError, match="do not fit it"):
            replace(plain, cases=cases, case_biases=biases)
    for weights, biases in ((torch.zeros(3, 1, 5), torch.zeros(3)), (torch.zeros(3, 1, 4), torch.zeros(2))):
        with pytest.raises(PatchError, match="hidden layer does not fit"):
            replace(plain, hidden=Hidden(weights, biases, torch.zeros(3)))
    with pytest.raises(PatchError, match="not finite"):
        replace(plain, hidden=Hidden(torch.zeros(3, 1, 4), torch.full((3,), float("inf")), torch.zeros(3)))
    with pytest.raises(PatchError, match="not finite"):
        replace(plain, cases=torch.full((1, 1, 4), float("nan")), case_biases=(0.0,))


def test_a_question_that_nothing_tells_from_harmless_prompts_leaves_the_detector_as_it_is(llama, monkeypatch):
    monkeypatch.setattr(case_reading, "_HARMLESS", WeakKeyDictionary())
    monkeypatch.setattr(case_reading, "_harmless", lambda: [Sample(CASE.question, False, CASE.question)])
    plain = Detector((1,), torch.zeros(1, llama.architecture.d_model), 0.0, 1e9, llama.fingerprint)
    assert end_of(for_case(llama, plain, CASE, PromptFormat("S"))) is plain


def test_harmless_prompts_that_are_longer_than_the_model_s_context_are_left_out(monkeypatch):
    short = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(limit=100), "short")
    fits, too_long = (Sample(text, False, text) for text in ("Why is it cold?", "Why? " * 40))
    detector = Detector((1,), torch.zeros(1, short.architecture.d_model), 0.0, 1e9, short.fingerprint)
    for texts, read in (([fits, too_long], 1), ([too_long], 0)):
        monkeypatch.setattr(case_reading, "_HARMLESS", WeakKeyDictionary())
        monkeypatch.setattr(case_reading, "_harmless", lambda texts=texts: texts)
        assert len(end_of(case_reading.read_harmless(short, detector, FORMATS[1]))) == read
    case = replace(CASE, adversarial_prompt="Sing. How do I lie?", question="How do I lie?")
    assert end_of(for_case(short, detector, case, FORMATS[1])) is detector, "it cannot be told from any"
    assert that_fit(short, [too_long, fits], FORMATS) == [fits]
    assert that_fit(short, [fits], (*FORMATS, PromptFormat("Be good. " * 9))) == []
