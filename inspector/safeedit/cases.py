"""A case and its record in SafeEdit's layout; the project's own mild cases, templates and harmless prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator, Strict, ValidationError
from pydantic_core import PydanticCustomError

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

        Args:
            record: The record, with the field names of the data; other fields are passed over.
            where: Names the record in errors.

        Raises:
            CaseError: A required field is missing or is not text; the message names record and field.
        """
        try:
            read = _Record.model_validate(dict(record))
        except ValidationError as error:
            raise CaseError(f"{where}: {_sentence(error)}") from None
        own = {name: value for name, value in read if name not in ("tests", "constraint")}
        constraint = None if read.constraint is None else Constraint(read.constraint.prompt, read.constraint.answer)
        return cls(**own, **dict(read.tests), constraint=constraint)

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


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Text is blank.")
    return text


def _number_or_text(value: Any) -> int | str | None:
    if value is not None and not isinstance(value, int | str):
        raise PydanticCustomError("identifier", "Neither a number nor text.")
    return value


def _without_blank(constraint: Any) -> Any:
    """Return ``None`` for a constraint without a prompt: the layouts leave it out, empty or with empty fields."""
    if not isinstance(constraint, Mapping):
        return constraint or None
    prompt = constraint.get("prompt")
    return None if prompt is None or (isinstance(prompt, str) and not prompt.strip()) else constraint


_Filled = Annotated[str, Strict(), AfterValidator(_not_blank)]
_Optional = Annotated[str, Strict(), BeforeValidator(lambda text: "" if text is None else text)]
_Prompt = Annotated[_Optional, AfterValidator(lambda text: text if text.strip() else None)]
_Identifier = Annotated[int | str | None, PlainValidator(_number_or_text)]


class _Tests(BaseModel):
    """The generalization prompts of a record; empty strings in the train split."""

    only_question: _Prompt | None = Field(default=None, alias="test input of only harmful question")
    other_attack: _Prompt | None = Field(default=None, alias="test input of other attack prompt input")
    other_question: _Prompt | None = Field(default=None, alias="test input of other question input")
    other_both: _Prompt | None = Field(default=None, alias="test input of other questions and attack prompts")


class _Known(BaseModel):
    """The knowledge constraint of a record."""

    prompt: _Filled
    answer: _Filled


class _Record(BaseModel):
    """A SafeEdit record under the field names of the data; its own fields are named as in :class:`Case`."""

    identifier: _Identifier = Field(default=None, alias="id")
    category: _Filled = Field(alias="unsafety category")
    question: _Filled
    adversarial_prompt: _Filled = Field(alias="adversarial prompt")
    safe: _Optional = Field(default="", alias="safe generation")
    unsafe: _Optional = Field(default="", alias="unsafe generation")
    attack_category: _Optional = Field(default="", alias="attack category")
    attack_name: _Optional = Field(default="", alias="attack name")
    split: _Optional = ""
    tests: Annotated[_Tests, BeforeValidator(lambda tests: tests or {})] = Field(
        default_factory=_Tests, alias="generalization test"
    )
    constraint: Annotated[_Known | None, BeforeValidator(_without_blank)] = Field(
        default=None, alias="knowledge constrain"
    )


_WRONG = {
    "missing": "is missing. Add it or leave the record out.",
    "text": "is not text or empty. Add it or leave the record out.",
    "model_type": "is not an object of fields. Mend it or leave the record out.",
    "identifier": "is neither a number nor text. Mend it or leave the record out.",
}


def _sentence(error: ValidationError) -> str:
    """Return what is wrong with the first broken field of a record, and the remedy."""
    first = error.errors(include_url=False)[0]
    kind = "missing" if first["input"] is None else first["type"]
    return f"field '{first['loc'][-1]}' {_WRONG.get(kind, _WRONG['text'])}"


@dataclass(frozen=True)
class Template:
    """An attack prompt with a slot for the question.

    Attributes:
        name: Its name.
        family: One of pretending, attention shifting, privilege escalation, emotion control.
        text: Its text with ``{question}`` in it.
        language: Of the text around the question.
    """

    name: str
    family: str
    text: str
    language: str = "en"

    SLOT = "{question}"

    def fill(self, question: str) -> str:
        """Return the adversarial prompt X for a question."""
        return self.text.replace(self.SLOT, question)


@cache
def bundled_cases() -> tuple[Case, ...]:
    """Return the project's own cases, at least one per category."""
    records = read_asset("cases.json")
    return tuple(Case.from_record(record, f"cases.json, record {n}") for n, record in enumerate(records))


Split = Literal["edit", "detector", "development", "fresh", "score"]
"""What a bundled text may be used for: making edits, fitting the detector, choosing settings, the
gate's questions, by which no setting of an edit and no detector was chosen, scoring alone."""


@cache
def bundled_templates(split: Split = "edit") -> tuple[Template, ...]:
    """Return the project's own attack templates of one split; those of the bundled cases to edit on by default."""
    return tuple(
        Template(t["name"], t["attack category"], t["template"], t["language"])
        for t in read_asset("templates.json")
        if t["split"] == split
    )


@cache
def bundled_harmless() -> tuple[str, ...]:
    """Return the project's own harmless prompts, look-alikes of harmful ones included."""
    return tuple(entry["prompt"] for entry in read_asset("harmless.json"))


@cache
def bundled_constraint_prompts() -> tuple[str, ...]:
    """Return harmless requests that edits may constrain on; none of them is in :func:`bundled_harmless`."""
    return tuple(read_asset("constraints.json"))
