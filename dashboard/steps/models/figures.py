"""The figure of two models: a plain function of what was measured."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard.kit.drawing.plots import UNSAFE, VANILLA, base, label
from dashboard.steps.models.run import Beside
from inspector.divergence import Distance

LEFT, RIGHT = VANILLA, "#56B4E9"
"""Colours of the two; both run their vanilla weights."""
STYLES = ((LEFT, "solid", "circle", 16), (RIGHT, "dash", "diamond", -16))
"""Colour, line, marks of each, and how far above its point the toxic layer's name stands."""
DISTANCES: dict[str, Distance] = {"relative L2": "relative", "L2": "l2", "cosine": "cosine"}
"""What the figure shows, by its name on the screen."""
TITLES: dict[Distance, str] = {
    "relative": "relative L2 distance",
    "l2": "L2 distance, own units",
    "cosine": "cosine distance",
}
HEIGHT = 280
LONGEST = 40


def curves(beside: Beside, distance: Distance = "relative") -> go.Figure:
    """Draw both distances over the share of the layers that a text has passed; both toxic layers are marked."""
    figure = base(HEIGHT, yaxis_title=TITLES[distance], xaxis_title="share of the layers passed", showlegend=True)
    highest = lowest = 0.0
    for side, (colour, dash, symbol, shift) in zip(beside.sides, STYLES, strict=True):
        values, depths, toxic = side.divergence.by(distance), side.depths, side.toxic
        name, is_toxic = label(side.label, LONGEST), [block == toxic for block in range(side.blocks)]
        figure.add_scatter(
            x=depths.tolist(),
            y=values.tolist(),
            name=name,
            mode="lines+markers",
            customdata=list(range(side.blocks)),
            line={"color": colour, "width": 2, "dash": dash},
            marker={
                "symbol": symbol,
                "size": [13 if one else 6 for one in is_toxic],
                "color": [UNSAFE if one else colour for one in is_toxic],
            },
            hovertemplate=f"{name}<br>layer %{{customdata}} of 0-{side.blocks - 1}<br>%{{y:.4g}}<extra></extra>",
        )
        figure.add_annotation(
            x=float(depths[toxic]),
            y=float(values[toxic]),
            text=f"<b>{toxic}</b> toxic layer, {name}",
            showarrow=False,
            yshift=shift,
            xanchor="right" if depths[toxic] > 0.6 else "left" if depths[toxic] < 0.3 else "center",
        )
        highest, lowest = max(highest, float(values.max())), min(lowest, float(values.min()))
    room = 0.18 * ((highest - lowest) or 1.0)
    figure.update_xaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_yaxes(range=[lowest - room, highest + room])
    return figure
