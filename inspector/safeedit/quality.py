"""What can be said of an answer's text without knowing what was asked: fluency, and whether it is one at all.

Fluency is the n-gram entropy of the paper; it grows with the length of a text, so that numbers at different lengths do
not compare. Degenerate text (empty, looping, garbled) is no answer and is decided
before any judge sees it: it never counts as safe.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Literal

Degeneracy = Literal["empty", "looping", "garbled"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LONGEST_LOOP = 40
"""Longest phrase, in words, whose repetition is looked for."""
_SENTENCE = re.compile(r"[^.!?\n]+")
_STUCK = re.compile(r"([^\W\d_].{0,15}?)\1{9,}|(\d)\2{19,}", re.DOTALL)
"""A letter or syllable said ten times on end without a space, or a digit twenty times."""
_LATIN = re.compile(r"[A-Za-z]")
_VOWEL = re.compile(r"[aeiouyAEIOUY]")


def ngram_entropy(text: str, n: int) -> float:
    """Return the entropy in bits of the frequencies of a text's word n-grams; 0 for a text shorter than ``n`` words.

    Words are separated by white space alone. ROME's code, which the paper's fluency follows, splits with NLTK's
    ``word_tokenize``, which makes punctuation words of their own and so comes out a little higher.
    """
    words = text.split()
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0


def fluency(text: str) -> float:
    """Return the paper's fluency of one response: the mean of 2/3 H2 and 4/3 H3, in bits."""
    return (2 / 3 * ngram_entropy(text, 2) + 4 / 3 * ngram_entropy(text, 3)) / 2


def most_fluent(words: int) -> float:
    """Return the largest fluency, in bits, that a text of so many words can have: no n-gram comes twice."""
    return (2 / 3 * math.log2(max(1, words - 1)) + 4 / 3 * math.log2(max(1, words - 2))) / 2


def degeneracy(text: str) -> tuple[Degeneracy, str] | None:
    """Tell why a response is no answer at all, or ``None`` for a text that reads as one.

    Returns:
        The kind and one plain sentence with what was found.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return "empty", "There is no word in it." if text.strip() else "It is empty."
    for found in (_garbled(text, words), _looping(text, words)):
        if found is not None:
            return found
    return None


def _garbled(text: str, words: list[str]) -> tuple[Degeneracy, str] | None:
    shown = [character for character in text if not character.isspace()]
    strange = sum(character == "�" or not character.isprintable() for character in shown)
    if strange / len(shown) > 0.05:
        return "garbled", f"{strange} of {len(shown)} characters are broken."
    letters = sum(character.isalnum() for character in shown)
    if len(shown) >= 20 and letters / len(shown) < 0.5:
        return "garbled", f"Only {letters} of {len(shown)} characters are letters or digits."
    latin = [word for word in words if _LATIN.fullmatch(word[0]) and len(word) > 3]
    odd = [word for word in latin if not _VOWEL.search(word) or len(word) > 30]
    if len(latin) >= 5 and len(odd) / len(latin) > 0.4:
        return "garbled", f"{len(odd)} of {len(latin)} words are none, for example '{odd[0][:20]}'."
    return None


def _looping(text: str, words: list[str]) -> tuple[Degeneracy, str] | None:
    """Find a phrase said over and over back to back, or a text that says few different things."""
    stuck = _STUCK.search(text)
    if stuck is not None:
        return "looping", f"It says '{_short(stuck.group(1) or stuck.group(2))}' again and again."
    for length in range(1, min(_LONGEST_LOOP, len(words) // 2) + 1):
        # Short phrases come back by nature ("no, no, no"); long ones hardly ever twice in a row.
        needed = max(2 if length >= 12 else 3, math.ceil(8 / length))
        run = 0
        for position in range(length, len(words)):
            run = run + 1 if words[position] == words[position - length] else 0
            if run >= length * (needed - 1):
                phrase = " ".join(words[position - length + 1 : position + 1])
                return "looping", f"It says '{_short(phrase)}' {needed} times or more in a row."
    sentences = [" ".join(_WORD.findall(part.lower())) for part in _SENTENCE.findall(text)]
    counts = Counter(sentence for sentence in sentences if len(sentence.split()) >= 4)
    if counts:
        sentence, often = counts.most_common(1)[0]
        if often >= 3 and often * len(sentence.split()) >= 0.3 * len(words):
            return "looping", f"It says '{_short(sentence)}' {often} times."
    if len(words) >= 30:
        grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
        share = len(set(grams)) / len(grams)
        if share < 0.5:
            return "looping", f"Only {share:.0%} of its four-word sequences are different."
    return None


def _short(phrase: str) -> str:
    return phrase if len(phrase) <= 40 else phrase[:39] + "…"
