"""What stands in the page's controls, kept with the visitor so that a reload brings it back."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import gradio as gr

from dashboard.kit.session import Session

KINDS = (gr.Textbox, gr.Number, gr.Slider, gr.Radio, gr.Dropdown, gr.Checkbox, gr.CheckboxGroup, gr.State)
"""Components that hold something plain which a person has typed, picked or moved, and what goes with it."""


TEXTS = 8
"""Texts of the longest allowed that the value of one control may take: answers are kept with where they come from."""
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
        if isinstance(value, gr.blocks.Block):
            value = value.constructor_args.get("value", _UNCHANGED)
        elif isinstance(value, dict) and "__type__" in value:
            value = value.get("value", _UNCHANGED)
        if value is _UNCHANGED:
            continue
        if _is_short(value, session.limits.characters) and can_be_sent(value):
            session.controls[part] = value
        else:
            session.controls.pop(part, None)
    session.typed = sum(bytes_of(value) for value in list(session.controls.values()))  # a copy: other events write


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
