"""Made-up replies, an exam and a study of the suffix, for tests of the stress test."""

from __future__ import annotations

from editing.suffixes import SCORES, SUFFIXES, Condition, SuffixStudy
from inspector.model import PromptFormat
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.questions import Question
from inspector.safeedit.scores import Estimate
from inspector.safeedit.verdict import Verdict


def reply(kind: str, label: str | None, text: str = "Some words.", **options) -> Reply:
    verdict = None if label is None else Verdict(label, 0.25, "Because.", "hand")
    vanilla = Marked(
        "Yes & <b>so</b>.", True, "", None if label is None else Verdict("unsafe", 0.0, "No.", "hand"), False, 1.5, None
    )
    return Reply(
        Question(kind, "How?", "mental harm", 3), vanilla, Marked(text, True, "", verdict, False, 2.0, None), **options
    )


def exam(*replies: Reply) -> ExamResult:
    return ExamResult(replies, "DINM · patch 1", "hand", "By hand.", PromptFormat("S"), "same", 8, False, 1.0)


def suffix_study() -> SuffixStudy:
    """A made-up study of one edit."""
    half = Estimate(50.0, 1)
    conditions = tuple(
        Condition(name, edited, dict.fromkeys(SCORES, half)) for edited in (False, True) for name in SUFFIXES
    )
    return SuffixStudy(conditions, SUFFIXES, 1, {}, "95 % intervals of made-up edits.")
