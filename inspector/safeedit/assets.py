"""The bundled texts in ``assets/cases``, and the one way to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inspector.errors import CaseError

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "cases"


def read_asset(name: str) -> Any:
    """Return what a bundled JSON file holds, as it stands there.

    Args:
        name: Its name within :data:`ASSETS`, for example ``cases.json``.

    Raises:
        CaseError: It is missing, unreadable or no JSON.
    """
    path = ASSETS / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(
            f"The bundled file {name} cannot be read. Restore it from the repository.", f"{path}: {error}"
        ) from error
