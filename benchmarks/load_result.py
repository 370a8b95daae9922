"""What a load gives: rounds that were played, how they compare with those played alone, and the file of it."""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load_visitor import place_of
from inspector.command import say
from inspector.model.whole_file import write_whole

EVERY = 15.0
"""Seconds between two words on how far it is, and between two writings of the result."""

WRONG = ("other than alone", "wrong badges", "errors", "errors in the warm-up", "defects", "not settled")
"""What must be empty in a result."""
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-f]{8,}\b")
_PATH = re.compile(r"(?:/[\w.+-]+){2,}")


@dataclass
class Played:
    """One round of one visitor: what it was, what each action gave, what went wrong, seconds by kind."""

    visitor: int
    number: int
    gave: list[tuple[str, Any]] = field(default_factory=list)
    interrupted: str = ""
    errors: list[str] = field(default_factory=list)
    badges: list[str] = field(default_factory=list)
    seconds: list[tuple[str, float, float]] = field(default_factory=list)


def compare(first: Sequence[Played], alone: Sequence[Played]) -> list[str]:
    """Return where a round gave something else among others than alone; what came before an interruption counts."""
    wrong = []
    for one, other in zip(first, alone, strict=True):
        for place, (told, again) in enumerate(zip(one.gave, other.gave, strict=False)):
            if told != again:
                wrong.append(f"visitor {one.visitor}, round {one.number}, action {place}: {told[0]}")
    return wrong


def counted(first: Sequence[Played], alone: Sequence[Played]) -> float:
    """Return the seconds that what was done among others takes alone, one after the other."""
    pairs = zip(first, alone, strict=True)
    return sum(whole for one, other in pairs for _, _, whole in other.seconds[: len(one.gave)])


def waits(played: Sequence[Played]) -> dict[str, dict[str, float]]:
    """Return by kind of work how many there were, and the median and worst seconds to the first word and to the end."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for one in played:
        for kind, first, whole in one.seconds:
            kinds.setdefault(kind, []).append((first, whole))
    return {
        kind: {
            "count": len(times),
            "first word, median s": round(statistics.median(first for first, _ in times), 2),
            "first word, worst s": round(max(first for first, _ in times), 2),
            "end, median s": round(statistics.median(whole for _, whole in times), 2),
            "end, worst s": round(max(whole for _, whole in times), 2),
        }
        for kind, times in sorted(kinds.items())
    }


def kinds_of(errors: Iterable[str]) -> dict[str, int]:
    """Count errors by kind: numbers of errors, hashes and paths, which are others each time, tell none."""
    plain = (_PATH.sub("PATH", _NUMBER.sub("NUMBER", said)) for said in errors)
    return dict(sorted(Counter(plain).items()))


def defects_in(told: Mapping[str, int]) -> dict[str, int]:
    """Return what the operator was told that must not be: errors of the program, visitors who lost what they had.

    Args:
        told: By kind. A session that was not used for its time is one that was let go as it should be.
    """
    lost = {said for said in told if said.startswith("lost session:") and "not used for" not in said}
    return {said: count for said, count in told.items() if said.startswith("defect:") or said in lost}


def report(first: Sequence[Played], took: float, alone: Sequence[Played], seconds: float) -> dict[str, Any]:
    """Return what is to be committed of a load."""
    done = sum(len(one.gave) for one in first)
    different = list({id(one): one for one in alone}.values())  # several visitors have played the same one
    return {
        "visitors": len({one.visitor for one in first}),
        "rounds": len(first),
        "actions done": done,
        "seconds together": round(took, 1),
        "seconds of the same actions alone": round(seconds, 1),
        "throughput": round(seconds / took, 3) if took else 0.0,
        "interrupted": dict(Counter(one.interrupted for one in first if one.interrupted)),
        "other than alone": compare(first, alone) if alone else [],
        "wrong badges": [said for one in (*first, *different) for said in one.badges],
        "errors": kinds_of(said for one in (*first, *different) for said in one.errors),
        "waits": waits(first),
        "alone": waits(different),
    }


def wrong_in(result: Mapping[str, Any]) -> list[str]:
    """Return what must be empty in a result and is not; a result of no action at all shows nothing."""
    return [name for name in WRONG if result.get(name)] + ["nothing was done"] * (result.get("actions done") == 0)


@dataclass
class Kept:
    """What is known of a load while it is measured; written as it goes.

    Attributes:
        out: The result's file.
        command: What was asked.
        result: What is known.
    """

    out: Path
    command: str
    result: dict[str, Any] = field(default_factory=dict)

    def say(self, words: str, **known: Any) -> None:
        """Say how far it is, and write what is known."""
        say(words)
        self.result |= known
        write_whole(self.out, json.dumps({"complete": False, "now": words, **self.result}, indent=1) + "\n")

    def so_far(self, played: Sequence[Played], began: float) -> None:
        """Say and write what visitors have done together."""
        first = list(played)
        told = report(first, time.monotonic() - began, [], 0.0)
        told |= {"throughput": None, "seconds of the same actions alone": None, "other than alone": None}
        done, wrong = told["actions done"], len(told["wrong badges"]) + sum(told["errors"].values())
        seconds = told["seconds together"]
        self.say(f"{seconds:.0f} s together: {len(first)} rounds have ended, {done} actions, {wrong} wrong", **told)

    def alone(self, first: Sequence[Played], known: Mapping[int, Played], of: int) -> None:
        """Say and write what the rounds that were played alone say of those that were played together."""
        compared = [one for one in first if place_of(one.visitor, one.number) in known]
        alone = [known[place_of(one.visitor, one.number)] for one in compared]
        wrong = compare(compared, alone)
        self.say(
            f"{len(known)} of {of} rounds played alone: {len(wrong)} actions of others differ",
            **{"other than alone": wrong, "alone": waits(list(known.values()))},
        )


@contextmanager
def telling(kept: Kept, played: Sequence[Played], every: float = EVERY) -> Iterator[None]:
    """Say and write every few seconds what has been played."""
    ended, began = threading.Event(), time.monotonic()

    def look() -> None:
        while not ended.wait(every):
            kept.so_far(played, began)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
