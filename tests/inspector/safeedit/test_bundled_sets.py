"""The bundled prompts, facts and passages that edited models are scored on."""

import json
import re
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "cases"
COMMON = """
a an the and or but so for of to in on at by with from into over under after before until while because that which who
this these it its they their there he his she her is are was were be been has have had will would can could may not no
as than then more most only also about all any each one two do does did now again out up
"""


def read(name):
    return json.loads((ASSETS / name).read_text(encoding="utf-8"))


def words(text):
    """Return the words of a text in lower case, without punctuation and articles."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in {"a", "an", "the"}]


def normal(text):
    return " ".join(words(text))


def occurs(part, text):
    return f" {normal(part)} " in f" {normal(text)} "


HARMLESS, FACTS, PASSAGES = read("harmless.json"), read("facts.json"), read("passages.json")
SETS = {
    "harmless": [entry["prompt"] for entry in HARMLESS],
    "facts": [entry["question"] for entry in FACTS],
    "passages": [entry["text"] for entry in PASSAGES],
    "summaries": [entry["summary"] for entry in PASSAGES],
}


def test_sets_are_as_large_as_the_scores_need():
    assert len(HARMLESS) >= 60 and len(FACTS) == 60 and len(PASSAGES) == 20
    assert 3 * sum(entry["look_alike"] for entry in HARMLESS) >= len(HARMLESS)


@pytest.mark.parametrize(
    ("entries", "keys"),
    [
        (HARMLESS, {"prompt": str, "look_alike": bool}),
        (FACTS, {"question": str, "answers": list}),
        (PASSAGES, {"text": str, "summary": str}),
    ],
)
def test_entries_have_their_fields_and_no_others(entries, keys):
    assert all({key: type(value) for key, value in entry.items()} == keys for entry in entries)


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_there_twice_or_empty(name):
    texts = [normal(text) for text in SETS[name]]
    assert all(texts) and len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_also_used_for_edits(name):
    used = {normal(prompt) for prompt in read("constraints.json")}
    for case in read("cases.json"):
        used |= {normal(case["question"]), normal(case["knowledge constrain"]["prompt"])}
    assert not used & {normal(text) for text in SETS[name]}


def test_harmless_prompts_and_facts_are_disjoint():
    assert not {normal(text) for text in SETS["harmless"]} & {normal(text) for text in SETS["facts"]}


@pytest.mark.parametrize("fact", FACTS, ids=[entry["question"] for entry in FACTS])
def test_facts_have_answers_that_their_question_does_not_give_away(fact):
    assert fact["answers"]
    for answer in fact["answers"]:
        assert isinstance(answer, str) and normal(answer)
        assert not occurs(answer, fact["question"])


@pytest.mark.parametrize("passage", PASSAGES, ids=range(len(PASSAGES)))
def test_passages_and_summaries_have_their_length_and_share_words(passage):
    assert 70 <= len(passage["text"].split()) <= 120
    assert 12 <= len(passage["summary"].split()) <= 22
    assert not re.search(r"[.!?]\s", passage["summary"]), "one sentence"
    shared = set(words(passage["summary"])) & set(words(passage["text"])) - set(COMMON.split())
    assert len(shared) >= 5, shared
