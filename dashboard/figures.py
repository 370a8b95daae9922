"""Figures: plain functions of the measurements' dataclasses, testable without a model or a browser.

Okabe-Ito colours with one meaning each: safe blue, unsafe vermillion, vanilla grey, edited purple. Text
and lines take the page's colours through the style sheet, so that both themes are readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.session import Comparison
from editing import Step
from inspector.columns import NeuronProfile
from inspector.divergence import Distance, Divergence
from inspector.likelihood import Likelihood
from inspector.shift import Shift

SAFE, UNSAFE, VANILLA, EDITED = "#0072B2", "#D55E00", "#8A8F98", "#CC79A7"
PICKED = "#E69F00"
RECOMMENDED = "#009E73"
_GRID = "rgba(128,128,128,0.22)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

_AXIS = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "automargin": True}
_TEMPLATE = go.layout.Template(
    layout={
        "margin": {"l": 56, "r": 12, "t": 28, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12},
        "hoverlabel": {"font": {"family": _FONT, "size": 12}},
        "showlegend": False,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
"""Looks of every figure, made once: plotly checks each property anew wherever it is set."""

DISTANCE_NAMES: dict[Distance, str] = {
    "l2": "L2 distance",
    "relative": "relative L2 distance",
    "cosine": "cosine distance",
    "growth": "growth of the L2 distance",
}


def label(token: str, longest: int = 14) -> str:
    """Return a token as a plot label: visible white space, no markup, not too long."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return escape(shown.strip() or "␣")


def _base(height: int, **layout) -> go.Figure:
    figure = go.Figure()
    _style(figure, height, **layout)
    return figure


def _style(figure: go.Figure, height: int, **layout) -> None:
    figure.update_layout(template=_TEMPLATE, height=height, **layout)


def _short(values: np.ndarray) -> list[list[float]]:
    """Round to two decimals, more where all values are small: what a colour can show, as short numbers."""
    largest = float(np.abs(values).max())
    decimals = max(2, 1 - int(np.floor(np.log10(largest)))) if largest > 0 else 2
    return np.round(values.astype(float), decimals).tolist()


