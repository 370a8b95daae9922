"""Figures of Compare: plain functions of a comparison."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.kit.drawing.plots import (
    EDITED,
    PICKED,
    RECOMMENDED,
    SAFE,
    UNSAFE,
    VANILLA,
    as_written,
    base,
    label,
    mark,
    single,
)
from dashboard.steps.compare.run import Comparison
from editing.strength import StrengthCurve
from inspector.columns import NeuronProfile
from inspector.likelihood import Likelihood
from inspector.shift import Shift

HEIGHT = 210
"""Of the strength curve, pixels."""


def divergence_before_after(comparison: Comparison) -> go.Figure:
    """Draw the divergence of both answers, vanilla and edited."""
    figure = base(112, yaxis_title="L2", showlegend=True, margin={"l": 44, "r": 8, "t": 16, "b": 20})
    x = list(range(len(comparison.divergence_before.l2)))
    for values, colour, name, dash in (
        (comparison.divergence_before.l2, VANILLA, "vanilla", "dot"),
        (comparison.divergence_after.l2, EDITED, "edited", "solid"),
    ):
        figure.add_scatter(
            x=x,
            y=values.tolist(),
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"size": 5},
            hovertemplate=f"{name}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    return figure


def shift_by_block(shift: Shift) -> go.Figure:
    """Draw the mean relative shift of each block's output; edited blocks are marked."""
    values = shift.by_block
    colours = [EDITED if n in shift.blocks_edited else VANILLA for n in range(len(values))]
    figure = base(112, yaxis_title="relative", bargap=0.18, margin={"l": 44, "r": 8, "t": 14, "b": 20})
    figure.add_bar(
        x=list(range(len(values))),
        y=values.tolist(),
        marker={"color": colours},
        hovertemplate="layer %{x}<br>relative shift %{y:.4g}<extra></extra>",
    )
    if len(shift.blocks_edited) <= 3:  # more would write over each other; the colour says it as well
        for block in shift.blocks_edited:
            mark(figure, block, float(values.max()), "edited", len(values))
    figure.update_yaxes(range=[0, float(values.max()) * 1.2 or 1.0])
    return figure


