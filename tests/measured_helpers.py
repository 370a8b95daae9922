"""What the tests of the documents' numbers share: how a number is read and rounded, and what results hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from dashboard.steps.questions import results

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)")
WORDS = dict(
    enumerate(
        [
            "no",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
        ]
    )
)
SETS = {"AdvBench": "AdvBench", "HarmBench": "HarmBench (standard)", "Do-Not-Answer": "Do-Not-Answer"}
"""Other packages' sets as a document calls them, and as the calibration does."""


def numbers(text: str) -> list[str]:
    """Return the numbers of a text as they stand there; digits within a name or a version are none."""
    return NUMBER.findall(text)


def rounded(value: float | str, digits: int = 0) -> str:
    """Return a number as people round it: halves go up."""
    return f"{Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def result(name: str) -> str:
    """Return the text of a committed result."""
    text = results.text_of(name)
    assert text is not None, f"benchmarks/results/{name} is gone"
    return text


def table(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first line begins so, as cells."""
    lines = text[text.index(f"\n{head}") + 1 :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def said(text: str, phrases: Sequence[str]) -> None:
    """Check that a text says these things in this order, and no number that is in none of them."""
    place = 0
    for phrase in phrases:
        assert phrase in text[place:], f"{phrase!r} is measured, and stands not there: {text}"
        place = text.index(phrase, place) + len(phrase)
    measured = [number for phrase in phrases for number in numbers(phrase)]
    assert numbers(text) == measured, f"of the numbers {numbers(text)} these are measured, {measured}: {text}"


def detected(name: str, kind: str) -> tuple[str, str]:
    """Return the percentage of a kind of prompts at which the detector fires, with the suffix, and their number."""
    text = result(name)
    found = re.search(
        rf"^ +{re.escape(kind).replace(chr(92) + ' ', ' +')} +([\d.]+) %  \(.*n = (\d+)",
        text[text.index("with the suffix") :],
        re.MULTILINE,
    )
    assert found is not None, (name, kind)
    return found[1], found[2]


def area(name: str) -> str:
    """Return the detector's area under the ROC curve with the suffix, from the result of a calibration."""
    found = re.search(r"with the suffix: area under the ROC curve ([\d.]+)", result(name))
    assert found is not None
    return rounded(found[1], 3)


def own_counts() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return how many of how many fire, bare, in attacks, harmless, those in attacks: the detector alone, and both."""
    alone, both = (
        [(int(fired), int(asked)) for fired, asked in re.findall(r"\((\d+) of (\d+)\)", line)]
        for line in result("own_question.txt").splitlines()
        if line.startswith(("the detector alone", "and the case's question"))
    )
    return alone, both


def packaged() -> dict[str, Any]:
    """Return the result on other packages' texts, whose sets stand in the order in which the documents name them."""
    found = json.loads(result("packaged.json"))
    assert [one["title"].partition(" (")[0] for one in found["sets"].values()] == [
        "HarmBench",
        "Do-Not-Answer",
        "AdvBench",
    ]
    return dict(found)


def three(weights: str) -> str:
    """Return the percentages of those sets that some weights defend, as a sentence says them."""
    values = [rounded(one["defended"][weights]["value"]) for one in packaged()["sets"].values()]
    return f"{values[0]}, {values[1]} and {values[2]} %"


def each_way(source: str, score: str, digits: int = 0) -> str:
    """Return a score on a source's texts of the vanilla weights and of both edits, as a sentence says them."""
    found = packaged()["kept"][source][score]
    values = [rounded(found[weights]["value"], digits) for weights in ("vanilla", "edited", "routed")]
    return f"{values[0]}, {values[1]} and {values[2]} %"


def faster(at_once: int) -> str:
    """Return how many times less time a prompt takes in batches of a size."""
    found = re.search(rf"^{at_once} at a time +[\d.]+ +([\d.]+) ", result("scoring_speed.txt"), re.MULTILINE)
    assert found is not None
    return rounded(found[1], 1)


def timed_settings() -> set[tuple[str, int]]:
    """Return the presets and numbers of updates of the edits that the benchmarks of speed time, from their code."""
    found = set()
    for name in ("gpu", "edit_speed", "limits"):
        text = Path("benchmarks", f"{name}.py").read_text(encoding="utf-8")
        (chosen,) = re.findall(r'preset\("(\w+)", steps=[\w.]+, watch_unsafe=False\)', text)
        steps = re.search(r'"--steps", type=int, default=(\d+)|^STEPS = (\d+)$', text, re.MULTILINE)
        assert steps is not None, name
        found.add((chosen, int(steps[1] or steps[2])))
    return found


def limits_of_edits() -> dict[str, tuple[str, str]]:
    """Return how many times an edit takes less time than the plain way, and its share of the machine's rate."""
    lines = re.findall(
        r"^edit +layer (\d+) of \S+ +[\d.]+ +[\d.]+ +([\d.]+) +(\d+)%", result("limits.txt"), re.MULTILINE
    )
    return {block: (rounded(times, 1), share) for block, times, share in lines}
