"""Answers to one prompt, streamed token by token, with several rows of weights in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from inspector.model.answers.batching import Decoding, generate
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row


@dataclass(frozen=True)
class Answers:
    """State of a running generation.

    Attributes:
        texts: The answer of each row so far.
        token_ids: Its tokens, without the id that ended it.
        ended: The id that ended each row; ``None`` while it runs or where it was cut.
        held_back: Whether each row's detector did not fire, so that the vanilla weights answered.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    ended: tuple[int | None, ...]
    held_back: tuple[bool, ...] = ()

    @property
    def finished(self) -> tuple[bool, ...]:
        """Whether each row has ended by itself."""
        return tuple(token is not None for token in self.ended)


def stream(
    model: InspectedModel,
    prompt: Sequence[int],
    rows: Sequence[Row] = (VANILLA,),
    decoding: Decoding = Decoding(),
) -> Iterator[Answers]:
    """Answer one prompt with each row's weights, in one batch, yielding after every token.

    All rows share prompt, suffix and decoding, so that a difference of the answers is a difference
    of the weights. Rows that sample draw with the same random numbers.

    Args:
        prompt: Token ids of the prompt.
        rows: The weights of each row.

    Yields:
        The answers so far.
    """
    for lines in generate(model, [prompt], rows, decoding):
        yield Answers(
            texts=tuple(model.decode(line.tokens).strip() for line in lines),
            token_ids=tuple(tuple(line.tokens) for line in lines),
            ended=tuple(line.ended for line in lines),
            held_back=tuple(line.held_back for line in lines),
        )


def answer(
    model: InspectedModel,
    prompt: Sequence[int],
    rows: Sequence[Row] = (VANILLA,),
    decoding: Decoding = Decoding(),
) -> Answers:
    """Run :func:`stream` to its end and return the last state."""
    states = deque(stream(model, prompt, rows, decoding), maxlen=1)
    if not states:
        raise ValueError("max_new_tokens must be at least 1")
    return states[0]


def pieces(model: InspectedModel, answers: Answers) -> tuple[tuple[str, ...], ...]:
    """Return each answer in the pieces that its tokens add to it; joined they are its text.

    A character that is made of several tokens is one piece. Tokens are not decoded by themselves: many tokenizers drop
    the space before one that way.
    """
    return tuple(_cut(model, *of_a_row) for of_a_row in zip(answers.texts, answers.token_ids, strict=True))


def _cut(model: InspectedModel, text: str, tokens: Sequence[int]) -> tuple[str, ...]:
    ends = [0]
    for count in range(1, len(tokens)):
        begun = model.decode(tokens[:count]).lstrip()
        if len(begun) > ends[-1] and text.startswith(begun):
            ends.append(len(begun))
    return tuple(text[start:end] for start, end in pairwise([*ends, len(text)]) if end > start)
