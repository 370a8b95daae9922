"""Events of step 2, locate."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard import actions, figures, fragments, methods_fragments, why_fragments
from dashboard.context import Context, Update, shown_to_user
from dashboard.session import Session


class LocateEvents(Context):
    """Measure, switch the distance, pick a layer."""

    def on_locate(self, request: gr.Request, *values: Any) -> Update:
        """Measure the divergence; pick the recommended layer, or the toxic one for the paper's presets."""
        name, distance, padding, once = values[5:]
        with shown_to_user(), self.reserved(request) as session:
            measured = actions.locate(self.model, session, self.texts(values[:5]), name, padding)
            return {
                **self._located(session, distance, once),
                self.parts.heatmap: figures.divergence_heatmap(measured),
                self.parts.heatmap_reading: fragments.heatmap_reading(measured),
                self.parts.why_head: why_fragments.head(session),
                self.parts.methods_head: methods_fragments.head(session),
            }

    def on_distance(self, request: gr.Request, distance: str, once: bool) -> Update:
        """Redraw the curve with another distance of the same measurement."""
        return self._located(self.session(request), distance, once)

    def _located(self, session: Session, distance: Any, once: bool) -> Update:
        p, measured = self.parts, session.divergence
        assert measured is not None
        recommended = self.layers.recommended if self.layers else None
        picked = measured.toxic_layer(distance)
        if measured.preset == "corrected" and recommended is not None:
            picked = recommended
        if once and session.first_layer is not None:
            picked = session.first_layer
        session.first_layer = picked if once else None
        last = self.model.architecture.last_block
        return {
            p.curve: figures.curve(measured, distance, picked, recommended),
            p.block: picked,
            p.locate_reading: fragments.locate_reading(measured, distance, last, self.layers),
        }

    def on_pick(self, request: gr.Request, distance: Any, block: int | None) -> Any:
        """Mark the picked layer in the curve."""
        measured = self.session(request).divergence
        if measured is None or block is None:
            return gr.skip()
        with shown_to_user():
            block = self.model.architecture.check_block(int(block))
        return figures.curve(measured, distance, block, self.layers.recommended if self.layers else None)
