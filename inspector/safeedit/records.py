"""Marked replies as plain dictionaries and back, for files and databases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.questions import Question
from inspector.validated import broken_at, read_record, record_reader

_REPLIES = record_reader(Reply, strict=True)
_LATER = frozenset({"reading"})
"""Fields that a record may lack: there were replies before them."""


def reply_record(reply: Reply) -> dict[str, Any]:
    """Return a reply as a dictionary that JSON can hold, with every field of its parts."""
    return _REPLIES.dump_python([reply], mode="json")[0]


def reply_from(record: Mapping[str, Any]) -> Reply:
    """Return the reply that :func:`reply_record` wrote.

    Args:
        record: The dictionary, as it was or back from JSON.

    Raises:
        ValueError: A field is missing, unknown or of another type; the message names it. Whoever reads a file says
            which one and what to do.
    """
    try:
        # As JSON, where being strict still takes an object for a dataclass and a list for a tuple.
        reply = _REPLIES.validate_json(json.dumps([record]))[0]
    except ValidationError as error:
        raise ValueError(f"a reply's record is broken at {broken_at(error)}") from None
    except (TypeError, RecursionError) as error:
        raise ValueError(f"a reply's record is nothing that JSON can hold: {error}") from None
    parts = ((record, Reply), (record["question"], Question), (record["vanilla"], Marked), (record["edited"], Marked))
    for part, kind in parts:
        # Pydantic fills in fields with a default, but a record has all of them that there were from the first.
        missing = [field.name for field in fields(kind) if field.name not in part and field.name not in _LATER]
        if missing:
            raise ValueError(f"a reply's record is broken: {', '.join(missing)} is missing")
    return reply


def exam_record(exam: ExamResult) -> dict[str, Any]:
    """Return a marked exam as a dictionary that JSON can hold."""
    replies = [reply_record(reply) for reply in exam.replies]
    parts = {part.name: getattr(exam, part.name) for part in fields(exam)}  # and nothing that is worked out of them
    return {**parts, "format": vars(exam.format), "replies": replies}


def exam_from(record: Mapping[str, Any]) -> ExamResult:
    """Return the exam that :func:`exam_record` wrote.

    Raises:
        ValueError: A part is missing, unknown or of another type (:func:`reply_from`, :func:`read_record`).
    """
    told = dict(record)
    if "replies" in told:
        told["replies"] = tuple(map(reply_from, told["replies"]))
    return read_record(ExamResult, told)
