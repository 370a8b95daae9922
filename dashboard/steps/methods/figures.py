"""Figures of "Methods": erase or suppress, and where the shift comes from; plain functions of standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.kit.drawing.plain import escape
from dashboard.kit.drawing.plots import EDITED, PICKED, SAFE, UNSAFE, VANILLA, base, single
from editing.contest import Standing
from inspector.writing import RegionWriting

SYMBOLS = {
    "DINM": "circle",
    "FT-L": "square",
    "Gated": "hexagon",
    "DELMAN": "cross",
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
    before, after = written.shares
    return before - after


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
    across, up = (-0.1 * max([*xs, 1.0]), 1.3 * max([*xs, 1.0])), _upright(ys)
    names = [standing.method.title + ("*" if forced_zero(standing) else "") for standing in shown]
    places = _name_places(xs, ys, names, across, up)
    figure = base(
        360,
        xaxis_title="activation shift of the region's input, %",
        yaxis_title="toxicity reduction of the region, %"
        if written is None
        else "written less along the toxic direction, %",
        margin={"l": 56, "r": 16, "t": 26, "b": 44},
    )
    looks = {"showarrow": False, "font_size": 11, "opacity": 0.75}
    # The corners' words stand above the plot and at its lower edge, where no point is.
    for side, edge, text in (
        (0, 1, "erases: less toxic, nothing re-routed"),
        (1, 1, "both"),
        (1, 0, "more toxic, and re-routed"),
        (0, 0, "more toxic"),
    ):
        corner = {"x": side, "y": edge, "xref": "paper", "yref": "paper", "xanchor": "right" if side else "left"}
        figure.add_annotation(text=text, yanchor="bottom", **corner, **looks)
    figure.add_annotation(
        x=1, y=0, xref="paper", text="suppresses: only re-routed", xanchor="right", yanchor="top", **looks
    )
    figure.add_hline(y=0, line={"color": VANILLA, "width": 1, "dash": "dot"})
    figure.add_scatter(
        x=[0], y=[0], mode="markers", marker={"color": VANILLA, "size": 9}, hovertemplate="vanilla<extra></extra>"
    )
    for standing, x, y, name, place in zip(shown, xs, ys, names, places, strict=True):
        title = standing.method.title
        both = "" if written is None else "<br>{:.3g} % before, {:.3g} % after".format(*written[title].shares)
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers+text",
            text=[escape(name)],
            textposition=place,
            marker={
                "color": PICKED if title == picked else EDITED,
                "symbol": SYMBOLS[title],
                "size": 13,
                "line": {"width": 1, "color": "rgba(0,0,0,0.5)"},
            },
            cliponaxis=False,
            hovertemplate=f"{escape(title)}<br>shift %{{x:.3g}} %<br>reduction %{{y:.3g}} %{both}<extra></extra>",
        )
    figure.update_xaxes(range=across)
    figure.update_yaxes(range=up)
    return figure


WIDE, HIGH = 420, 290
"""The plot's inside in pixels: as high as it is, as wide as on a narrow screen."""
SIDES = {
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
}
"""Where a point's name can stand, from the best place to the last; the signs say on which side of the point."""
Span = tuple[float, float]
Box = tuple[float, float, float, float]


def _upright(ys: Sequence[float]) -> Span:
    """Return what the upright axis shows: all points, room for a name beyond each, and words at the lower edge."""
    high, low = max([*ys, 0.0]), min([*ys, 0.0])
    room = max(high - low, 1.0)
    return low - 0.2 * room, high + 0.14 * room


def _name_places(xs: Sequence[float], ys: Sequence[float], names: Sequence[str], across: Span, up: Span) -> list[str]:
    """Return where each point's name stands: on no other name, no point and none of the plane's own words.

    Each takes the first free place, or the one where it covers least.
    """
    points = [
        ((x - across[0]) / (across[1] - across[0]) * WIDE, (y - up[0]) / (up[1] - up[0]) * HIGH)
        for x, y in zip(xs, ys, strict=True)
    ]
    zero = (0.0 - up[0]) / (up[1] - up[0]) * HIGH
    taken = [(WIDE - 160.0, zero - 18, WIDE, zero), (WIDE - 150.0, 0.0, WIDE, 18.0), (0.0, 0.0, 70.0, 18.0)]
    taken += [(x - 8, y - 8, x + 8, y + 8) for x, y in points]
    places = []
    for (x, y), name in zip(points, names, strict=True):
        boxes = {side: name_box(x, y, name, *signs) for side, signs in SIDES.items()}
        place = min(boxes, key=lambda side: _outside(boxes[side]) + sum(_shared(boxes[side], one) for one in taken))
        taken.append(boxes[place])
        places.append(place)
    return places


def name_box(x: float, y: float, name: str, right: int, above: int) -> Box:
    """Return the pixels that a name takes beside its point: left, bottom, right, top."""
    width, height, gap = 7.0 * len(name), 14.0, 8.0
    left = x + gap if right > 0 else x - gap - width if right < 0 else x - width / 2
    bottom = y + gap if above > 0 else y - gap - height if above < 0 else y - height / 2
    return left, bottom, left + width, bottom + height


def _shared(one: Box, two: Box) -> float:
    """Return the area that two boxes share."""
    across = min(one[2], two[2]) - max(one[0], two[0])
    upright = min(one[3], two[3]) - max(one[1], two[1])
    return max(across, 0.0) * max(upright, 0.0)


def _outside(box: Box) -> float:
    """Return the area of a box that lies beyond the plot's inside."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, (0.0, 0.0, float(WIDE), float(HIGH)))


def shifts_by_block(standings: Sequence[Standing], picked: str | None = None) -> go.Figure:
    """Draw the relative change of every block's mean output, a line a method."""
    shown = measured(standings)
    figure = base(360, xaxis_title="layer", yaxis_title="change of the mean output, %", showlegend=True)
    for standing in shown:
        assert standing.shift is not None
        title = standing.method.title
        values = (100 * standing.shift.by_block).tolist()
        figure.add_scatter(
            x=list(range(len(values))),
            y=values,
            name=escape(title),
            mode="lines+markers",
            line={"color": PICKED if title == picked else VANILLA, "width": 2.5 if title == picked else 1.2},
            marker={"symbol": SYMBOLS[title], "size": 6},
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
        figure.add_scatter(
            x=values[:, 0].tolist(),
            y=values[:, 1].tolist(),
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
            x=single(before[neurons]),
            y=single(change[neurons]),
            customdata=[[int(n), f"{standing.toxicity.relative[n]:+.1%}"] for n in neurons],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.65},
            hovertemplate=f"neuron %{{customdata[0]}}, {name}<br>%{{x:.3f}}, change %{{y:.2g}} (%{{customdata[1]}})"
            "<extra></extra>",
        )
    return figure
