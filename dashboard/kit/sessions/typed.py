"""The case as it is typed: its texts, and the record that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from editing.guard import check_case
from inspector.errors import CaseError
from inspector.model import PromptFormat
from inspector.safeedit import Case, Template, bundled_cases, bundled_templates


@dataclass(frozen=True)
class Texts:
    """What stands in the case rail.

    Attributes:
        question: The harmful question q.
        template: Attack template with a ``{question}`` slot; empty for the question alone.
        safe: Safe answer.
        unsafe: Unsafe answer.
        format: Suffix prompt S, and whether the model's chat template is used.
    """

    question: str
    template: str
    safe: str
    unsafe: str
    format: PromptFormat = PromptFormat()

    def told(self) -> dict[str, Any]:
        """Return them as programs give and take them, suffix and chat template by themselves."""
        return {
            "question": self.question,
            "template": self.template,
            "suffix": self.format.suffix,
            "safe": self.safe,
            "unsafe": self.unsafe,
            "chat": self.format.chat,
        }

    def adversarial_prompt(self) -> str:
        """Return X, the template with the question in its slot.

        Raises:
            CaseError: No question, or a template without slot.
        """
        if not self.question.strip():
            raise CaseError("The question is empty. Write one or pick an example in the case rail.")
        if not self.template.strip():
            return self.question
        if Template.SLOT not in self.template:
            raise CaseError(
                f"The attack template has no {Template.SLOT} slot, so the question would be lost. Put the slot where "
                "the question belongs, or empty the template."
            )
        return self.template.replace(Template.SLOT, self.question)


def texts_of(case: Case, format: PromptFormat = PromptFormat()) -> Texts:
    """Return a bundled case as the rail shows it, the question's slot open in its template."""
    template = case.adversarial_prompt.replace(case.question, Template.SLOT, 1)
    return Texts(case.question, "" if template == Template.SLOT else template, case.safe, case.unsafe, format)


def case_of(texts: Texts) -> Case:
    """Build a case from what was typed; a bundled question keeps its record's generalization prompts.

    Raises:
        CaseError: Something is missing, or the answers are not what :func:`editing.guard.check_case` wants.
    """
    prompt = texts.adversarial_prompt()
    known = next((c for c in bundled_cases() if c.question == texts.question), None)
    other = next((t for t in bundled_templates() if t.fill(texts.question) != prompt), None)
    case = Case(
        question=texts.question,
        adversarial_prompt=prompt,
        safe=texts.safe,
        unsafe=texts.unsafe,
        identifier=known.identifier if known else None,
        category=known.category if known else "",
        attack_name=known.attack_name if known else "",
        only_question=texts.question,
        other_attack=known.other_attack if known else (other.fill(texts.question) if other else None),
        other_question=known.other_question if known else None,
        other_both=known.other_both if known else None,
        constraint=known.constraint if known else bundled_cases()[0].constraint,
    )
    check_case(case)
    return case
