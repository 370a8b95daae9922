"""What every figure shares. Text and lines take the page's colours through the style sheet: both themes are readable.

Okabe-Ito colours with one meaning each: safe blue, unsafe vermillion, vanilla grey, edited purple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from dashboard.kit.drawing.plain import escape

SAFE, UNSAFE, VANILLA, EDITED = "#0072B2", "#D55E00", "#8A8F98", "#CC79A7"


PICKED = "#E69F00"


RECOMMENDED = "#009E73"


GRID = "rgba(128,128,128,0.22)"


FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


AXIS = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}


TEMPLATE = go.layout.Template(
    layout={
        "margin": {"l": 56, "r": 12, "t": 28, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12},
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "showlegend": False,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)
"""Looks of every figure, made once: plotly checks each property anew wherever it is set."""


Along = Literal["x", "y", "column"]
"""What of a point a click picks: where it stands along an axis, or the number of its column in a heatmap, whose columns
have names."""
LAYER = "block"
"""The element of the slider that picks a layer, which figures of several steps fill."""


def label(token: str, longest: int = 14) -> str:
    """Return a token as a plot label: visible white space, no markup, not too long."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return escape(shown.strip() or "␣")


def base(height: int, **layout) -> go.Figure:
    """Return an empty figure. What is given when it is made is checked once; what is set later, each for itself."""
    return go.Figure(layout={"template": TEMPLATE, "height": height, **layout})


def as_written(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> go.Figure:
    """Return a figure of traces and a layout as plotly writes them, checked by nobody: that is most of a figure's time.

    For figures that are drawn anew step by step, or after every run; tests let plotly check them.
    """
    return go.Figure({"data": data, "layout": layout}, _validate=False)


def single(values: np.ndarray) -> np.ndarray:
    """Return many numbers for a figure: plotly sends them in binary, seven digits in less room than three in words."""
    return values.astype(np.float32)


def whiskers(
    middles: Sequence[float | None], lows: Sequence[float | None], highs: Sequence[float | None]
) -> dict[str, Any] | None:
    """Return bars' intervals as plotly draws them; ``None`` where there is no interval at all.

    Args:
        middles: One a bar; ``None`` where nothing is drawn.
        lows: Lower ends, ``None`` for a bar without an interval.
        highs: Upper ends in the same way.
    """
    spans = [
        (None, None) if middle is None or low is None or high is None else (middle - low, high - middle)
        for middle, low, high in zip(middles, lows, highs, strict=True)
    ]
    if all(down is None for down, _ in spans):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [up for _, up in spans],
        "arrayminus": [down for down, _ in spans],
        "color": "rgba(128,128,128,0.9)",
        "thickness": 1.2,
        "width": 3,
    }


def mark(figure: go.Figure, block: int, value: float, text: str, blocks: int) -> None:
    anchor = "right" if block > blocks * 0.5 else "left" if block < blocks * 0.2 else "center"
    figure.add_annotation(
        x=block + (0.45 if anchor == "right" else -0.45 if anchor == "left" else 0),
        y=max(float(value), 0.0),
        text=f"<b>{block}</b> {text}",
        showarrow=False,
        yshift=11,
        xanchor=anchor,
    )


def plot(figure: go.Figure | None, name: str, title: str, picks: Mapping[Along, str] | None = None) -> gr.Plot:
    """Lay a figure out; the browser puts a table of its numbers behind it (``assets/figures.js``).

    Args:
        figure: What is drawn; ``None`` where it comes later.
        name: The element's.
        title: What the figure shows, in words that stand alone: its name for those who do not see it.
        picks: The sliders that a click on a point fills (``assets/plots.js``), by what of the point each one takes; an
            element's name, which may be that of another step's slider.
    """
    classes = ["picks", *(f"picks-{along}-{slider}" for along, slider in picks.items())] if picks else None
    return gr.Plot(figure, label=title, show_label=False, container=False, elem_id=name, elem_classes=classes)
