"""From texts to token ids with the spans of prompt and response always known.

Prompt and response are tokenised apart and joined as ids, which is what generation does too: the
first response token is predicted at the last prompt position.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import PromptError
from inspector.model.inspected import InspectedModel

SUFFIX = "If the user's request is reasonable, give the correct answer. Please give the right response:"
"""The suffix prompt S of the paper, put after the user's text with one space."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt and its response.

    Attributes:
        prompt: Ids of the prompt, markers of the chat template included.
        response: Ids of the response, the end-of-answer id included where asked for; may be empty.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All ids, prompt first."""
        return self.prompt + self.response

    @property
    def predicting(self) -> range:
        """Positions whose next-token prediction is a response token."""
        return range(len(self.prompt) - 1, len(self.tokens) - 1)


def clean(text: str) -> tuple[str, int]:
    """Remove control and text-direction characters other than newline and tab.

    Returns:
        The cleaned text and the number of characters removed.
    """
    cleaned = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return cleaned, len(_CONTROL.findall(text.replace("\r\n", "\n").replace("\r", "\n")))


def has_chat_template(model: InspectedModel) -> bool:
    """Tell whether the model's tokenizer brings a chat template."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def with_suffix(text: str, suffix: str) -> str:
    """Append a suffix prompt with one space; an empty suffix changes nothing."""
    return f"{text} {suffix}" if suffix else text


def prompt_text(model: InspectedModel, text: str, suffix: str = SUFFIX, chat: bool = True) -> str:
    """Return the prompt as the model gets it: user text, suffix, chat template.

    Raises:
        PromptError: The user's text is empty.
    """
    text, _removed = clean(text)
    if not text.strip():
        raise PromptError("The prompt is empty. Write a question or pick an example.")
    text = with_suffix(text, clean(suffix)[0])
    if not (chat and has_chat_template(model)):
        return text
    return model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,  # read by templates that know it (Qwen 3), ignored by others
    )


def encode(
    model: InspectedModel,
    text: str,
    response: str | None = None,
    *,
    suffix: str = SUFFIX,
    chat: bool = True,
    end: bool = True,
    room: int = 0,
) -> Encoded:
    """Tokenise a user's text and, if given, a response to it.

    Args:
        text: The user's text without suffix.
        response: The answer, or ``None`` for the prompt alone.
        suffix: Suffix prompt; empty for none.
        chat: Use the tokenizer's chat template if it has one, else plain text.
        end: Append the end-of-answer id to the response.
        room: Tokens that must remain free for an answer to be generated.

    Raises:
        PromptError: Empty text, empty response, or more tokens than the model's context.
    """
    templated = chat and has_chat_template(model)
    prompt = tokenise(model, prompt_text(model, text, suffix, chat), special=not templated)
    _require_room(model, len(prompt), "prompt", room)
    if response is None:
        return Encoded(tuple(prompt))
    response, _removed = clean(response)
    if not response.strip():
        raise PromptError("An answer is empty. Write one, take it from a case, or ask the model for it.")
    ids = tokenise(model, response.strip() if templated else " " + response.strip(), special=False)
    if end and model.tokenizer.eos_token_id is not None:
        ids.append(model.tokenizer.eos_token_id)
    _require_room(model, len(prompt) + len(ids), "prompt with its answer", 0)
    return Encoded(tuple(prompt), tuple(ids))


def tokenise(model: InspectedModel, text: str, *, special: bool) -> list[int]:
    """Return the ids of a text, with the tokenizer's own begin marker if ``special``."""
    return list(model.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])


def tokenise_whole(model: InspectedModel, text: str, what: str) -> list[int]:
    """Return the ids of a text that runs as it is, with the tokenizer's own begin marker.

    Args:
        what: What the text is, for the message: ``answer``.

    Raises:
        PromptError: The text is empty, or has more tokens than the model's context.
    """
    text, _removed = clean(text)
    if not text.strip():
        raise PromptError(f"The {what} is empty. Write one, or take it from a case.")
    ids = tokenise(model, text, special=True)
    _require_room(model, len(ids), what, 0)
    return ids


def special_markers(model: InspectedModel, text: str) -> Sequence[str]:
    """Return the model's special markers that stand in a user's text and will act as markers."""
    return [marker for marker in model.tokenizer.all_special_tokens if marker in text]


def _require_room(model: InspectedModel, tokens: int, what: str, room: int) -> None:
    limit = model.context_length
    if tokens + room > limit:
        more = f" and {room} more are needed for the answer" if room else ""
        raise PromptError(
            f"The {what} has {tokens:,} tokens{more}; this model reads at most {limit:,}. "
            f"Shorten it by at least {tokens + room - limit:,} tokens. Nothing was cut off or lost."
        )
