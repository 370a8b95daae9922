"""A slider whose number was emptied: Gradio compares nothing with its range, and tells of an error without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import gradio as gr

from dashboard.kit.drawing.plain import escape

_STARTED_BY: ContextVar[frozenset[int]] = ContextVar("numbers of what has started an event", default=frozenset())


@contextmanager
def reading(event: Any) -> Iterator[None]:
    """Read an event within: a slider whose own typing starts it may be empty, as another number is typed just now.

    Args:
        event: Gradio's.
    """
    typed = frozenset(number for number, trigger in event.targets if trigger in ("change", "input"))
    before = _STARTED_BY.set(typed)
    try:
        yield
    finally:
        _STARTED_BY.reset(before)


def tell_of_empty_sliders() -> None:
    """Let every slider without a number refuse the event that reads it, and say what is missing; for all pages.

    The events that its own typing starts read ``None``.
    """
    read = gr.Slider.preprocess
    if hasattr(read, "__wrapped__"):
        return

    @wraps(read)
    def preprocess(slider: gr.Slider, payload: Any) -> Any:
        if payload is None and slider._id in _STARTED_BY.get():
            return None
        if payload is None:
            label = escape(slider.label or "A slider", quote=False)
            raise gr.Error(
                f"'{label}' is empty. Give it a number from {slider.minimum:g} to {slider.maximum:g}.",
                duration=12,
                print_exception=False,
            )
        return read(slider, payload)

    gr.Slider.preprocess = preprocess
