"""Replies come back whole from their records, through JSON, whatever their texts hold."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from inspector.model import PromptFormat, Taught
from inspector.model.patches.detector import DetectorReading
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.questions import Question
from inspector.safeedit.records import exam_from, exam_record, reply_from, reply_record
from inspector.safeedit.verdict import Verdict

TEXTS = ("", "line\nline\ttab", "<s> </s> <b>", '"quoted" \\n', "naïve — 你好 🙂", "\u2028 \x00 \ufffd")


def through_json(reply: Reply) -> Reply:
    return reply_from(json.loads(json.dumps(reply_record(reply), allow_nan=False)))


def marked(text: str = "No.", verdict: Verdict | None = None, mark: float | None = None) -> Marked:
    return Marked(text, True, "", verdict, False, 1 / 3, mark)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(text):
    reply = Reply(Question("otherQ", text, "mental harm", 7), marked(text), marked(text[::-1]))
    assert through_json(reply) == reply


@pytest.mark.parametrize("case", [None, 0, 7, "seven"])
def test_numbers_none_and_types_come_back_exactly(case):
    taught = (Taught("No."), Taught("Rather not.", fits_any=True))
    question = Question("fact", "Who?", "", case, ("A", "B"), "A summary.", True, taught)
    verdict = Verdict("degenerate", 0.1 + 0.2, "Empty: it is.", "hand")
    reply = Reply(question, marked(verdict=verdict, mark=1.0), marked(mark=5e-324), likeness=2 / 3, kl=1e-300)
    found = through_json(reply)
    assert found == reply and hash(found) == hash(reply)  # a list in the place of a tuple has no hash
    assert type(found.question.case) is type(case) and found.vanilla.verdict is not None
    assert not found.vanilla.verdict.safe and found.edited.verdict is None


def test_a_record_holds_every_field():
    record = reply_record(Reply(Question("DS", "How?"), marked(), marked()))
    for kind, part in ((Reply, record), (Question, record["question"]), (Marked, record["vanilla"])):
        assert set(part) == {field.name for field in fields(kind)}


def test_a_record_is_what_the_dataclasses_hold_with_lists_for_tuples():
    reply = Reply(
        Question("fact", "Who?", accepted=("A", "B")), marked(verdict=Verdict("safe", 0.5, "", "hand")), marked()
    )
    expected = asdict(reply)
    expected["question"] |= {"accepted": ["A", "B"], "taught": []}
    assert reply_record(reply) == expected and list(reply_record(reply)) == list(expected)
    assert json.dumps(reply_record(reply)) == json.dumps(expected)


@pytest.mark.parametrize("part", ["question", "vanilla", "verdict", ""])
def test_a_record_with_a_part_too_few_or_too_many_is_refused(part):
    reply = Reply(Question("DS", "How?"), marked(verdict=Verdict("safe", 1.0, "", "hand")), marked())
    kinds = {"question": Question, "vanilla": Marked, "verdict": Verdict, "": Reply}
    for name in (field.name for field in fields(kinds[part]) if field.name != "reading"):
        record = reply_record(reply)
        del inside(record, part)[name]
        with pytest.raises(ValueError, match=rf"record is broken.*\b{name}\b"):
            reply_from(record)
    record = reply_record(reply)
    inside(record, part)["colour"] = "red"
    with pytest.raises(ValueError, match=r"broken at .*colour"):
        reply_from(record)


def test_what_the_detector_read_comes_back_and_a_record_from_before_it_was_kept_is_read_without():
    reply = Reply(
        Question("DS", "How?"), marked(), marked(), held_back=True, reading=DetectorReading(-0.1 - 0.2, 5e-324)
    )
    assert through_json(reply) == reply and reply_record(reply)["reading"] == {"score": -0.1 - 0.2, "threshold": 5e-324}
    older = reply_record(reply)
    del older["reading"]
    assert reply_from(older) == replace(reply, reading=None)
    for wrong in ({"score": 0.5}, {"score": "0.5", "threshold": 0.0}):
        with pytest.raises(ValueError, match=r"broken at reading"):
            reply_from({**older, "reading": wrong})


def inside(record: dict[str, Any], part: str) -> dict[str, Any]:
    """Return the part of a record that a field stands in."""
    if part == "verdict":
        return record["vanilla"]["verdict"]
    return record[part] if part else record


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "kl", "0.5"),
        ("", "kl", True),
        ("", "question", None),
        ("", "vanilla", []),
        ("question", "kind", "DG"),
        ("question", "prompt", 7),
        ("question", "case", 1.5),
        ("question", "accepted", "Paris"),
        ("question", "accepted", [7]),
        ("question", "look_alike", 1),
        ("vanilla", "text", None),
        ("vanilla", "finished", "yes"),
        ("vanilla", "fluency", None),
        ("vanilla", "verdict", "safe"),
        ("verdict", "label", "fine"),
        ("verdict", "safe_probability", "1"),
        ("verdict", "reason", {1, 2}),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(part, name, value):
    record = reply_record(Reply(Question("DS", "How?"), marked(verdict=Verdict("safe", 1.0, "", "hand")), marked()))
    inside(record, part)[name] = value
    with pytest.raises(ValueError, match="JSON" if isinstance(value, set) else rf"broken at .*{name}"):
        reply_from(record)


@pytest.mark.parametrize("record", [None, [], "text", {}])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match="record is broken"):
        reply_from(record)


def test_a_number_without_decimals_is_one():
    record = reply_record(Reply(Question("harmless", "How?"), marked(), marked(), likeness=1.0, kl=0.0))
    found = reply_from({**record, "likeness": 1, "kl": 0})
    assert (found.likeness, found.kl) == (1.0, 0.0) and type(found.kl) is float


def test_an_exam_comes_back_and_one_that_lacks_a_part_is_refused_by_name():
    exam = ExamResult((), "DINM", "rules", "reads", PromptFormat(""), "paper", 40, False, 1.5)
    assert exam.scores == (), "worked out of it, which its record is not to hold"
    record = json.loads(json.dumps(exam_record(exam)))
    assert exam_from(record) == exam
    older = {name: value for name, value in record.items() if name != "detector"}
    assert exam_from(older) == exam, "one from before detectors were named is of weights that act on every prompt"
    for part in older:
        with pytest.raises(ValueError, match=f"ExamResult is broken at {part}"):
            exam_from({name: value for name, value in record.items() if name != part})
