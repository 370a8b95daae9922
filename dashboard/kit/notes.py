"""What the operator is told of the page: events in a log, by name and number, never a text of a visitor.

One channel for both who reads along and who counts: a log line is an event with fields, and :mod:`dashboard.metrics`
counts the same events.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

LOGGER = logging.getLogger("dinm_inspector")
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False  # a package that sets up logging of its own would write every event a second time
ROOT = Path(__file__).resolve().parents[2]


def note(event: str, level: int = logging.INFO, **fields: str | float | bool | None) -> None:
    """Tell the operator of an event.

    Args:
        event: Its name: ``run``, ``refused``, ``defect``, ``lost session`` ...
        level: How much it matters.
        fields: What is known of it: names of our own, numbers. Nothing that a visitor wrote.
    """
    LOGGER.log(level, event, extra={"told": fields})


def untidied(error: BaseException) -> None:
    """Tell that something could not be put away: whoever met it did not ask for it, and is not told."""
    note("told", logging.ERROR, error="NoTidying", cause=type(error).__name__, at=places(error.__traceback__))


def places(trace: TracebackType | None) -> str:
    """Return where an error comes from, the innermost place last; without its message, which may quote a text."""
    frames = traceback.extract_tb(trace)[-6:]
    return " > ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _short(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


class JsonLines(logging.Formatter):
    """One JSON object a line: time in seconds since 1970, event, level, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        told: dict[str, Any] = {"time": round(record.created, 3), "event": record.getMessage()}
        told["level"] = record.levelname.lower()
        return json.dumps({**told, **getattr(record, "told", {})}, ensure_ascii=True)


class PlainLines(logging.Formatter):
    """The same for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "told", {}).items())
        return f"{clock} {record.getMessage()}: {fields}"


def write_to(target: str | None) -> logging.Handler:
    """Write events as JSON lines to a file, ``-`` for standard error; only defects, in plain words, if not asked for.

    Returns:
        The handler, to be taken off again.

    Raises:
        OSError: The file cannot be written.
    """
    handler: logging.Handler
    if target is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.ERROR)
        handler.setFormatter(PlainLines())
    else:
        handler = logging.StreamHandler(sys.stderr) if target == "-" else logging.FileHandler(target, encoding="utf-8")
        handler.setFormatter(JsonLines())
    LOGGER.addHandler(handler)
    return handler
