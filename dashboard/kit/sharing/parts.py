"""What a step adds to a report of a visit: readings, texts, figures and tables of what the session holds, no more.

A step names one plain function of a visit (:attr:`dashboard.kit.room.Room.reports`); whoever writes a report asks them
all in the order of the steps. Nothing is measured for a report, and what a step does not hold it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any, Literal

import plotly.graph_objects as go

from dashboard.kit.sessions.session import Session
from editing.calibrating.trial_edits import Layers

Role = Literal["prompt", "suffix", "safe", "unsafe", "vanilla", "edited", "second"]
"""What a text is: what was asked, the suffix prompt, an answer of the case, or an answer of some weights; ``second`` is
another model's."""
REPEATED = 4
"""Words in a row that an answer shares with a prompt, from which it gives the prompt away."""
NO_TOKEN = "·"
"""Stands for a token that is left out."""


@dataclass(frozen=True)
class Text:
    """A text that a person or a model wrote.

    Attributes:
        title: What it is, for a reader.
        text: The text itself, as it is.
        role: See :data:`Role`.
        covered: It is not known to be safe, so it is covered until a reader uncovers it.
        head: What stands above it, HTML: which weights, which verdict.
    """

    title: str
    text: str
    role: Role
    covered: bool = False
    head: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure with the line that reads it.

    Attributes:
        title: What it shows, in words that stand alone.
        drawn: The step's own figure.
        reading: HTML of the line under it.
    """

    title: str
    drawn: go.Figure
    reading: str = ""


@dataclass(frozen=True)
class Table:
    """A table of plain cells.

    Attributes:
        title: What it lists.
        head: Names of the columns.
        rows: Its cells, row by row.
        folded: It is long, and opened where somebody wants to read it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Part:
    """One part of a report.

    Attributes:
        title: Its heading.
        readings: HTML of the step's own texts and tables, everything in it escaped.
        texts: What was asked and answered.
        figures: Its figures.
        tables: Its tables.
        beside: Two more, side by side; where there are none, what the vanilla and the edited weights answered is.
        prompts: What its answers were asked, in each form; shown among the texts or not, no answer may repeat it where
            prompts are left out.
        facts: What whoever makes the run again has to know, by name; not shown by itself.
    """

    title: str
    readings: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    beside: tuple[Text, ...] = ()
    prompts: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hidden:
    """What a report leaves out.

    Attributes:
        texts: Prompts and answers that are not known to be safe, and the tokens that they are made of.
    """

    texts: bool = False

    def tokens(self, tokens: Sequence[str]) -> tuple[str, ...]:
        """Return tokens as a figure may show them."""
        return (NO_TOKEN,) * len(tokens) if self.texts else tuple(tokens)

    def prompt(self, text: str) -> str:
        """Return a prompt as a report may show it."""
        return redacted(text) if self.texts else text

    def text(self, shown: Text, prompts: Iterable[str] = ()) -> str:
        """Return a text as a report may show it.

        Args:
            prompts: An answer that repeats :data:`REPEATED` words of one of them is left out with them.
        """
        if not self.texts or shown.role == "suffix":
            return shown.text
        leaks = shown.role in ("prompt", "unsafe") or shown.covered
        return redacted(shown.text) if leaks or any(repeats(shown.text, one) for one in prompts) else shown.text


@dataclass(frozen=True)
class Visit:
    """What a report is made of.

    Attributes:
        session: The visitor's.
        hidden: What is left out.
        layers: What trial edits of the model achieve at each layer, if it is calibrated.
    """

    session: Session
    hidden: Hidden = Hidden()
    layers: Layers | None = None


Reporter = Callable[[Visit], list[Part]]
"""Turns what a visit holds of one step into parts; none where it holds nothing."""


def redacted(text: str) -> str:
    """Return what stands in a text's place: how many words it had."""
    count = len(text.split())
    return f"[redacted, {count} word{'' if count == 1 else 's'}]" if count else text


def repeats(text: str, other: str, words: int = REPEATED) -> bool:
    """Tell whether a text has some words of another one, in the same order."""
    own, theirs = (re.findall(r"\w+", one.lower()) for one in (text, other))
    count = min(words, len(theirs))
    runs = {tuple(theirs[start : start + count]) for start in range(len(theirs) - count + 1)}
    return count > 0 and any(tuple(own[start : start + count]) in runs for start in range(len(own) - count + 1))


def plain(html: str) -> str:
    """Return what a reader sees of some HTML that the program wrote, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
