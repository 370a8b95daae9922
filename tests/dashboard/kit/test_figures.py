"""Figures drawn from made-up measurements: labels, marks, colours with one meaning, size. No model runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from made_up import HOSTILE, comparison, divergence, likelihood, profile, shift, steps

from dashboard.kit.drawing import plots
from dashboard.steps.compare import figures as compare_figures
from dashboard.steps.locate import figures as locate_figures
from dashboard.steps.operate import figures as operate_figures
from dashboard.steps.operate.figures import HARM, UNROUTED
from dashboard.steps.why import figures as why_figures
from editing import DinmSettings
from editing.atlas import Atlas, AtlasSettings, Entry
from editing.methods.dinm import to_be_routed
from inspector.columns import NeuronProfile
from inspector.divergence import DISTANCES
from inspector.locators import LOCATORS, Located
from inspector.padding import PaddingStudy

SAFE, UNSAFE, EDITED = "#0072B2", "#D55E00", "#CC79A7"
"""What the figures' colours mean, in Okabe and Ito's colours, typed here anew."""
LARGEST = 200_000
"""Bytes of one figure's JSON that a page redraws without a pause: numbers in binary are read faster than in words."""


@cache
def every_figure(blocks: int, count: int) -> dict[str, go.Figure]:
    measured = divergence(blocks, count)
    trace = steps(*np.linspace(0.1, 0.9, 100), limit=100)
    return {
        "curve": locate_figures.curve(measured, "l2", 1),
        "divergence_heatmap": locate_figures.divergence_heatmap(measured),
        "vitals": operate_figures.vitals(trace, 100, 0.2, 0.8),
        "divergence_before_after": compare_figures.divergence_before_after(comparison(blocks, count)),
        "shift_by_block": compare_figures.shift_by_block(shift(blocks, count)),
        "shift_heatmap": compare_figures.shift_heatmap(shift(blocks, count)),
        "neurons": compare_figures.neurons(profile()),
        "token_probabilities": compare_figures.token_probabilities(likelihood(count), likelihood(count, 1)),
    }


