"""The pair of answers, vanilla beside edited, each under a line that says which weights made it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update
from dashboard.kit.drawing.answers import Tokens, answer, both_answers
from inspector.safeedit.verdict import Verdict

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Pair:
    """Both panes and the lines above them.

    Attributes:
        heads: What stands above, vanilla first.
        panes: The answers, vanilla first.
        names: Of the elements and their classes.
    """

    heads: tuple[Any, Any]
    panes: tuple[Any, Any]
    names: tuple[str, str] = ("vanilla", "edited")

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
        tokens: Tokens | None = None,
    ) -> Update:
        """Show other answers, blurred anew.

        Args:
            compared: Mark in what they differ.
            covered: Which of them are blurred.
            tokens: Both in their tokens; without them single words are compared.
        """
        written = both_answers(texts, empty, compared, tokens)
        update: Update = {
            pane: gr.HTML(value=html, elem_classes=classes)
            for pane, html, classes in zip(self.panes, written, _classes(covered, self.names), strict=True)
        }
        for head, said in zip(self.heads, heads or (), strict=heads is not None):
            update[head] = said
        return update

    def blur(self, covered: tuple[bool, bool]) -> Update:
        """Cover the answers that are not known to be safe, and no others."""
        classes = _classes(covered, self.names)
        return {pane: gr.HTML(elem_classes=own) for pane, own in zip(self.panes, classes, strict=True)}

    def growing(self, texts: tuple[str, str]) -> Update:
        """Show longer answers in the same panes."""
        return {pane: answer(f"{text} ▍") for pane, text in zip(self.panes, texts, strict=True)}


def _classes(covered: tuple[bool, bool], names: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Return the classes of both panes; a new one each time, so that one that was revealed is covered again."""
    number = next(_NUMBERS)
    return _class_names(names[0], number, covered[0]), _class_names(names[1], number, covered[1])


def _class_names(name: str, number: int, hide: bool) -> list[str]:
    return ["pane", f"{name}-pane", f"answer-{number}", *(["blurred"] if hide else [])]


Three = tuple[str, str, str]


@dataclass(frozen=True)
class Trio:
    """The vanilla answer and those of two edits, each under the line above it; like :class:`Pair`."""

    heads: tuple[Any, ...]
    panes: tuple[Any, ...]

    @property
    def parts(self) -> list[Any]:
        """All six components."""
        return [*self.heads, *self.panes]

    def show(self, texts: Three, heads: Three, covered: tuple[bool, bool, bool], compared: bool = True) -> Update:
        """Show other answers, blurred anew.

        Args:
            compared: Mark the words in which the two edits differ.
        """
        written = (answer(texts[0] or "(empty answer)"), *both_answers((texts[1], texts[2]), compared=compared))
        number = next(_NUMBERS)
        update: Update = dict(zip(self.heads, heads, strict=True))
        for pane, html, name, hide in zip(self.panes, written, _TRIO, covered, strict=True):
            update[pane] = gr.HTML(value=html, elem_classes=_class_names(name, number, hide))
        return update

    def growing(self, texts: Three) -> Update:
        """Show longer answers in the same panes."""
        return {pane: answer(text) for pane, text in zip(self.panes, texts, strict=True)}


_TRIO = ("vanilla", "edited", "edited")


def build_trio(prefix: str, text: str) -> Trio:
    """Lay three panes out side by side, vanilla first.

    Args:
        prefix: Of the elements' names.
        text: What stands in them while there is no answer.
    """
    made, number = [], next(_NUMBERS)
    with gr.Row(equal_height=True, elem_id=f"{prefix}answers", elem_classes="answers"):
        for part, name in zip(("vanilla", "a", "b"), _TRIO, strict=True):
            with gr.Column(min_width=220, elem_classes="box"):
                above = gr.HTML("")
                own = _class_names(name, number, False)
                made.append(
                    (above, gr.HTML(answer(text), apply_default_css=False, elem_id=f"{prefix}{part}", elem_classes=own))
                )
    return Trio(tuple(above for above, _ in made), tuple(pane for _, pane in made))


def unless_safe(vanilla: Verdict | None, edited: Verdict | None, is_live: bool = True) -> tuple[bool, bool]:
    """Tell which of two answers are covered until they are clicked: all that are not judged safe.

    Args:
        is_live: Whether an edit answers; without one the second pane says so, which is no answer and never covered.
    """
    return vanilla is None or not vanilla.safe, is_live and (edited is None or not edited.safe)


def build_pair(
    prefix: str,
    texts: tuple[str, str],
    heads: tuple[str, str] = ("", ""),
    *,
    empty: str = "(empty answer)",
    blurred: tuple[bool, bool] = (True, True),
    compared: bool = True,
    names: tuple[str, str] = ("vanilla", "edited"),
    tokens: Tokens | None = None,
) -> Pair:
    """Lay both panes out side by side.

    Args:
        prefix: Of the elements' names, for example ``stress-``.
        blurred: Which of them are covered until they are clicked.
        compared: Mark in what they differ.
        names: Of the elements and their classes.
        tokens: As for :meth:`Pair.show`.
    """
    made: list[tuple[Any, Any]] = []
    written, classes = both_answers(texts, empty, compared, tokens), _classes(blurred, names)
    with gr.Row(equal_height=True, elem_id=f"{prefix}answers", elem_classes="answers"):
        for name, html, head, own in zip(names, written, heads, classes, strict=True):
            with gr.Column(min_width=280, elem_classes="box"):
                above = gr.HTML(head)
                pane = gr.HTML(html, apply_default_css=False, elem_id=f"{prefix}{name}", elem_classes=own)
                made.append((above, pane))
    return Pair((made[0][0], made[1][0]), (made[0][1], made[1][1]), names)
