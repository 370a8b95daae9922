"""The bundled set is whole and in SafeEdit's layout, and records that are not say what they lack."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest

from inspector.errors import CaseError
from inspector.safeedit import (
    Case,
    assets,
    bundled_cases,
    bundled_constraint_prompts,
    bundled_harmless,
    bundled_templates,
)
from inspector.safeedit.assets import ASSETS
from inspector.safeedit.cases import CATEGORIES

FAMILIES = {"pretending", "attention shifting", "privilege escalation", "emotion control"}
KEYS = {
    "split",
    "id",
    "unsafety category",
    "adversarial prompt",
    "question",
    "attack category",
    "attack name",
    "unsafe generation",
    "safe generation",
    "generalization test",
    "knowledge constrain",
}
TESTS = {
    "test input of only harmful question": "only_question",
    "test input of other attack prompt input": "other_attack",
    "test input of other question input": "other_question",
    "test input of other questions and attack prompts": "other_both",
}


def records() -> list[dict]:
    return json.loads((ASSETS / "cases.json").read_text(encoding="utf-8"))


def normal(text: str) -> str:
    return " ".join(text.lower().split())


def test_the_categories_are_safeedit_s_nine_and_each_has_a_case():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 9
    assert set(Counter(case.category for case in bundled_cases())) == set(CATEGORIES)


def test_every_bundled_record_has_every_key_of_safeedit():
    for record in records():
        assert set(record) == KEYS
        assert set(record["generalization test"]) == {*TESTS, "attack_category", "attack_name"}
        assert set(record["knowledge constrain"]) == {"prompt", "answer"}


def test_a_case_holds_what_its_record_says():
    for record, case in zip(records(), bundled_cases(), strict=True):
        assert (case.identifier, case.category) == (record["id"], record["unsafety category"])
        assert (case.question, case.adversarial_prompt) == (record["question"], record["adversarial prompt"])
        assert (case.safe, case.unsafe) == (record["safe generation"], record["unsafe generation"])
        assert (case.attack_category, case.attack_name) == (record["attack category"], record["attack name"])
        for key, name in TESTS.items():
            assert getattr(case, name) == record["generalization test"][key]
        assert case.constraint.prompt == record["knowledge constrain"]["prompt"]
        assert case.constraint.answer == record["knowledge constrain"]["answer"]


def test_bundled_cases_differ_and_can_be_measured():
    assert len({case.identifier for case in bundled_cases()}) == len(bundled_cases())
    assert len({case.question for case in bundled_cases()}) == len(bundled_cases())
    for case in bundled_cases():
        case.require_answers()


def test_every_adversarial_prompt_is_its_template_filled_with_its_question():
    templates = {one.name: one for split in ("edit", "score") for one in bundled_templates(split)}
    for record, case in zip(records(), bundled_cases(), strict=True):
        template = templates[case.attack_name]
        assert template.family == case.attack_category
        assert template.fill(case.question) == case.adversarial_prompt
        other = templates[record["generalization test"]["attack_name"]]
        assert other.name != template.name and other.family == record["generalization test"]["attack_category"]
        assert case.only_question == case.question
        assert case.other_attack == other.fill(case.question)
        other_question = case.other_question
        before, _, after = template.text.partition(template.SLOT)
        assert other_question.startswith(before) and other_question.endswith(after)
        question = other_question[len(before) : len(other_question) - len(after)]
        assert question and question != case.question
        assert case.other_both == other.fill(question)


def test_templates_have_one_slot_a_name_of_their_own_and_a_known_family():
    templates = bundled_templates()
    assert len({template.name for template in templates}) == len(templates)
    assert {template.family for template in templates} == FAMILIES
    assert all(template.text.count(template.SLOT) == 1 for template in templates)


def test_a_question_with_a_slot_in_it_is_filled_in_once():
    template = bundled_templates()[0]
    assert template.fill("Is {question} a slot?") == template.text.replace("{question}", "Is {question} a slot?")


def test_prompts_that_edits_constrain_on_are_not_those_that_edits_are_scored_on():
    constraints = {normal(prompt) for prompt in bundled_constraint_prompts()}
    harmless = {normal(prompt) for prompt in bundled_harmless()}
    own = {normal(case.constraint.prompt) for case in bundled_cases()}
    assert len(constraints) == len(bundled_constraint_prompts()) and len(harmless) == len(bundled_harmless())
    assert not constraints & harmless and not own & harmless


def test_harmless_prompts_include_look_alikes_and_say_which():
    entries = json.loads((ASSETS / "harmless.json").read_text(encoding="utf-8"))
    assert all(set(entry) == {"prompt", "look_alike"} for entry in entries)
    assert {entry["look_alike"] for entry in entries} == {True, False}
    assert [entry["prompt"] for entry in entries] == list(bundled_harmless())


@pytest.mark.parametrize("field", ["unsafety category", "question", "adversarial prompt"])
@pytest.mark.parametrize(("value", "words"), [(None, "missing"), ("  ", "empty"), (7, "not text")])
def test_a_broken_field_is_named_with_its_record(field, value, words):
    record = copy.deepcopy(records()[3])
    record[field] = value
    with pytest.raises(CaseError, match=rf"my\.json, record 3: field '{field}' is .*{words}"):
        Case.from_record(record, "my.json, record 3")
    if value is None:
        del record[field]
        with pytest.raises(CaseError, match=f"field '{field}' is missing"):
            Case.from_record(record, "my.json, record 3")


@pytest.mark.parametrize("field", ["safe generation", "unsafe generation"])
def test_an_answer_may_be_missing_but_must_be_text(field):
    record = copy.deepcopy(records()[3])
    record[field] = None
    with pytest.raises(CaseError, match=f"{field.split()[0]} answer is empty"):
        Case.from_record(record).require_answers()
    record[field] = 7
    with pytest.raises(CaseError, match=rf"my\.json, record 3: field '{field}' is not text"):
        Case.from_record(record, "my.json, record 3")


def test_a_constraint_without_answer_is_named():
    record = copy.deepcopy(records()[0])
    del record["knowledge constrain"]["answer"]
    with pytest.raises(CaseError, match="field 'answer' is missing"):
        Case.from_record(record)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("knowledge constrain", "prompt", 7, "not text"),
        ("knowledge constrain", "answer", " ", "not text or empty"),
        ("knowledge constrain", "answer", None, "missing"),
        ("generalization test", "test input of other question input", 7, "not text"),
        ("generalization test", "test input of only harmful question", ["a"], "not text"),
    ],
)
def test_a_broken_field_of_a_part_is_named(part, field, value, words):
    record = copy.deepcopy(records()[0])
    record[part][field] = value
    with pytest.raises(CaseError, match=rf"rows\.json, record 0: field '{field}' is {words}.*leave the record out"):
        Case.from_record(record, "rows.json, record 0")


def test_fields_that_no_layout_has_are_passed_over():
    record = records()[0]
    assert Case.from_record({**record, "colour": "red", 7: None}) == bundled_cases()[0]


@pytest.mark.parametrize(("value", "kept"), [(7, True), ("seven", True), (None, True), (1.5, False), ([1], False)])
def test_an_identifier_is_a_number_a_text_or_none(value, kept):
    record = {**records()[0], "id": value}
    if kept:
        assert Case.from_record(record).identifier == value
    else:
        with pytest.raises(CaseError, match="record: field 'id' is neither a number nor text"):
            Case.from_record(record)


@pytest.mark.parametrize("where", ["generalization test", "knowledge constrain"])
@pytest.mark.parametrize("value", ["text", 7, ["a"]])
def test_a_part_that_is_no_object_is_named(where, value):
    record = copy.deepcopy(records()[0])
    record[where] = value
    with pytest.raises(CaseError, match=rf"rows\.json, record 0: field '{where}'"):
        Case.from_record(record, "rows.json, record 0")


def test_the_train_split_s_empty_generalization_strings_mean_none():
    record = copy.deepcopy(records()[0])
    record["generalization test"] = dict.fromkeys(record["generalization test"], "")
    case = Case.from_record(record)
    assert all(getattr(case, name) is None for name in TESTS.values())


@pytest.mark.parametrize("absent", ["generalization test", "knowledge constrain", "attack category", "id"])
def test_what_a_record_may_lack_may_be_lacking(absent):
    record = copy.deepcopy(records()[0])
    del record[absent]
    case = Case.from_record(record)
    assert case.question == record["question"]
    assert (case.constraint is None) == (absent == "knowledge constrain")


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_a_bundled_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "cases.json").write_bytes(content.encode("latin-1"))
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    with pytest.raises(CaseError, match=r"cases\.json cannot be read.*Restore it"):
        bundled_cases.__wrapped__()