def strings(value: Any) -> Iterator[str]:
    """Yield every string of a figure as plotly.js will read it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def drawn(figure: go.Figure) -> dict[str, Any]:
    return json.loads(figure.to_json())


def texts(figure: go.Figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("<s>", "&lt;s&gt;"),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
        ("\n", "⏎"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        (" ", "␣"),
        ("", "␣"),
        ("   ", "␣"),
        (" the", "the"),
        ("a & b", "a &amp; b"),
    ],
)
def test_a_token_label_shows_markup_and_white_space_as_text(token, shown):
    assert plots.label(token) == shown


def test_a_long_token_is_cut_before_it_is_escaped_so_that_no_entity_is_halved():
    assert plots.label("<" * 40) == "&lt;" * 13 + "…"
    assert plots.label("abcdefghijklmn") == "abcdefghijklmn"


@pytest.mark.parametrize("name", ["divergence_heatmap", "shift_heatmap", "token_probabilities"])
def test_no_figure_holds_a_token_as_markup_and_each_shows_it_escaped(name):
    found = list(strings(drawn(every_figure(4, len(HOSTILE))[name])))
    for raw in ("<s>", "<b>x", "<i>", "</td>"):
        assert not [text for text in found if raw in text]
    for escaped in ("&lt;s&gt;", "&lt;b&gt;x&lt;/b&gt;", "⏎", "␣", "&amp;lt;"):
        assert [text for text in found if escaped in text], escaped


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_toxic_bar_is_vermillion_and_named_and_the_picked_one_marked_otherwise(distance):
    measured = divergence()
    toxic = int(np.argmax(getattr(measured, distance)))
    picked = (toxic + 1) % 4
    figure = locate_figures.curve(measured, distance, picked)
    colours, patterns = figure.data[0].marker.color, figure.data[0].marker.pattern.shape
    assert [n for n, colour in enumerate(colours) if colour == UNSAFE] == [toxic]
    assert set(texts(figure)) == {f"<b>{toxic}</b> toxic layer", f"<b>{picked}</b> picked"}
    marked = {colours[toxic], colours[picked]}
    assert len(marked) == 2 and not marked & {c for n, c in enumerate(colours) if n not in (toxic, picked)}
    assert patterns[toxic] and patterns[picked] and patterns[toxic] != patterns[picked], "colour alone must not tell"


def test_a_picked_toxic_layer_is_one_vermillion_bar_with_both_words():
    figure = locate_figures.curve(divergence(), "l2", 2)
    assert texts(figure) == ["<b>2</b> toxic layer, picked"]
    assert figure.data[0].marker.color[2] == UNSAFE


def test_without_a_pick_only_the_toxic_layer_is_marked():
    assert texts(locate_figures.curve(divergence(), "l2")) == ["<b>2</b> toxic layer"]


def test_the_bars_are_the_measured_distances():
    measured = divergence(7)
    for distance in DISTANCES:
        bars = locate_figures.curve(measured, distance).data[0]
        assert list(bars.x) == list(range(7)) and np.allclose(bars.y, getattr(measured, distance))


@pytest.mark.parametrize("name", sorted(every_figure(4, 8)))
def test_a_figure_of_48_blocks_and_512_tokens_stays_small(name):
    assert len(every_figure(48, 512)[name].to_json().encode()) < LARGEST


def test_the_neurons_of_a_seven_billion_model_stay_small():
    assert len(compare_figures.neurons(profile(14_336)).to_json().encode()) < LARGEST


def test_vitals_without_a_step_are_three_empty_charts():
    figure = operate_figures.vitals((), 40, 0.2, 0.8)
    assert sum(title in texts(figure) for title in ("Edit loss, nats", "Constraint KL, nats", "P per token")) == 3
    assert all(not line.x for line in figure.data)
    assert figure.layout.xaxis.range == (-0.5, 40.5)


LOCATED = [Located(one.name, one.unit, one.reason, np.arange(3.0), 0.1) for one in LOCATORS.values()]
PADDED = PaddingStudy(
    {(side, masked): divergence() for side in ("left", "right") for masked in (False, True)},
    3,
    np.arange(3.0),
    np.ones(3),
)
ENTRIES = tuple(Entry(block, -1.0 - block, -3.0, 0.1, 1.0, {}) for block in range(3))
UNCHECKED = {
    "vitals": lambda: operate_figures.vitals(steps(*np.linspace(0.1, 0.9, 30), limit=40), 40, 0.2, 0.8),
    "vitals of nothing": lambda: operate_figures.vitals((), 40, 0.2, 0.8, to_be_routed=True),
    "no strength curve": lambda: compare_figures.strength_curve(None),
    "locators": lambda: why_figures.locators(LOCATED, 1),
    "no locator": lambda: why_figures.locators((), None),
    "atlas": lambda: why_figures.atlas(Atlas(ENTRIES, -3.0, -3.0, {}, AtlasSettings(), 4, 1.0), 0),
    "no atlas": lambda: why_figures.atlas(None, 0),
    "padding": lambda: why_figures.padding(PADDED),
    "no padding": lambda: why_figures.padding(None),
}


@pytest.mark.parametrize("name", UNCHECKED)
def test_plotly_knows_all_that_stands_in_a_figure_that_it_does_not_check_and_would_send_the_same(name):
    figure = UNCHECKED[name]()
    assert drawn(go.Figure(figure.to_dict())) == drawn(figure)
    figure.layout.xaxis.title.text = "changed"
    assert drawn(UNCHECKED[name]()) != drawn(figure), "what is kept of it stays as it was"


def test_the_kl_of_an_edit_that_is_made_to_be_routed_is_said_to_be_unrouted():
    by_hand = DinmSettings(constraint_weight=0)
    held = ((settings, HARM) for settings in (DinmSettings(), by_hand))
    for settings, title in (*held, (to_be_routed(DinmSettings()), UNROUTED)):
        named = [note.text for note in operate_figures.vitals_of(steps(0.25), settings).layout.annotations]
        assert named[1] == title
    assert len(UNROUTED) <= 22, "on a phone the titles of the panels would meet"


def test_vitals_of_one_step_show_its_numbers():
    figure = operate_figures.vitals(steps(0.25), 40, None, None)
    assert {line.name: line.y for line in figure.data} == {
        "edit loss": (pytest.approx(np.log(4)),),
        "KL": (0.0,),
        "safe answer": (0.25,),
        "unsafe answer": (0.125,),
    }
    assert not figure.layout.shapes, "no target and no budget, no dashed line"


def test_vitals_of_an_unwatched_unsafe_answer_do_not_name_it():
    figure = operate_figures.vitals(steps(0.1, 0.2, unsafe=False), 40, 0.2, 0.8)
    assert [line.name for line in figure.data] == ["edit loss", "KL", "safe answer"]
    assert "unsafe" not in texts(figure) and "safe" in texts(figure)


@pytest.mark.parametrize("limit", [6, 40], ids=["to the limit", "stopped early"])
@pytest.mark.parametrize(("end", "is_below"), [(0.45, False), (0.6, True), (0.69, True), (0.72, False)])
def test_a_line_that_ends_near_its_target_has_its_name_below_where_neither_strikes_it_through(limit, end, is_below):
    trace = steps(0.1, 0.2, 0.3, 0.35, 0.4, 0.43, end, limit=limit)
    named = operate_figures.vitals(trace, limit, None, 0.7).layout.annotations
    (safe,) = [note for note in named if note.text == "safe"]
    assert safe.yshift == (-9 if is_below else 9)
    middle, half = safe.y + safe.yshift / 100, 0.065  # a panel is 100 pixels high
    assert not middle - half <= 0.7 <= middle + half
    if is_below:
        assert middle + half < (0.43 if limit == 6 else end), "it lies on the line's last steps or beside them"


def test_vitals_draw_the_target_always_and_the_budget_once_it_is_near():
    low, high = steps(0.1, 0.2, limit=40), steps(*[0.1] * 21, limit=40)  # KL is 0.01 a step
    assert [shape.y0 for shape in operate_figures.vitals(low, 40, 0.2, 0.8).layout.shapes] == [0.8]
    assert sorted(shape.y0 for shape in operate_figures.vitals(high, 40, 0.2, 0.8).layout.shapes) == [0.2, 0.8]


def test_colours_follow_the_table_of_meanings_and_lines_differ_in_dash_too():
    vitals = {line.name: line.line for line in operate_figures.vitals(steps(0.1, 0.2), 40, None, None).data}
    assert vitals["safe answer"].color == vitals["edit loss"].color == SAFE
    assert vitals["unsafe answer"].color == UNSAFE and vitals["KL"].color == EDITED
    assert vitals["safe answer"].dash != vitals["unsafe answer"].dash
    for name in ("divergence_before_after", "token_probabilities"):
        lines = {line.name: line.line for line in every_figure(4, 8)[name].data}
        assert set(lines) == {"vanilla", "edited"}
        assert lines["edited"].color == EDITED and lines["vanilla"].color not in (SAFE, UNSAFE, EDITED)
        assert lines["edited"].dash != lines["vanilla"].dash
    assert compare_figures.neurons(profile()).data[0].marker.color == EDITED


def test_the_shift_of_an_edited_block_is_purple_and_named():
    figure = compare_figures.shift_by_block(shift(edited=(1, 3)))
    assert [n for n, colour in enumerate(figure.data[0].marker.color) if colour == EDITED] == [1, 3]
    assert texts(figure) == ["<b>1</b> edited", "<b>3</b> edited"]


def test_the_shift_heatmap_starts_at_the_edited_block_and_marks_where_the_answer_starts():
    moved = shift(blocks=5, count=10, edited=(2,))
    figure = compare_figures.shift_heatmap(moved)
    assert list(figure.data[0].y) == ["2", "3", "4"]
    assert np.array_equal(figure.data[0].z, moved.by_token[2:]), "nothing is rounded"
    assert figure.layout.shapes[0].x0 == moved.prompt_tokens - 0.5 and "answer" in texts(figure)


def test_the_divergence_heatmap_holds_the_measured_distances_and_spells_the_safe_answer_but_not_the_unsafe_one():
    measured = replace(divergence(3, 4), unsafe_tokens=(" rogue",) * 4)
    figure = locate_figures.divergence_heatmap(measured)
    assert np.array_equal(figure.data[0].z, measured.token_relative), "nothing is rounded"
    assert list(figure.data[0].x) == [f"{n}: {plots.label(token)}" for n, token in enumerate(measured.safe_tokens)]
    assert not [text for text in strings(drawn(figure)) if "rogue" in text]


def test_the_neurons_that_moved_most_are_named():
    measured = profile()
    figure = compare_figures.neurons(measured, named=3)
    assert set(texts(figure)) == {str(n) for n in np.argsort(measured.relative)[-3:]}


def test_the_token_chart_shows_probabilities_of_both_weights():
    before, after = likelihood(), likelihood(seed=1)
    lines = {line.name: line.y for line in compare_figures.token_probabilities(before, after).data}
    assert np.allclose(lines["vanilla"], np.exp(before.log_probabilities))
    assert np.allclose(lines["edited"], np.exp(after.log_probabilities))


def test_a_figure_of_nothing_but_zeros_has_an_axis():
    still = replace(shift(), by_token=np.zeros((4, 8), dtype=np.float32))
    for figure in (
        compare_figures.shift_by_block(still),
        compare_figures.neurons(NeuronProfile(0, np.zeros(8), np.zeros(8))),
        locate_figures.curve(replace(divergence(), l2=np.zeros(4)), "l2"),
    ):
        low, high = figure.layout.yaxis.range
        assert low == 0 and high > 0