def curve(
    measured: Divergence, distance: Distance, picked: int | None = None, recommended: int | None = None
) -> go.Figure:
    """Draw one bar a block; the toxic, the recommended and the picked layer are marked in words and colour."""
    values = measured.by(distance)
    toxic = measured.toxic_layer(distance)
    colours = [VANILLA] * len(values)
    patterns = [""] * len(values)
    if recommended is not None:
        colours[recommended], patterns[recommended] = RECOMMENDED, "."
    if picked is not None and picked != recommended:
        colours[picked], patterns[picked] = PICKED, "x"
    colours[toxic], patterns[toxic] = UNSAFE, "/"
    figure = _base(
        320,
        xaxis_title="layer (block, numbered from 0)",
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
        _mark(figure, block, values[block], ", ".join(said), len(values))
    figure.update_xaxes(dtick=max(1, len(values) // 15))
    figure.update_yaxes(range=[min(0.0, float(values.min()) * 1.1), max(0.0, float(values.max())) * 1.16 or 1.0])
    return figure


def _mark(figure: go.Figure, block: int, value: float, text: str, blocks: int) -> None:
    anchor = "right" if block > blocks * 0.5 else "left" if block < blocks * 0.2 else "center"
    figure.add_annotation(
        x=block + (0.45 if anchor == "right" else -0.45 if anchor == "left" else 0),
        y=max(float(value), 0.0),
        text=f"<b>{block}</b> {text}",
        showarrow=False,
        yshift=11,
        xanchor=anchor,
    )


def divergence_heatmap(measured: Divergence) -> go.Figure:
    """Draw the relative distance of the i-th tokens of both answers, block by token."""
    tokens = measured.token_relative.shape[1]
    pairs = zip(measured.safe_tokens, measured.unsafe_tokens, strict=True)
    # Labels stand on the axis, where each is written once; a matrix of hover texts would repeat it in every row.
    names = [f"{n}: {label(safe)} | {label(unsafe)}" for n, (safe, unsafe) in enumerate(pairs)]
    figure = _base(
        330, xaxis_title="answer token (of the safe answer; hover shows both)", yaxis_title="layer", margin_b=90
    )
    figure.add_heatmap(
        x=names,
        z=_short(measured.token_relative),
        colorscale="Cividis",
        colorbar={"title": {"text": "relative<br>distance"}, "thickness": 10},
        hovertemplate="token %{x}<br>layer %{y}<br>relative distance %{z}<extra></extra>",
    )
    step = max(1, tokens // 36)
    figure.update_xaxes(
        type="category",
        tickvals=names[::step],
        ticktext=[label(token) for token in measured.safe_tokens[::step]],
        tickangle=-60,
    )
    return figure


def vitals(trace: Sequence[Step], steps: int, budget: float | None, target: float | None) -> go.Figure:
    """Draw the vital signs of an edit so far: edit loss, harmless KL, probability of both answers."""
    figure = make_subplots(
        rows=1,
        cols=3,
        horizontal_spacing=0.085,
        subplot_titles=("Edit loss, nats", "Harmless KL, nats", "P(answer) per token"),
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
    _style(figure, 250, margin={"l": 44, "r": 12, "t": 32, "b": 40})
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title_text="step", range=[-0.5, steps + 0.5])
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
    for value, name in values:
        figure.add_annotation(
            x=last.step, y=value, text=name, xanchor=side, yshift=9, showarrow=False, font_size=11, row=1, col=3
        )


def divergence_before_after(comparison: Comparison) -> go.Figure:
    """Draw the divergence of both answers, vanilla and edited."""
    figure = _base(260, xaxis_title="layer", yaxis_title="L2 distance", showlegend=True)
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
    figure = _base(260, xaxis_title="layer", yaxis_title="relative shift", bargap=0.18, margin_t=14)
    figure.add_bar(
        x=list(range(len(values))),
        y=values.tolist(),
        marker={"color": colours},
        hovertemplate="layer %{x}<br>relative shift %{y:.4g}<extra></extra>",
    )
    if len(shift.blocks_edited) <= 3:  # more would write over each other; the colour says it as well
        for block in shift.blocks_edited:
            _mark(figure, block, float(values.max()), "edited", len(values))
    figure.update_yaxes(range=[0, float(values.max()) * 1.2 or 1.0])
    return figure


def shift_heatmap(shift: Shift) -> go.Figure:
    """Draw the relative shift per block and token, from the first edited block on."""
    first = shift.blocks_edited[0]
    values = shift.by_token[first:]
    tokens = len(shift.tokens)
    figure = _base(260, xaxis_title="token of prompt and safe answer", yaxis_title="layer", margin_b=80)
    names = [f"{n}: {label(token)}" for n, token in enumerate(shift.tokens)]
    figure.add_heatmap(
        x=names,
        z=_short(values),
        y=[str(n) for n in range(first, first + len(values))],
        colorscale="Magma",
        colorbar={"title": {"text": "relative<br>shift"}, "thickness": 10},
        hovertemplate="token %{x}<br>layer %{y}<br>relative shift %{z}<extra></extra>",
    )
    figure.add_vline(x=shift.prompt_tokens - 0.5, line={"color": "#ffffff", "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=shift.prompt_tokens, y=1.0, yref="paper", yshift=10, text="answer", xanchor="left", showarrow=False
    )
    step = max(1, tokens // 14)
    figure.update_xaxes(
        type="category",
        tickvals=names[::step],
        ticktext=[label(token, 10) for token in shift.tokens[::step]],
        tickangle=-60,
    )
    figure.update_yaxes(type="category")
    return figure


def neurons(profile: NeuronProfile, named: int = 5) -> go.Figure:
    """Draw how far each neuron's value vector moved, relative to its length; the first ones are named."""
    figure = _base(
        260, xaxis_title=f"neuron of layer {profile.block}", yaxis_title="relative change of its column", margin_t=14
    )
    figure.add_scatter(
        y=np.round(profile.relative, 4).tolist(),
        mode="markers",
        marker={"color": EDITED, "size": 3, "opacity": 0.65},
        hovertemplate="neuron %{x}<br>moved by %{y:.1%} of its length<extra></extra>",
    )
    for neuron in np.argsort(profile.relative)[::-1][:named]:
        figure.add_annotation(
            x=int(neuron), y=float(profile.relative[neuron]), text=str(neuron), yshift=9, showarrow=False, font_size=11
        )
    largest = float(profile.relative.max())
    figure.update_yaxes(tickformat=".0%" if largest > 0.05 else ".2%", range=[0, largest * 1.15 or 1.0])
    return figure


def token_probabilities(before: Likelihood, after: Likelihood) -> go.Figure:
    """Draw the probability of each token of the safe answer, vanilla and edited."""
    figure = _base(260, xaxis_title="token of the safe answer", yaxis_title="probability", showlegend=True, margin_b=80)
    x = list(range(len(before.tokens)))
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
    step = max(1, len(x) // 14)
    figure.update_xaxes(tickvals=x[::step], ticktext=[label(before.tokens[i], 10) for i in x[::step]], tickangle=-60)
    figure.update_yaxes(range=[0, 1.02])
    return figure
