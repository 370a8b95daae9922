"""A page whose first load holds what browsers use, and whose configuration and server are made only when it is whole.

Gradio sends every browser the endpoints for programs with it, their parts' schemas and code to copy in three languages,
and puts the configuration together, twice, before the page is laid out to its end. It makes three servers, each with
all of its routes, before the one that a page is served by. Around each event it makes room for drawings of matplotlib,
which the first one imports for that while the first visitor waits, half a second of a processor; no page has any.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import gradio as gr
import gradio.blocks
import gradio.utils
from gradio.components.api_component import Api
from gradio.routes import App

from dashboard.asked_once import ask_classes_once
from dashboard.empty_sliders import reading, tell_of_empty_sliders
from dashboard.given_later import GivingBlocks


class LighterBlocks(GivingBlocks):
    """A page that tells browsers nothing of what only programs call; those are told all of it, where they ask."""

    def get_config_file(self) -> Any:
        """Return what Gradio tells clients; each page's own list is what a browser gets of it."""
        if not getattr(self, "exited", True):  # it is laid out still: this is asked for again once that has ended
            return {"page": {}, "components": [], "dependencies": [], "pages": []}
        config = cast(Any, super().get_config_file())
        parts = {number for number, block in self.blocks.items() if isinstance(block, Api)}
        endpoints = {number for number, event in self.fns.items() if _is_for_programs(event)}
        for page in config["page"].values():
            page["components"] = [number for number in page["components"] if number not in parts]
            page["dependencies"] = [number for number in page["dependencies"] if number not in endpoints]
            # A browser draws nothing at all where a part stands in the layout of which it was told nothing.
            page["layout"] = {**page["layout"], "children": _without(page["layout"].get("children", []), parts)}
        return config

    async def preprocess_data(self, block_fn: Any, *given: Any, **named: Any) -> Any:
        """Read what a browser sends, also of a slider that is empty while somebody types another number."""
        with reading(block_fn):
            return await super().preprocess_data(block_fn, *given, **named)


class _OnceServed(App):
    """Makes no server where a page is laid out: launching and mounting, which ask for another class, make the one."""

    @staticmethod
    def create_app(blocks: gr.Blocks, **named: Any) -> App | None:
        """Make a page's server, unless nobody would ask for it."""
        return None if isinstance(blocks, LighterBlocks) else App.create_app(blocks, **named)


gradio.blocks.App = _OnceServed
gradio.utils.MatplotlibBackendMananger = nullcontext
ask_classes_once()
tell_of_empty_sliders()


def _without(layout: list[dict[str, Any]], parts: set[int]) -> list[dict[str, Any]]:
    """Return what stands in a layout without some parts, at whatever depth they are."""
    return [
        {**one, "children": _without(one["children"], parts)} if "children" in one else one
        for one in layout
        if one["id"] not in parts
    ]


def _is_for_programs(event: Any) -> bool:
    """Tell whether an event is an endpoint of its own: nothing on the page starts it."""
    return not event.targets and event.api_visibility != "private"


def tell_browsers_less(server: Any) -> None:
    """Let a page's HTML say nothing of its endpoints either; programs ask for them at an address of their own.

    Args:
        server: The page's.
    """
    server.page_api_info["", False] = {"named_endpoints": {}, "unnamed_endpoints": {}}
