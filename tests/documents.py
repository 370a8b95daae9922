"""What the tests of the documents share: their texts, and their blocks and commands, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

README, PROGRAMS, BENCHMARKS = (
    Path(name).read_text(encoding="utf-8") for name in ("README.md", "PROGRAMS.md", "benchmarks/README.md")
)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def _lines(text: str) -> list[list[str]]:
    """Return the lines of the shell's blocks, but of those with curl, as words without a comment."""
    whole = [block.replace("\\\n", " ") for block in blocks(text, "sh") if "curl" not in block]
    return [shlex.split(line, comments=True) for block in whole for line in block.splitlines()]


def variables(text: str) -> dict[str, str]:
    """Return the variables of the environment that stand before this project's programs."""
    words = [word for line in _lines(text) for word in line if re.match(r"[A-Z_]+=", word)]
    return dict(word.split("=", 1) for word in words)


def commands(text: str) -> list[list[str]]:
    """Return the commands that start this project's programs, without the variables before them."""
    plain = [line[next((at for at, word in enumerate(line) if "=" not in word), 0) :] for line in _lines(text) if line]
    return [line for line in plain if line[0] in (".venv/bin/python", "python", "make")]
