"""A page of which a browser is told what stands in the first view, and is given the rest when that is opened.

What is given (:mod:`dashboard.kit.later` says what that is) goes the way on which Gradio sends what it renders anew:
components, their layout and their events, in the answer to the event that opens them.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard.kit.later import Later, page_with, said_of, without
from inspector.model.memory.recent import Recent

PAGES = 10_000
"""Pages of which it is known what they were given. It outlives a visitor's session, as the page does in its browser; of
one that has opened so many pages ago nothing is known any more: it is sent everything."""


class GivingBlocks(gr.Blocks):
    """A page that holds back what is opened later."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.later = Later()
        self._known: Recent[str, set[int]] = Recent(PAGES)
        self._coming: Recent[str, dict[int, set[Any]]] = Recent(PAGES)
        self._early: Recent[str, set[int]] = Recent(PAGES)
        """What pages were given before their opening was heard of: an address may name what is opened."""
        super().__init__(*given, **named)

    def get_config_file(self) -> Any:
        """Return what Gradio tells clients; the list of each page, which browsers get, lacks what is given later."""
        config: Any = super().get_config_file()
        self._settle_what_can_be_used(config)
        for container in self.later.containers:
            held = self._numbers(container)
            events = _events_of(config, held)
            for page in config["page"].values():
                page["components"] = [number for number in page["components"] if number not in held]
                page["dependencies"] = [number for number in page["dependencies"] if number not in events]
                page["layout"] = _emptied(page["layout"], container._id)
        return config

    def _settle_what_can_be_used(self, config: Any) -> None:
        """Say of each control whether a person can change it: a browser tells by all events, and knows some of them."""
        shown = {number for page in config["page"].values() for number in page["dependencies"]}
        events = [one for one in config["dependencies"] if one["id"] in shown]
        read = {number for one in events for number in one["inputs"]}
        drawn = {number for one in events for number in one["outputs"]}
        for one in config["components"]:
            if hasattr(self.blocks.get(one["id"]), "interactive") and one["props"].get("interactive") is None:
                is_set = one["id"] in drawn or bool(one["props"].get("value"))
                one["props"]["interactive"] = one["id"] in read or not is_set

    async def preprocess_data(self, block_fn: Any, inputs: Any, state: Any, explicit_call: bool = False) -> Any:
        """Read what a browser sends of parts that it has not been given as what a new page has."""
        inputs = list(inputs)
        for place, part in enumerate(block_fn.inputs[: len(inputs)]):  # of another number Gradio tells
            if inputs[place] is None and self.later.lacks(part):
                inputs[place] = self._new(part)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> Any:
        """Send nothing to parts that a browser has not been given; note what is said of those on their way to it."""
        opened = self.later.opened_by(block_fn)
        if self.later.opened_by(self.fns.get(block_fn.trigger_after, block_fn)) is None:
            self.later.note_said(said_of(predictions, block_fn.outputs))
        now = self.later.parts(opened) if opened is not None else frozenset()
        predictions = without(predictions, self.later.absent() - now, block_fn.outputs)
        return await super().postprocess_data(block_fn, predictions, state)

    async def process_api(self, block_fn: Any, *given: Any, **named: Any) -> Any:
        """Answer an event, with the parts that it opens: these are on their way until what follows has drawn them."""
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        page = named.get("session_hash") or ""
        known = self._known.get(page)
        if known is None and page and any(name == "load" for _, name in event.targets):
            known = self._known[page] = self._early.pop(page, set())  # besides that, what stands in the first view
            self._coming[page] = {}
        coming, opened = self._coming.get(page), self.later.opened_by(event)
        if opened is not None and coming is not None:
            coming[opened._id] = set()
        with page_with(known, coming):
            output = await super().process_api(block_fn, *given, **named)
        if opened is not None:  # a browser presses once more where an answer was lost on its way
            output["data"], output["render_config"] = self._given(opened, event, output["data"])
            known = self._known.get(page)
            if known is not None:
                known.add(opened._id)
            elif page:
                self._early[page] = {*self._early.get(page, set()), opened._id}
        return output

    def _numbers(self, container: Any) -> set[int]:
        return {part._id for part in self.later.parts(container)}

    def _new(self, part: Any) -> Any:
        """Return what stands in a part of a new page, as a browser sends it."""
        return next((one["props"].get("value") for one in self.config["components"] if one["id"] == part._id), None)

    def _given(self, container: Any, event: Any, data: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return an event's data without what it says of parts within a container, and those parts as it has them."""
        held = self._numbers(container)
        said = {part._id: value for part, value in zip(event.outputs, data, strict=True)}
        config: Any = self.config
        components = []
        for one in config["components"]:
            if one["id"] in held or one["id"] == container._id:
                props = {**one["props"], **_as_props(said.get(one["id"], gr.skip()))}
                if one["id"] == container._id:  # a person has just unfolded it
                    props.pop("open", None)
                components.append({**one, "props": props})
        events = _events_of(config, held)
        rendered = {
            "render_id": -container._id,
            "layout": _layout_of(container),
            "components": components,
            "dependencies": [one for one in config["dependencies"] if one["id"] in events],
        }
        left = [gr.skip() if part._id in held else value for part, value in zip(event.outputs, data, strict=True)]
        return left, rendered


def _emptied(layout: dict[str, Any], container: int) -> dict[str, Any]:
    """Return a layout in which one container has nothing."""
    if layout["id"] == container:
        return {**layout, "children": []}
    return (
        {**layout, "children": [_emptied(one, container) for one in layout["children"]]}
        if "children" in layout
        else layout
    )


def _layout_of(block: Any) -> dict[str, Any]:
    """Return how a block is laid out, as Gradio tells browsers."""
    children = getattr(block, "children", None)
    return {"id": block._id} if children is None else {"id": block._id, "children": [*map(_layout_of, children)]}


def _as_props(update: Any) -> dict[str, Any]:
    """Return what an event says of a component, as that component's properties."""
    if isinstance(update, dict) and update.get("__type__") == "update":
        return {name: value for name, value in update.items() if name != "__type__"}
    return {"value": update}


def _events_of(config: Any, parts: set[int]) -> set[int]:
    """Return the numbers of the events that parts start, and of those that follow them."""
    found: set[int] = set()
    for event in config["dependencies"]:  # in the order in which they were made: what follows comes later
        started = [number for number, _ in event["targets"] if number is not None]
        follows = event.get("trigger_after") in found
        if follows or (started and parts.issuperset(started)):
            found.add(event["id"])
    return found
