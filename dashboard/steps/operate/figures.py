"""Figures of Operate: plain functions of an edit's trace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.kit.drawing.plots import EDITED, SAFE, UNSAFE, as_written, base
from editing import Step

HARM, UNROUTED = "Constraint KL, nats", "KL, unrouted"
"""What stands above the KL; there is no room for more, least on a phone."""


@cache
def _frame(harm: str) -> dict[str, Any]:
    """The three empty panels of the vital signs, as plotly writes them: made once, since each step draws them anew.

    Args:
        harm: What stands above the KL.
    """
    figure = make_subplots(
        figure=base(150, margin={"l": 40, "r": 8, "t": 24, "b": 24}),
        rows=1,
        cols=3,
        horizontal_spacing=0.085,
        subplot_titles=("Edit loss, nats", harm, "P per token"),
    )
    figure.update_annotations(font_size=11.5)
    figure.update_yaxes(rangemode="tozero")
    return figure.layout.to_plotly_json()


def vitals(
    trace: Sequence[Step], steps: int, budget: float | None, target: float | None, to_be_routed: bool = False
) -> go.Figure:
    """Draw the vital signs of an edit so far: edit loss, constraint KL, probability of both answers.

    Args:
        to_be_routed: It is made to act where harm is detected only, so that the KL is of what it would do unrouted.
    """
    x = [step.step for step in trace]

    def line(column: int, values: list[float | None], colour: str, name: str, dash: str = "solid") -> dict[str, Any]:
        return {
            "type": "scatter",
            "x": x,
            "y": values,
            "mode": "lines+markers",
            "name": name,
            "line": {"color": colour, "width": 2, "dash": dash},
            "marker": {"size": 4},
            "hovertemplate": f"{name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            **_axes(column),
        }

    def threshold(column: int, value: float, colour: str) -> dict[str, Any]:
        named = _axes(column)
        across = {
            "x0": 0,
            "x1": 1,
            "xref": f"{named['xaxis']} domain",
            "y0": value,
            "y1": value,
            "yref": named["yaxis"],
        }
        return {"type": "line", "line": {"color": colour, "dash": "dash", "width": 1}, **across}

    lines = [
        line(1, [s.edit_loss for s in trace], SAFE, "edit loss"),
        line(2, [max(0.0, s.constraint_kl) for s in trace], EDITED, "KL"),
        line(3, [s.safe_probability for s in trace], SAFE, "safe answer"),
    ]
    if any(s.unsafe_probability is not None for s in trace):
        lines.append(line(3, [s.unsafe_probability for s in trace], UNSAFE, "unsafe answer", "dot"))
    highest = max([s.constraint_kl for s in trace], default=0.0)
    shapes = [] if target is None else [threshold(3, target, SAFE)]
    if budget is not None and budget <= highest * 1.25:
        shapes.append(threshold(2, budget, UNSAFE))
    frame = dict(_frame(UNROUTED if to_be_routed else HARM))
    for axis in ("xaxis", "xaxis2", "xaxis3"):
        frame[axis] = {**frame[axis], "range": [-0.5, steps + 0.5]}
    for axis, shown in (("yaxis2", max(0.02, highest * 1.25)), ("yaxis3", 1.02)):
        frame[axis] = {**frame[axis], "range": [0, shown]}
    names = _line_names(trace, steps, target) if trace else []
    layout = {**frame, "shapes": shapes, "annotations": [*frame["annotations"], *names]}
    return as_written(lines, layout)


def _axes(column: int) -> dict[str, str]:
    number = "" if column == 1 else str(column)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


NAME_OFF, NAME_HIGH, LETTER = 0.09, 0.15, 0.065
"""How far a line's name is from it and how high it is, in probability, and a letter's width as a share of the panel."""


def _line_names(trace: Sequence[Step], steps: int, target: float | None) -> list[dict[str, Any]]:
    """Write each line's name at its end, so that colour is not the only key.

    It stands above the line, or below where the dashed target would strike it through.
    """
    last = trace[-1]
    side = "right" if last.step > steps * 0.6 else "left"
    lines = {"safe": {s.step: s.safe_probability for s in trace}}
    if last.unsafe_probability is not None:
        lines["unsafe"] = {s.step: s.unsafe_probability for s in trace if s.unsafe_probability is not None}
    placed = []
    for name, values in lines.items():
        end = values[last.step]
        struck = target is not None and 0 <= target - end < NAME_OFF + NAME_HIGH / 2
        # A name that reaches back over its line is below all of it.
        covers = last.step - len(name) * LETTER * steps if side == "right" else last.step
        lowest = min(value for step, value in values.items() if step >= covers)
        placed.append((name, lowest if struck else end, -1 if struck else 1))
    # Names that would lie on each other stand side by side.
    heights = [value + NAME_OFF * sign for _, value, sign in placed]
    close = max(heights) - min(heights) < NAME_HIGH
    aside = (-32 if side == "right" else 32) if close else 0
    looks = {"showarrow": False, "font": {"size": 11}, "xanchor": side, "xref": "x3", "yref": "y3"}
    return [
        {"x": last.step, "y": value, "text": name, "xshift": aside * number, "yshift": 9 * sign, **looks}
        for number, (name, value, sign) in enumerate(placed)
    ]


def vitals_of(trace: Sequence[Step], settings: Any) -> go.Figure:
    """Draw the vital signs with the settings' step limit, budget and target."""
    steps = trace[0].steps if trace else settings.steps
    # A weight of 0 alone may be set by hand, of an edit that acts on every prompt.
    to_be_routed = not getattr(settings, "constraint_weight", 1) and getattr(settings, "companions", 0) > 0
    return vitals(trace, steps, settings.damage_budget, settings.target_probability, to_be_routed)
