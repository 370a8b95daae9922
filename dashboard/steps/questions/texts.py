"""The ten questions, and the HTML of their list and of what stands around the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboard.kit.drawing.glossary import marked
from dashboard.kit.drawing.html import heading
from dashboard.kit.drawing.plain import escape
from dashboard.steps.questions import editing, judging, locating, reaching
from dashboard.steps.questions.panel import Held, Panel, Part

HEADING = heading(
    2,
    "Ten questions",
    "what readers of the paper ask: your own case beside what was measured, each number with its command",
)


@dataclass(frozen=True)
class Question:
    """One of the ten.

    Attributes:
        asked: The question.
        answer: Answers it from what the visitor's session holds and from committed results.
    """

    asked: str
    answer: Callable[[Held], Panel]


QUESTIONS = (
    Question("How and why is a layer located?", locating.located),
    Question("How does the loss balance?", editing.balance),
    Question("Does it erase or bypass, and by which measure?", editing.erase),
    Question("Why do answers repeat, and what was done?", judging.repeating),
    Question("What does it cost, up to billions of parameters?", editing.cost),
    Question("What does the suffix do?", reaching.suffix),
    Question("Does it generalise across categories?", reaching.categories),
    Question("Is there a better way to locate?", locating.better),
    Question("Which neurons carry it?", locating.neurons),
    Question("What are the safeguards?", judging.safeguards),
)


def listed(picked: int = 0) -> str:
    """Return the list of questions.

    Args:
        picked: The one that is open, counted from 0.
    """
    lines = "".join(
        f'<button type="button" data-number="{number}" aria-current="{str(number == picked).lower()}">'
        f"<b>{number + 1}</b><span>{escape(question.asked)}</span></button>"
        for number, question in enumerate(QUESTIONS)
    )
    return f'<div class="questions" role="group" aria-label="Questions">{lines}</div>'


def answer(number: int, panel: Panel) -> str:
    """Return a question with its answer and the links to where one can try it."""
    asked = marked(escape(QUESTIONS[number].asked))
    paragraphs = marked("".join(f"<p>{text}</p>" for text in panel.text))
    tries = "".join(
        f'<a class="chip" href="#{view}" data-view="{view}">{escape(what)}</a>' for view, what in panel.tries
    )
    return (
        f'<h3 class="asked"><span>{asked}</span></h3><div class="answered">{paragraphs}</div>'
        f'<nav class="tries" aria-label="Try it">{tries}</nav>'
    )


def above(kind: str, part: Part) -> str:
    """Return what stands above a figure: whether it is the visitor's own, and what it shows."""
    return f'<p class="kind">{escape(kind)}</p>{heading(4, part.title)}'


YOURS, COMMITTED = "On your visit", "Measured before"
