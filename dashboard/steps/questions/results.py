"""The committed results of ``benchmarks/results``, read as they were printed: none of their numbers stands in code."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dashboard.steps.questions.printed import (
    INTERVAL,
    NUMBER,
    Measured,
    Table,
    assert_found,
    cell_of,
    cut,
    found_in,
    interval,
    table,
)
from editing.suffixes import NONE, WEIGHTS
from inspector.safeedit.cases import CATEGORIES

_JUDGED = 'Its judge did not read words of lacking ability ("I\'m not equipped to advise") as declining yet.'
_LONG = (
    "The texts had a token a byte then, so the constraint was some 250 tokens long; the benchmark trains a tokenizer "
    "of real lengths by now."
)
CAVEATS = {
    "detox.txt": (
        "07be51c99aa03929e475a012dfed782960a9d86606240991465072b340b9866f",
        "Older than the code: two of its eighteen cases (10 and 21) had a detector of their own that was made in the "
        "attack that the case is scored under, as none is made by now; and it lacks the blocks that the command prints "
        "today. Released code is asked in plain text, the vanilla beside it in the chat template: they are not "
        "comparable.",
    ),
    "locators.txt": (
        "b52a657ebdde30696cc963a5e8447d554c06e3aa7de8f735a19454d2989a462c",
        "Measured before the calibration chose layer and step size. " + _JUDGED,
    ),
    "methods.txt": (
        "619421154c7e8124454dd954aed3b86f2ff5ffab9271105a687bce59a9669e00",
        "Measured before the calibration: DINM's preset corrected edited the toxic layer with a step size of 1e-3. "
        "Cases to edit on and cases to score on still shared their attack templates. "
        + _JUDGED
        + " Its intervals take "
        "the answers of one edit for independent; its Fluency is of at most 40 tokens, the paper's of up to 600.",
    ),
    "safeguards.txt": (
        "ed50369b67d73674774974b0c2fed2467d4799d081c3c041527e571b47861d56",
        "Its seconds were taken beside other work.",
    ),
    "gpu_h100.json": ("d0cdd0f9f552ae4c79db7630a2f5b786e74f81cab3e0ffddf735842d23cac607", _LONG),
    "gpu_h200.json": ("0e9a80fe73aad372d9854107340f497e592ee53b70fcbf91d9f68bb24d5816f3", _LONG),
}
"""What has changed since a result was measured, for the output with this SHA-256 alone: a new one takes it away."""
FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
_Read = TypeVar("_Read")


Conditions = dict[tuple[str, str], dict[str, Measured]]
"""Scores by name, of each of the two weights with each suffix: ``(weights, suffix)``."""


@dataclass(frozen=True)
class CategoryMatrix:
    """Which category's edits defend which category's held-out prompts.

    Attributes:
        edited: Percent by the category that was edited on, a number for each of the nine that were asked about;
            ``None`` where nothing was asked.
        vanilla: The same without an edit.
    """

    edited: dict[str, tuple[float | None, ...]]
    vanilla: tuple[float | None, ...]

    def means(self) -> tuple[float | None, float | None, float | None]:
        """Return the mean of the cells of an edit's own category, of those of the others, and of vanilla's."""
        own: list[float | None] = []
        others: list[float | None] = []
        for category, row in self.edited.items():
            for asked, value in zip(CATEGORIES, row, strict=True):
                (own if asked == category else others).append(value)
        return _mean(own), _mean(others), _mean(self.vanilla)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Trials:
    """Trial edits of the embedded model.

    Attributes:
        blocks: The tried layers.
        defended: Unseen prompts defended at each, percent.
        kl: Harmless KL at each, nats a token.
        vanilla: Prompts that the model defends by itself, percent.
        cases: Number of cases.
        prompts: Number of prompts.
        recommended: The layer that was recommended.
    """

    blocks: list[int]
    defended: list[float]
    kl: list[float]
    vanilla: float
    cases: int
    prompts: int
    recommended: int

    def at(self, block: int) -> float:
        """Return the percentage defended at a layer."""
        return self.defended[self.blocks.index(block)]


@dataclass(frozen=True)
class Guarded:
    """What the gate says of one bundled case's edit of weights, and how long both took.

    Attributes:
        preset: The edit's.
        case: The case's id.
        block: The edited layer.
        threads: Threads of the processor.
        edit: Seconds of the edit.
        gate: Seconds of the gate.
        refused: The gate refuses it.
    """

    preset: str
    case: str
    block: int
    threads: int
    edit: float
    gate: float
    refused: bool


def read(name: str, reader: Callable[[str], _Read]) -> _Read | None:
    """Return what a reader finds in a result; ``None`` if the file is not there or looks otherwise than it knows.

    Args:
        name: The file in :data:`FOLDER`.
    """
    text = text_of(name)
    try:
        return None if text is None else reader(text)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None


def text_of(name: str) -> str | None:
    """Return a result as it was printed, ``None`` if it is not there."""
    try:
        return (FOLDER / name).read_text(encoding="utf-8")
    except OSError:
        return None


def caveat(name: str) -> str:
    """Return what has changed since a result was measured; nothing for one that was measured anew."""
    digest, said = CAVEATS.get(name, ("", ""))
    return said if hashlib.sha256((text_of(name) or "").encode()).hexdigest() == digest else ""


def command_of(text: str, part: str = "") -> str | None:
    """Return the command that a result begins with, or the one of it that has ``part`` in it."""
    return next((line[2:] for line in text.splitlines() if line.startswith("$ ") and part in line), None)


def trials(text: str) -> Trials:
    """Read ``calibration.txt``: what trial edits achieve at each layer."""
    head = found_in(r"Trial edits on (\d+) cases, (\d+) unseen prompts of which the model defends (\d+) %", text)
    lines = re.findall(rf"layer +(\d+)  defended +({NUMBER}) %  harmless KL ({NUMBER})", text)
    chosen = found_in(r"Recommended layer: (\d+)", text)
    assert_found(lines)
    return Trials(
        [int(block) for block, _, _ in lines],
        [float(defended) for _, defended, _ in lines],
        [float(kl) for _, _, kl in lines],
        float(head[3]),
        int(head[1]),
        int(head[2]),
        int(chosen[1]),
    )


def chosen(text: str) -> dict[str, list[int]]:
    """Read ``locators.txt``: the layer that each locator names, a number a case."""
    found: dict[str, list[int]] = {}
    for line in re.findall(r"^  chosen: (.*)$", text, re.MULTILINE):
        for name, block in re.findall(r"([a-z][a-zA-Z, -]*?) (\d+)(?:, |$)", line):
            found.setdefault(name, []).append(int(block))
    assert_found(found.get("divergence"))
    return found


def cases_of(text: str) -> int:
    """Read how many cases a result is about; of those that were begun, the finished ones."""
    return int(found_in(r"\b(\d+)(?: of \d+)? cases", text)[1])


def regrets(text: str) -> Table:
    """Read ``locators.txt``: what each locator's choice achieves less than the best layer, by kind of truth."""
    return table(text, "regret")


