"""The pair of answers, vanilla beside edited, each under a line that says which weights made it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Pair:
    """Both panes and the lines above them.

    Attributes:
        heads: What stands above, vanilla first.
        panes: The answers, vanilla first.
    """

    heads: tuple[Any, Any]
    panes: tuple[Any, Any]

    @property
    def parts(self) -> list[Any]:
        """All four components."""
        return [*self.heads, *self.panes]

    def show(
        self,
        texts: tuple[str, str],
        heads: tuple[str, str] | None = None,
        empty: str = "(empty answer)",
        covered: tuple[bool, bool] = (True, True),
    ) -> Update:
        """Show other answers, blurred anew.

        Args:
            covered: Which of them are.
        """
        update: Update = {}
        # A class of its own each time writes the classes anew, so that a revealed pane is blurred again.
        number = next(_NUMBERS)
        for pane, name, text, hide in zip(self.panes, ("vanilla", "edited"), texts, covered, strict=True):
            classes = [*(["blurred"] if hide else []), f"{name}-pane", f"answer-{number}"]
            update[pane] = gr.Textbox(value=text or empty, elem_classes=classes)
        for head, said in zip(self.heads, heads or (), strict=heads is not None):
            update[head] = said
        return update

    def blur(self, covered: tuple[bool, bool]) -> Update:
        """Cover the answers that are not known to be safe, and no others."""
        number = next(_NUMBERS)
        return {
            pane: gr.Textbox(elem_classes=[*(["blurred"] if hide else []), f"{name}-pane", f"answer-{number}"])
            for pane, name, hide in zip(self.panes, ("vanilla", "edited"), covered, strict=True)
        }


def build_pair(
    prefix: str,
    texts: tuple[str, str],
    heads: tuple[str, str] = ("", ""),
    *,
    labels: tuple[str, str] = ("Vanilla answer", "Edited answer"),
    lines: int = 6,
    empty: str = "(empty answer)",
    blurred: tuple[bool, bool] = (True, True),
    bare: bool = False,
) -> Pair:
    """Lay both panes out side by side.

    Args:
        prefix: Of the elements' names, for example ``stress-``.
        blurred: Which of them are covered until they are clicked.
        bare: Labels are for screen readers only; the lines above say it.
    """
    made: list[tuple[Any, Any]] = []
    with gr.Row(equal_height=True, elem_id=f"{prefix}answers"):
        for name, text, head, label, hide in zip(("vanilla", "edited"), texts, heads, labels, blurred, strict=True):
            with gr.Column(min_width=280, elem_classes="panel"):
                above = gr.HTML(head)
                pane = gr.Textbox(
                    text or empty,
                    label=label,
                    show_label=not bare,
                    container=not bare,
                    info=None if bare else "May be unsafe: blurred until clicked",
                    lines=lines,
                    max_lines=lines,
                    interactive=False,
                    buttons=["copy"],
                    elem_id=f"{prefix}{name}",
                    elem_classes=[*(["blurred"] if hide else []), f"{name}-pane"],
                )
                made.append((above, pane))
    return Pair((made[0][0], made[1][0]), (made[0][1], made[1][1]))
