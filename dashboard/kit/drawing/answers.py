"""Where two answers differ, token by token or else word by word, and an answer as HTML with that marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from dashboard.kit.drawing.plain import escape

Pieces = list[tuple[str, bool]]
"""An answer in pieces, each with whether the other answer lacks it; joined they are the answer."""
Tokens = tuple[Sequence[str], ...]
"""Answers in the pieces that their tokens add; each joined is the answer."""

_WORD = re.compile(r"\s*\S+|\s+")


def differing(one: str, other: str, tokens: Tokens | None = None) -> tuple[Pieces, Pieces]:
    """Cut two answers into pieces, each said to be in both or in one only.

    Tokens are compared with the white space before them set aside, in order: the longest common runs first.

    Args:
        tokens: Both in their tokens; words where that is not known, or is not of these texts.
    """
    if tokens is None or tuple("".join(own) for own in tokens) != (one, other):
        tokens = _WORD.findall(one), _WORD.findall(other)
    one_side, other_side = map(_bare, tokens)
    pieces: tuple[Pieces, Pieces] = ([], [])
    for tag, *bounds in SequenceMatcher(None, one_side, other_side, autojunk=False).get_opcodes():
        for side, (start, end) in enumerate((bounds[:2], bounds[2:])):
            text = "".join(tokens[side][start:end])
            if text:
                pieces[side].append((text, tag != "equal"))
    return pieces


def _bare(tokens: Sequence[str]) -> list[tuple[str, bool]]:
    """Return tokens as they are compared: without white space, with whether they begin a word."""
    return [(token.strip(), place == 0 or token[:1].isspace()) for place, token in enumerate(tokens)]


def answer(text: str, pieces: Pieces | None = None) -> str:
    """Return an answer as HTML, everything in it escaped; what the other one lacks is marked.

    Args:
        text: The answer.
        pieces: From :func:`differing`; ``None`` where nothing is compared.
    """
    marked = "".join(_marked(piece) if differs else escape(piece) for piece, differs in pieces or [(text, False)])
    return f'<div class="answer">{marked}</div>'


def both_answers(
    texts: tuple[str, str], empty: str = "(empty answer)", compared: bool = True, tokens: Tokens | None = None
) -> tuple[str, str]:
    """Return two answers as HTML, that in which they differ marked where both say something.

    Args:
        empty: What stands for an answer without text.
        compared: Whether they are two answers to one prompt.
        tokens: As for :func:`differing`.
    """
    if not (compared and all(texts)):
        return answer(texts[0] or empty), answer(texts[1] or empty)
    pieces = differing(*texts, tokens)
    return answer(texts[0], pieces[0]), answer(texts[1], pieces[1])


def _marked(piece: str) -> str:
    word = piece.lstrip()
    return f"{escape(piece[: len(piece) - len(word)])}<mark>{escape(word)}</mark>" if word else escape(piece)
