"""Figures of "Methods": erase or suppress, and where the shift comes from; plain functions of standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.kit.plain import escape
from dashboard.kit.plots import EDITED, PICKED, SAFE, UNSAFE, VANILLA, base
from editing.contest import Standing
from inspector.writing import RegionWriting

SYMBOLS = {
    "DINM": "circle",
    "FT-L": "square",
    "SFT": "diamond",
    "DPO": "triangle-up",
    "MEND": "star",
    "Ext-Sub": "triangle-down",
    "Self-Reminder": "x",
}
"""One sign a method, the same in every figure."""


def measured(standings: Sequence[Standing]) -> list[Standing]:
    """Return those with both toxicity and activation shift."""
    return [s for s in standings if s.toxicity is not None and s.shift is not None]


def forced_zero(standing: Standing) -> bool:
    """Whether one of a method's two places on the plane is zero by construction."""
    toxicity, shift = standing.toxicity, standing.shift
    return (toxicity is not None and toxicity.forced) or (shift is not None and shift.forced)


def writing_reduction(written: RegionWriting) -> float:
    """Return how much less a region writes along the toxic direction, percent of the length of all that it writes."""
    return 100 * (written.before - written.after) / max(float(written.size[0].mean()), 1e-12)


def plane(
    standings: Sequence[Standing], picked: str | None = None, written: Mapping[str, RegionWriting] | None = None
) -> go.Figure:
    """Draw toxicity reduction against activation shift, a point a method; corners say what they mean.

    Args:
        written: What the region writes with each method, by title: that instead of its mean cosine.
    """
    shown = measured(standings)
    if written is not None:
        shown = [standing for standing in shown if standing.method.title in written]
    xs = [100 * s.shift.mean_input_shift for s in shown if s.shift is not None]
    if written is None:
        ys = [-100 * s.toxicity.region.change for s in shown if s.toxicity is not None]
    else:
        ys = [writing_reduction(written[s.method.title]) for s in shown]
    right = 1.25 * max([*xs, 1.0])
    top = max(1.35 * max([*ys, 1.0]), -0.3 * min([*ys, 0.0]))  # room for the names of what lies near 0
    bottom = min(1.35 * min([*ys, 0.0]), -0.4 * top)
    figure = base(
        360,
        xaxis_title="activation shift of the region's input, %",
        yaxis_title="toxicity reduction of the region, %"
        if written is None
        else "written less along the toxic direction, %",
        margin={"l": 56, "r": 16, "t": 14, "b": 44},
    )
    for x, y, anchor, text in (
        (0, top, "left", "erases: less toxic, nothing re-routed"),
        (right, top, "right", "both"),
        (right, bottom, "right", "more toxic, and re-routed"),
        (0, bottom, "left", "more toxic"),
    ):
        figure.add_annotation(
            x=x, y=y, text=text, xanchor=anchor, yanchor="middle", showarrow=False, font_size=11, opacity=0.75
        )
    figure.add_annotation(
        x=right,
        y=0,
        text="suppresses: only re-routed",
        xanchor="right",
        yanchor="top",
        showarrow=False,
        font_size=11,
        opacity=0.75,
    )
    figure.add_hline(y=0, line={"color": VANILLA, "width": 1, "dash": "dot"})
    figure.add_scatter(
        x=[0], y=[0], mode="markers", marker={"color": VANILLA, "size": 9}, hovertemplate="vanilla<extra></extra>"
    )
    for standing, x, y in zip(shown, xs, ys, strict=True):
        title = standing.method.title
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers+text",
            text=[escape(title) + ("*" if forced_zero(standing) else "")],
            textposition="top center" if y >= 0 else "bottom center",
            marker={
                "color": PICKED if title == picked else EDITED,
                "symbol": SYMBOLS.get(title, "circle"),
                "size": 13,
                "line": {"width": 1, "color": "rgba(0,0,0,0.5)"},
            },
            cliponaxis=False,
            hovertemplate=f"{escape(title)}<br>shift %{{x:.3g}} %<br>reduction %{{y:.3g}} %<extra></extra>",
        )
    figure.update_xaxes(range=[-0.06 * right, 1.04 * right])
    figure.update_yaxes(range=[bottom * 1.15, top * 1.15])
    return figure


def shifts_by_block(standings: Sequence[Standing], picked: str | None = None) -> go.Figure:
    """Draw the relative change of every block's mean output, a line a method."""
    shown = measured(standings)
    figure = base(360, xaxis_title="layer", yaxis_title="change of the mean output, %", showlegend=True)
    for standing in shown:
        assert standing.shift is not None
        title = standing.method.title
        values = [round(100 * float(value), 3) for value in standing.shift.by_block]
        figure.add_scatter(
            x=list(range(len(values))),
            y=values,
            name=escape(title),
            mode="lines+markers",
            line={"color": PICKED if title == picked else VANILLA, "width": 2.5 if title == picked else 1.2},
            marker={"symbol": SYMBOLS.get(title, "circle"), "size": 6},
            hovertemplate=f"{escape(title)}<br>layer %{{x}}: %{{y:.3g}} %<extra></extra>",
        )
    figure.update_layout(legend={"y": -0.22, "yanchor": "top", "x": 0, "xanchor": "left"}, margin_b=90, margin_t=14)
    return figure


def source(standing: Standing | None) -> go.Figure:
    """Draw the states that feed the region on the mean difference and the first principal component."""
    figure = base(340, showlegend=True, margin={"l": 56, "r": 12, "t": 28, "b": 44})
    figure.update_xaxes(title="along the mean difference")
    figure.update_yaxes(title="first principal component")
    if standing is None or standing.shift is None:
        return figure
    found = standing.shift.projection()
    for name, values, colour, symbol in (
        ("vanilla", found.vanilla, VANILLA, "circle-open"),
        ("edited", found.edited, EDITED, "circle"),
    ):
        points = np.round(values, 3)
        figure.add_scatter(
            x=points[:, 0].tolist(),
            y=points[:, 1].tolist(),
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.5, "color": colour}},
            hovertemplate=name + "<br>%{x:.3g}, %{y:.3g}<extra></extra>",
        )
    return figure


def neuron_toxicity(standing: Standing | None) -> go.Figure:
    """Draw the change of each value vector's cosine with the toxic direction against its vanilla value."""
    figure = base(340, xaxis_title="vanilla: cosine with the toxic direction", yaxis_title="change by the edit")
    if standing is None or standing.toxicity is None:
        return figure
    before = standing.toxicity.before
    change = standing.toxicity.after - before
    figure.add_hline(y=0, line={"color": VANILLA, "width": 1, "dash": "dot"})
    figure.update_yaxes(exponentformat="power")
    for chosen, colour, symbol, name in (
        (change < 0, SAFE, "triangle-down", "less toxic"),
        (change > 0, UNSAFE, "triangle-up", "more toxic"),
        (change == 0, VANILLA, "circle", "unchanged"),
    ):
        neurons = np.flatnonzero(chosen)
        if len(neurons) == 0:
            continue
        figure.add_scattergl(
            x=np.round(before[neurons], 4).tolist(),
            y=[float(f"{value:.3g}") for value in change[neurons]],
            customdata=[[int(n), f"{standing.toxicity.relative[n]:+.1%}"] for n in neurons],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.65},
            hovertemplate=f"neuron %{{customdata[0]}}, {name}<br>%{{x:.3f}}, change %{{y:.2g}} (%{{customdata[1]}})"
            "<extra></extra>",
        )
    return figure
