"""A slider whose number was emptied says so, and one that has a number is read as Gradio reads it."""

from __future__ import annotations

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
