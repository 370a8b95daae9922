"""The case in a report: what is asked, and both answers."""

from __future__ import annotations

from dashboard.kit.drawing.html import case_name, other_case, reading
from dashboard.kit.sharing.parts import Part, Text, Visit


def parts(visit: Visit) -> list[Part]:
    """Return the case of the live edit, else that of the last Locate."""
    session = visit.session
    case = session.live.case if session.live is not None else session.case
    if case is None:
        return []
    format = session.asked_in(session.format)
    attack = f" Attack: {case.attack_name}." if case.attack_name else ""
    unusual = f" Prompt format: {format.label()}." if format.label() else ""
    said = f"{case_name(case)[0].upper()}{case_name(case)[1:]}.{attack}{unusual}"
    texts = [
        Text("Question", case.question, "prompt"),
        Text("Adversarial prompt", case.adversarial_prompt, "prompt"),
        Text("Suffix prompt S", format.suffix, "suffix"),
        Text("Safe answer", case.safe, "safe"),
        Text("Unsafe answer", case.unsafe, "unsafe", covered=True),
    ]
    known = {"Adversarial prompt"} if case.adversarial_prompt == case.question else set()
    other = other_case(session, case, "this case", "Operate")
    shown = tuple(one for one in texts if one.text and one.title not in known)
    return [Part("Case", (reading(said), *([other] if other else [])), shown)]
