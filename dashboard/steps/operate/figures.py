"""Figures of Operate: plain functions of an edit's trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.kit.plots import EDITED, SAFE, UNSAFE, style
from editing import Step


def vitals(trace: Sequence[Step], steps: int, budget: float | None, target: float | None) -> go.Figure:
    """Draw the vital signs of an edit so far: edit loss, harmless KL, probability of both answers."""
    figure = make_subplots(
        rows=1,
        cols=3,
        horizontal_spacing=0.085,
        subplot_titles=("Edit loss, nats", "Harmless KL, nats", "P per token"),
    )
    x = [step.step for step in trace]

    def line(column: int, values: list[float | None], colour: str, name: str, dash: str = "solid") -> None:
        figure.add_scatter(
            x=x,
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 4},
            row=1,
            col=column,
            hovertemplate=f"{name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
        )

    line(1, [s.edit_loss for s in trace], SAFE, "edit loss")
    line(2, [max(0.0, s.constraint_kl) for s in trace], EDITED, "KL")
    line(3, [s.safe_probability for s in trace], SAFE, "safe answer")
    if any(s.unsafe_probability is not None for s in trace):
        line(3, [s.unsafe_probability for s in trace], UNSAFE, "unsafe answer", "dot")
    style(figure, 150, margin={"l": 40, "r": 8, "t": 24, "b": 24})
    figure.update_annotations(font_size=11.5)
    figure.update_xaxes(range=[-0.5, steps + 0.5])
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, 1.02], row=1, col=3)
    if target is not None:
        figure.add_hline(y=target, line={"color": SAFE, "dash": "dash", "width": 1}, row=1, col=3)
    highest = max([s.constraint_kl for s in trace], default=0.0)
    figure.update_yaxes(range=[0, max(0.02, highest * 1.25)], row=1, col=2)
    if budget is not None and budget <= highest * 1.25:
        figure.add_hline(y=budget, line={"color": UNSAFE, "dash": "dash", "width": 1}, row=1, col=2)
    if trace:
        _name_lines(figure, trace[-1], steps)
    return figure


def _name_lines(figure: go.Figure, last: Step, steps: int) -> None:
    """Write each line's name at its end, so that colour is not the only key."""
    side = "right" if last.step > steps * 0.6 else "left"
    values = [(last.safe_probability, "safe")]
    if last.unsafe_probability is not None:
        values.append((last.unsafe_probability, "unsafe"))
    # Lines that lie on each other have their names side by side.
    close = len(values) == 2 and abs(values[0][0] - values[1][0]) < 0.15
    for number, (value, name) in enumerate(values):
        aside = (-32 if side == "right" else 32) * number if close else 0
        figure.add_annotation(
            x=last.step,
            y=value,
            text=name,
            xanchor=side,
            xshift=aside,
            yshift=9,
            showarrow=False,
            font_size=11,
            row=1,
            col=3,
        )


def vitals_of(trace: Sequence[Step], settings: Any) -> go.Figure:
    """Draw the vital signs with the settings' step limit, budget and target."""
    steps = trace[0].steps if trace else settings.steps
    return vitals(trace, steps, settings.damage_budget, settings.target_probability)
