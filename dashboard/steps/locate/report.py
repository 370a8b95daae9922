"""Where the answers part, in a report: the curve and the distance token by token."""

from __future__ import annotations

from dataclasses import replace

from dashboard.kit.sharing.parts import Figure, Part, Visit
from dashboard.steps.locate import figures
from dashboard.steps.locate import texts as words
from dashboard.steps.locate.run import LocatedCase


def parts(visit: Visit) -> list[Part]:
    """Return the divergence that was measured last."""
    measured = visit.session.slot(LocatedCase).divergence
    if measured is None:
        return []
    hidden, last = visit.hidden, len(measured.l2) - 1
    measured = replace(measured, safe_tokens=hidden.tokens(measured.safe_tokens))
    live, layers = visit.session.live, visit.layers
    picked = None if live is None else live.result.block
    recommended = None if layers is None else layers.recommended
    curve = figures.curve(measured, "l2", picked, recommended)
    drawn = (
        Figure("Distance of the answers", curve, words.locate_reading(measured, "l2", last, layers)),
        Figure(
            "How far the answers are apart, by layer and token",
            figures.divergence_heatmap(measured),
            words.heatmap_reading(measured),
        ),
    )
    facts = {
        "locate": {"preset": measured.preset, "padding": measured.padding},
        "toxic layer": measured.toxic_layer(),
        "divergence": [round(float(value), 6) for value in measured.l2],
    }
    if recommended is not None:
        facts["recommended layer"] = recommended
    return [Part("Where the answers part", figures=drawn, facts=facts)]
