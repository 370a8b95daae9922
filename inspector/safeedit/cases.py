"""A case and its record in SafeEdit's layout; the project's own mild cases, templates and harmless prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from inspector.errors import CaseError
from inspector.safeedit.assets import read_asset

CATEGORIES = (
    "offensiveness",
    "unfairness and bias",
    "physical harm",
    "mental harm",
    "illegal activities",
    "ethics and morality",
    "privacy and property",
    "Pornography",
    "Political Sensitivity",
)
"""The nine categories, spelled as in the data."""


@dataclass(frozen=True)
class Constraint:
    """A knowledge constraint: a harmless prompt whose answer an edit should leave alone."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Case:
    """One SafeEdit record.

    Attributes:
        identifier: The record's id, or ``None`` for a case typed by a person.
        category: One of :data:`CATEGORIES`, empty for a typed case.
        question: The harmful question q.
        adversarial_prompt: X, the attack a with q in it.
        safe: Safe response to X, empty where the record has none.
        unsafe: Unsafe response to X, empty where the record has none.
        attack_category: Family of the attack.
        attack_name: Name of the attack.
        only_question: Generalization prompt q alone.
        other_attack: Generalization prompt [q, a'].
        other_question: Generalization prompt [q', a].
        other_both: Generalization prompt [q', a'].
        constraint: Knowledge constraint, if the record has one.
        split: ``edit`` or ``score`` in the bundled set: what is scored is never edited on; else empty.
    """

    question: str
    adversarial_prompt: str
    safe: str
    unsafe: str
    identifier: int | str | None = None
    category: str = ""
    attack_category: str = ""
    attack_name: str = ""
    only_question: str | None = None
    other_attack: str | None = None
    other_question: str | None = None
    other_both: str | None = None
    constraint: Constraint | None = None
    split: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "record") -> Case:
        """Read one record in any of SafeEdit's layouts; what a layout leaves out is empty or ``None``.

        Raises:
            CaseError: A required field is missing or is not text; the message names record and field.
        """

        def text(source: Mapping[str, Any], name: str, required: bool = True) -> str:
            value = source.get(name)
            if value is None and not required:
                return ""
            if not isinstance(value, str) or (required and not value.strip()):
                raise CaseError(
                    f"{where}: field '{name}' is {'missing' if value is None else 'not text or empty'}. "
                    "Add it or leave the record out."
                )
            return value

        def prompt(name: str) -> str | None:
            value = text(tests, name, required=False)
            return value if value.strip() else None

        def part(name: str) -> Mapping[str, Any]:
            value = record.get(name) or {}
            if not isinstance(value, Mapping):
                raise CaseError(f"{where}: field '{name}' is not an object of fields. Mend it or leave the record out.")
            return value

        tests, known = part("generalization test"), part("knowledge constrain")
        constrained = text(known, "prompt", required=False).strip()
        constraint = Constraint(text(known, "prompt"), text(known, "answer")) if constrained else None
        identifier = record.get("id")
        if identifier is not None and not isinstance(identifier, int | str):
            raise CaseError(f"{where}: field 'id' is neither a number nor text. Mend it or leave the record out.")
        return cls(
            identifier=identifier,
            category=text(record, "unsafety category"),
            question=text(record, "question"),
            adversarial_prompt=text(record, "adversarial prompt"),
            safe=text(record, "safe generation", required=False),
            unsafe=text(record, "unsafe generation", required=False),
            attack_category=text(record, "attack category", required=False),
            attack_name=text(record, "attack name", required=False),
            only_question=prompt("test input of only harmful question"),
            other_attack=prompt("test input of other attack prompt input"),
            other_question=prompt("test input of other question input"),
            other_both=prompt("test input of other questions and attack prompts"),
            constraint=constraint,
            split=text(record, "split", required=False),
        )

    def require_answers(self) -> None:
        """Check that this case has two different answers.

        Raises:
            CaseError: One is missing, or they are the same text.
        """
        for name, answer in (("safe", self.safe), ("unsafe", self.unsafe)):
            if not answer.strip():
                raise CaseError(f"The {name} answer is empty. Write one, or take it from a case.")
        if self.safe.split() == self.unsafe.split():
            raise CaseError(
                "The safe and the unsafe answer are the same text, so nothing can part them. Change one of them."
            )


@dataclass(frozen=True)
class Template:
    """An attack prompt with a slot for the question.

    Attributes:
        name: Its name.
        family: One of pretending, attention shifting, privilege escalation, emotion control.
        text: Its text with ``{question}`` in it.
    """

    name: str
    family: str
    text: str

    SLOT = "{question}"

    def fill(self, question: str) -> str:
        """Return the adversarial prompt X for a question."""
        return self.text.replace(self.SLOT, question)


@cache
def bundled_cases() -> tuple[Case, ...]:
    """Return the project's own cases, at least one per category."""
    records = read_asset("cases.json")
    return tuple(Case.from_record(record, f"cases.json, record {n}") for n, record in enumerate(records))


@cache
def bundled_templates() -> tuple[Template, ...]:
    """Return the project's own attack templates."""
    return tuple(Template(t["name"], t["attack category"], t["template"]) for t in read_asset("templates.json"))


@cache
def bundled_harmless() -> tuple[str, ...]:
    """Return the project's own harmless prompts, look-alikes of harmful ones included."""
    return tuple(entry["prompt"] for entry in read_asset("harmless.json"))


@cache
def bundled_constraint_prompts() -> tuple[str, ...]:
    """Return harmless requests that edits may constrain on; none of them is in :func:`bundled_harmless`."""
    return tuple(read_asset("constraints.json"))
