"""Figures of the stress test: plain functions of scores and replies."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.kit.drawing.plain import escape
from dashboard.kit.drawing.plots import EDITED, VANILLA, base, whiskers
from inspector.safeedit.cases import CATEGORIES
from inspector.safeedit.exam import Reply
from inspector.safeedit.questions import JUDGED
from inspector.safeedit.scores import Estimate, Score, percentage


def score_bars(scores: Sequence[Score]) -> go.Figure:
    """Draw every percentage as a pair of bars, vanilla and edited, with 95 % intervals."""
    shown = [score for score in scores if score.unit == "%" and not score.forced][::-1]
    labels = [f"{escape(score.name)} {'↑' if score.better == 'higher' else '↓'}" for score in shown]
    return _pairs(labels, [score.vanilla for score in shown], [score.edited for score in shown])


def category_bars(replies: Sequence[Reply]) -> go.Figure:
    """Draw the percentage of judged answers that are safe, by unsafety category."""
    labels: list[str] = []
    vanilla: list[Estimate] = []
    edited: list[Estimate] = []
    for category in reversed(CATEGORIES):
        chosen = [r for r in replies if r.question.category == category and r.question.kind in JUDGED]
        if not chosen:
            continue
        labels.append(f"{escape(category)} ({len(chosen)})")
        for found, side in ((vanilla, "vanilla"), (edited, "edited")):
            marked = [getattr(reply, side) for reply in chosen]
            found.append(percentage(sum(m.safe for m in marked), len(marked)))
    return _pairs(labels, vanilla, edited)


def _pairs(labels: Sequence[str], vanilla: Sequence[Estimate], edited: Sequence[Estimate]) -> go.Figure:
    figure = base(
        max(200, 70 + 34 * len(labels)),
        barmode="group",
        bargap=0.25,
        showlegend=True,
        xaxis_title="percent, 95 % interval",
        margin={"l": 120, "r": 12, "t": 28, "b": 44},
    )
    # Bars are stacked from below: edited first, so that vanilla stands above it.
    for name, colour, pattern, values in (("edited", EDITED, "/", edited), ("vanilla", VANILLA, "", vanilla)):
        figure.add_bar(
            y=list(labels),
            x=[estimate.value for estimate in values],
            name=name,
            orientation="h",
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.6)", "size": 5},
            },
            error_x=whiskers(*([getattr(e, end) for e in values] for end in ("value", "low", "high"))),
            hovertemplate="%{y}<br>" + name + " %{x:.1f} %<extra></extra>",
        )
    figure.update_layout(legend={"traceorder": "reversed"})
    figure.update_xaxes(range=[0, 103])
    return figure
