"""Reading SafeEdit in all its layouts, from a file, a folder or the hub, and saying what a record cannot serve.

The splits differ: ``val`` and ``test`` are full, ``train`` has no generalization prompts, ``test_ALL`` has neither
answers nor generalization prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import CaseError
from inspector.safeedit.cases import CATEGORIES, Case, bundled_cases

SPLITS = ("train", "val", "test", "test_ALL")
HUB = "zjunlp/SafeEdit"
SERVICES = ("edit", "DS", "onlyQ", "otherA", "otherQ", "otherAQ", "constraint")
"""What a record can serve: being edited on, each score of its own prompts, the knowledge constraint."""
_NEEDS = {
    "edit": "two different answers ('safe generation', 'unsafe generation')",
    "otherA": "'test input of other attack prompt input'",
    "otherQ": "'test input of other question input'",
    "otherAQ": "'test input of other questions and attack prompts'",
    "constraint": "'knowledge constrain'",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_UNREACHED = re.compile(r"connect|proxy|timeout|offline|couldn't reach")
_REFUSED = re.compile(r"gated|\b40[13]\b|authenticated|access to|restricted")
_UNKNOWN = re.compile(r"doesn't exist|not ?found|unable to find")


def serves(case: Case) -> frozenset[str]:
    """Return which of :data:`SERVICES` a case can serve; its question alone always serves DS and onlyQ."""
    able = {"DS", "onlyQ"}
    if case.safe.strip() and case.unsafe.strip() and case.safe.split() != case.unsafe.split():
        able.add("edit")
    prompts = {"otherA": case.other_attack, "otherQ": case.other_question, "otherAQ": case.other_both}
    able |= {name for name, prompt in prompts.items() if prompt}
    return frozenset(able | {"constraint"} if case.constraint else able)


@dataclass(frozen=True)
class CaseSet:
    """Cases that were read together.

    Attributes:
        cases: The cases, in the order of the records.
        source: What was read, for people.
    """

    cases: tuple[Case, ...]
    source: str

    def serving(self, service: str) -> tuple[Case, ...]:
        """Return the cases that can serve one of :data:`SERVICES`."""
        return tuple(case for case in self.cases if service in serves(case))

    def lacking(self) -> dict[str, int]:
        """Return how many cases cannot serve each service, where any cannot."""
        missing = {service: len(self.cases) - len(self.serving(service)) for service in SERVICES}
        return {service: count for service, count in missing.items() if count}

    def notes(self) -> tuple[str, ...]:
        """Return one sentence for each service that some records lack, and one for unknown categories."""
        total = len(self.cases)
        found = [
            f"{service}: {count} of {total} records cannot serve it, they lack {_NEEDS[service]}."
            for service, count in self.lacking().items()
        ]
        unknown = sorted({case.category for case in self.cases} - set(CATEGORIES))
        if unknown:
            found.append(f"Categories that are none of SafeEdit's nine: {', '.join(map(repr, unknown))}.")
        return tuple(found)


def read_cases(source: str | Path = "bundled", split: str = "test") -> CaseSet:
    """Read cases from wherever they are.

    Args:
        source: ``bundled``; a JSON or JSON-lines file; a folder with ``SafeEdit_<split>.json`` files; or a data set on
            the hub, ``zjunlp/SafeEdit``, which is gated and loads with the user's own access.
        split: One of :data:`SPLITS`, for a folder or the hub.

    Raises:
        CaseError: It cannot be had or read; the message names the file, the record and the field.
    """
    if str(source) == "bundled":
        return CaseSet(bundled_cases(), "the bundled cases")
    if split not in SPLITS:
        raise CaseError(f"Unknown split '{split}'. SafeEdit has {', '.join(SPLITS)}.")
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            path = path / f"SafeEdit_{split}.json"
        is_file, has_parent = path.is_file(), path.parent.is_dir() and str(path.parent) != "."
    except (OSError, RuntimeError) as error:  # no permission, too long, or no such home folder
        raise CaseError(f"{source} cannot be looked up ({error}). Check the path.") from None
    if is_file:
        return CaseSet(_cases(_records(path, split), path.name), str(path))
    if has_parent or path.suffix.lower() in (".json", ".jsonl") or not _HUB_NAME.fullmatch(str(source)):
        raise CaseError(f"There is no file {path}. Check the path, or use 'bundled' or the hub's '{HUB}'.")
    return CaseSet(_cases(_from_hub(str(source), split), f"{source}, {split}"), f"{source}, split {split}")


def _cases(records: Sequence[Any], where: str) -> tuple[Case, ...]:
    if not records:
        raise CaseError(f"{where} has no record. Choose another file or split.")
    found = []
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise CaseError(f"{where}, record {number}: it is no object of fields. Mend it or leave the record out.")
        found.append(Case.from_record(record, f"{where}, record {number}"))
    return tuple(found)


def _records(path: Path, split: str) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaseError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise CaseError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        # Not splitlines(): it also parts at signs such as U+2028, which may stand inside a JSON string.
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if path.suffix.lower() == ".jsonl" or (len(lines) > 1 and error.msg == "Extra data"):
            return [_line(line, number, path.name) for number, line in lines]
        raise CaseError(
            f"{path.name} is not JSON (line {error.lineno}: {error.msg}). Download or export it again."
        ) from None
    except RecursionError:
        raise CaseError(f"{path.name} is nested too deeply to be records. Give a list of records.") from None
    if isinstance(content, Mapping):
        if "question" in content:
            return [content]
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        for name in (split, "data", "records", *(lists if len(lists) == 1 else ())):
            if name in lists:
                return lists[name]
    if not isinstance(content, list):
        raise CaseError(f"{path.name} holds no list of records. Give a list, or one object with one list in it.")
    return content


def _line(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise CaseError(f"{name}, line {number} is not JSON ({error.msg}). Mend it or leave the line out.") from None


def _from_hub(name: str, split: str) -> list[Any]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise CaseError("Reading from the hub needs the package datasets. Run 'pip install datasets'.") from None
    # The splits have different fields, so each one's file is read by itself.
    try:
        return list(load_dataset(name, data_files={"train": f"SafeEdit_{split}.json"}, split="train"))
    except Exception as error:  # whatever the transport or the hub's client calls it
        said = f"{type(error).__name__} {error}".lower()
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        # A proxy may say 403 as well, so what was never reached comes first.
        reached = not _UNREACHED.search(said)
        if reached and _REFUSED.search(said):
            raise CaseError(
                f"'{name}' is gated. Ask for access on https://huggingface.co/datasets/{name}, then run 'hf auth "
                "login' and try again."
            ) from error
        if reached and _UNKNOWN.search(said):
            raise CaseError(
                f"The hub has no '{name}' with a file SafeEdit_{split}.json that you may read ({first}). "
                f"Check the name, or use '{HUB}'."
            ) from error
        raise CaseError(
            f"'{name}' cannot be had from the hub ({first}). Check the name and the connection, or give a local file."
        ) from error