def shift_heatmap(shift: Shift) -> go.Figure:
    """Draw the relative shift per block and token, from the first edited block on."""
    first = shift.blocks_edited[0]
    values = shift.by_token[first:]
    tokens = len(shift.tokens)
    names = [f"{n}: {label(token)}" for n, token in enumerate(shift.tokens)]
    step = max(1, tokens // 14)
    edge = {"x0": shift.prompt_tokens - 0.5, "x1": shift.prompt_tokens - 0.5, "xref": "x"}
    answer = {"x": shift.prompt_tokens, "y": 1.0, "yref": "paper", "yshift": 10, "text": "answer", "xanchor": "left"}
    figure = base(
        260,
        margin={"b": 80},
        xaxis={
            "title": {"text": "token of prompt and safe answer"},
            "type": "category",
            "tickvals": names[::step],
            "ticktext": [label(token, 10) for token in shift.tokens[::step]],
            "tickangle": -60,
        },
        yaxis={"title": {"text": "layer"}, "type": "category"},
        shapes=[
            {
                "type": "line",
                **edge,
                "y0": 0,
                "y1": 1,
                "yref": "y domain",
                "line": {"color": "#ffffff", "width": 1.5, "dash": "dot"},
            }
        ],
        annotations=[{**answer, "showarrow": False}],
    )
    figure.add_heatmap(
        x=names,
        z=single(values),
        y=[str(n) for n in range(first, first + len(values))],
        colorscale="Magma",
        colorbar={"title": {"text": "relative<br>shift"}, "thickness": 10},
        hovertemplate="token %{x}<br>layer %{y}<br>relative shift %{z:.3g}<extra></extra>",
    )
    return figure


def neurons(profile: NeuronProfile, named: int = 5) -> go.Figure:
    """Draw how far each neuron's value vector moved, relative to its length; the first ones are named."""
    largest = float(profile.relative.max())
    names = [
        {
            "x": int(neuron),
            "y": float(profile.relative[neuron]),
            "text": str(neuron),
            "yshift": 9,
            "showarrow": False,
            "font": {"size": 11},
        }
        for neuron in np.argsort(profile.relative)[::-1][:named]
    ]
    figure = base(
        260,
        margin={"t": 14},
        xaxis={"title": {"text": f"neuron of layer {profile.block}"}},
        yaxis={
            "title": {"text": "relative change of its column"},
            "tickformat": ".0%" if largest > 0.05 else ".2%",
            "range": [0, largest * 1.15 or 1.0],
        },
        annotations=names,
    )
    figure.add_scatter(
        y=single(profile.relative),
        mode="markers",
        marker={"color": EDITED, "size": 3, "opacity": 0.65},
        hovertemplate="neuron %{x}<br>moved by %{y:.1%} of its length<extra></extra>",
    )
    return figure


def token_probabilities(before: Likelihood, after: Likelihood) -> go.Figure:
    """Draw the probability of each token of the safe answer, vanilla and edited."""
    x = list(range(len(before.tokens)))
    step = max(1, len(x) // 14)
    figure = base(
        260,
        showlegend=True,
        margin={"b": 80},
        xaxis={
            "title": {"text": "token of the safe answer"},
            "tickvals": x[::step],
            "ticktext": [label(before.tokens[i], 10) for i in x[::step]],
            "tickangle": -60,
        },
        yaxis={"title": {"text": "probability"}, "range": [0, 1.02]},
    )
    for item, colour, name, dash in ((before, VANILLA, "vanilla", "dot"), (after, EDITED, "edited", "solid")):
        figure.add_scatter(
            x=x,
            y=np.exp(item.log_probabilities).tolist(),
            text=[label(t) for t in item.tokens],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash, "width": 1.5},
            marker={"size": 4},
            hovertemplate=f"{name}<br>%{{text}}: %{{y:.4f}}<extra></extra>",
        )
    return figure


def _axes_of_curve(height: int, **layout: Any) -> go.Figure:
    return base(
        height,
        showlegend=True,
        xaxis={"title": {"text": "strength"}, "range": [-0.05, 1.55]},
        yaxis={"title": {"text": "percent"}, "range": [0, 104]},
        yaxis2={
            "title": {"text": "nats"},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "rangemode": "tozero",
        },
        **layout,
    )


@cache
def _no_curve() -> dict[str, Any]:
    """The layout of the empty figure, as plotly writes it: made once, since it is shown after every run."""
    return _axes_of_curve(HEIGHT, legend={}, margin={"l": 46, "r": 50, "t": 30, "b": 40}).layout.to_plotly_json()


def strength_curve(curve: StrengthCurve | None) -> go.Figure:
    """Draw defence and damage over the strength of an edit, the chosen and the suggested one marked.

    Parroting and lost defence are drawn where there is any.
    """
    if curve is None:
        return as_written([], _no_curve())
    rare = [line for line in _rare(curve) if line[0].max() > 0]
    room = 18 if rare else 0  # one more row of the legend
    figure = _axes_of_curve(
        HEIGHT + room,
        legend={"y": 0, "yref": "container", "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"l": 46, "r": 50, "t": 36, "b": 78 + room},
    )
    x = curve.strengths.tolist()
    for values, name, colour, dash, axis in (
        (curve.defended, "defended", SAFE, "solid", "y"),
        (curve.over_refusal, "harmless refused", UNSAFE, "dot", "y"),
        (curve.degenerate, "broken", VANILLA, "dash", "y"),
        *rare,
        (curve.harmless_kl, "harmless KL (right)", EDITED, "dashdot", "y2"),
    ):
        figure.add_scatter(
            x=x,
            y=values.tolist(),
            name=name,
            yaxis=axis,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 6},
            hovertemplate=f"{name}<br>strength %{{x:g}}: %{{y:.3g}}<extra></extra>",
        )
    marks = [(curve.chosen, "chosen", EDITED)]
    if curve.suggestion is not None and not np.isclose(curve.suggestion, curve.chosen):
        marks.append((curve.suggestion, "suggested", RECOMMENDED))
    for strength, said, colour in marks:
        figure.add_vline(x=strength, line={"color": colour, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=strength, y=1, yref="paper", text=f"{said} {strength:g}", showarrow=False, yshift=15, font_size=11
        )
    return figure


def _rare(curve: StrengthCurve) -> list[tuple[np.ndarray, str, str, str, str]]:
    """Return what most edits have none of: values, name, colour, dash and axis."""
    return [
        (curve.parroting, "parroting", PICKED, "dash", "y"),
        (curve.lost_defence, "lost defence", UNSAFE, "longdashdot", "y"),
    ]
