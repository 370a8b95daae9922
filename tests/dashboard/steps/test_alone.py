"""Each step alone: built with the kit and the tiny model, its neighbours stood in for, and shown as in the house."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import pandas
import plotly.graph_objects as go
import pytest
from dashboard_helpers import tiny_model
from example_helpers import finished_example

from dashboard.example.make import Example
from dashboard.house import STEPS, House
from dashboard.kit.bus import Bus, News, Offer
from dashboard.kit.room import Context, Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.shelf import Shelf
from dashboard.lighter import LighterBlocks

pytestmark = pytest.mark.usefixtures("model")

BY_THEMSELVES = ("case", "questions")
"""Steps that draw nothing of a session: controls come back by themselves, and no question is open yet."""


@dataclass
class Stage(Bus):
    """A bus with one step on it: whatever it asks of the others is stood in for.

    Attributes:
        given: What stands in the component that somebody lends, by the offer's name.
        calls: What is lent; nothing by default.
        stood_in: All offers that the step has asked others for, by their names.
    """

    given: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, Callable[..., Any]] = field(default_factory=dict)
    stood_in: dict[str, Offer] = field(default_factory=dict)

    def offered(self, name: str) -> Offer:
        """Return what some step lends under a name."""
        if name not in self._offers:
            call = self.calls.get(name, lambda *given: None)
            self.stood_in[name] = Offer((gr.State(self.given.get(name)),), (gr.HTML(),), call)
            self.offer(name, self.stood_in[name])
        return super().offered(name)


def two_models() -> Shelf:
    """Return a list of two models, so that their view has something to press; nobody loads the other one."""
    return Shelf(tiny_model(), [tiny_model().name, "org/second"])


@pytest.fixture(scope="module")
def example(example_folder: Path) -> Example:
    """The finished example."""
    return finished_example(example_folder)


@pytest.fixture(scope="module")
def house(example: Example) -> House:
    """All steps together."""
    with LighterBlocks(analytics_enabled=False):
        house = House(tiny_model(), Sessions(), example, False)
        house.context.shelf = two_models()
        house.build()
    return house


def alone(kind: type[Room], example: Example) -> Room:
    """Build one step, with everything that it lays out anywhere on the page."""
    with LighterBlocks(analytics_enabled=False):
        context = Context(tiny_model(), Sessions(), example, False)
        context.shelf, context.reporters = two_models(), ()
        typed = dict.fromkeys(("typed", "texts"), lambda values: example.texts)
        context.bus = Stage(given={"layer": example.block}, calls={**typed, "several edits": lambda session: ()})
        context.bus.speaker = kind.name
        room = kind(context)
        for lay_out in [name for name in dir(kind) if re.fullmatch(r"build(_\w+)?", name)]:
            getattr(room, lay_out)()
        room.hear()
        room.connect()
    return room


def parts_of(room: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the components of a step and of its parts, by where they are kept."""
    for name, value in vars(room).items():
        for number, part in enumerate(value if isinstance(value, tuple | list) else [value]):
            if isinstance(part, gr.blocks.Block):
                yield f"{path}{name} {number}", part
            elif isinstance(part, Room) or hasattr(part, "build") or hasattr(part, "panes"):
                yield from parts_of(part, f"{path}{name}.")


def plain(value: Any) -> Any:
    """Return a value, a figure or a component so that it can be compared: panes and folders have their own names, and
    a row of the history has the time at which it was first drawn.
    """
    if isinstance(value, gr.blocks.Block):
        return type(value).__name__, plain(value.constructor_args)
    if isinstance(value, go.Figure):
        return value.to_json()
    if isinstance(value, pandas.DataFrame):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    times = r"\d{4}-\d\d-\d\d[T ][\d:]+|\b\d\d:\d\d\b"
    return re.sub(rf"answer-\d+|dinm-inspector-[\w-]+|{times}", "", str(value))


def shown(room: Room, session: Session) -> dict[str, Any]:
    """Return what a step draws of a session on a page that opens, by where its component is kept."""
    values = {part: part.value for part in room.bus.inputs(News.BACK, News.ENDED)}
    own = {part: name for name, part in parts_of(room)}
    drawn = {}
    for news in (News.BACK, News.ENDED):
        drawn |= room.bus.told(news, session, values, [room.name])
    return {own[part]: plain(value) for part, value in drawn.items()}


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.name)
def test_a_step_alone_is_built_and_shown_as_in_the_house(kind: type[Room], house: House, example: Example):
    """Of a visitor who sees the example, and of one for whom there is nothing yet."""
    room, there = alone(kind, example), house.rooms[kind.name]
    stood_in = room.bus.stood_in
    assert set(stood_in) <= set(house.context.bus._offers), "somebody in the house lends each of these"
    lent = {part for offer in stood_in.values() for part in (*offer.inputs, *offer.outputs)}
    own, whole = dict(parts_of(room)), dict(parts_of(there))
    assert own and own.keys() == whole.keys()
    assert {name: plain(part) for name, part in own.items() if part not in lent} == {
        name: plain(whole[name]) for name, part in own.items() if part not in lent
    }
    for nothing in (False, True):
        pages = {}
        for step in (room, there):
            session = Session()
            if nothing:
                session.started = session.own = True
            else:
                example.fill(session)
            pages[step] = shown(step, session)
        assert pages[room] == pages[there], "nothing yet" if nothing else "the example"
        assert pages[room] or kind.name in BY_THEMSELVES
