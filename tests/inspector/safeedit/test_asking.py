"""Which questions of an exam share a batch."""

from __future__ import annotations

import pytest

from inspector.safeedit.asking import planned
from inspector.safeedit.questions import Question

KINDS = ("harmless", "transfer", "fact", "DS", "harmless")
QUESTIONS = [Question(kind, f"question {number}") for number, kind in enumerate(KINDS)]
PROMPTS = [(number,) for number in range(len(KINDS))]


@pytest.mark.parametrize(
    ("size", "mixed", "batches"),
    [
        (9, False, [[3], [1], [0, 4], [2]]),
        (9, True, [[0, 1, 3, 4], [2]]),
        (3, True, [[0, 1, 3], [4], [2]]),
    ],
)
def test_kinds_share_batches_where_it_is_asked_for_but_never_with_answers_of_another_length(size, mixed, batches):
    assert planned(QUESTIONS, PROMPTS, size, mixed) == batches


def test_without_facts_or_without_others_there_is_no_empty_batch():
    facts = [question for question in QUESTIONS if question.kind == "fact"]
    assert planned(facts, PROMPTS[:1], 9, mixed=True) == [[0]] == planned(QUESTIONS[:1], PROMPTS[:1], 9, mixed=True)
