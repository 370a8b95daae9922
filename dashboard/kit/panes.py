"""The pair of answers, vanilla beside edited, each under a line that says which weights made it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard.kit.answers import both_answers
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
        compared: bool = True,
        covered: tuple[bool, bool] = (True, True),
    ) -> Update:
        """Show other answers, blurred anew.

        Args:
            compared: Mark the words in which they differ.
            covered: Which of them are blurred.
        """
        written = both_answers(texts, empty, compared)
        update: Update = {
            pane: gr.HTML(value=html, elem_classes=classes)
            for pane, html, classes in zip(self.panes, written, _classes(covered), strict=True)
        }
        for head, said in zip(self.heads, heads or (), strict=heads is not None):
            update[head] = said
        return update

    def blur(self, covered: tuple[bool, bool]) -> Update:
        """Cover the answers that are not known to be safe, and no others."""
        classes = _classes(covered)
        return {pane: gr.HTML(elem_classes=own) for pane, own in zip(self.panes, classes, strict=True)}


def _classes(covered: tuple[bool, bool]) -> tuple[list[str], list[str]]:
    """Return the classes of both panes; a new one each time, so that one that was revealed is covered again."""
    number = next(_NUMBERS)
    vanilla, edited = (
        ["pane", f"{name}-pane", f"answer-{number}", *(["blurred"] if hide else [])]
        for name, hide in zip(("vanilla", "edited"), covered, strict=True)
    )
    return vanilla, edited


def build_pair(
    prefix: str,
    texts: tuple[str, str],
    heads: tuple[str, str] = ("", ""),
    *,
    empty: str = "(empty answer)",
    blurred: tuple[bool, bool] = (True, True),
) -> Pair:
    """Lay both panes out side by side.

    Args:
        prefix: Of the elements' names, for example ``stress-``.
        blurred: Which of them are covered until they are clicked.
    """
    made: list[tuple[Any, Any]] = []
    written, classes = both_answers(texts, empty), _classes(blurred)
    with gr.Row(equal_height=True, elem_id=f"{prefix}answers", elem_classes="answers"):
        for name, html, head, own in zip(("vanilla", "edited"), written, heads, classes, strict=True):
            with gr.Column(min_width=280, elem_classes="box"):
                above = gr.HTML(head)
                pane = gr.HTML(html, apply_default_css=False, elem_id=f"{prefix}{name}", elem_classes=own)
                made.append((above, pane))
    return Pair((made[0][0], made[1][0]), (made[0][1], made[1][1]))
