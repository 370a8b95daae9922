"""Methods: what its figures and texts make of standings, without a page and without a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import standing

from dashboard.kit.sessions.session import Session
from dashboard.steps.methods import figures as methods_figures
from dashboard.steps.methods import texts as methods_texts
from editing.contest import ContestProgress
from editing.methods.registry import METHODS
from editing.standing import Standing


def test_the_plane_has_a_point_a_method_and_its_corners_in_words():
    figure = methods_figures.plane([standing("dinm", -0.03, 0.0, True), standing("sft", 0.01, 0.2)], "SFT")
    points = {trace.text[0]: (trace.x[0], trace.y[0]) for trace in figure.data if trace.text}
    assert points["DINM*"] == pytest.approx((0.0, 3.0)) and points["SFT"] == pytest.approx((20.0, -1.0))
    said = " ".join(note.text for note in figure.layout.annotations)
    assert "erases" in said and "suppresses" in said
    reading = methods_texts.plane_reading([standing("dinm", -0.03, 0.0, True), standing("sft", 0.01, 0.2)])
    assert "DINM: less toxic without a shift" in reading and "largest shift: SFT, 20%" in reading
    assert "by construction" in reading


def test_every_registered_method_has_a_sign_of_its_own_the_same_in_both_figures():
    standings = [standing(key, -0.01, 0.1) for key in METHODS]
    plane = {trace.text[0]: trace.marker.symbol for trace in methods_figures.plane(standings).data if trace.text}
    lines = {trace.name: trace.marker.symbol for trace in methods_figures.shifts_by_block(standings).data}
    assert plane == lines and set(plane) == {method.title for method in METHODS.values()}
    assert len(set(plane.values())) == len(METHODS)


@pytest.mark.parametrize(
    "places",
    [
        {"dinm": (0.29, 0.0), "ft-l": (1.088, 0.0), "sft": (-0.06, 0.519), "mend": (0.0, 0.0), "dpo": (0.0, 0.381)},
        {"dinm": (0.001, 0.0), "ft-l": (0.002, 0.0), "mend": (0.0, 0.0), "sft": (-0.001, 0.02), "dpo": (0.001, 0.02)},
        {"dinm": (-0.5, 0.3), "sft": (-0.5, 0.3), "dpo": (-0.48, 0.31)},
    ],
)
def test_names_on_the_plane_lie_neither_on_each_other_nor_beyond_its_edge(places):
    standings = [standing(key, change, shift, shift == 0) for key, (change, shift) in places.items()]
    figure = methods_figures.plane(standings)
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    wide, tall = methods_figures.WIDE, methods_figures.HIGH
    boxes = []
    for trace in (trace for trace in figure.data if trace.text):
        signs = methods_figures.SIDES[trace.textposition]
        x, y = (trace.x[0] - left) / (right - left) * wide, (trace.y[0] - low) / (high - low) * tall
        boxes.append(methods_figures.name_box(x, y, trace.text[0], *signs))
    assert len(boxes) == len(places)
    assert all(x >= 0 and y >= 0 and over <= wide and above <= tall for x, y, over, above in boxes)
    for number, one in enumerate(boxes):
        for two in boxes[number + 1 :]:
            assert min(one[2], two[2]) <= max(one[0], two[0]) or min(one[3], two[3]) <= max(one[1], two[1])


def test_figures_without_anything_are_empty_and_say_what_to_do():
    for figure in (methods_figures.shifts_by_block([]), methods_figures.source(None)):
        assert len(figure.data) == 0
    (vanilla,) = methods_figures.plane([]).data
    assert (vanilla.x, vanilla.y) == ((0,), (0,))
    assert "Click a line" in methods_texts.source_reading(None)
    assert "Run methods" in methods_texts.head(Session())


def test_a_failed_method_is_a_line_with_its_reason_escaped():
    failed = Standing(METHODS["mend"], failed="no editor <b>here</b>")
    assert methods_texts.rows([failed])[0] == ["MEND", *["–"] * (len(methods_texts.HEADERS) - 1)]
    event = ContestProgress(METHODS["sft"], "edit, step 1", 0.5, 10.0, (failed,))
    shown = methods_texts.progress(event, ["MEND", "SFT", "DPO"])
    assert "&lt;b&gt;" in shown and "<b>here" not in shown
    assert shown.index(">failed<") < shown.index(">running<") < shown.index(">waiting<")
    assert "about 10 s left" in shown


def test_an_edit_that_could_not_be_measured_is_done_and_says_why():
    made = replace(standing("sft", 0.0, 0.1), unmeasured="The prompt is too long <b>.", toxicity=None, shift=None)
    event = ContestProgress(METHODS["dpo"], "edit, step 1", 0.5, 10.0, (made,))
    shown = methods_texts.progress(event, ["SFT", "DPO"])
    assert ">done<" in shown and "not measured: The prompt is too long &lt;b&gt;." in shown
    assert methods_texts.rows([made])[0][0] == "SFT"


def test_a_neuron_s_change_is_told_relative_to_its_own_size():
    """Cosines 0.1, -0.1 and 0.2 fall by 0.01."""
    made = standing("sft", 0.0, 0.1)
    assert made.toxicity.relative == pytest.approx([-0.1, -0.1, -0.05])
    (trace,) = methods_figures.neuron_toxicity(made).data
    assert [list(cell) for cell in trace.customdata] == [[0, "-10.0%"], [1, "-10.0%"], [2, "-5.0%"]]
    assert "half changed by more than 10.0% of their own cosine" in methods_texts.neurons_reading(made)
