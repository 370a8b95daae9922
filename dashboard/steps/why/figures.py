"""Figures of "Why this layer": small multiples on one axis of layers, plain functions of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.kit.drawing.plain import escape
from dashboard.kit.drawing.plots import EDITED, PICKED, SAFE, UNSAFE, VANILLA, as_written, base, label, single
from dashboard.steps.why.run import RegionCurve
from editing.atlas import Atlas
from inspector.lens import Lens
from inspector.locators import Located
from inspector.padding import PaddingStudy

COLUMNS = 3


def _bars(values: np.ndarray, chosen: int | None, picked: int | None, colour: str) -> dict:
    colours = [colour] * len(values)
    patterns = [""] * len(values)
    if chosen is not None:
        colours[chosen], patterns[chosen] = UNSAFE, "/"
    if picked is not None:
        patterns[picked] = "x"
        if picked != chosen:
            colours[picked] = PICKED
    return {
        "color": colours,
        "line": {"width": 0},
        "pattern": {"shape": patterns, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.75)", "size": 4},
    }


@cache
def _grid(count: int) -> dict[str, Any]:
    """The empty charts of the locators, as plotly writes them: made once, since each answer draws them anew."""
    rows = -(-count // COLUMNS)
    figure = make_subplots(
        figure=base(60 + 118 * rows, margin={"l": 40, "r": 8, "t": 26, "b": 28}, bargap=0.12),
        rows=rows,
        cols=COLUMNS,
        subplot_titles=["title"] * count,
        horizontal_spacing=0.075,
        vertical_spacing=0.34 / rows,
    )
    figure.update_annotations(font_size=12)
    figure.update_yaxes(nticks=4, tickfont_size=10)
    figure.update_xaxes(tickfont_size=10)
    return figure.layout.to_plotly_json()


def _titled(frame: dict[str, Any], titles: Sequence[str]) -> dict[str, Any]:
    """Return empty charts with titles above the first ones."""
    notes = frame["annotations"]
    named = [{**note, "text": title} for note, title in zip(notes, titles, strict=False)]
    return {**frame, "annotations": [*named, *notes[len(named) :]]}


def _axes(number: int) -> dict[str, str]:
    """Return the axes of a chart, counted from 0."""
    name = "" if number == 0 else str(number + 1)
    return {"xaxis": f"x{name}", "yaxis": f"y{name}"}


def locators(located: Sequence[Located], picked: int | None) -> go.Figure:
    """Draw one small bar chart a locator; the block it chooses is marked and numbered, the picked one crossed."""
    titles = [f"{escape(item.locator)}: <b>{item.block}</b>" for item in located] or ["no locator was asked yet"]
    bars = [
        {
            "type": "bar",
            "x": list(range(len(item.scores))),
            "y": item.scores.tolist(),
            "marker": _bars(item.scores, item.block, picked, VANILLA),
            "hovertemplate": f"{escape(item.locator)}<br>layer %{{x}}: %{{y:.4g}}{f' {item.unit}' if item.unit else ''}"
            "<extra></extra>",
            **_axes(number),
        }
        for number, item in enumerate(located)
    ]
    return as_written(bars, _titled(_grid(len(titles)), titles))


ATLAS_CURVES = {
    "margin gain": ("margin gain, nats", SAFE),
    "harmless KL": ("harmless KL, nats", EDITED),
    "delta norm": ("norm of the change", VANILLA),
    "DS": ("DS, %", SAFE),
    "generalized": ("DG-Avg, %", SAFE),
}
ANSWERED = ("DS", "generalized")
"""Curves that are there only where edited models answered."""


@lru_cache(maxsize=8)
def _atlas(names: tuple[str, ...], blocks: int) -> dict[str, Any]:
    """The empty rows of the atlas, as plotly writes them: made once, since each layer that is done draws them anew."""
    frame = base(40 + 104 * len(names), margin={"l": 66, "r": 12, "t": 12, "b": 40}, bargap=0.18)
    figure = make_subplots(figure=frame, rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for number, name in enumerate(names, start=1):
        figure.update_yaxes(title_text=ATLAS_CURVES[name][0].replace(", ", ",<br>"), row=number, col=1)
        if name in ANSWERED:
            figure.update_yaxes(range=[0, 104], row=number, col=1)
    figure.update_yaxes(nticks=4, title_font_size=11, tickfont_size=10)
    figure.update_xaxes(dtick=max(1, blocks // 15))
    figure.update_xaxes(title_text="layer that was edited (block, numbered from 0)", row=len(names), col=1)
    return figure.layout.to_plotly_json()


@cache
def _no_atlas() -> dict[str, Any]:
    said = {"text": "No atlas of this case yet: press Run atlas.", "showarrow": False, "font": {"size": 13}}
    return base(120, annotations=[said], xaxis={"visible": False}, yaxis={"visible": False}).layout.to_plotly_json()


def atlas(made: Atlas | None, picked: int | None) -> go.Figure:
    """Draw what the same edit achieves at each block, one row a quantity, on the locators' axis."""
    if made is None or not made.entries:
        return as_written([], _no_atlas())
    names = tuple(name for name in ATLAS_CURVES if name not in ANSWERED or made.truth == "defended")
    bars = []
    for number, name in enumerate(names):
        title, colour = ATLAS_CURVES[name]
        values = made.curve(name) * (100 if name in ANSWERED else 1)
        known = np.nan_to_num(values)
        chosen = made.best if name in (("margin gain",) if made.truth == "margin gain" else ANSWERED) else None
        bars.append(
            {
                "type": "bar",
                "x": list(range(made.blocks)),
                "y": [None if np.isnan(value) else float(value) for value in values],
                "marker": _bars(known, chosen, picked, colour),
                "hovertemplate": f"layer %{{x}}<br>{title} %{{y:.4g}}<extra></extra>",
                **_axes(number),
            }
        )
    return as_written(bars, _atlas(names, made.blocks))


