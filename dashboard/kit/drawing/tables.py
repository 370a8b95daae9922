"""Tables as files to take along: CSV of which a spreadsheet runs no cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV; a text that a spreadsheet would run as a formula begins with a quote.

    Args:
        head: Names of the columns.
        rows: The cells, line by line.
    """
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(head)
    table.writerows([_harmless(cell) for cell in row] for row in rows)
    return written.getvalue()


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
