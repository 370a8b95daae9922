"""What the edit changed: its numbers, the figures under the answers and in the details, and their readings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update
from dashboard.kit.drawing.html import heading
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.compare import figures
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.run import Comparison, of_live

FIGURES = (
    ("shift_figure", "Activation shift per layer", lambda c: figures.shift_by_block(c.shift)),
    ("divergence_figure", "Divergence before and after", figures.divergence_before_after),
    ("token_figure", "Safe answer, token by token", lambda c: figures.token_probabilities(c.before[0], c.after[0])),
    ("shift_tokens", "Activation shift per token", lambda c: figures.shift_heatmap(c.shift)),
    ("neurons", "Neurons that moved", lambda c: figures.neurons(c.profile)),
)
"""The figures of a comparison: role, title, how each is drawn."""
SHOWN_AT_ONCE = 2
"""How many of them stand under the answers; the others are details."""


class ChangesPart(Room):
    """The numbers and figures of a comparison."""

    name = "changes"

    def build_numbers(self) -> None:
        """Lay the four numbers out that matter."""
        session = self.context.example.session
        comparison, live, routed = of_live(session), session.live, session.detector is not None
        nothing = words.unmeasured(session)
        said = nothing if comparison is None or live is None else words.numbers(comparison, live, routed)
        self.numbers = gr.HTML(said, elem_id="numbers")

    def build_shifts(self) -> None:
        """Lay the two figures out that stand under the answers."""
        with gr.Row(elem_id="figures", visible=self._is_measured) as self.figures:
            for role, title, draw in FIGURES[:SHOWN_AT_ONCE]:
                with gr.Column(min_width=280, elem_classes="box"):
                    self._figure(role, title, draw)

    def build(self) -> None:
        """Lay the other figures and all measured numbers out."""
        session = self.context.example.session
        comparison, live, nothing = of_live(session), session.live, words.unmeasured(session)
        said = nothing if comparison is None or live is None else words.tiles(comparison, live)
        self.tiles = gr.HTML(said, elem_id="tiles")
        with gr.Row(elem_id="more-figures", visible=self._is_measured) as self.more_figures:
            for role, title, draw in FIGURES[SHOWN_AT_ONCE:]:
                with gr.Column(min_width=340):
                    self._figure(role, title, draw)

    def _figure(self, role: str, title: str, draw: Callable[[Comparison], Any]) -> None:
        comparison = of_live(self.context.example.session)
        said = "" if comparison is None else words.compare_readings(comparison, folded=True)[role]
        gr.HTML(heading(3, title))
        setattr(self, role, plot(None if comparison is None else draw(comparison), role.replace("_", "-"), title))
        setattr(self, _reading(role), gr.HTML(said))

    @property
    def _is_measured(self) -> bool:
        return of_live(self.context.example.session) is not None

    def lent(self, comparison: Comparison, role: str) -> Lent:
        """Return one figure with its reading."""
        draw = next(draw for name, _, draw in FIGURES if name == role)
        return Lent(draw(comparison), words.compare_readings(comparison)[role])

    @property
    def drawn(self) -> list[Any]:
        """What another comparison changes."""
        shown = [getattr(self, name) for role, *_ in FIGURES for name in (role, _reading(role))]
        return [self.numbers, self.tiles, self.figures, self.more_figures, *shown]

    def of_live(self, session: Session) -> Update:
        """Show what was measured of the live weights, or say why nothing was."""
        comparison = of_live(session)
        return self.hidden(words.unmeasured(session)) if comparison is None else self.shown(session, comparison)

    def shown(self, session: Session, comparison: Comparison) -> Update:
        """Show a comparison of the live edit."""
        assert session.live is not None
        update: Update = {
            self.figures: gr.Row(visible=True),
            self.more_figures: gr.Row(visible=True),
            **self.numbered(session, comparison),
            self.tiles: words.tiles(comparison, session.live),
        }
        readings = words.compare_readings(comparison, folded=True)
        for role, _, draw in FIGURES:
            update[getattr(self, role)] = draw(comparison)
            update[getattr(self, _reading(role))] = readings[role]
        return update

    def numbered(self, session: Session, comparison: Comparison) -> Update:
        """Show the four numbers of the live edit, which say whether it is routed."""
        assert session.live is not None
        return {self.numbers: words.numbers(comparison, session.live, session.detector is not None)}

    def hidden(self, said: str) -> Update:
        """Hide the figures and say why in the place of the numbers."""
        row = gr.Row(visible=False)
        return {self.tiles: said, self.numbers: said, self.figures: row, self.more_figures: row}


def _reading(role: str) -> str:
    return f"{role.removesuffix('_figure')}_reading"
