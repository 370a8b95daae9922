"""The labelled prompts of the detector: which there are, and what is held out of them."""

from __future__ import annotations

from collections import Counter

import pytest
from detection_helpers import FORMATS

from inspector.detection import FOLDS, drawn, labelled_samples, packaged_samples, samples, stress_samples
from inspector.detection import texts as texts_module
from inspector.errors import CaseError
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.harmful_sets import SETS, HarmfulPrompt
from inspector.safeedit.questions import common_questions
from inspector.safeedit.sets import Fact, Passage, harmless_prompts, held_out_cases


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


def test_what_a_stress_test_asks_stands_bare_and_wrapped_and_was_not_fitted_on():
    texts = stress_samples()
    asked = {question.prompt for question in common_questions() if question.kind == "harmless"}
    assert {s.bare for s in texts if not s.harmful} == {h.prompt for h in harmless_prompts()} >= asked
    assert asked, "or this test says nothing"
    assert {s.bare for s in texts if s.harmful} == {case.question for case in held_out_cases()}
    assert [s.wrapped for s in texts] == len(texts) // 2 * [False, True] and len(texts) == len(set(texts))
    assert not {s.bare for s in texts} & {s.bare for s in samples("detector")}


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
