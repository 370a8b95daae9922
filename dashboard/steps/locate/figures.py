"""Figures of Locate: plain functions of a divergence."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard.kit.drawing.plots import PICKED, RECOMMENDED, UNSAFE, VANILLA, base, label, mark, single
from inspector.divergence import Distance, Divergence

DISTANCE_NAMES: dict[Distance, str] = {
    "l2": "L2 distance",
    "relative": "relative L2 distance",
    "cosine": "cosine distance",
    "growth": "growth of the L2 distance",
}


def curve(
    measured: Divergence | None, distance: Distance, picked: int | None = None, recommended: int | None = None
) -> go.Figure:
    """Draw one bar a block; the toxic, the recommended and the picked layer are marked in words and colour."""
    if measured is None:
        return base(170, xaxis={"visible": False}, yaxis={"visible": False})
    values = measured.by(distance)
    toxic = measured.toxic_layer(distance)
    colours = [VANILLA] * len(values)
    patterns = [""] * len(values)
    if recommended is not None:
        colours[recommended], patterns[recommended] = RECOMMENDED, "."
    if picked is not None and picked != recommended:
        colours[picked], patterns[picked] = PICKED, "x"
    colours[toxic], patterns[toxic] = UNSAFE, "/"
    figure = base(
        170,
        margin={"l": 44, "r": 8, "t": 14, "b": 22},
        yaxis_title=DISTANCE_NAMES[distance],
        bargap=0.18,
    )
    figure.add_bar(
        x=list(range(len(values))),
        y=values.tolist(),
        marker={
            "color": colours,
            "pattern": {"shape": patterns, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.75)", "size": 6},
        },
        hovertemplate="layer %{x}<br>%{y:.4g}<extra></extra>",
    )
    words: dict[int, list[str]] = {}
    for block, word in ((toxic, "toxic layer"), (recommended, "recommended"), (picked, "picked")):
        if block is not None:
            words.setdefault(block, []).append(word)
    for block, said in words.items():
        mark(figure, block, values[block], ", ".join(said), len(values))
    figure.update_xaxes(dtick=max(1, len(values) // 15))
    figure.update_yaxes(range=[min(0.0, float(values.min()) * 1.1), max(0.0, float(values.max())) * 1.16 or 1.0])
    return figure


def divergence_heatmap(measured: Divergence | None) -> go.Figure:
    """Draw the relative distance of the i-th tokens of both answers, block by token."""
    if measured is None:
        return base(330, xaxis={"visible": False}, yaxis={"visible": False})
    tokens = measured.token_relative.shape[1]
    # Labels stand on the axis, where each is written once; a matrix of hover texts would repeat it in every row. The
    # unsafe answer is covered beside it, so no figure spells it: neither here nor in the table, the file or the hover.
    names = [f"{n}: {label(token)}" for n, token in enumerate(measured.safe_tokens)]
    figure = base(330, xaxis_title="token of the safe answer", yaxis_title="layer", margin_b=90)
    figure.add_heatmap(
        x=names,
        z=single(measured.token_relative),
        colorscale="Cividis",
        colorbar={"title": {"text": "relative<br>distance"}, "thickness": 10},
        hovertemplate="token %{x}<br>layer %{y}<br>relative distance %{z:.3g}<extra></extra>",
    )
    step = max(1, tokens // 36)
    figure.update_xaxes(
        type="category",
        tickvals=names[::step],
        ticktext=[label(token) for token in measured.safe_tokens[::step]],
        tickangle=-60,
    )
    return figure
