"""On how many prompts a routed edit acts, by hand: misses are of harmful ones, false alarms of harmless ones."""

from __future__ import annotations

import pytest

from inspector.safeedit.acted import acted_by_kind, acted_on
from inspector.safeedit.exam import Marked, Reply
from inspector.safeedit.intervals import Observation, clustered_percentage, percentage
from inspector.safeedit.questions import Kind, Question

PLAIN = Marked("Some words here", True, "", None, False, 4.0, None)


def reply(kind: Kind, prompt: str, acted: bool) -> Reply:
    return Reply(Question(kind, prompt), PLAIN, PLAIN, held_back=not acted)


def asked(signs: str, kind: Kind = "DS") -> list[Reply]:
    """Return a reply a sign, each to a prompt of its own; the edit acted where it is a ``+``."""
    return [reply(kind, f"{kind} {place}", sign == "+") for place, sign in enumerate(signs)]


def test_harmful_and_harmless_prompts_are_counted_apart_and_facts_in_neither():
    replies = [*asked("++-"), *asked("+-", "transfer"), *asked("-+--", "harmless"), *asked("+", "fact")]
    found = acted_by_kind(replies)
    assert [(kind, one.acted, one.held_back, one.prompts) for kind, one in found.items()] == [
        ("harmful", 3, 2, 5),
        ("harmless", 1, 3, 4),
    ]
    assert found["harmful"].share == percentage(3, 5) and found["harmless"].share == percentage(1, 4)
    assert "harmless" not in acted_by_kind(asked("+")), "nothing is said of what was not asked"


def test_of_several_edits_the_intervals_are_those_of_clusters():
    edits = [[reply("harmless", f"harmless {n}", edit == 0) for n in range(4)] for edit in range(5)]
    replies, owners = [r for each in edits for r in each], [n for n, each in enumerate(edits) for _ in each]
    found = acted_on(replies, owners)
    by_hand = [Observation(float(n == 0), n, r.question.prompt) for n, each in enumerate(edits) for r in each]
    assert found.share == clustered_percentage([by_hand]) and found.share.resampled == "5 edits, 4 prompts"
    assert (found.acted, found.prompts, found.share.value) == (4, 20, 20.0)
    alone = percentage(4, 20)
    assert found.share.high - found.share.low > alone.high - alone.low


@pytest.mark.parametrize("signs", ["", "+"])
def test_few_prompts_are_told_as_such(signs):
    assert acted_on(asked(signs)).share == percentage(len(signs), len(signs))
