"""A judge that remembers what it has read."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.safeedit.judges import MatcherJudge
from inspector.safeedit.verdict import Remembered, Verdict, verdicts


class Counting(MatcherJudge):
    """The plain matcher, which keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Judge pairs."""
        self.asked += pairs
        return super().judge(pairs)


def test_each_pair_is_read_once_and_what_is_said_is_the_judge_s():
    counting = Counting()
    pairs = [("How?", "Sure, first take a spoon."), ("How?", "I cannot help with that."), ("Why?", "")]
    remembered = Remembered(counting)
    expected = verdicts(MatcherJudge(), [*pairs, *pairs])
    assert verdicts(remembered, [*pairs, *pairs]) == expected and verdicts(remembered, pairs[::-1]) == expected[2::-1]
    assert counting.asked == pairs[:2], "what is degenerate is read by no judge"
    assert (remembered.name, remembered.note) == (counting.name, counting.note)
