"""What a component's class is asked for once, and that the answers are Gradio's own."""

from __future__ import annotations

import builtins
import inspect

import gradio as gr
import gradio.component_meta
import pytest
from gradio.components import base
from gradio.components.base import Component, server

from dashboard import asked_once, lighter


class Calling(gr.HTML):
    @server
    def told(self, word: str) -> str:
        return f"{word} was told"


def test_the_page_s_kind_of_blocks_brings_it():
    assert gradio.component_meta.inspect.getfullargspec is asked_once._arguments and lighter.LighterBlocks


def parts() -> list[type]:
    """Return every component that Gradio has."""
    found, waiting = [], [Component]
    while waiting:
        found.append(one := waiting.pop())
        waiting += one.__subclasses__()
    return found


def test_every_class_has_the_functions_of_the_server_that_gradio_looks_for():
    assert len(parts()) > 30
    for one in parts():
        expected = [name for name in builtins.dir(one) if getattr(getattr(one, name), "_is_server_fn", False)]
        assert base.dir(one) == expected, one
    assert base.dir(Calling) == ["told"]


def test_a_component_still_has_its_functions_and_what_it_was_given():
    made = Calling("Here", elem_id="here", visible=False)
    assert [one("it") for one in made.server_fns] == ["it was told"]
    assert made.constructor_args["elem_id"] == "here" and made.value == "Here" and made.visible is False
    assert gr.Button("Go").server_fns == []


@pytest.mark.parametrize("part", [gr.HTML, gr.Button, gr.Dropdown], ids=lambda part: part.__name__)
def test_the_second_component_of_a_class_asks_for_no_signature(part, monkeypatch):
    part()
    asked = []
    monkeypatch.setattr(inspect, "getfullargspec", lambda function: asked.append(function))
    assert part(elem_id="second").elem_id == "second"
    assert asked == []
    asked_once._arguments.cache_clear()
    with pytest.raises(AttributeError):
        part()
    assert asked
    monkeypatch.undo()
    asked_once._arguments.cache_clear()
