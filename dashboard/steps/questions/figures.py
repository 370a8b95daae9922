"""Figures of "Ten questions": plain functions of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.kit.drawing.plain import escape
from dashboard.kit.drawing.plots import EDITED, RECOMMENDED, SAFE, UNSAFE, VANILLA, base, mark, whiskers
from dashboard.steps.questions.detectors import Detection
from dashboard.steps.questions.printed import Measured
from dashboard.steps.questions.results import CategoryMatrix, Trials
from editing import Step
from inspector.safeedit.cases import CATEGORIES

MARKERS = (
    *("circle-open", "square", "diamond", "triangle-up", "cross-thin-open", "x-thin-open"),
    *("star", "hexagram-open", "triangle-down-open", "bowtie"),
)
"""Signs of ways of detoxifying, in their order."""
PATTERNS = {VANILLA: "", EDITED: "/", SAFE: "", UNSAFE: "x", RECOMMENDED: "."}


def bars(
    labels: Sequence[str], series: Mapping[str, tuple[str, Sequence[Measured | None]]], unit: str, left: int = 150
) -> go.Figure:
    """Draw horizontal bars with their intervals, in the order given from the top, several series side by side.

    Args:
        labels: One a group.
        series: By name: colour, and a value a group; ``None`` for none.
        unit: Title of the axis.
        left: Room for the labels, pixels.
    """
    thick = 15 if len(series) > 1 else 20
    figure = base(
        80 + (8 + thick * len(series)) * len(labels),
        barmode="group",
        bargap=0.28,
        showlegend=len(series) > 1,
        xaxis_title=unit,
        margin={"l": left, "r": 16, "t": 28 if len(series) > 1 else 10, "b": 40},
    )
    # Plotly stacks groups from below.
    for name, (colour, values) in reversed(list(series.items())):
        figure.add_bar(
            y=[escape(label) for label in reversed(labels)],
            x=[None if value is None else value.mean for value in reversed(values)],
            name=name,
            orientation="h",
            marker={"color": colour, "pattern": _pattern(colour)},
            error_x=_whiskers(list(reversed(values))),
            hovertemplate=f"%{{y}}<br>{escape(name)} %{{x:.4g}}<extra></extra>",
        )
    figure.update_layout(legend={"traceorder": "reversed"})
    return figure


def _pattern(colour: str) -> dict[str, Any]:
    return {
        "shape": PATTERNS.get(colour, ""),
        "fillmode": "overlay",
        "fgcolor": "rgba(255,255,255,0.6)",
        "size": 5,
    }


def _whiskers(values: Sequence[Measured | None]) -> dict[str, Any] | None:
    middles, lows, highs = (
        [None if value is None else getattr(value, end) for value in values] for end in ("mean", "low", "high")
    )
    return whiskers(middles, lows, highs)


def trials(found: Trials, toxic: int | None = None) -> go.Figure:
    """Draw what trial edits defend at each layer, the recommended and DINM's layer named."""
    figure = base(230, yaxis_title="prompts defended, %", xaxis_title="layer that was edited", bargap=0.2, margin_t=16)
    colours = [VANILLA] * len(found.blocks)
    colours[found.blocks.index(found.recommended)] = RECOMMENDED
    if toxic in found.blocks:
        colours[found.blocks.index(toxic)] = UNSAFE
    figure.add_bar(
        x=found.blocks,
        y=found.defended,
        marker={"color": colours},
        hovertemplate="layer %{x}<br>defended %{y:.3g} %<extra></extra>",
    )
    figure.add_hline(y=found.vanilla, line={"color": VANILLA, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        x=0, y=1, xref="paper", yref="paper", text=f"┅ vanilla: {found.vanilla:g} %", showarrow=False, xanchor="left"
    )
    mark(figure, found.recommended, found.at(found.recommended), "recommended", max(found.blocks) + 1)
    if toxic in found.blocks:
        figure.add_annotation(
            x=toxic,
            y=found.at(toxic),
            text=f"<b>{toxic}</b> toxic layer",
            ay=96,
            ayref="y",
            ax=0,
            xanchor="right",
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=UNSAFE,
        )
    figure.update_xaxes(dtick=max(1, len(found.blocks) // 10))
    figure.update_yaxes(range=[0, 104])
    return figure


def balance(trace: Sequence[Step], edit_weight: float, constraint_weight: float) -> go.Figure:
    """Draw both terms of the loss as they are weighted, and their sum, step by step."""
    figure = base(230, xaxis_title="update", yaxis_title="nats", showlegend=True)
    x = [step.step for step in trace]
    for name, values, colour, dash in (
        (f"{edit_weight:g} × edit loss", [edit_weight * step.edit_loss for step in trace], SAFE, "solid"),
        (f"{constraint_weight:g} × KL", [constraint_weight * step.constraint_kl for step in trace], EDITED, "dot"),
        ("sum", [step.total_loss for step in trace], VANILLA, "dash"),
    ):
        figure.add_scatter(
            x=x,
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 4},
            hovertemplate=f"{name}<br>update %{{x}}: %{{y:.4g}} nats<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def seconds(trace: Sequence[Step]) -> go.Figure:
    """Draw how long each update took."""
    figure = base(210, xaxis_title="update", yaxis_title="seconds an update", bargap=0.2, margin_t=10)
    figure.add_bar(
        x=[step.step for step in trace],
        y=[step.seconds for step in trace],
        marker={"color": EDITED, "pattern": _pattern(EDITED)},
        hovertemplate="update %{x}<br>%{y:.3g} s<extra></extra>",
    )
    return figure


def budgets(checks: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draw how much of each of the gate's budgets an edit used, percent of it."""
    labels = [str(check["name"]).replace("_", " ").replace(" kl", " KL").replace("over ", "over-") for check in checks]
    used = [100 * max(0.0, check["value"]) / check["limit"] if check["limit"] else None for check in checks]
    figure = base(70 + 30 * len(labels), xaxis_title="percent of the budget", margin={"l": 100, "r": 16, "t": 8})
    colours = [UNSAFE if share is not None and share > 100 else SAFE for share in used]
    figure.add_bar(
        y=[escape(label) for label in reversed(labels)],
        x=list(reversed(used)),
        orientation="h",
        marker={"color": list(reversed(colours))},
        hovertemplate="%{y}<br>%{x:.3g} % of the budget<extra></extra>",
    )
    figure.add_vline(x=100, line={"color": UNSAFE, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(range=[0, max([110.0, *(1.1 * share for share in used if share is not None)])])
    return figure


def detection(found: Detection) -> go.Figure:
    """Draw what the detector finds against its false alarms, a point a threshold, bare and in attack templates."""
    figure = base(
        230, xaxis_title="harmless prompts taken for harmful, %", yaxis_title="harmful prompts found, %", margin_t=10
    )
    for name, key, colour, dash in (("bare", "bare", SAFE, "solid"), ("in an attack", "wrapped", EDITED, "dot")):
        figure.add_scatter(
            x=[false for false, _ in found.frontiers[key]],
            y=[hit for _, hit in found.frontiers[key]],
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 7},
            hovertemplate=f"{name}<br>false alarms %{{x:.3g}} %<br>found %{{y:.3g}} %<extra></extra>",
        )
    figure.update_layout(showlegend=True, legend={"y": 0.05, "x": 0.98, "xanchor": "right", "yanchor": "bottom"})
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, 104])
    return figure


def trade(points: Mapping[str, tuple[Measured, Measured]], x: str, y: str) -> go.Figure:
    """Draw what is won against what it costs, a point a way of doing it.

    Args:
        points: Cost and gain by name.
        x: Title of the cost's axis.
        y: Title of the gain's axis.
    """
    drawn, title, line = 186, 52, 19  # pixels of the plot, of the axis below it, and of each name below that
    below = title + line * len(points)
    margin = {"l": 56, "r": 12, "t": 14, "b": below}
    figure = base(14 + drawn + below, xaxis_title=x, yaxis_title=y, margin=margin, showlegend=True)
    for number, (name, (cost, gain)) in enumerate(points.items()):
        figure.add_scatter(
            x=[cost.mean],
            y=[gain.mean],
            name=escape(name),
            mode="markers",
            error_x=_whiskers([cost]),
            error_y=_whiskers([gain]),
            marker={
                "color": VANILLA if name == "vanilla" else EDITED,
                "symbol": MARKERS[number % len(MARKERS)],
                "size": 10,
                "line": {"width": 2},
            },
            hovertemplate=f"{escape(name)}<br>{x} %{{x:.3g}}<br>{y} %{{y:.3g}}<extra></extra>",
        )
    highest = max([cost.high or cost.mean for cost, _ in points.values()], default=1.0)
    figure.update_xaxes(range=[-0.04 * highest, 1.06 * highest])
    figure.update_yaxes(range=[-4, 108])
    figure.update_layout(legend={"y": -title / drawn, "yanchor": "top", "x": 0, "xanchor": "left"})
    return figure


def matrix(found: CategoryMatrix) -> go.Figure:
    """Draw what is defended by the category that was edited on, upright, and the one that was asked, across."""
    rows = {"vanilla": found.vanilla, **found.edited}
    figure = base(
        170 + 24 * len(rows), xaxis_title="category asked about", margin={"l": 130, "r": 12, "t": 10, "b": 130}
    )
    figure.add_heatmap(
        x=[escape(category) for category in CATEGORIES],
        y=[escape(name) for name in rows],
        z=[list(row) for row in rows.values()],
        texttemplate="%{z:.0f}",
        textfont={"size": 10},
        colorscale="Blues",
        zmin=0,
        zmax=100,
        showscale=False,  # each cell says its number, and needs the room
        hovertemplate="edited on %{y}<br>asked about %{x}: %{z:.0f} % defended<extra></extra>",
    )
    figure.update_xaxes(tickangle=-50, dtick=1)
    figure.update_yaxes(autorange="reversed")
    return figure
