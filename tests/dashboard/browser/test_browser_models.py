"""What only a browser shows of the menu of models: it goes to the other model's page, and back to what was left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_helpers import OPEN_ALL, violations_in_both_themes
from browser_helpers import (
    MARKS,
    SIZE,
    VIEWS,
    WAIT,
    at_width,
    set_up,
    text_of,
    theme,
    too_wide,
    value_of,
    view,
    wait_for_text,
    wait_until_idle,
)
from dashboard_helpers import free_port, model_at_rest, save_listed, tiny_model

from dashboard.kit.shelf import Shelf
from dashboard.page import build_app, launch_options

pytestmark = MARKS
OWN = "How do I cheat at the card game?"
MENU = "details.models > summary"


@pytest.fixture(scope="module")
def two(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tab on a page with two models listed, without an example."""
    deeper = save_listed(tmp_path_factory.mktemp("listed"), "deeper", 5)
    with model_at_rest() as model:
        shelf = Shelf(model, [model.name, deeper], {"device": "cpu", "dtype": "float32"})
        app = build_app(model, example=False, shelf=shelf)
        app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options())
        page = chromium.new_context(viewport=SIZE).new_page()
        page.set_default_timeout(WAIT)
        page.goto(f"{app.local_url}?__theme=light")
        page.wait_for_selector(MENU)
        yield page
        page.context.close()
        app.close(verbose=False)


def choose(page: Any, label: str, where: str) -> None:
    """Choose a model by the keyboard and wait for its page."""
    page.locator(MENU).focus()
    page.keyboard.press("Enter")
    page.locator(f"[data-model={label}]").press("Enter")
    page.wait_for_url(where)
    wait_for_text(page, "#header", label)
    page.wait_for_selector("#edit")


def test_axe_finds_nothing_on_any_view_where_nothing_was_done_yet(two):
    assert "No answer yet" in text_of(two, "#vanilla") and "vanilla" in text_of(two, "#live")
    for name in (*VIEWS[1:], VIEWS[0]):
        view(two, name)
        # Until a view's figures have come, Gradio shows a place of its own for them, whose name has no role. Some ask
        # for theirs as they come into sight, so that a view which is left at once never gets them.
        two.wait_for_function(f"!document.querySelector('#view-{name} .empty.large[aria-label]')", timeout=WAIT)
    style = two.add_style_tag(content=OPEN_ALL)
    assert violations_in_both_themes(two) == []
    style.evaluate("element => element.remove()")


def test_both_models_are_held_beside_each_other(two):
    view(two, "models")
    two.click("#models-compare")
    wait_for_text(two, "#models-table", "deeper")
    two.wait_for_selector("#models-curves .js-plotly-plot")
    wait_until_idle(two)
    answers = [text_of(two, f"#models-{side}") for side in ("first", "second")]
    assert all(answers) and two.locator("#models-curves .legendtext").count() == 2
    assert too_wide(two, 1) == [] and "What is live, and its case, are as they were" in text_of(two, "#models-clock")
    view(two, "operate")


def test_a_model_is_chosen_edited_and_left_and_the_first_page_is_as_it_was(two):
    page, first = two, two.url.partition("?")[0]
    page.locator("#question textarea").fill(OWN)
    choose(page, "deeper", "**/model/deeper/**")
    page.wait_for_function("q => document.querySelector('#question textarea').value === q", arg=OWN)
    assert "Layer to edit (0-4)" in page.locator("#block").inner_text()
    page.locator("#examples button:visible").first.click()
    page.wait_for_function("q => document.querySelector('#question textarea').value !== q", arg=OWN)
    page.click("#locate")
    wait_for_text(page, "#locate-reading", "layer")
    set_up(page, 2)
    page.click("#edit")
    wait_for_text(page, "#live", "DINM")
    wait_until_idle(page)
    live = text_of(page, "#live")
    choose(page, tiny_model().name, f"{first}*")
    page.wait_for_function("q => document.querySelector('#question textarea').value === q", arg=OWN)
    assert "vanilla" in text_of(page, "#live") and "Layer to edit (0-2)" in page.locator("#block").inner_text()
    choose(page, "deeper", "**/model/deeper/**")
    wait_for_text(page, "#live", "DINM")
    assert text_of(page, "#live") == live and value_of(page, "#question") != OWN


def test_the_model_s_name_is_whole_in_the_head_and_its_menu_fits_every_width_in_both_themes(two):
    for dark in (False, True):
        theme(two, dark)
        for width in (1280, 1440, 390):
            at_width(two, width)
            name = two.locator(f"{MENU} b")

            box, chip = name.bounding_box(), two.locator(MENU).bounding_box()
            assert box["x"] >= chip["x"] and box["x"] + box["width"] <= chip["x"] + chip["width"], "it is cut"
            two.locator(MENU).click()
            menu = two.locator("details.models .menu").bounding_box()
            assert menu["x"] >= 0 and menu["x"] + menu["width"] <= width and too_wide(two, 1) == []
            two.keyboard.press("Escape")
            assert not two.locator("details.models .menu").is_visible()
