"""What every element of the page is called: a name of its own for each, and words for each figure."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from dashboard_helpers import Page, tiny_model
from example_helpers import finished_example, short_examples

from dashboard.calibrating import CalibratingLine
from dashboard.example.make import Example
from dashboard.house import House
from dashboard.kit.sessions.visitors import Sessions
from dashboard.lighter import LighterBlocks
from dashboard.page import ASSETS, SCRIPTS
from inspector.model import Decoding
from inspector.presets import PRESETS


def test_no_element_s_name_is_used_twice(page: Page):
    names: list[str] = []
    for block in page.app.blocks.values():
        names += [block.elem_id] if getattr(block, "elem_id", None) else []
        if isinstance(block, gr.HTML):
            names += re.findall(r'\sid="([^"]+)"', str(block.value))
    assert len(names) > 60 and [name for name, times in Counter(names).items() if times > 1] == []


def test_the_preset_that_locates_and_the_one_that_edits_have_names_of_their_own(page: Page):
    radios = [block for block in page.app.blocks.values() if isinstance(block, gr.Radio)]
    named = [block.label for block in radios if [value for _shown, value in block.choices] == list(PRESETS)]
    assert named == ["Locate as", "Edit as"]


def test_every_figure_has_a_name_in_words_that_is_its_own(page: Page):
    plots = [block for block in page.app.blocks.values() if isinstance(block, gr.Plot)]
    titles = [plot.label for plot in plots]
    assert len(plots) >= 17 and all(title and len(title.split()) >= 2 for title in titles), titles
    assert len(set(titles)) == len(titles) and all(plot.elem_id for plot in plots)


def test_what_a_click_on_a_figure_fills_is_said_by_the_figure_and_is_a_slider_of_the_page(page: Page):
    scripts = {name: (ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS}
    read = re.compile(re.search(r"PICKS = /(.+)/;", scripts["plots.js"])[1])
    named = {block.elem_id: block for block in page.app.blocks.values() if getattr(block, "elem_id", None)}
    figures = {name: block for name, block in named.items() if isinstance(block, gr.Plot)}
    picks = {name: [read.match(one) for one in plot.elem_classes or ()] for name, plot in figures.items()}
    picks = {name: [found.groups() for found in all_found if found] for name, all_found in picks.items()}
    layer = [("x", page.parts.block.elem_id)]
    assert {name: fills for name, fills in picks.items() if fills} == {
        **dict.fromkeys(("curve", "why-locators", "why-atlas", "why-regions"), layer),
        "why-lens": [("y", page.parts.block.elem_id), ("column", page.parts.why_place.elem_id)],
    }
    assert all(isinstance(named[slider], gr.Slider) for fills in picks.values() for _, slider in fills)
    assert [f"{script}: {name}" for name in figures for script in scripts if f"#{name}" in scripts[script]] == []


def test_what_is_told_of_the_background_stands_in_one_column(example_folder: Path, tmp_path: Path):
    """Both lines are there for a new model: were each fixed in the corner by itself, one would cover the other."""
    finished_example(example_folder)
    background: Any = SimpleNamespace(note=lambda: "", ended=False)
    with short_examples(), LighterBlocks(analytics_enabled=False) as app:
        house = House(
            tiny_model(),
            Sessions(),
            Example(tiny_model(), Decoding(), tmp_path),
            False,
            None,
            CalibratingLine(background),
        )
        house.build()
    told = [block for block in app.blocks.values() if getattr(block, "elem_id", "") in ("example-note", "calibrating")]
    assert len(told) == 2 and {block.parent.elem_id for block in told} == {"behind"}
