"""What the case says about itself."""

from __future__ import annotations

from dashboard.kit.drawing.html import reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.typed import Texts
from dashboard.steps.case.origins import SIDES, Kept, Standing, standing
from dashboard.steps.case.run import PromptView
from inspector.safeedit import Case, Template, bundled_cases
from inspector.safeedit.cases import CATEGORIES


def prompt_reading(view: PromptView) -> str:
    """Read the assembled prompt's length and what is odd about it."""
    notes = "".join(f"; {note}" for note in view.notes)
    return reading(f"{view.tokens:,} of at most {view.limit:,} tokens{notes}.", "warn" if view.notes else "")


SHOWN = 65
"""Characters of an attack that are shown at most at its start, before the question and after it."""


def attack_in_place(texts: Texts) -> str:
    """Show the attack as it will be asked, shortened in its middle, the question in its place marked."""
    if not texts.template.strip():
        return reading("No attack: the question is asked alone.")
    before, slot, after = texts.template.partition(Template.SLOT)
    if not slot:
        return reading(f"The template has no {Template.SLOT} slot, so the question would be lost.", "warn")
    if len(before) > 2 * SHOWN:
        before = f"{before[:SHOWN].rstrip()} … {before[-SHOWN:].lstrip()}"
    if len(after) > SHOWN:
        after = f"{after[:SHOWN].rstrip()} …"
    shown = f"{escape(before)}<mark>{escape(texts.question)}</mark>{escape(after)}"
    return f'<div class="attack-text" tabindex="0" role="note" aria-label="The attack">{shown}</div>'


DONE = ("Both answers are there, judged.", "")
DOUBTFUL = (
    "Read the safe answer: change it, or Operate with it as it is.",
    "The safe answer is a template's and not judged safe. Read it under Safe answer: change it, or press Operate to "
    "edit with it as it is.",
)
MEANWHILE = (
    "An answer was changed and stays; press again to go on with it.",
    "An answer was changed in the rail while the model wrote one. It stays as it is, and nothing else was done; press "
    "again to go on with it.",
)
"""What the clock says once the model has answered: its line, and all that the line stands for."""
FROM = {
    "case": "from the case",
    "typed": "typed",
    "model": "in the model's words",
    "template": "from a template",
}
"""What an answer's origin is called."""


def origins(texts: Texts, kept: Kept, model: str) -> str:
    """Say where both answers come from, and that they are stale where they are.

    Args:
        model: The label of the page's model: an answer of another one is said to be that one's.
    """
    found = {side: standing(texts, side, kept) for side in SIDES}
    chips = "".join(
        f'<span class="badge {side}" title="{escape(one.note)}">{side} answer: '
        f"{_origin(one, model)}{', of another question' if one.stale else ''}</span>"
        for side, one in found.items()
    )
    said = ""
    if any(one.stale for one in found.values()):
        said = reading("The answers belong to another question.", "warn")
    elif any(one.origin is None for one in found.values()):
        said = reading("An answer is missing. Operate lets the model write it first.")
    return f'<div class="answer-head">{chips}</div>{said}'


def _origin(one: Standing, model: str) -> str:
    if one.origin is None:
        return "none yet"
    if one.origin == "model" and one.model != model:
        return f"in the words of {escape(one.model)}"
    return FROM[one.origin]


def offered_cases() -> list[Case]:
    """Return the bundled cases that may be edited on, by category; the others are kept for scoring."""
    offered = [case for case in bundled_cases() if case.split != "score"]
    return sorted(offered, key=lambda case: CATEGORIES.index(case.category))


def examples(question: str) -> str:
    """Return the searchable list of examples.

    Args:
        question: The one that stands in the rail.
    """
    cases = offered_cases()
    lines = "".join(
        f'<button type="button" data-number="{number}" aria-current="{str(case.question == question).lower()}">'
        f"<span>{escape(case.category)}</span><b>{escape(case.question)}</b></button>"
        for number, case in enumerate(cases)
    )
    return (
        f'<input type="search" placeholder="{len(cases)} examples, search" aria-label="Search the examples">'
        f'<div class="examples">{lines}</div><p class="reading" role="status" hidden>No example has these words.</p>'
    )
