"""What an edit teaches: every answer that it is trained on, for the record of its patch."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.model import Taught
from inspector.safeedit import Case


def taught_answers(cases: Sequence[Case], further: Sequence[str] = (), own: Sequence[str] = ()) -> tuple[Taught, ...]:
    """Return the answers that an edit is trained on, each once.

    Args:
        cases: The edit's case and further ones that it trains on: their safe answers.
        further: Answers that decline and fit any question.
        own: Further answers to the cases' questions.
    """
    to_them = [*(case.safe for case in cases), *own]
    answers = (*map(Taught, to_them), *(Taught(text, fits_any=True) for text in further))
    return tuple(dict.fromkeys(answers))
