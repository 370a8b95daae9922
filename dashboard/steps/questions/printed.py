"""How committed results are printed: tables in columns, means with 95 % intervals. What is not there is an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
INTERVAL = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"


@dataclass(frozen=True)
class Measured:
    """A mean with its 95 % interval, where one was printed.

    Attributes:
        mean: The number.
        low: Lower end.
        high: Upper end.
        forced: It is so by construction.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    forced: bool = False


Table = dict[str, dict[str, Measured]]
"""Lines by name, each with its columns by name."""


def table(text: str, first: str, after: str = "") -> Table:
    """Read a table whose cells are ``mean [low, high]``.

    Args:
        first: Its first head, or how its head line begins.
        after: What stands somewhere above it.

    Raises:
        ValueError: There is none.
    """
    lines = text[text.index(after) :].splitlines()
    head = re.compile(rf"(^|\s\s){re.escape(first)}(\s\s|$)")
    start = next((n for n, line in enumerate(lines) if head.search(line)), None)
    if start is None:
        raise ValueError(f"no table that begins with {first}")
    heads = cut(lines[start])
    before = heads.index(first) if lines[start].startswith(" ") and first in heads else 0  # columns left of it
    heads = heads[heads.index(first) :] if first in heads and first != "regret" else heads[1:]
    found: Table = {}
    cell = rf"({NUMBER})(?: ?\[({NUMBER}), ({NUMBER})\])?(?: \(\d+\))?(\*?)"
    for line in lines[start + 1 :]:
        named = re.match(r"(\S.*?)(?=\s{2,}-?\d)", line)
        if named is None:
            break
        cells = re.findall(cell, line[named.end() :])[before:]
        if len(cells) > len(heads):
            break
        found[named[1]] = {
            head: Measured(_float(mean), _float(low), _float(high), bool(star))
            for head, (mean, low, high, star) in zip(heads, cells, strict=False)  # vanilla took no time
        }
    if not found:
        raise ValueError(f"no table that begins with {first}")
    return found


def found_in(pattern: str, text: str) -> re.Match[str]:
    """Return what a pattern finds in a result.

    Raises:
        ValueError: It finds nothing.
    """
    found = re.search(pattern, text)
    if found is None:
        raise ValueError("the result looks otherwise than it did")
    return found


def interval(cells: Sequence[str]) -> Measured:
    """Return a mean with its interval from three printed numbers."""
    mean, low, high = map(float, cells)
    return Measured(mean, low, high)


def cut(line: str) -> list[str]:
    """Return the cells of a line: between them stand two spaces or more."""
    return re.split(r"\s{2,}", line.strip())


def _float(text: str) -> Any:
    return float(text.replace(",", "")) if text else None


def assert_found(*found: Any) -> None:
    """Check that all parts of a result were found.

    Raises:
        ValueError: One was not.
    """
    if not all(found):
        raise ValueError("the result looks otherwise than it did")


def cell_of(text: str) -> Measured | None:
    """Read a mean with its interval, where it has one; ``None`` for nothing measured."""
    if text == "-":
        return None
    found = found_in(rf"\A({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])?\Z", text)
    return Measured(_float(found[1]), _float(found[2]), _float(found[3]))
