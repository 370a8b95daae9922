"""What a view shows of another case than the one that stands in the rail."""

from __future__ import annotations

from dashboard.kit.bus import Bus, Values
from dashboard.kit.drawing.html import reading
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from inspector.errors import InspectorError
from inspector.safeedit import Case

SHOWN = 60
"""Characters of a question that are shown at most where it is named."""


def in_rail(bus: Bus, session: Session, values: Values) -> Texts | None:
    """Return what stands in the rail by now, ``None`` where it makes no prompt or may not be asked.

    Args:
        bus: The page's.
        session: The visitor's, which knows what was typed since an event began.
        values: What that event has read, the inputs of the offer ``typed`` among it.
    """
    typed = bus.offered("typed")
    now = {part: session.controls[part] for part in typed.inputs if part in session.controls}
    try:
        texts: Texts = typed.call({**values, **now})
        texts.adversarial_prompt()
    except InspectorError:  # the rail says what is wrong
        return None
    return texts


def of_another(texts: Texts | None, case: Case | None, what: str, buttons: str) -> str:
    """Say that something is not of the case in the rail, and what to press; nothing where it is, or where it is none.

    Args:
        texts: What stands in the rail; ``None`` where it makes no prompt.
        case: The case that it is of.
        what: What is shown, in the plural and with a capital.
        buttons: What brings it to the case in the rail.
    """
    other = "" if case is None else _another(texts, case)
    if not other:
        return ""
    if texts is None:
        return reading(f"{what} are of {other}. The texts in the rail make no prompt.", "warn")
    return reading(f"{what} are of {other}. Press {buttons} to bring them to the case in the rail.", "warn")


def _another(texts: Texts | None, case: Case) -> str:
    if texts is None:
        return _quoted(case.question)
    if texts.question != case.question:
        return f"another question: {_quoted(case.question)}"
    if texts.adversarial_prompt() != case.adversarial_prompt:
        return "another attack on this question"
    return "" if (texts.safe, texts.unsafe) == (case.safe, case.unsafe) else "other answers to this question"


def _quoted(question: str) -> str:
    line = " ".join(question.split())
    return f"“{line if len(line) <= SHOWN else line[: SHOWN - 1].rstrip() + '…'}”"