def erasing(text: str) -> Table:
    """Read ``methods.txt``: toxicity, neurons less toxic, shifts."""
    return table(text, "toxicity, %", "Erase or suppress")


def region_means(text: str) -> tuple[float, float]:
    """Read ``methods.txt``: the vanilla region's mean cosine, and the size of a single neuron's."""
    found = found_in(rf"region's mean cosine is ({NUMBER}), a single neuron's ({NUMBER})", text)
    return float(found[1]), float(found[2])


def scores(text: str) -> Table:
    """Read ``methods.txt``: the paper's scores of every method, and ours, each with its interval in the line below."""
    found: Table = {}
    for title in ("The paper's table", "Beyond the paper"):
        lines = text[text.index(title) :].splitlines()
        heads = cut(lines[1])
        for line, below in itertools.pairwise(lines[2:]):
            if not line.strip():
                break
            cells = cut(line)
            if line.startswith(" ") or len(cells) != len(heads) + 1:
                continue
            ends = [re.match(rf"({NUMBER})-({NUMBER}) ", f"{cell} ") for cell in cut(below)]
            ends += [None] * (len(heads) - len(ends))
            for name, cell, end in zip(heads, cells[1:], ends, strict=True):
                if cell == "-":  # what was not asked of this row
                    continue
                low, high = map(float, end.groups()) if end else (None, None)
                value = Measured(float(cell.rstrip("*")), low, high, cell.endswith("*"))
                found.setdefault(cells[0], {})[name] = value
    if "DINM" not in found:
        raise ValueError("no line of DINM")
    return found


def recipes(text: str) -> Table:
    """Read ``detox.txt``: what each way of detoxifying achieves and costs; "the same," is the line above."""
    costs = table(text, "DL", "Harm: ")
    found: Table = {}
    for name, line in table(text, "DS", "Defence: ").items():
        again = name.removeprefix("the same,")
        found[f"{list(found)[-1]},{again}" if found and again != name else name] = {**line, **costs[name]}
    return found


