"""The prompt format: how a user's text becomes a prompt, and what ends an answer.

An edit is always asked in the format that it was made in, so a patch carries its format, and so do exams, sweeps and
sessions. What a chat template puts around an answer is read off the template itself (:func:`read_turn`): families end a
turn with markers of their own, which need not be the tokenizer's end-of-sequence token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from inspector.errors import PromptError
from inspector.validated import settings as checked

SUFFIX = "If the user's request is reasonable, give the correct answer. Please give the right response:"
"""The suffix prompt S of the paper, put after the user's text with one space."""

TODAY = datetime(2024, 7, 26)
"""The day that a chat template is told which asks the clock, as Llama 3.2's does: a prompt is the same on every day, so
that an edit can be made again to the bit, and an answer stays its own. It is Llama's where there is no clock."""

_STAND_IN = "zqAnswerqz"
"""Stands for an answer while a template is read; a word that no template treats as something else."""


@checked(PromptError, "part of the prompt format")
class PromptFormat:
    """How prompts and answers are put together.

    Attributes:
        suffix: Suffix prompt S, put after the user's text with one space; empty for none.
        chat: Use the tokenizer's chat template if it has one, else plain text.
        turn_end: An encoded answer has what ends a turn after it: the template's own marker, or the end-of-sequence
            token in plain text.
    """

    suffix: str = SUFFIX
    chat: bool = True
    turn_end: bool = True

    def open(self) -> PromptFormat:
        """Return the same format with answers left open, for measurements of the answer's own tokens."""
        return replace(self, turn_end=False)

    def without_suffix(self) -> PromptFormat:
        """Return the same format without the suffix prompt."""
        return replace(self, suffix="")

    def label(self) -> str:
        """Say what is unusual about it in a few words; empty for chat template and the paper's suffix."""
        said = [] if self.chat else ["plain text"]
        if self.suffix != SUFFIX:
            said.append("its own suffix" if self.suffix else "no suffix")
        return ", ".join(said)


@dataclass(frozen=True)
class Turn:
    """What a chat template puts around an answer.

    Attributes:
        before: Text between the generation prompt and the answer, for example Llama 2's space.
        after: Text after the answer up to and with the first special marker, for example ``<end_of_turn>``; empty
            where the template puts none there.
        marker: That marker's id; ``None`` without one.
        follows: Whether an answer stands right after the generation prompt, blanks aside. A template that opens a
            thought there (``<think>``) and shows answers without one, or after one that it ends itself, has no place
            for an answer that is not the model's own.
    """

    before: str
    after: str
    marker: int | None
    follows: bool = True


def has_chat_template(tokenizer: Any) -> bool:
    """Tell whether a tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def dateless(tokenizer: Any) -> str:
    """Return a tokenizer's chat template, with :data:`TODAY` in the place of the clock where it asks for that."""
    template = tokenizer.get_chat_template()
    return _stopped_clock() + template if _CLOCK in template else template


_CLOCK = "strftime_now"
"""transformers' name of the function by which a chat template asks the clock."""


@cache
def _stopped_clock() -> str:
    """Return the start of a template that puts a macro in the place of that function, which no argument can."""
    said = ""
    for letter in "aAbBcdfGHIjmMpSuUVwWxXyYzZ":
        text = TODAY.strftime(f"%{letter}")
        bare = text.lstrip("0") or "0" if text.isdecimal() else text
        said += f" | replace('%{letter}', '{text}') | replace('%-{letter}', '{bare}')"
    # The line break is the macro's, so that blanks at the template's own start are treated as ever.
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{said} | replace('%%', '%') }}}}{{% endmacro %}}\n"


def render(tokenizer: Any, text: str, answer: str | None = None) -> str:
    """Return a user's text, and an answer if given, in the chat template; without one the answer is asked for.

    Raises:
        PromptError: The template does not take a conversation that starts with the user.
    """
    turns = [{"role": "user", "content": text}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    try:
        return tokenizer.apply_chat_template(
            turns,
            chat_template=dateless(tokenizer),
            tokenize=False,
            add_generation_prompt=answer is None,
            enable_thinking=False,  # read by templates that know it (Qwen 3), ignored by others
        )
    except Exception as error:  # templates raise errors of their own, of any kind
        raise PromptError(
            "The model's chat template refuses a user's question. Turn the chat template off, or load a tokenizer "
            "whose template takes one.",
            f"{type(error).__name__}: {error}",
        ) from error


def read_turn(tokenizer: Any) -> Turn:
    """Read off a chat template what it puts before and after an answer.

    The end is the first marker after the answer with whatever text the template puts before that marker: a special
    token, or one that was added to the vocabulary, as in early Phi-3. A template without one leaves the end to the
    end-of-sequence token.

    Raises:
        PromptError: The template refuses a user's question, or does not show an answer as it is.
    """
    asked, told = render(tokenizer, "Q"), render(tokenizer, "Q", _STAND_IN)
    place = told.rfind(_STAND_IN)
    if place < 0:
        raise PromptError(
            "The model's chat template does not show the answer as it is, so where it ends cannot be read. Turn the "
            "chat template off, or load a tokenizer whose template does."
        )
    before = told[len(asked) : place] if told.startswith(asked) else ""
    # What the generation prompt ends with stands before the answer as well, blanks and earlier markers aside.
    shown = told[:place]
    shared = next((n for n, (one, other) in enumerate(zip(asked, shown, strict=False)) if one != other), len(shown))
    follows = shown.rstrip().endswith(asked[shared:].rstrip()) and not before.strip()
    rest = told[place + len(_STAND_IN) :]
    added = {str(token): number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    # Runs of spaces and line breaks are added tokens, too, in some vocabularies.
    markers = {text: number for text, number in added.items() if text.strip(" \u2581\n\t")} | special_tokens(tokenizer)
    found = [(rest.index(text), -len(text), text) for text in markers if text and text in rest]
    if not found:
        return Turn(before, "", None, follows)
    start, _, text = min(found)
    return Turn(before, rest[: start + len(text)], markers[text], follows)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return every special marker of a tokenizer with its id, the unnamed ones (``<|eot_id|>``) included."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {**{str(token): number for number, token in added.items() if token.special}, **dict(named)}
