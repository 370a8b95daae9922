"""The bundled cases: their splits, their prompts, and that cases to edit on and cases to score on share no question."""

import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from inspector.detection.texts import labelled_samples

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "cases"
SLOT = "{question}"
CATEGORIES = {
    "offensiveness",
    "unfairness and bias",
    "physical harm",
    "mental harm",
    "illegal activities",
    "ethics and morality",
    "privacy and property",
    "Pornography",
    "Political Sensitivity",
}
FAMILIES = {"pretending", "attention shifting", "privilege escalation", "emotion control"}
COMMON = """a an the and or but so for of to in on at by with from up out as if than that who which when while how why
    what can could should may you me my i we our us he she her his him they them their it its is are was were be been
    do does not no never ever every all any one help write tell make give get have has had people"""
STRONG = """murder suicide weapon gun knife bomb poison rape nude naked sex sexual porn drug cocaine heroin hate nazi
    terrorist kill blood stab shoot corpse slave bitch bastard damn fuck shit idiotic moron retard hack malware"""


def read(name: str) -> Any:
    return json.loads((ASSETS / name).read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text.lower().replace("'s", ""))


def normal(text: str) -> str:
    return " ".join(words(text))


CASES: list[dict[str, Any]] = read("cases.json")
QUESTIONS: list[dict[str, str]] = read("questions.json")
TEMPLATES: dict[str, dict[str, str]] = {entry["name"]: entry for entry in read("templates.json")}


def fill(name: str, question: str) -> str:
    return TEMPLATES[name]["template"].replace(SLOT, question)


def other_question(case: dict[str, Any]) -> str:
    """Return q', the question in the slot of the case's own template in the other-question input."""
    before, _, after = TEMPLATES[case["attack name"]]["template"].partition(SLOT)
    text: str = case["generalization test"]["test input of other question input"]
    assert text.startswith(before) and text.endswith(after)
    return text.removeprefix(before).removesuffix(after)


def questions(split: str) -> list[str]:
    """Return the questions and other questions of one split."""
    return [q for case in CASES if case["split"] == split for q in (case["question"], other_question(case))]


def test_there_are_five_cases_a_category_three_to_edit_on_and_two_to_score_on() -> None:
    assert [case["id"] for case in CASES] == list(range(45))
    assert Counter(case["split"] for case in CASES) == {"edit": 27, "score": 18}
    parts = {(category, split): number for category in CATEGORIES for split, number in (("edit", 3), ("score", 2))}
    assert Counter((case["unsafety category"], case["split"]) for case in CASES) == parts


def is_filled(case: dict[str, Any]) -> bool:
    """Tell whether the prompts of a case are its templates filled with its questions, and its names those of them."""
    tests, own, other = case["generalization test"], case["attack name"], case["generalization test"]["attack_name"]
    question, second = case["question"], other_question(case)
    return (
        case["attack category"] == TEMPLATES[own]["attack category"]
        and tests["attack_category"] == TEMPLATES[other]["attack category"] != case["attack category"]
        and case["adversarial prompt"] == fill(own, question)
        and tests
        == {
            "test input of only harmful question": question,
            "test input of other attack prompt input": fill(other, question),
            "attack_category": tests["attack_category"],
            "attack_name": other,
            "test input of other question input": fill(own, second),
            "test input of other questions and attack prompts": fill(other, second),
        }
    )


def test_prompts_are_the_templates_filled_with_the_questions() -> None:
    assert [case["id"] for case in CASES if not is_filled(case)] == []


def test_no_question_is_there_twice_as_question_or_other_question() -> None:
    texts = [normal(question) for question in questions("edit") + questions("score")]
    texts += [normal(entry["question"]) for entry in QUESTIONS]
    assert all(texts) and len(texts) == 90 + 2376 and len(set(texts)) == len(texts)


def test_questions_of_the_detector_are_spread_over_categories_and_splits() -> None:
    found = Counter((entry["unsafety category"], entry["split"]) for entry in QUESTIONS)
    assert {found[c, s] for c in CATEGORIES for s in ("development", "score")} == {15, 17}
    assert all(found[c, "fresh"] == 3 for c in CATEGORIES)
    assert all(220 <= found[c, "detector"] <= 238 for c in CATEGORIES) and found.total() == 2376


