"""The detector's making: which texts, what is held out of them, and how hits and false alarms are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import tiny_models
import torch

from inspector.detection import (
    FALSE_ALARMS,
    FOLDS,
    STRIDE,
    WINDOW,
    Reading,
    Sample,
    area,
    drawn,
    fit,
    for_case,
    frontier,
    labelled_samples,
    measure,
    packaged_samples,
    readings_of,
    samples,
    that_fit,
    unseen_shares,
    weakness,
)
from inspector.detection import case as case_reading
from inspector.detection import texts as texts_module
from inspector.detection.case import HARMLESS, KEPT
from inspector.detection.linear import PENALTY, fitted_linear
from inspector.detection.network import UNITS, components_of, fitted, side_by_side, windows_read
from inspector.detection.scores import LEAST_AREA
from inspector.errors import CaseError, PatchError
from inspector.model import Detector, Hidden, PromptFormat, encode, from_parts
from inspector.model.patches.routing import AT_ONCE, mlp_inputs, scores, windows
from inspector.safeedit import bundled_cases
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.harmful_sets import SETS, HarmfulPrompt
from inspector.safeedit.sets import Fact, Passage

FORMATS = (PromptFormat("Be good."), PromptFormat(""))


def end_of(reading: Generator) -> Any:
    """Return what a generator returns."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def made_up(count: int) -> list[Sample]:
    """Return labelled prompts, each bare and in a template."""
    bare = [Sample(f"text {n}", n % 2 == 0, f"text {n}", fold=n // 2 % FOLDS) for n in range(count)]
    return [each for one in bare for each in (one, replace(one, text=f"Sing: {one.bare}", language="en"))]


def test_what_is_measured_is_unseen_in_question_prompt_and_template():
    fitted, chosen, scored = (samples(split) for split in ("detector", "development", "score"))
    for one, other in ((fitted, chosen), (fitted, scored), (chosen, scored)):
        assert not {s.bare for s in one} & {s.bare for s in other}
    for texts, harmful, harmless in ((fitted, 2315, 3309), (chosen, 135, 199), (scored, 153, 318)):
        for kind, count in ((True, harmful), (False, harmless)):
            own = [s for s in texts if s.harmful == kind]
            assert len({s.bare for s in own}) == count
            wrapped = sum(s.wrapped for s in own)
            assert abs(wrapped - 2 / 3 * count) < 4 if texts is fitted else wrapped == 2 * count
            assert len(own) == (count if texts is fitted else 3 * count)
    assert {s.language for s in scored} == {"", "en", "de", "fr", "es", "it"}


def test_every_template_that_may_be_fitted_on_is_used_and_as_often_as_the_others_of_its_fold():
    texts = samples("detector")
    names = {template.name for split in ("edit", "detector") for template in bundled_templates(split)}
    for harmful in (True, False):
        used = Counter(s.template for s in texts if s.harmful == harmful and s.wrapped)
        assert set(used) == names
        for fold in range(FOLDS):
            own = [used[name] for name in {s.template for s in texts if s.fold == fold and s.wrapped}]
            assert max(own) - min(own) <= 1


def test_texts_to_measure_stand_in_one_form_where_that_is_asked():
    texts = samples("development", one_form=True)
    assert len({s.bare for s in texts}) == len(texts)
    assert {s.bare for s in texts} == {s.bare for s in samples("development")}
    assert {(s.harmful, s.wrapped) for s in texts} == {(a, b) for a in (True, False) for b in (True, False)}


def test_prompts_of_others_stand_bare_and_wrapped_with_their_set_as_category(monkeypatch):
    monkeypatch.setattr(
        texts_module, "harmful_prompts", lambda name: tuple(HarmfulPrompt(f"{name} {n}") for n in range(9))
    )
    monkeypatch.setattr(texts_module, "facts", lambda *_: tuple(Fact(f"fact {n}", ("x",)) for n in range(9)))
    monkeypatch.setattr(texts_module, "passages", lambda *_: tuple(Passage(f"long {n}", "y") for n in range(9)))
    texts = packaged_samples(4)
    assert len(texts) == 2 * (4 * len(SETS) + 4 + 1) == len(set(texts))
    assert {s.category for s in texts if s.harmful} == {one.title for one in SETS.values()}
    assert all(s.bare in s.text and s.wrapped == bool(s.template) for s in texts)
    assert sum(s.wrapped for s in texts) == len(texts) // 2


@pytest.mark.parametrize(
    ("lines", "harmful"),
    [
        ("prompt,harmful\nHow do I win?,false\nHow do I rob him?,1\n", [False, True]),
        ("id,prompt,label,type\n1,How do I win?,safe,a\n2,How do I rob him?,unsafe,a\n", [False, True]),
        ("prompt,type\nHow do I win?,games\nHow do I rob him?,contrast_games\nHow do I win?,games\n", [False, True]),
    ],
)
def test_prompts_of_a_file_are_read_each_once_with_its_label_and_type(tmp_path, lines, harmful):
    path = tmp_path / "own.csv"
    path.write_text("\ufeff" + lines, encoding="utf-8")
    found = labelled_samples(path)
    assert [(s.text, s.harmful, s.look_alike) for s in found] == [
        ("How do I win?", harmful[0], not harmful[0]),
        ("How do I rob him?", harmful[1], not harmful[1]),
    ]
    assert all(not s.wrapped and (s.category != "") == ("type" in lines) for s in found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"prompt,harmful\nWhy?,perhaps\n", "The row that ends in line 2 has no prompt, or does not say"),
        (b'prompt,harmful\n"One\ntwo?",true\nWhy?,perhaps\n', "The row that ends in line 4 has no prompt"),
        (b"prompt\nWhy?\n", "Give a column 'prompt' and one of 'harmful'"),
        (b"text,harmful\nWhy?,true\n", "has no prompt"),
        (b"prompt,harmful\n", "has no prompts"),
        (b"prompt,harmful\n\xff\xfe,true\n", "Give a CSV file in UTF-8"),
    ],
)
def test_a_file_without_prompts_or_labels_is_refused_with_what_it_needs(tmp_path, content, said):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(CaseError, match=said):
        labelled_samples(path)


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


