"""Where the steps stand on the page: each says so itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from dashboard_helpers import Page

from dashboard.house import DETAILS, STEPS
from dashboard.kit.room import Room


def own(room: Room) -> Iterator[Any]:
    """Yield the components of a step and of its parts."""
    for part in vars(room).values():
        if isinstance(part, Room):
            yield from own(part)
        elif isinstance(part, gr.blocks.Block):
            yield part


def test_what_is_folded_stands_under_the_title_that_its_own_step_gives_it(page: Page):
    later, house = page.context.later, page.house
    step_of = {part: name for name, room in house.rooms.items() for part in own(room)}
    tabs = {part.label: later.parts(part) for part in later.parts(house.details) if isinstance(part, gr.Tab)}
    told = {detail.title: kind.name for kind in STEPS for detail in kind.details}
    assert {title: {step_of[part] for part in parts if part in step_of} for title, parts in tabs.items()} == {
        title: {name} for title, name in told.items()
    }
    assert len(told) == sum(len(kind.details) for kind in STEPS), "a title of its own for each"


def test_what_was_measured_is_folded_before_what_is_set(page: Page):
    shown = [part.label for part in page.house.details.children[0].children]
    measured = [detail.title for kind in STEPS for detail in kind.details if not detail.is_setting]
    assert shown == list(DETAILS) and shown[: len(measured)] == measured
    assert shown[0] == "Token by token" and shown[-1] == "Decoding and routing"
