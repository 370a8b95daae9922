"""Folders of finished cases: a benchmark goes on in its own, never in one of other settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sized
from pathlib import Path
from typing import Any

from inspector.errors import EditError


def require_same(folder: Path, told: str, cases: str) -> None:
    """Refuse to go on in a folder of other settings: its finished cases would be printed as these.

    Args:
        folder: Made where it is not there.
        told: What the run is made with, as text.
        cases: Pattern of the files of finished cases.

    Raises:
        EditError: The folder holds cases of other settings, or cases without settings.
    """
    path = folder / "settings.json"
    begun = any(file != path for file in folder.glob(cases))
    if path.read_text(encoding="utf-8") != told if path.is_file() else begun:
        raise EditError(
            f"{folder} holds cases of other settings, another model or another detector. Give another --out, or delete "
            "it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(told, encoding="utf-8")


def keep(path: Path, record: Any) -> None:
    """Write a finished case as JSON, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(path)


def warn_of_fewer(cases: Sized, asked: int) -> bool:
    """Say on the error stream where fewer cases are left than were asked for; tells whether there are."""
    if fewer := len(cases) < asked:
        said = f"Only {len(cases)} of the {asked} cases asked for are left beside those that chose the layer."
        print(said, file=sys.stderr, flush=True)
    return fewer
