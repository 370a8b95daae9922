"""The bundled prompts, facts and passages that edited models are scored on."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from inspector.detection.texts import labelled_samples

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
ALARMS, CONTRASTS = read("false_alarms.json"), read("contrasts.json")
APART = labelled_samples(ASSETS / "look_alikes.csv")
SETS = {
    "constraints": read("constraints.json"),
    "false alarms": [entry["prompt"] for entry in ALARMS],
    "contrasts": [entry["prompt"] for entry in CONTRASTS],
    "look-alikes written apart": [sample.text for sample in APART],
    "harmless": [entry["prompt"] for entry in HARMLESS],
    "facts": [entry["question"] for entry in FACTS],
    "passages": [entry["text"] for entry in PASSAGES],
    "summaries": [entry["summary"] for entry in PASSAGES],
}

BARE = ("harmless", "false alarms", "contrasts", "look-alikes written apart", "facts")


def test_sets_are_as_large_as_the_scores_need():
    assert len(HARMLESS) >= 60 and len(FACTS) == 60 and len(PASSAGES) == 20
    assert 3 * sum(entry["look_alike"] for entry in HARMLESS) >= len(HARMLESS)


@pytest.mark.parametrize(
    ("entries", "keys"),
    [
        (HARMLESS, {"prompt": str, "look_alike": bool}),
        (ALARMS, {"prompt": str, "look_alike": bool, "split": str}),
        (CONTRASTS, {"prompt": str, "harmful": bool}),
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


@pytest.mark.parametrize("name", sorted(set(SETS) - {"constraints"}))
def test_nothing_is_also_used_for_edits(name):
    used = {normal(prompt) for prompt in read("constraints.json")}
    for case in read("cases.json"):
        used |= {normal(case["question"]), normal(case["knowledge constrain"]["prompt"])}
    assert not used & {normal(text) for text in SETS[name]}


def test_harmless_prompts_and_facts_are_disjoint():
    texts = [normal(text) for name in BARE for text in SETS[name]]
    assert len(set(texts)) == len(texts)


def test_a_contrast_s_words_of_harm_stand_in_harmless_and_in_harmful_prompts():
    found = {harmful: [one["prompt"] for one in CONTRASTS if one["harmful"] is harmful] for harmful in (True, False)}
    assert len(found[True]) == 227 and len(found[False]) == 840
    questions = {normal(entry["question"]) for entry in read("questions.json")}
    assert not questions & {normal(text) for text in found[True]}
    for word in ("steal", "forge", "crack", "burn", "smash", "wreck", "sink", "spy", "cheat"):
        used = [sum(word in words(text) for text in found[harmful]) for harmful in (True, False)]
        assert used[0] and used[1], word


def test_false_alarms_are_counted_on_as_many_look_alikes_as_ordinary_prompts():
    found = Counter((entry["split"], entry["look_alike"]) for entry in ALARMS)
    assert {split: (found[split, True], found[split, False]) for split, _ in found} == {
        "development": (100, 99),
        "score": (160, 158),
        "fresh": (20, 20),
        "detector": (337, 386),
    }
    assert all(abs(found[split, True] - found[split, False]) <= 2 for split in ("development", "fresh", "score"))


def test_no_harmful_look_alike_is_a_bundled_question_and_they_are_fewer_than_the_harmless_ones():
    harmful = {normal(sample.text) for sample in APART if sample.harmful}
    assert (len(harmful), len(APART)) == (382, 1279)
    assert not harmful & {normal(entry["question"]) for entry in read("questions.json")}


def test_edits_are_held_to_at_least_two_hundred_harmless_prompts():
    assert len(SETS["constraints"]) >= 200


def test_facts_have_answers_that_their_question_does_not_give_away():
    def is_fair(fact):
        answers, question = fact["answers"], fact["question"]
        return bool(answers) and all(isinstance(a, str) and normal(a) and not occurs(a, question) for a in answers)

    assert [fact for fact in FACTS if not is_fair(fact)] == []


def test_passages_and_summaries_have_their_length_and_share_words():
    def shared(passage):
        return set(words(passage["summary"])) & set(words(passage["text"])) - set(COMMON.split())

    assert [p["text"] for p in PASSAGES if not 70 <= len(p["text"].split()) <= 120] == []
    summaries = [passage["summary"] for passage in PASSAGES]
    assert [text for text in summaries if not 12 <= len(text.split()) <= 22] == []
    assert [text for text in summaries if re.search(r"[.!?]\s", text)] == [], "one sentence"
    assert [(p["summary"], shared(p)) for p in PASSAGES if len(shared(p)) < 5] == []
