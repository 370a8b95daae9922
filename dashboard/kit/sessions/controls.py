"""What stands in the page's controls, kept with the visitor so that a reload brings it back."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import gradio as gr

from dashboard.kit.sessions.session import Session

KINDS = (gr.Textbox, gr.Number, gr.Slider, gr.Radio, gr.Dropdown, gr.Checkbox, gr.CheckboxGroup, gr.State)
"""Components that hold something plain which a person has typed, picked or moved, and what goes with it."""


TEXTS = 8
"""Texts of the longest allowed that the value of one control may take: answers are kept with where they come from."""
SHAPE = ("minimum", "maximum", "choices")
"""What an event may change of a control: which values it takes."""
LARGEST = 2**63
"""No number as large as this is kept: it could not be sent to a page again."""


def is_control(part: Any) -> bool:
    """Tell whether a component is one that a reload brings back."""
    return isinstance(part, KINDS)


def remember(controls: Collection[Any], session: Session | None, values: dict[Any, Any]) -> None:
    """Keep what stands in the controls, as an event has read it or has set it, and count what the session keeps so.

    A text that is longer than is allowed is not kept, nor a number that is too large, nor what was there before it: a
    page that is open goes on showing what stands there, and a reload brings nothing back in its place.

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
        changed = _changed_in(value)
        if changed is not None:
            shape = session.shapes.get(part, {}) | {name: changed[name] for name in SHAPE if name in changed}
            if shape and _is_short(shape, session.limits.characters):
                session.shapes[part] = shape
            else:
                session.shapes.pop(part, None)
            value = changed.get("value", _UNCHANGED)
        if value is _UNCHANGED:
            continue
        if _is_short(value, session.limits.characters) and can_be_sent(value):
            session.controls[part] = value
        else:
            session.controls.pop(part, None)
    held = [*session.controls.values(), *session.shapes.values()]  # a copy: other events write
    session.typed = sum(map(bytes_of, held))


def brought_back(session: Session) -> dict[Any, Any]:
    """Return what stood in each control, with the range that it had where an event had set one.

    A page that is sent the value alone would send it back and be refused: it lies outside what a new page's control
    takes, and its view, which would set the range, may not have been opened.
    """
    kept, shapes = dict(session.controls), dict(session.shapes)
    return {part: _in_shape(part, value, shapes[part]) if part in shapes else value for part, value in kept.items()}


def _in_shape(part: Any, value: Any, shape: Mapping[str, Any]) -> Any:
    """Return a control with a range and a value within it: a range may be narrowed without a word on the value."""
    if isinstance(value, int | float):
        value = max(shape.get("minimum", value), min(shape.get("maximum", value), value))
    return type(part)(value=value, **shape)


def as_new(part: Any, value: Any) -> Any:
    """Return a control with a value, taking what it takes on a new page whatever an event has set it to take."""
    return type(part)(value=value, **{name: getattr(part, name) for name in SHAPE if hasattr(part, name)})


def _changed_in(value: Any) -> Mapping[str, Any] | None:
    """Return what an event changes of a component, ``None`` where it gives a value alone."""
    if isinstance(value, gr.blocks.Block):
        return dict(value.constructor_args)
    return value if isinstance(value, dict) and "__type__" in value else None


def bytes_of(value: Any) -> int:
    """Return roughly what a control's value takes in memory."""
    return sum(map(sys.getsizeof, _leaves(value)))


def can_be_sent(value: Any) -> bool:
    """Tell whether a page can be sent a control's value: no number in it is too large."""
    return all(abs(leaf) < LARGEST for leaf in _leaves(value) if isinstance(leaf, int | float))


def _is_short(value: Any, most: int) -> bool:
    lengths = [len(leaf) if isinstance(leaf, str) else 1 for leaf in _leaves(value)]
    return max(lengths, default=0) <= most and sum(lengths) <= TEXTS * most


def _leaves(value: Any) -> Iterator[Any]:
    looked = [value]
    while looked:
        one = looked.pop()
        if isinstance(one, Mapping):
            looked += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            looked += one
        else:
            yield one


_UNCHANGED = object()
