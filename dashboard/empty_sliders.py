"""A slider whose number was emptied: Gradio compares nothing with its range, and tells of an error without a word."""

from __future__ import annotations

from functools import wraps
from typing import Any

import gradio as gr

from dashboard.kit.drawing.plain import escape


def tell_of_empty_sliders() -> None:
    """Let every slider without a number refuse the event that reads it, and say what is missing; for all pages."""
    read = gr.Slider.preprocess
    if hasattr(read, "__wrapped__"):
        return

    @wraps(read)
    def preprocess(slider: gr.Slider, payload: Any) -> Any:
        if payload is None:
            label = escape(slider.label or "A slider", quote=False)
            raise gr.Error(
                f"'{label}' is empty. Give it a number from {slider.minimum:g} to {slider.maximum:g}.",
                duration=12,
                print_exception=False,
            )
        return read(slider, payload)

    gr.Slider.preprocess = preprocess