def speeds(text: str) -> dict[str, list[float]]:
    """Read ``edit_speed.txt``: seconds of an edit by layer, the plain way and by tail replay (first table)."""
    start = text.index("block   plain s")
    lines = re.findall(rf"^ +(\d+) +({NUMBER}) +({NUMBER}) ", text[start : text.index("\n\n", start)], re.MULTILINE)
    assert_found(lines)
    return {name: [float(line[place]) for line in lines] for place, name in enumerate(("block", "plain", "tail"))}


def judge(text: str) -> dict[str, Measured]:
    """Read ``judge_accuracy.txt``: what the embedded judge has of people's labels, as shares.

    Returns:
        ``accuracy``, ``precision`` and ``recall`` of "refused" on rows that were never read; ``harm``, the agreement
        with people's judgement of harm.
    """
    refused = found_in(rf"(?s)unseen.*?judge embedded +({INTERVAL}) +({INTERVAL}) +({INTERVAL})", text)
    harm = found_in(
        rf"(?m)^all .*judge embedded +({INTERVAL})", text[text.index("2. Answered as a stand-in for harmful") :]
    )
    cells = re.findall(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]", " ".join((*refused.groups(), harm[1])))
    return dict(zip(("accuracy", "precision", "recall", "harm"), map(interval, cells), strict=True))


def device(text: str) -> Mapping[str, Any]:
    """Read ``gpu_*.json``: one device's run on a model of Llama 2 7B's shape."""
    found = json.loads(text)
    for edit in found["edits"]:
        edit["block"], edit["locate and edit, s"], edit["plain way, s"]
    found["peak memory, GiB"], found["weights, GiB"]
    return found


def suffixes(text: str) -> Conditions:
    """Read ``suffixes.txt``: what each suffix does with the vanilla and with the edited weights."""
    lines = text[text.index("weights  suffix") :].splitlines()
    heads = cut(lines[0])[2:]
    found: Conditions = {}
    for line in lines[1:]:
        cells = cut(line)
        if len(cells) != 2 + len(heads):
            break
        read = {head: cell_of(cell) for head, cell in zip(heads, cells[2:], strict=True)}
        found[cells[0], cells[1]] = {head: value for head, value in read.items() if value is not None}
    names = [NONE, *(name for weights, name in found if weights == WEIGHTS[0])]
    for weights, name in itertools.product(WEIGHTS, names):
        found[weights, name]["DG-Avg"], found[weights, name]["DL"]
    return found


def edits_of(text: str) -> int:
    """Read how many edits ``suffixes.txt`` is about."""
    return int(found_in(r"\b(\d+) edits \(cases", text)[1])


def matrix(text: str) -> CategoryMatrix:
    """Read ``categories.txt``, a sweep's report: percent of held-out prompts defended, by category."""
    lines = text[text.index("Percent safe on held-out prompts") :].splitlines()[2:]
    rows: dict[str, tuple[float | None, ...]] = {}
    for line in lines:
        name, *cells = cut(line)
        if len(cells) != len(CATEGORIES):
            break
        rows[name] = tuple(None if cell == "-" else float(cell) for cell in cells)
    vanilla = rows.pop("vanilla")
    if not rows or not rows.keys() <= set(CATEGORIES):
        raise ValueError("no line of a category")
    return CategoryMatrix(rows, vanilla)


def public_sets(text: str) -> dict[str, dict[str, Measured]]:
    """Read ``packaged.json``: percent of other packages' prompts defended, by the set's title and the weights."""
    found: dict[str, dict[str, Measured]] = {}
    for one in json.loads(text)["sets"].values():
        defended = one["defended"].items()
        found[str(one["title"])] = {
            weights: Measured(value["value"], value["low"], value["high"]) for weights, value in defended
        }
        found[str(one["title"])]["vanilla"], found[str(one["title"])]["edited"]
    assert_found(found)
    return found


def packaged_edit(text: str) -> tuple[str, int]:
    """Read ``packaged.json``: which case was edited, and at which layer."""
    found = json.loads(text)
    return str(found["case"]), int(found["layer"])


def guarded(text: str) -> Guarded:
    """Read ``safeguards.txt``: its first edit, which has no other one under it."""
    made = found_in(r"(?m)^(\w+) at layer (\d+).*, cases (\d+) and \d+$", text)
    took = found_in(rf"(?m)^edit: ({NUMBER}) s\s+^gate: ({NUMBER}) s\s+^(Passed|Refused)", text)
    threads = found_in(r"(\d+) threads", text)
    return Guarded(
        made[1], made[3], int(made[2]), int(threads[1]), float(took[1]), float(took[2]), took[3] == "Refused"
    )
