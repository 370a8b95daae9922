"""Where two answers differ, word by word, and an answer as HTML with those words marked."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from dashboard.kit.plain import escape

Pieces = list[tuple[str, bool]]
"""An answer in pieces, each with whether the other answer lacks it; joined they are the answer."""

_WORD = re.compile(r"\s*\S+|\s+")


def differing(one: str, other: str) -> tuple[Pieces, Pieces]:
    """Cut two answers into pieces, each said to be in both or in one only.

    Words are compared with the white space before them set aside, in order: the longest common runs first.
    """
    words = _WORD.findall(one), _WORD.findall(other)
    bare = tuple([word.strip() for word in side] for side in words)
    pieces: tuple[Pieces, Pieces] = ([], [])
    for tag, *bounds in SequenceMatcher(None, bare[0], bare[1], autojunk=False).get_opcodes():
        for side, (start, end) in enumerate((bounds[:2], bounds[2:])):
            text = "".join(words[side][start:end])
            if text:
                pieces[side].append((text, tag != "equal"))
    return pieces


def answer(text: str, pieces: Pieces | None = None) -> str:
    """Return an answer as HTML, everything in it escaped; what the other one lacks is marked.

    Args:
        text: The answer.
        pieces: From :func:`differing`; ``None`` where nothing is compared.
    """
    marked = "".join(_marked(piece) if differs else escape(piece) for piece, differs in pieces or [(text, False)])
    return f'<div class="answer">{marked}</div>'


def both_answers(texts: tuple[str, str], empty: str = "(empty answer)", compared: bool = True) -> tuple[str, str]:
    """Return two answers as HTML, the words in which they differ marked where both say something.

    Args:
        empty: What stands for an answer without text.
        compared: Whether they are two answers to one prompt.
    """
    if not (compared and all(texts)):
        return answer(texts[0] or empty), answer(texts[1] or empty)
    pieces = differing(*texts)
    return answer(texts[0], pieces[0]), answer(texts[1], pieces[1])


def _marked(piece: str) -> str:
    word = piece.lstrip()
    return f"{escape(piece[: len(piece) - len(word)])}<mark>{escape(word)}</mark>" if word else escape(piece)