def test_what_is_held_out_together_shares_neither_question_nor_template_with_the_rest():
    texts = samples("detector")
    for fold in range(FOLDS):
        inside, outside = ([s for s in texts if (s.fold == fold) == own] for own in (True, False))
        assert not {s.bare for s in inside} & {s.bare for s in outside}
        assert {s.harmful for s in inside} == {True, False}
        around = ({s.text.replace(s.bare, "") for s in part if s.wrapped} for part in (inside, outside))
        assert not set.intersection(*around)


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


SCALE = np.linspace(0.1, 20, 64)


def read(random: np.random.Generator, harmful: bool) -> Reading:
    """Return six windows of noise; a harmful text has a mark in one of those on its question."""
    states = random.normal(size=(6, 64)) * SCALE
    if harmful:
        states[random.integers(2, 5), 37] += 9 * SCALE[37]
    return Reading(states.astype(np.float16), (2, 3, 4))


def test_a_fit_finds_the_direction_and_lets_few_held_out_harmless_texts_over_the_threshold(llama):
    texts, random = made_up(200), np.random.default_rng(0)
    made = end_of(fit(llama, texts, [read(random, sample.harmful) for sample in texts], (0, 2)))
    scale = made.weights.numpy().ravel() * SCALE
    assert np.abs(scale).argmax() == 37 and (made.window, made.stride, made.blocks) == (WINDOW, STRIDE, (0, 2))
    assert made.hidden.weights.shape == (FOLDS * UNITS, 2, 32) and made.hidden.outer.abs().max() > 0
    others = [read(random, harmful) for harmful in (True, False) for _ in range(400)]
    found = np.array([made.score(torch.tensor(one.states).float()) for one in others])
    assert (found[400:] >= made.threshold).mean() <= 0.17 and (found[:400] >= made.threshold).mean() > 0.97
    told = dict(made.about)
    assert (told["harmful_texts"], told["harmless_texts"], told["questions"]) == (200, 200, 100)
    assert told["false_alarms_held_out"] == pytest.approx(FALSE_ALARMS, abs=1 / 200)
    assert told["auc_held_out"] > 0.99 and made.fingerprint == llama.fingerprint


