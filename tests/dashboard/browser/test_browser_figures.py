"""The tables of figures and their CSV files in a real browser: plotly and the page's script alone, nothing measured."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from browser_helpers import MARKS, WAIT
from every_figure import every_figure
from made_up import HOSTILE, divergence, lens, likelihood, profile
from plotly.offline import get_plotlyjs

from dashboard.kit.drawing import glossary
from dashboard.kit.drawing.plots import EDITED, VANILLA
from dashboard.steps.compare import figures as compare_figures
from dashboard.steps.locate import figures as locate_figures
from dashboard.steps.questions import figures as question_figures
from dashboard.steps.questions.printed import Measured
from dashboard.steps.why import figures as why_figures

pytestmark = MARKS

SCRIPT = Path(__file__).resolve().parents[3] / "assets" / "figures.js"
Shown = tuple[list[list[str]], list[list[str]]]
"""What the table says, head first, and what the CSV file does."""


@pytest.fixture(scope="module")
def sheet(chromium: Any) -> Iterator[Any]:
    """An empty page with plotly and the script."""
    opened = chromium.new_context(offline=True).new_page()
    opened.set_default_timeout(WAIT)
    opened.set_content("<main></main>")
    opened.add_script_tag(content=get_plotlyjs())
    opened.add_script_tag(path=SCRIPT)
    yield opened
    opened.context.close()


@pytest.fixture
def shown(sheet: Any) -> Callable[[go.Figure], Shown]:
    """Draws a figure, as a report does, opens its table and takes its CSV file."""

    def draw(figure: go.Figure, beside: str = "") -> Shown:
        sheet.evaluate(
            """([figure, beside]) => {
              document.querySelector("main").innerHTML = `${beside}<figure data-title="Drawn"><div></div></figure>`;
              const { data, layout } = JSON.parse(figure);
              return Plotly.newPlot(document.querySelector("figure div"), data, layout).then(() => undefined); }""",
            [figure.to_json(), beside],
        )
        sheet.locator(".numbers > summary").click()
        sheet.wait_for_selector(".numbers td")
        rows = sheet.locator(".numbers tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(c => c.innerText))"
        )
        with sheet.expect_download() as download:
            sheet.locator(".taken button", has_text="CSV").click()
        text = Path(download.value.path()).read_text(encoding="utf-8-sig")
        return rows, list(csv.reader(io.StringIO(text, newline="")))

    return draw


def test_a_heatmap_s_file_has_every_number_as_it_was_measured(shown):
    measured = divergence(3, len(HOSTILE))
    rows, (head, *lines) = shown(locate_figures.divergence_heatmap(measured))
    assert rows[0] == ["", "token of the safe answer"]
    assert head[0] == "layer" and len(head) == 1 + len(HOSTILE) and [line[0] for line in lines] == ["0", "1", "2"]
    read = np.array([[float(cell) for cell in line[1:]] for line in lines], dtype=np.float32)
    assert np.array_equal(read, measured.token_relative), "to the last bit"
    assert max(len(cell) for line in lines for cell in line[1:]) <= len("0.123456789")
    assert [float(cell) for cell in rows[2][1:]] == [float(f"{value:.4g}") for value in measured.token_relative[0]]


def test_a_lens_s_file_has_words_and_numbers_in_columns_of_their_own(shown):
    reading = lens()
    rows, (head, *lines) = shown(why_figures.lens(reading, None, 0))
    assert head == [
        "layer",
        *(f"token read: {name}" for name in ("4: <s>", "4: <s>, P(top)", "5: word", "5: word, P(top)")),
    ]
    assert [line[1::2] for line in lines] == [["<b>x<…", "'=1+1"], ["", "so"]]
    read = np.array([[float(cell) for cell in line[2::2]] for line in lines], dtype=np.float32)
    assert np.array_equal(read, reading.probability[:, :, 0])
    assert rows[:2] == [["", "token read (hover: what follows)"], ["layer", "4: <s>", "5: word"]]
    assert rows[3][2] == f"so {float(f'{read[1, 1]:.4g}'):g}"


def test_many_neurons_and_the_tokens_of_a_line_are_whole_too(shown):
    moved = profile()
    _, (head, *lines) = shown(compare_figures.neurons(moved))
    assert head == ["neuron of layer 2", "relative change of its column"]
    assert [int(place) for place, _ in lines] == list(range(len(moved.relative)))
    assert np.allclose([float(value) for _, value in lines], moved.relative, rtol=1e-6, atol=0)
    before, after = likelihood(), likelihood(seed=1)
    _, (head, *lines) = shown(compare_figures.token_probabilities(before, after))
    assert head == [
        "token of the safe answer",
        "token of the safe answer, text",
        "probability: vanilla",
        "probability: edited",
    ]
    assert [(line[0], line[1]) for line in lines[:2]] == [("0", "<s>"), ("1", "<b>x</b>")]
    for column, one in ((2, before), (3, after)):
        assert np.array_equal(np.float32([line[column] for line in lines]), np.exp(one.log_probabilities))


def test_what_has_no_interval_is_given_none_in_the_table_and_in_the_file(shown):
    one, other = Measured(0.135), Measured(0.3, 0.2, 0.45)
    bars = question_figures.bars
    rows, lines = shown(bars(["a", "b"], {"single": (EDITED, [one, one]), "other": (VANILLA, [None, one])}, "seconds"))
    assert ["a", "", "0.135"] in rows and ["b", "0.135", "0.135"] in rows
    assert sorted(lines[1:]) == [["a", "", "0.135"], ["b", "0.135", "0.135"]]
    rows, lines = shown(bars(["a", "b"], {"runs": (EDITED, [one, other])}, "seconds"))
    assert rows == [["", "seconds"], ["", "runs"], ["b", "0.3 (0.2 to 0.45)"], ["a", "0.135"]]
    assert lines == [
        ["", "seconds: runs", "seconds: runs, low", "seconds: runs, high"],
        ["b", "0.3", "0.2", "0.45"],
        ["a", "0.135", "", ""],
    ]


def test_a_cloud_s_lines_have_both_intervals_and_as_many_cells_as_heads(shown):
    gain, single = Measured(40.0, 30.0, 55.0), Measured(0.25)
    points = {
        "both, <b>": (Measured(0.5, 0.25, 1.0), gain),
        "the gain's": (single, gain),
        "none": (single, Measured(20.0)),
    }
    rows, lines = shown(question_figures.trade(points, "harmless KL, nats a token", "DG-Avg, %"))
    assert rows == [
        ["", "harmless KL, nats a token", "DG-Avg, %"],
        ["both, <b>", "0.5 (0.25 to 1)", "40 (30 to 55)"],
        ["the gain's", "0.25", "40 (30 to 55)"],
        ["none", "0.25", "20"],
    ]
    cost, won = ([f"{name}{part}" for part in ("", ", low", ", high")] for name in rows[0][1:])
    assert lines == [
        ["", *cost, *won],
        ["both, <b>", "0.5", "0.25", "1", "40", "30", "55"],
        ["the gain's", "0.25", "", "", "40", "30", "55"],
        ["none", "0.25", "", "", "20", "", ""],
    ]


def test_a_measured_place_is_no_line_s_name_though_it_be_a_whole_number(shown):
    points = {name: (Measured(cost, cost - 0.5, cost + 0.5), Measured(9.0)) for name, cost in (("a", 1.0), ("b", 2.0))}
    rows, lines = shown(question_figures.trade(points, "cost", "gain"))
    assert rows == [["", "cost", "gain"], ["a", "1 (0.5 to 1.5)", "9"], ["b", "2 (1.5 to 2.5)", "9"]]
    assert lines[1:] == [["a", "1", "0.5", "1.5", "9"], ["b", "2", "1.5", "2.5", "9"]]


def test_heads_that_the_glossary_has_open_it_and_where_there_is_none_they_are_words(shown, sheet):
    figure = locate_figures.curve(divergence(), "l2")
    rows, _ = shown(figure, beside=glossary.page())
    linked = sheet.locator(".numbers thead button.term")
    assert rows[0] == ["layer", "L2 distance"] and linked.all_inner_texts() == rows[0]
    assert linked.evaluate_all("terms => terms.map(term => term.dataset.term)") == [
        glossary.anchor("Layer"),
        glossary.anchor("Divergence"),
    ]
    assert linked.first.get_attribute("title") == glossary.GLOSSARY["Inside the model"]["Layer"]
    rows, _ = shown(figure)
    assert rows[0] == ["layer", "L2 distance"] and linked.count() == 0


def test_a_head_links_by_its_name_without_unit_and_brackets_and_one_that_is_no_term_stays_as_it_is(shown, sheet):
    series = {
        "harmless KL (right)": VANILLA,
        "DL, %": EDITED,
        "0.1 × edit loss": VANILLA,
        "neuron of layer 12": EDITED,
        "no such word": VANILLA,
    }
    rows, lines = shown(
        question_figures.bars(["a"], {name: (colour, [Measured(1)]) for name, colour in series.items()}, "percent"),
        beside=glossary.page(),
    )
    heads = sheet.locator(".numbers thead")
    assert rows[0] == ["", "percent"] and {*rows[1][1:]} == {*series}, "what all measure stands above"
    assert {*heads.locator(".term").all_inner_texts()} == {*series} - {"no such word"}
    assert {*lines[0][1:]} == {f"percent: {name}" for name in series}


def test_the_head_of_what_was_used_of_the_gate_s_budgets_opens_the_gate(shown, sheet):
    checks = [{"name": "parroting", "value": 1.0, "limit": 5.0}]
    rows, _ = shown(question_figures.budgets(checks), beside=glossary.page())
    linked = sheet.locator(".numbers thead .term")
    assert rows == [["", "percent of the budget"], ["parroting", "20"]]
    assert linked.all_inner_texts() == rows[0][1:] and linked.get_attribute("data-term") == glossary.anchor("Gate")


HEADS = """([figures, glossary]) => {
  const main = document.querySelector("main");
  main.innerHTML = glossary;
  const drawn = figures.map(figure => {
    const frame = document.createElement("figure"), { data, layout } = JSON.parse(figure);
    frame.dataset.title = "Drawn";
    frame.append(document.createElement("div"));
    main.append(frame);
    return Plotly.newPlot(frame.firstElementChild, data, layout, {staticPlot: true}).then(() => frame); });
  const opened = frame => new Promise(done => {
    const numbers = frame.querySelector(".numbers");
    numbers.addEventListener("toggle", done, {once: true});
    numbers.open = true; });
  const told = head => head && [head.textContent, head.querySelector("button.term")?.dataset.term ?? null];
  const read = frame => [...frame.querySelectorAll(".numbers table")].map(table => ({
    over: told(table.querySelector("th[scope=colgroup]")),
    heads: [...table.querySelectorAll("thead th[scope=col]")].map(told)}));
  return Promise.all(drawn)
    .then(frames => Promise.all(frames.map(opened)).then(() => frames.map(read))); }"""
"""What stands at the head of each table of some figures, each with the term that it opens."""


def test_every_head_of_every_figure_opens_the_glossary_but_names_and_what_they_name_stands_above_them(sheet, tmp_path):
    figures = every_figure(tmp_path)
    assert [name for name, drawn in figures.items() if not drawn] == [], "each is looked at"
    listed = [(name, figure) for name, drawn in figures.items() for figure in drawn]
    read = sheet.evaluate(HEADS, [[figure.to_json() for _, figure in listed], glossary.page()])
    words = {glossary.anchor(word) for group in glossary.GLOSSARY.values() for word in group}
    assert all(place in words for tables in read for table in tables for _, place in table["heads"] if place)
    plain = []
    for (name, figure), tables in zip(listed, read, strict=True):
        assert tables and all(table["heads"] for table in tables), name
        names = {html.unescape(text) for trace in figure.data if trace.type == "heatmap" for text in trace.x}
        names |= {trace.name for trace in figure.data if name == "models.curves"}
        for table in tables:
            left = [text for text, place in table["heads"] if place is None]
            plain += [(name, text) for text in left if text not in names]
            assert table["over"] or not left, (name, left)
            plain += [(name, table["over"][0])] if table["over"] and table["over"][1] is None else []
    assert plain == []
