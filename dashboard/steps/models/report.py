"""Two models in a report: the curves, the table, both answers."""

from __future__ import annotations

from dashboard.kit.sharing.parts import Figure, Part, Role, Table, Text, Visit
from dashboard.steps.models import figures
from dashboard.steps.models import texts as words
from dashboard.steps.models.run import Kept


def parts(visit: Visit) -> list[Part]:
    """Return the last comparison of two models."""
    beside = visit.session.slot(Kept).beside
    if beside is None:
        return []
    rows = tuple((*words.cells(side), side.fingerprint) for side in beside.sides)
    case = beside.case
    roles: tuple[Role, Role] = ("vanilla", "second")
    answers = tuple(
        Text(f"Answer of {side.label}", side.answer, role, not side.verdict.safe, head)
        for side, role, head in zip(beside.sides, roles, words.heads(beside), strict=True)
    )
    # The prompt of the report's own case stands in that case's part.
    known = visit.session.case is not None and visit.session.case.adversarial_prompt == case.adversarial_prompt
    asked = () if known else (Text("Asked", case.adversarial_prompt, "prompt"),)
    drawn = Figure("Distance of the answers in two models", figures.curves(beside), words.compared(beside))
    table = Table("Both models", (*words.HEADERS, "Fingerprint"), rows)
    prompts = (case.question, case.adversarial_prompt)
    return [Part("Two models", texts=asked, figures=(drawn,), tables=(table,), beside=answers, prompts=prompts)]
