"""A slider whose number was emptied says so, and one that has a number is read as Gradio reads it."""

from __future__ import annotations

import asyncio

import gradio as gr
import pytest

from dashboard import lighter


def test_an_empty_slider_says_which_it_is_and_what_it_takes():
    assert lighter.LighterBlocks, "the page's kind of blocks brings it"
    slider = gr.Slider(0, 1.5, step=0.05, label="Strength")
    with pytest.raises(gr.Error, match=r"'Strength' is empty\. Give it a number from 0 to 1\.5"):
        slider.preprocess(None)
    assert slider.preprocess(0.5) == 0.5
    with pytest.raises(gr.Error, match="greater than maximum"):
        slider.preprocess(5)


def test_while_another_number_is_typed_the_slider_s_own_events_read_none_and_all_others_say_what_is_missing():
    with lighter.LighterBlocks(analytics_enabled=False) as page:
        layer, other, button = gr.Slider(0, 3, label="Layer"), gr.Slider(0, 3, label="Place"), gr.Button()
        for trigger in (layer.change, layer.input, layer.release, other.change, button.click):
            trigger(lambda _: None, [layer])
    read = []
    for event in page.fns.values():
        try:
            read.append(asyncio.run(page.preprocess_data(event, [None], None)))
        except gr.Error as error:
            read.append(str(error.message))
    missing = "'Layer' is empty. Give it a number from 0 to 3."
    assert read == [[None], [None], missing, missing, missing]
