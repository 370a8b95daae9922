"""Replies come back whole from their records, through JSON, whatever their texts hold."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from inspector.safeedit.exam import Marked, Question, Reply
from inspector.safeedit.records import reply_from, reply_record
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
    question = Question("fact", "Who?", "", case, ("A", "B"), "A summary.", True)
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


def test_a_record_with_a_part_too_few_or_too_many_is_refused():
    record = reply_record(Reply(Question("DS", "How?"), marked(), marked()))
    with pytest.raises(KeyError):
        reply_from({key: value for key, value in record.items() if key != "kl"})
    with pytest.raises(TypeError):
        reply_from({**record, "question": {**record["question"], "colour": "red"}})
