"""One question's panel: what it is made of, and its HTML. Texts of visitors stand in none of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from dashboard.kit.drawing.html import reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import Session
from dashboard.steps.questions import results
from dashboard.steps.questions.printed import Measured

FIRST = "The edit that is to act only where harm is detected, Operate's first where the model has a detector"
"""How a sentence about the routed edit begins."""


@dataclass(frozen=True, eq=False)
class Part:
    """A figure with what is said under it.

    Attributes:
        title: What it shows.
        figure: ``None`` where there is nothing to draw.
        below: Reading, table and source, HTML.
    """

    title: str
    figure: go.Figure | None
    below: str


@dataclass(frozen=True, eq=False)
class Panel:
    """The answer to one question.

    Attributes:
        text: Paragraphs, HTML.
        live: What the visitor's own session says.
        kept: What a committed result says.
        tries: Where one can try it: views by name, each with what to do there.
    """

    text: tuple[str, ...]
    live: Part
    kept: Part
    tries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Held:
    """What the visitor's session holds.

    Attributes:
        session: The session.
        lent: Returns what a step lends under a name, ``None`` where it has measured nothing.
    """

    session: Session
    lent: Callable[[str], Any]

    def part(self, name: str, title: str, otherwise: str) -> Part:
        """Return what a step lends as a part.

        Args:
            name: The offer's.
            title: What it shows.
            otherwise: What to do where nothing was measured.
        """
        found = self.lent(name)
        return nothing(title, otherwise) if found is None else Part(title, found.figure, found.reading)


def nothing(title: str, otherwise: str) -> Part:
    """Return a part that says why it is empty."""
    return Part(title, None, reading(otherwise))


def and_told(part: Part, *sources: str) -> Part:
    """Return a part that also names the sources of what the text beside it tells, HTML of :func:`source`."""
    return replace(part, below=part.below + "".join(sources))


def source(*files: str, command: str = "", part: str = "") -> str:
    """Name the commands that gave results, where the whole output is, and what has changed since it was measured.

    Args:
        files: Names in ``benchmarks/results``; those that one command gave share a line.
        command: Where the files do not name it themselves.
        part: What stands in the command, where a file names several.
    """
    by_command: dict[str, list[str]] = {}
    for name in files:
        by_command.setdefault(results.command_of(results.text_of(name) or "", part) or command, []).append(name)
    lines = []
    for named, names in by_command.items():
        lines += [reading(f"{name}: {said}") for name in names if (said := results.caveat(name))]
        where = ", ".join(f"benchmarks/results/{name}" for name in names)
        lines.append(f'<p class="source"><code>{escape(named)}</code> <span>{escape(where)}</span></p>')
    return "".join(lines)


def unmeasured(what: str, command: str) -> str:
    """Say that something was not measured yet, and by which command it would be."""
    return f'<p class="source">{escape(what)}: not measured yet. <code>{escape(command)}</code></p>'


def as_printed(name: str, what: str, command: str) -> str:
    """Return a result as it was printed, folded; where it is not there, that it was not measured yet."""
    text = results.text_of(name)
    if text is None:
        return unmeasured(what, command)
    return (
        f'<details class="printed"><summary>{escape(what)}: the whole output</summary>'
        f'<pre tabindex="0">{escape(text)}</pre></details>{source(name, command=command)}'
    )


def cases(name: str) -> str:
    """Return how many cases a result is about, as a word at the start of a sentence."""
    found = results.read(name, results.cases_of)
    return "Some" if found is None else str(found)


def percent(value: Measured, digits: int = 0) -> str:
    """Write a percentage with its interval."""
    if value.low is None or value.high is None:
        return f"{value.mean:.{digits}f} %"
    return f"{value.mean:.{digits}f} % ({value.low:.{digits}f} to {value.high:.{digits}f})"


def plain(value: Measured) -> str:
    """Write a number with its interval."""
    if value.low is None or value.high is None:
        return f"{value.mean:g}"
    return f"{value.mean:g} ({value.low + 0.0:g} to {value.high + 0.0:g})"


def said(*sentences: str | None) -> str:
    """Join the sentences that there are; of a result that is not there nothing is said."""
    return " ".join(sentence for sentence in sentences if sentence)
