"""From texts to token ids with the spans of prompt and response always known.

Prompt and response are tokenised together and split where they meet, so that neither gets a space of its own; the
prompt's ids are those that generation reads, and the first response token is predicted at the last of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import PromptError, TooLong
from inspector.model.inspected import InspectedModel
from inspector.model.prompt_format import PromptFormat, has_chat_template, render, special_tokens

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


def with_suffix(text: str, suffix: str) -> str:
    """Append a suffix prompt with one space; an empty suffix changes nothing."""
    return f"{text} {suffix}" if suffix else text


def templated(model: InspectedModel, format: PromptFormat) -> bool:
    """Tell whether prompts of a format are put into the model's chat template."""
    return format.chat and has_chat_template(model.tokenizer)


def prompt_text(model: InspectedModel, text: str, format: PromptFormat = PromptFormat()) -> str:
    """Return the prompt as the model gets it: user text, suffix, chat template.

    Raises:
        PromptError: The user's text is empty, or the template does not take it.
    """
    text, _removed = clean(text)
    if not text.strip():
        raise PromptError("The prompt is empty. Write a question or pick an example.")
    text = with_suffix(text, clean(format.suffix)[0])
    return render(model.tokenizer, text) if templated(model, format) else text


def encode(
    model: InspectedModel,
    text: str,
    response: str | None = None,
    format: PromptFormat = PromptFormat(),
    *,
    room: int = 0,
) -> Encoded:
    """Tokenise a user's text and, if given, a response to it.

    Args:
        text: The user's text without suffix.
        response: The answer, or ``None`` for the prompt alone.
        format: Suffix, chat template, and whether the response has the end of a turn.
        room: Tokens that must remain free for an answer to be generated.

    Raises:
        PromptError: Empty text, empty response, more tokens than the model's context, a marker that it has no
            embedding for, or a chat template after whose prompt no answer can stand.
    """
    in_template = templated(model, format)
    asked = prompt_text(model, text, format)
    prompt = _open_ids(model, asked, not in_template)
    _require_room(model, len(prompt), "prompt", room)
    if response is None:
        return Encoded(tuple(prompt))
    response = clean(response)[0].strip()
    if not response:
        raise PromptError("An answer is empty. Write one, take it from a case, or ask the model for it.")
    turn = model.turn if in_template else None
    if turn is not None and not turn.follows:
        raise PromptError(
            "The model's chat template asks for an answer otherwise than it shows one, for example with a thought "
            "begun, so no answer can be put after its prompt. Turn the chat template off."
        )
    own_space = "" if asked[-1].isspace() else " "  # plain text: one space, or what the prompt ends with already
    before, after = (turn.before, turn.after) if turn is not None else (own_space, "")
    ids = _continued(model, asked, prompt, before + response + (after if format.turn_end else ""), not in_template)
    if format.turn_end and not after and model.tokenizer.eos_token_id is not None:
        ids.extend(_embedded(model, [model.tokenizer.eos_token_id]))
    _require_room(model, len(prompt) + len(ids), "prompt with its answer", 0)
    return Encoded(tuple(prompt), tuple(ids))


def _continued(model: InspectedModel, asked: str, prompt: list[int], more: str, special: bool) -> list[int]:
    """Return the ids of what follows a prompt, tokenised together with it.

    Where a token would span both, they are tokenised apart (generation reads the prompt alone as well), without the
    space that some tokenizers put before every text.
    """
    whole = _open_ids(model, asked + more, special)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    first = tokenise(model, "a", special=False)
    if not first or not model.tokenizer.convert_ids_to_tokens(first[0]).startswith(_SPACE):
        return tokenise(model, more, special=False)
    ids = tokenise(model, more.removeprefix(" "), special=False)
    return [*_without_space(model, ids[0]), *ids[1:]] if asked.endswith(" ") else ids


def _open_ids(model: InspectedModel, text: str, special: bool) -> list[int]:
    """Return the ids of a text that goes on: without the end of sequence that some tokenizers put after every text."""
    ids, end = tokenise(model, text, special=special), model.tokenizer.eos_token_id
    if not special or end is None or ids[-1:] != [end]:
        return ids
    own = [*tokenise(model, text, special=False), end]  # one that stands in the text itself stays
    return ids[:-1] if ids[-len(own) :] == own else ids


def _without_space(model: InspectedModel, token: int) -> list[int]:
    """Return the ids of a piece without the space that it starts with, which the prompt ends with already."""
    tokenizer = model.tokenizer
    bare = tokenizer.convert_ids_to_tokens(token).removeprefix(_SPACE)
    known = tokenizer.get_vocab()
    if not bare or bare in known:
        return [known[bare]] if bare else []
    return [known[letter] for letter in bare] if all(letter in known for letter in bare) else [token]


_SPACE = "\u2581"
"""SentencePiece's sign for a space."""


def tokenise(model: InspectedModel, text: str, *, special: bool) -> list[int]:
    """Return the ids of a text, with the tokenizer's own begin marker if ``special``.

    Raises:
        PromptError: The tokenizer knows a marker in it that the model has no embedding for.
    """
    ids = model.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]
    return _embedded(model, list(ids))


def _embedded(model: InspectedModel, ids: list[int]) -> list[int]:
    """Return token ids if each has an embedding: on CUDA one without ends the process.

    Raises:
        PromptError: One has none.
    """
    known = model.embedded
    beyond = next((token for token in ids if token >= known), None)
    if beyond is not None:
        raise PromptError(
            f"The marker '{model.tokenizer.convert_ids_to_tokens(beyond)}' is known to the tokenizer (as token "
            f"{beyond:,}), and the model has an embedding for {known:,} tokens only. Leave it out of the text."
        )
    return ids


def tokenise_whole(model: InspectedModel, text: str, what: str) -> list[int]:
    """Return the ids of a text that runs as it is, with the tokenizer's own begin marker.

    Args:
        what: What the text is, for the message: ``answer``.

    Raises:
        PromptError: The text is empty, has more tokens than the model's context, or a marker that it has no embedding
            for.
    """
    text, _removed = clean(text)
    if not text.strip():
        raise PromptError(f"The {what} is empty. Write one, or take it from a case.")
    ids = tokenise(model, text, special=True)
    _require_room(model, len(ids), what, 0)
    return ids


def special_markers(model: InspectedModel, text: str) -> Sequence[str]:
    """Return the model's special markers that stand in a user's text and will act as markers."""
    return [marker for marker in special_tokens(model.tokenizer) if marker in text]


def _require_room(model: InspectedModel, tokens: int, what: str, room: int) -> None:
    limit = model.context_length
    if tokens + room > limit:
        more = f" and {room} more are needed for the answer" if room else ""
        raise TooLong(
            f"The {what} has {tokens:,} tokens{more}; this model reads at most {limit:,}. "
            f"Shorten it by at least {tokens + room - limit:,} tokens. Nothing was cut off or lost."
        )