def lens(reading: Lens | None, picked: int | None, place: int) -> go.Figure:
    """Draw the likeliest next token of every layer at every position; colour is its probability."""
    if reading is None:
        return base(120)
    columns = [f"{n}: {label(token)}" for n, token in zip(reading.positions, reading.tokens, strict=True)]
    shown = [[_token(reading, block, n) for n in range(len(columns))] for block in range(reading.top.shape[0])]
    figure = base(
        130 + 17 * len(shown), xaxis_title="token read (hover: what follows)", yaxis_title="layer", margin_b=90
    )
    figure.add_heatmap(
        x=columns,
        z=single(reading.probability[:, :, 0]),
        text=shown,
        texttemplate="%{text}",
        textfont={"size": 9},
        colorscale="Blues",
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "P(top)"}, "thickness": 10},
        hovertemplate="read %{x}<br>layer %{y} says %{text}, P %{z:.3f}<extra></extra>",
    )
    answer = next((n for n, p in enumerate(reading.positions) if p >= reading.prompt_tokens), None)
    if answer is not None:
        figure.add_vline(x=answer - 0.5, line={"color": UNSAFE, "width": 1.5, "dash": "dot"})
    if picked is not None:
        figure.add_hrect(
            y0=picked - 0.5, y1=picked + 0.5, line={"color": PICKED, "width": 2}, fillcolor="rgba(0,0,0,0)"
        )
    figure.add_vrect(x0=place - 0.5, x1=place + 0.5, line={"color": PICKED, "width": 1}, fillcolor="rgba(0,0,0,0)")
    figure.update_xaxes(
        type="category", tickvals=columns, ticktext=[label(token, 9) for token in reading.tokens], tickangle=-60
    )
    figure.update_yaxes(dtick=2)
    return figure


def _token(reading: Lens, block: int, place: int) -> str:
    shown = label(reading.words[block][place], 6)
    return "" if shown == "␣" else shown


def regions(curve: RegionCurve | None, picked: int | None) -> go.Figure:
    """Draw the toxicity of every layer's region, vanilla and edited."""
    figure = base(240, xaxis_title="layer", yaxis_title="mean cosine, 1/1000", showlegend=True, barmode="group")
    if curve is None:
        return figure
    x = list(range(len(curve.before)))
    for name, values, colour, pattern in (
        ("vanilla", curve.before, VANILLA, ""),
        ("edited", curve.after, EDITED, "/"),
    ):
        figure.add_bar(
            x=x,
            y=(1000 * values).tolist(),
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.6)", "size": 4},
            },
            hovertemplate=f"{name}<br>layer %{{x}}: %{{y:.3f}} / 1000<extra></extra>",
        )
    if picked is not None:
        figure.add_vrect(
            x0=picked - 0.5, x1=picked + 0.5, line={"color": PICKED, "width": 2}, fillcolor="rgba(0,0,0,0)"
        )
    return figure


PADDINGS = [
    f"{side} padding<br>{'shared positions' if masked else 'pads counted'}"
    for side in ("left", "right")
    for masked in (False, True)
]


@cache
def _paddings() -> dict[str, Any]:
    """The empty charts of the study of padding, as plotly writes them."""
    figure = make_subplots(
        figure=base(250, margin={"l": 40, "r": 12, "t": 46, "b": 40}, bargap=0.12),
        rows=1,
        cols=5,
        subplot_titles=[*PADDINGS, "norm of a state<br>first ━ others ┅"],
        horizontal_spacing=0.045,
    )
    figure.update_annotations(font_size=11)
    figure.update_xaxes(title_text="layer", tickfont_size=10, title_font_size=11)
    figure.update_yaxes(nticks=5, tickfont_size=10)
    figure.update_yaxes(type="log", row=1, col=5)
    return figure.layout.to_plotly_json()


def padding(study: PaddingStudy | None) -> go.Figure:
    """Draw the reference preset's curve, padded left and right, all positions and shared ones, and the norms."""
    if study is None:
        return as_written([], _paddings())
    toxic = [measured.toxic_layer() for measured in study.curves.values()]
    drawn: list[dict[str, Any]] = [
        {
            "type": "bar",
            "x": list(range(len(measured.l2))),
            "y": measured.l2.tolist(),
            "marker": _bars(measured.l2, block, None, VANILLA),
            "hovertemplate": "layer %{x}<br>distance %{y:.4g}<extra></extra>",
            **_axes(number),
        }
        for number, (measured, block) in enumerate(zip(study.curves.values(), toxic, strict=True))
    ]
    drawn += [
        {
            "type": "scatter",
            "x": list(range(len(values))),
            "y": values.tolist(),
            "mode": "lines",
            "name": name,
            "line": {"color": colour, "dash": dash, "width": 2},
            "hovertemplate": f"{name}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
            **_axes(4),
        }
        for name, values, colour, dash in (
            ("first position", study.first_norm, UNSAFE, "solid"),
            ("median of the others", study.typical_norm, VANILLA, "dot"),
        )
    ]
    titles = [f"{title}: <b>{block}</b>" for title, block in zip(PADDINGS, toxic, strict=False)]
    return as_written(drawn, _titled(_paddings(), titles))
