"""What stands in the page's controls, kept with the visitor so that a reload brings it back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gradio as gr

from dashboard.kit.session import Session

KINDS = (gr.Textbox, gr.Number, gr.Slider, gr.Radio, gr.Dropdown, gr.Checkbox, gr.CheckboxGroup, gr.State)
"""Components that hold something plain which a person has typed, picked or moved, and what goes with it."""


def is_control(part: Any) -> bool:
    """Tell whether a component is one that a reload brings back."""
    return isinstance(part, KINDS)


def remember(controls: Collection[Any], session: Session | None, values: dict[Any, Any]) -> None:
    """Keep what stands in the controls, as an event has read it or has set it.

    Args:
        controls: Which ones are kept.
        session: The visitor's, if it is still there.
        values: By component: values, or changed components as an update has them.
    """
    if session is None:
        return
    for part, value in values.items():
        if part not in controls:
            continue
        if isinstance(value, gr.blocks.Block):
            value = value.constructor_args.get("value", _UNCHANGED)
        elif isinstance(value, dict) and "__type__" in value:
            value = value.get("value", _UNCHANGED)
        if value is not _UNCHANGED:
            session.controls[part] = value


_UNCHANGED = object()
