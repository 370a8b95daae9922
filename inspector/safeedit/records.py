"""Marked replies as plain dictionaries and back, for files and databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inspector.safeedit.exam import Marked, Question, Reply
from inspector.safeedit.verdict import Verdict


def reply_record(reply: Reply) -> dict[str, Any]:
    """Return a reply as a dictionary that JSON can hold."""
    record = asdict(reply)
    record["question"]["accepted"] = list(reply.question.accepted)
    return record


def reply_from(record: Mapping[str, Any]) -> Reply:
    """Return the reply that :func:`reply_record` wrote.

    Raises:
        KeyError: A field is missing.
        TypeError: There is a field that replies do not have.
    """
    question = Question(**{**record["question"], "accepted": tuple(record["question"]["accepted"])})
    return Reply(question, _marked(record["vanilla"]), _marked(record["edited"]), record["likeness"], record["kl"])


def _marked(record: Mapping[str, Any]) -> Marked:
    verdict = record["verdict"]
    return Marked(**{**record, "verdict": None if verdict is None else Verdict(**verdict)})
