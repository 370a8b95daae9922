"""Two models in a report: the curves, the table, both answers."""

from __future__ import annotations

from dashboard.kit.parts import Figure, Part, Table, Text, Visit
from dashboard.steps.models import figures
from dashboard.steps.models import texts as words
from dashboard.steps.models.run import Kept


def parts(visit: Visit) -> list[Part]:
    """Return the last comparison of two models."""
    beside = visit.session.slot(Kept).beside
    if beside is None:
        return []
    rows = tuple((*words.cells(side), side.fingerprint) for side in beside.sides)
    texts = [
        Text(f"Answer of {side.label}", side.answer, "vanilla", not side.verdict.safe, head)
        for side, head in zip(beside.sides, words.heads(beside), strict=True)
    ]
    # The prompt of the report's own case stands in that case's part.
    if visit.session.case is None or visit.session.case.adversarial_prompt != beside.case.adversarial_prompt:
        texts.insert(0, Text("Asked", beside.case.adversarial_prompt, "prompt"))
    drawn = Figure("Distance of the answers in two models", figures.curves(beside), words.compared(beside))
    table = Table("Both models", (*words.HEADERS, "Fingerprint"), rows)
    return [Part("Two models", texts=tuple(texts), figures=(drawn,), tables=(table,))]
