"""The questions of an exam: every prompt of the benchmark that an edit is asked, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field

from inspector.errors import CaseError
from inspector.model.patches.patch import Taught
from inspector.safeedit.cases import Case, Template
from inspector.safeedit.sets import (
    Fact,
    HarmlessPrompt,
    Passage,
    facts,
    harmless_prompts,
    held_out_cases,
    passages,
    spread,
)
from inspector.validated import settings as checked

Kind = Literal[
    "DS", "onlyQ", "otherA", "otherQ", "otherAQ", "transfer", "attack", "question", "harmless", "fact", "passage"
]
CASE_PROMPTS: dict[Kind, str] = {
    "DS": "adversarial_prompt",
    "onlyQ": "only_question",
    "otherA": "other_attack",
    "otherQ": "other_question",
    "otherAQ": "other_both",
}
"""The five prompts of a case, by score."""
JUDGED: tuple[Kind, ...] = (*CASE_PROMPTS, "transfer", "attack", "question")
"""Kinds of question whose answers a judge reads; a good answer to them is a safe one."""
UNSEEN: tuple[Kind, ...] = ("otherQ", "otherAQ", "transfer", "question", "harmless")
"""Kinds whose prompts ask something else than the case that was edited on."""
ASK_SUMMARY = "Summarize the text above in one sentence."


@dataclass(frozen=True)
class Question:
    """One prompt of an exam.

    Attributes:
        kind: The score that it serves.
        prompt: The user's text without suffix.
        category: Unsafety category, for judged kinds.
        case: Identifier of the case that it comes from.
        accepted: Accepted answers of a fact question.
        reference: Reference summary of a passage.
        look_alike: A harmless prompt that sounds like a harmful one.
        taught: The answers that the edit was trained on, the case's safe one at least, where this prompt is about
            something else: an answer that gives one of them may be parroting (:mod:`inspector.safeedit.marking`).
    """

    kind: Kind
    prompt: str
    category: str = ""
    case: int | str | None = None
    accepted: tuple[str, ...] = ()
    reference: str = ""
    look_alike: bool = False
    taught: tuple[Taught, ...] = ()


_Number = Annotated[int, Field(ge=0)]


@checked(CaseError, "part of an exam's size")
class Size:
    """How much an exam asks beyond the case's own five prompts.

    Attributes:
        transfer: Adversarial prompts of held-out cases, per category.
        harmless: Harmless prompts.
        facts: Fact questions.
        passages: Passages to summarise.
    """

    transfer: _Number
    harmless: _Number
    facts: _Number
    passages: _Number


QUICK = Size(transfer=1, harmless=12, facts=12, passages=4)
FULL = Size(transfer=10_000, harmless=10_000, facts=10_000, passages=10_000)
CASE_ONLY = Size(0, 0, 0, 0)


@dataclass(frozen=True)
class QuestionSets:
    """Where the questions beyond the case's own come from; the bundled sets by default.

    Attributes:
        held_out: Cases whose adversarial prompts are asked as transfer.
        harmless: Harmless prompts.
        facts: Fact questions.
        passages: Passages to summarise.
        attacks: Templates that the case's question is put into.
        questions: Harmful questions that are asked alone.
        left_out: Questions that no exam asks, by kind and prompt.
    """

    held_out: tuple[Case, ...] = field(default_factory=held_out_cases)
    harmless: tuple[HarmlessPrompt, ...] = field(default_factory=harmless_prompts)
    facts: tuple[Fact, ...] = field(default_factory=facts)
    passages: tuple[Passage, ...] = field(default_factory=passages)
    attacks: tuple[Template, ...] = ()
    questions: tuple[str, ...] = ()
    left_out: frozenset[tuple[Kind, str]] = frozenset()


def make_exam(case: Case, size: Size = FULL, texts: QuestionSets | None = None) -> tuple[Question, ...]:
    """Write the exam of an edit on one case.

    Held-out cases that share their question with the edited one are left out, so that what is scored as transfer
    was not edited on.

    Args:
        case: The edited case; prompts that it lacks are left out.
        size: How much is asked.
        texts: The sets to draw from; ``attacks`` are filled with the case's question, ``questions`` asked alone.
    """
    texts = texts or QuestionSets()
    questions = [
        Question(kind, text, case.category, case.identifier)
        for kind, name in CASE_PROMPTS.items()
        if (text := getattr(case, name) or (case.question if kind == "onlyQ" else None))
    ]
    unseen = [other for other in texts.held_out if other.question != case.question]
    for category in dict.fromkeys(other.category for other in unseen):
        chosen = spread([other for other in unseen if other.category == category], size.transfer)
        questions += [Question("transfer", o.adversarial_prompt, o.category, o.identifier) for o in chosen]
    questions += [Question("attack", t.fill(case.question), case.category, t.name) for t in texts.attacks]
    questions += [Question("question", text) for text in texts.questions]
    questions += [
        Question("harmless", h.prompt, look_alike=h.look_alike) for h in spread(texts.harmless, size.harmless)
    ]
    questions += [Question("fact", f.question, accepted=f.answers) for f in spread(texts.facts, size.facts)]
    questions += [
        Question("passage", f"{p.text}\n\n{ASK_SUMMARY}", reference=p.summary)
        for p in spread(texts.passages, size.passages)
    ]
    taught = own_answer(case)
    asked = [question for question in questions if (question.kind, question.prompt) not in texts.left_out]
    return tuple(replace(q, taught=taught) if q.kind in UNSEEN else q for q in asked)


def own_answer(case: Case) -> tuple[Taught, ...]:
    """Return what every edit on a case is taught: its safe answer, where it has one."""
    return (Taught(case.safe),) if case.safe else ()


def common_questions(size: Size = FULL, texts: QuestionSets | None = None) -> tuple[Question, ...]:
    """Return the questions that the exams of all cases share.

    The exam of a case adds its own prompts and attacks, and leaves out held-out cases that share its question.
    """
    of_no_case = Case(question="", adversarial_prompt="", safe="", unsafe="")
    return make_exam(of_no_case, size, replace(texts or QuestionSets(), attacks=()))
