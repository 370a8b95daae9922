"""Labelled texts that a toxicity probe learns from: the bundled ones, a CSV file, or a dataset of the hub."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from inspector.errors import CaseError
from inspector.safeedit.assets import read_asset

BUNDLED = "bundled"
_TEXT_COLUMNS = ("comment_text", "text", "comment")
_LABEL_COLUMNS = ("toxic", "toxicity", "label", "labels")


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels.

    Attributes:
        name: Where they come from.
        texts: The texts.
        toxic: Whether each is toxic.
        groups: Texts of one group (a toxic text and its neutral twin) are held out together.
    """

    name: str
    texts: tuple[str, ...]
    toxic: tuple[bool, ...]
    groups: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the content."""
        return hashlib.sha256(json.dumps([self.texts, self.toxic]).encode()).hexdigest()[:12]


@cache
def bundled_texts() -> Labelled:
    """Return the bundled texts: mild toxic sentences, each with a neutral twin of the same topic and length."""
    pairs = read_asset("toxicity.json")["pairs"]
    texts = tuple(text for pair in pairs for text in (pair["toxic"], pair["neutral"]))
    return Labelled(BUNDLED, texts, (True, False) * len(pairs), tuple(n // 2 for n in range(len(texts))))


def labelled_texts(source: str = BUNDLED, limit: int = 2000, split: str = "train") -> Labelled:
    """Return labelled texts: the bundled ones, a CSV file, or a dataset of the hub.

    Args:
        source: ``bundled``, the path of a CSV file (Jigsaw's ``train.csv`` fits), or a hub id that the user may read.
        limit: Most texts, half of them toxic.
        split: Split of a hub dataset.

    Raises:
        CaseError: It cannot be read, lacks a column of texts or of labels, or has one class only.
    """
    if source == BUNDLED:
        return bundled_texts()
    rows = _csv_rows(Path(source)) if source.endswith(".csv") else _hub_rows(source, split)
    chosen: dict[bool, list[str]] = {True: [], False: []}
    for number, row in enumerate(rows):
        if number == 0:
            text_column = _column(row, _TEXT_COLUMNS, source)
            label_column = _column(row, _LABEL_COLUMNS, source)
        text = str(row[text_column] or "").strip()
        try:
            label = float(row[label_column]) >= 0.5
        except (TypeError, ValueError):
            raise CaseError(f"Row {number + 1} of {source} has no number in '{label_column}'. Mend the file.") from None
        if text and len(chosen[label]) < limit // 2:
            chosen[label].append(text)
        if all(len(texts) >= limit // 2 for texts in chosen.values()):
            break
    few = min(map(len, chosen.values()))
    if few < 10:
        raise CaseError(f"{source} has only {few} texts of one class; 10 of each are needed. Take another source.")
    texts = (*chosen[True][:few], *chosen[False][:few])
    return Labelled(source, texts, (True,) * few + (False,) * few, tuple(range(len(texts))))


def _column(row: dict[str, Any], names: Sequence[str], source: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise CaseError(f"{source} has none of the columns {', '.join(names)}. Rename one in a copy of the file.")
    return found


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError("The CSV file cannot be read. Give a CSV file in UTF-8.", f"{path}: {error}") from error


def _hub_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split)
    except Exception as error:  # the hub's and the loader's errors are of many kinds
        raise CaseError(
            f"The dataset {name} cannot be loaded. Check its name, your access ('hf auth login'), or give a CSV file.",
            f"{type(error).__name__}: {error}",
        ) from error
