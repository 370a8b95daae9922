"""What a step lends of its measurements to views that do not know it: a figure with the line that reads it."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Lent:
    """A figure of what the visitor's session holds.

    Attributes:
        figure: As the step draws it.
        reading: The line under it, HTML.
    """

    figure: go.Figure
    reading: str