def test_questions_to_score_on_are_no_paraphrase_of_those_to_edit_on() -> None:
    common = set(COMMON.split())

    def alike(edited: str, scored: str) -> bool:
        first, second = set(words(edited)) - common, set(words(scored)) - common
        return len(first & second) >= 0.6 * len(first | second)

    assert [pair for pair in product(questions("edit"), questions("score")) if alike(*pair)] == []


def test_templates_of_a_split_serve_no_other_one() -> None:
    """What is scored is unseen in question and attack: cases to score on are wrapped in templates of their own."""
    of = {name: entry["split"] for name, entry in TEMPLATES.items()}
    assert len(of) == 278 and Counter(of.values()) == {
        "edit": 12,
        "detector": 222,
        "development": 12,
        "fresh": 12,
        "score": 20,
    }
    for case in CASES:
        assert of[case["attack name"]] == of[case["generalization test"]["attack_name"]] == case["split"]


@pytest.mark.parametrize("split", ["edit", "detector", "development", "fresh", "score"])
def test_every_split_has_all_kinds_of_attack_about_equally_often(split: str) -> None:
    found = Counter(entry["attack category"] for entry in TEMPLATES.values() if entry["split"] == split)
    assert set(found) == FAMILIES and max(found.values()) - min(found.values()) <= 1


@pytest.mark.parametrize(("split", "most"), [("edit", 3), ("score", 2)])
def test_a_split_s_cases_use_all_its_templates_about_equally_often(split: str, most: int) -> None:
    cases = [case for case in CASES if case["split"] == split]
    own = Counter(case["attack name"] for case in cases)
    other = Counter(case["generalization test"]["attack_name"] for case in cases)
    assert set(own) | set(other) == {name for name, entry in TEMPLATES.items() if entry["split"] == split}
    assert max(*own.values(), *other.values()) <= most


def test_every_template_has_one_slot_and_nothing_else_in_braces() -> None:
    assert [n for n, t in TEMPLATES.items() if re.findall(r"{[^}]*}", t["template"]) != [SLOT]] == []


def test_answers_differ_and_have_their_length() -> None:
    answers = [(case["id"], case["safe generation"], case["unsafe generation"]) for case in CASES]
    assert [number for number, safe, unsafe in answers if normal(safe) == normal(unsafe)] == []
    lengths = [(number, len(safe.split()), len(unsafe.split())) for number, safe, unsafe in answers]
    assert [one for one in lengths if not 40 <= one[1] <= 60] == [], "safe answers"
    assert [one for one in lengths if not 35 <= one[2] <= 55] == [], "unsafe answers"


def test_no_answer_is_there_twice() -> None:
    texts = [normal(case[f"{kind} generation"]) for case in CASES for kind in ("safe", "unsafe")]
    assert len(set(texts)) == 2 * len(CASES)


def test_constraints_are_unique_and_in_no_other_bundled_set() -> None:
    own = [normal(case["knowledge constrain"]["prompt"]) for case in CASES]
    others = {normal(prompt) for prompt in read("constraints.json")}
    others |= {normal(entry["prompt"]) for name in ("harmless", "false_alarms") for entry in read(f"{name}.json")}
    assert len(set(own)) == len(CASES) and not set(own) & others
    assert all(case["knowledge constrain"]["answer"].strip() for case in CASES)


def test_texts_are_mild() -> None:
    found = {}
    for case in CASES:
        texts = [case["question"], other_question(case), case["safe generation"], case["unsafe generation"]]
        if strong := set(STRONG.split()) & {word for text in texts for word in words(text)}:
            found[case["id"]] = strong
    harmful = [entry["prompt"] for entry in read("contrasts.json") if entry["harmful"]]
    harmful += [sample.text for sample in labelled_samples(ASSETS / "look_alikes.csv") if sample.harmful]
    for text in [entry["question"] for entry in QUESTIONS] + harmful + [t["template"] for t in TEMPLATES.values()]:
        if strong := set(STRONG.split()) & set(words(text)):
            found[text] = strong
    assert found == {}
