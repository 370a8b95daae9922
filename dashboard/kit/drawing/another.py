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
    other = "" if case is None else another(texts, case.question, case.adversarial_prompt, (case.safe, case.unsafe))
    if not other:
        return ""
    if texts is None:
        return reading(f"{what} are of {other}. The texts in the rail make no prompt.", "warn")
    return reading(f"{what} are of {other}. Press {buttons} to bring them to the case in the rail.", "warn")


def another(texts: Texts | None, question: str, prompt: str | None, answers: tuple[str, str] | None) -> str:
    """Say in what a case differs from the texts in the rail; nothing where it does not.

    Args:
        texts: What stands in the rail; ``None`` where it makes no prompt: the case is named then, and compared to none.
        question: The case's.
        prompt: Its adversarial prompt; ``None`` where that does not matter.
        answers: Its safe and its unsafe answer; ``None`` where they do not matter.
    """
    if texts is None:
        return quoted(question)
    if texts.question != question:
        return f"another question: {quoted(question)}"
    if prompt is not None and prompt != texts.adversarial_prompt():
        return "another attack on this question"
    return "other answers to this question" if answers is not None and answers != (texts.safe, texts.unsafe) else ""


def quoted(question: str, most: int = SHOWN) -> str:
    """Return a question between quotation marks, in one line and shortened; no HTML yet."""
    line = " ".join(question.split())
    return f"“{line if len(line) <= most else line[: most - 1].rstrip() + '…'}”"