def test_texts_that_share_their_question_are_held_out_together(llama):
    """Each question alone carries a mark of its own, so a fit that had seen it would find it again."""
    texts = made_up(60)
    marks = np.eye(60, dtype=np.float16)[np.arange(len(texts)) // 2][:, None]
    made = end_of(fit(llama, texts, [Reading(mark, (0,)) for mark in marks], (0,)))
    assert made.about["auc_held_out"] < 0.6


def test_networks_find_what_no_line_separates_and_read_the_same_as_one_hidden_layer():
    """Harm lies on both sides of what is harmless; the mean of the networks is one layer on the states."""
    random, harmful = np.random.default_rng(0), np.arange(300) % 2 == 0
    states = random.normal(size=(300, 4))
    states[:, 1] = np.where(harmful, 3 * random.choice([-1, 1], 300), 0) + 0.3 * states[:, 1]
    readings = [Reading(one[None].astype(np.float16), (0,)) for one in states]
    components = components_of(readings, 1)
    inputs = [components.of(one.states) for one in readings]
    fits = (fitted(inputs, readings, harmful, np.arange(200), seed, 16, epochs) for seed, epochs in ((0, 80), (1, 1)))
    networks = [end_of(one) for one in fits]
    each = np.array([[windows_read(network, one)[0] for one in inputs] for network in networks])
    weights, _ = fitted_linear(readings, harmful, np.arange(200), PENALTY)
    line = np.array([float((one.states @ weights).max()) for one in readings])
    assert area(line[200:], harmful[200:]) < 0.65 and area(each[0, 200:], harmful[200:]) > 0.8
    read = each.mean(axis=0)
    layer, bias = side_by_side(networks, components, 1)
    again = layer.of(torch.tensor(np.concatenate([one.states for one in readings])).float()) + bias
    assert again.numpy() == pytest.approx(read, abs=2e-2)


def test_a_fit_that_is_cancelled_makes_nothing(llama):
    texts, random = made_up(20), np.random.default_rng(0)
    fitting = fit(llama, texts, [read(random, sample.harmful) for sample in texts], (0, 2), cancel=lambda: True)
    assert end_of(fitting) is None


CASE = bundled_cases()[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_detector_for_a_case_fires_on_its_prompts_and_on_whatever_it_fired_on(tiny, family):
    """Small random models say nothing of attacks that are not read: tests/editing/test_embedded_edit.py does."""
    model, format = tiny(family), FORMATS[1]
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


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert area(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75


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

    def rounded(value):
        return None if value is None else round(value, 3)

    assert {name: (rounded(share.value), share.n) for name, share in found.found.items()} == {
        "bare": (100.0, 1),
        "wrapped": (50.0, 2),
        "mental harm": (100.0, 2),
        "offensiveness": (0.0, 1),
        "in en": (100.0, 1),
        "in de": (0.0, 1),
        "up to 200 characters": (66.667, 3),
        "200 to 450": (None, 0),
        "over 450": (None, 0),
    }
    assert {name: (rounded(share.value), share.n) for name, share in found.false_alarms.items()} == {
        "bare": (50.0, 2),
        "ordinary": (0.0, 1),
        "look-alike": (100.0, 1),
        "wrapped": (0.0, 1),
        "in en": (0.0, 1),
        "in de": (None, 0),
        "up to 200 characters": (33.333, 3),
        "200 to 450": (None, 0),
        "over 450": (None, 0),
    }
    assert found.auc == pytest.approx(5 / 9)
    assert set(found.frontiers) == {"bare", "look-alike", "wrapped"}
    assert found.frontiers["bare"] == frontier(np.array([2.0, 0.0, 3.0]), np.array([True, False, False]))
    assert found.frontiers["look-alike"] == frontier(np.array([2.0, 3.0]), np.array([True, False]))
    assert found.frontiers["wrapped"] == frontier(np.array([1.0, 0.5, 0.9]), np.array([True, True, False]))


def test_texts_of_a_template_are_resampled_together_and_each_template_has_a_line():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    bare = [Sample(f"text {n}", False, f"text {n}") for n in range(60)]
    texts = [replace(one, text=f"{n % 6}: {one.bare}", template=f"t{n % 6}") for n, one in enumerate(bare)]
    fired = measure(texts, [2.0 * (n % 6 == 3) for n in range(60)], detector)
    whole = fired.false_alarms["wrapped"]
    assert whole.resampled == "6 templates" and whole.value == pytest.approx(100 / 6)
    scattered = measure(texts, [2.0 * (n * 7 % 60 < 10) for n in range(60)], detector).false_alarms["wrapped"]
    assert scattered.value == whole.value and whole.high - whole.low > 1.5 * (scattered.high - scattered.low)
    assert fired.templates[0] == ("t3", None, 100.0) and {row[2] for row in fired.templates[1:]} == {0.0}


def test_the_record_says_how_a_detector_does_on_texts_that_it_was_not_fitted_on():
    texts = [Sample("a", True, "a"), Sample("b", True, "b"), Sample("c", False, "c"), Sample("d", False, "d")]
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    assert unseen_shares(texts, [1.0, -1.0, 0.0, -2.0], detector) == {
        "unseen_harmful": 2,
        "unseen_harmless": 2,
        "found_unseen": 0.5,
        "false_alarms_unseen": 0.0,
        "auc_unseen": 0.75,
    }
    assert "auc_unseen" not in unseen_shares(texts[:2], [1.0, -1.0], detector), "none of one kind of prompts"


def test_a_detector_that_hardly_tells_harm_from_the_rest_is_said_to_be_weak_by_what_it_was_measured_on():
    def said(**about: float) -> str:
        return weakness(Detector((0,), torch.ones(1, 4), 0.0, 1.0, "", about=about))

    assert "area under the ROC curve 0.799, below 0.8, on texts that it was not fitted on" in said(auc_unseen=0.799)
    assert said(auc_unseen=LEAST_AREA) == said() == said(auc_unseen=0.9, auc_held_out=0.5) == ""
    assert "0.500, below" in said(auc_held_out=0.5), "a record of an earlier version"


def test_a_question_that_nothing_tells_from_harmless_prompts_leaves_the_detector_as_it_is(llama, monkeypatch):
    monkeypatch.setattr(case_reading, "_HARMLESS", WeakKeyDictionary())
    monkeypatch.setattr(case_reading, "_harmless", lambda: [Sample(CASE.question, False, CASE.question)])
    plain = Detector((1,), torch.zeros(1, llama.architecture.d_model), 0.0, 1e9, llama.fingerprint)
    assert end_of(for_case(llama, plain, CASE, PromptFormat("S"))) is plain


def test_the_forms_of_a_question_are_resampled_together_and_one_question_has_no_interval():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    texts = made_up(40)
    found = measure(texts, [2.0 * (int(s.bare[5:]) % 4 == 0) for s in texts], detector).found
    every, bare = found["up to 200 characters"], found["bare"]
    assert (every.value, every.n, every.resampled) == (50.0, 40, "20 questions") and bare.resampled == ""
    # Both forms of a question fare alike: twice the texts, and no more is known.
    assert every.high - every.low >= bare.high - bare.low > 30
    one = measure([t for t in texts if t.bare in ("text 0", "text 1")], [2.0, 2.0, 0.0, 0.0], detector).found
    assert one["up to 200 characters"].low is None


def test_the_frontier_says_what_each_share_of_false_alarms_would_buy():
    quiet, loud = np.arange(100) / 100, np.array([0.5, 0.945, 0.985, 2.0])
    scores, harmful = np.concatenate([quiet, loud]), np.arange(104) >= 100
    rows = {allowed: (threshold, hits) for allowed, threshold, hits in frontier(scores, harmful)}
    for allowed, (threshold, hits) in rows.items():
        assert (quiet >= threshold).sum() == allowed and hits == 100 * (loud >= threshold).mean()
    assert [rows[allowed][1] for allowed in (1, 2, 5, 10)] == [50.0, 50.0, 75.0, 75.0]
    assert frontier(np.array([0.2, 0.4]), np.array([False, True]))[0][2] == 100.0


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
