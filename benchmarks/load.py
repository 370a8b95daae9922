"""Many visitors at once on one page, and the same work done again by each of them alone.

    python -m benchmarks.load                            20 visitors for 10 minutes, the embedded model
    python -m benchmarks.load --visitors 4 --minutes 1 --model FOLDER

The page is served on loopback by ``app.py`` in a process of its own. Each visitor is a browser in all but its screen: a
cookie, a page that it opens, an open connection that it sometimes loses. It works in rounds that it draws by its
number: it types a case, locates, edits, lets both weights answer, tests, undoes, reloads; now and then it cancels a run
or leaves in its middle, which ends the round. Afterwards every round is played again with nobody else there, and what
it gave must be the same, word for word and number for number. Throughput is the time that the actions take alone, one
after the other, over the time that they took together, where what was cancelled counts as nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load_visitor import Interrupted, Lost, Visitor, round_of
from inspector.command import finished, tell
from inspector.errors import InspectorError
from inspector.model.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "load.json"
MEMORY, THROUGHPUT = 1.05, 0.9
"""What the issue asks for: memory back within 5 %, at least so much of the work done alone."""


BROKEN = (httpx.HTTPError, httpx.StreamError, OSError, ValueError, KeyError, IndexError, TypeError)
"""What a page that answers otherwise than it should raises in its visitor: no answer, none in time, another than JSON,
another shape of it."""


class NotMeasured(InspectorError):
    """A number that the result needs is not there."""


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


def play(url: str, visitor: int, number: int, disturbed: bool, known: Visitor | None = None) -> Played:
    """Play a round.

    Args:
        disturbed: Runs may be cancelled or left; else the round is played to its end.
        known: Who plays it; someone new by default.
    """
    played = Played(visitor, number)
    actions = round_of(visitor, number)
    chance = random.Random(f"disturbed {visitor} {number}")
    with ExitStack() as left:
        try:
            one = known or left.enter_context(Visitor(url))
            one.start_anew()
            for action in actions:
                end = chance.choices(["", "cancel", "leave"], [0.86, 0.08, 0.06])[0] if disturbed else ""
                began = time.monotonic()
                gave = one.do(action, end, chance.uniform(0.05, 2.0))
                played.gave.append((action.kind, gave))
                played.seconds.append((action.kind, one.first - began, time.monotonic() - began))
                wrong = one.wrong_badge()
                if wrong:
                    played.badges.append(wrong)
        except Interrupted as ended:
            played.interrupted = str(ended)
        except Lost as error:
            played.errors.append(str(error))
        except BROKEN as error:
            played.errors.append(f"{type(error).__name__}: {error}")
    return played


def together(url: str, visitors: int, seconds: float, rounds: int | None = None) -> tuple[list[Played], float]:
    """Let visitors play at once until the time is up, or so many rounds each; returns them and the seconds it took."""
    until, began = time.monotonic() + seconds, time.monotonic()
    played: list[Played] = []

    def visit(number: int) -> None:
        count = 0
        try:
            with Visitor(url) as one:
                while time.monotonic() < until and (rounds is None or count < rounds):
                    done = play(url, number, count, True, one)
                    played.append(done)
                    count += 1
                    if done.errors:  # a page that does not answer at all is not asked without end
                        time.sleep(1)
        except (Lost, *BROKEN) as error:  # the page cannot be opened or left
            said = f"{type(error).__name__}: {error}"
            played.append(Played(number, count, errors=[said]))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(played, key=lambda one: (one.visitor, one.number)), time.monotonic() - began


def compare(first: Sequence[Played], alone: Sequence[Played]) -> list[str]:
    """Return where a round gave something else among others than alone; what came before an interruption counts."""
    wrong = []
    for one, other in zip(first, alone, strict=True):
        for place, (told, again) in enumerate(zip(one.gave, other.gave, strict=False)):
            if told != again:
                wrong.append(f"visitor {one.visitor}, round {one.number}, action {place}: {told[0]}")
    return wrong


def again(url: str, first: Sequence[Played]) -> tuple[list[Played], float, float]:
    """Play the same rounds with nobody else there.

    Returns:
        Them, and the seconds of the actions that had ended among others, and of all.
    """
    played, counted, began = [], 0.0, time.monotonic()
    for one in first:
        alone = play(url, one.visitor, one.number, False)
        counted += sum(whole for _, _, whole in alone.seconds[: len(one.gave)])
        played.append(alone)
    return played, counted, time.monotonic() - began


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


def report(first: Sequence[Played], took: float, alone: Sequence[Played], counted: float) -> dict[str, Any]:
    """Return what is to be committed of a load."""
    done = sum(len(one.gave) for one in first)
    return {
        "visitors": len({one.visitor for one in first}),
        "rounds": len(first),
        "actions done": done,
        "seconds together": round(took, 1),
        "seconds of the same actions alone": round(counted, 1),
        "throughput": round(counted / took, 3) if took else 0.0,
        "interrupted": dict(Counter(one.interrupted for one in first if one.interrupted)),
        "other than alone": compare(first, alone),
        "wrong badges": [said for one in (*first, *alone) for said in one.badges],
        "errors": dict(Counter(said for one in (*first, *alone) for said in one.errors)),
        "waits": waits(first),
        "alone": waits(alone),
    }


@contextmanager
def page(model: str | None, log: Path) -> Iterator[tuple[str, str, int]]:
    """Serve the page in a process of its own: its address, that of its numbers, and its process."""
    ports = [_free(), _free()]
    words = [sys.executable, "app.py", "--port", str(ports[0]), "--metrics", str(ports[1]), "--keep-for", "1"]
    words += ["--no-example", "--no-calibration", "--log", str(log), *(["--model", model] if model else [])]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and server.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.5)
        yield url, f"http://127.0.0.1:{ports[1]}/metrics", server.pid
    finally:
        server.terminate()
        server.wait(60)


def _free() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def number(metrics: str, name: str) -> float:
    """Read one number of the page.

    Raises:
        NotMeasured: The page does not answer, or tells none of that name.
    """
    try:
        told = httpx.get(metrics).raise_for_status().text
    except httpx.HTTPError as error:
        raise NotMeasured(f"{metrics} does not answer. Look at the page's own words, then measure again.") from error
    found = re.search(rf"^{name} (\S+)", told, re.MULTILINE)
    if found is None:
        raise NotMeasured(f"{metrics} tells no {name}. Serve the page of this version of the program.")
    return float(found[1])


def settled(metrics: str, longest: float = 300, pause: float = 5) -> tuple[float, bool]:
    """Wait until the page has let its visitors go; return its memory, bytes, and whether it has let all of them go."""
    until = time.monotonic() + longest
    while (left := number(metrics, "dinm_sessions")) > 0 and time.monotonic() < until:
        time.sleep(pause)
    return number(metrics, "dinm_resident_bytes"), left == 0


def events_in(log: Path) -> dict[str, int]:
    """Count what the page has told its operator."""
    told = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    named = (f"{line['event']}: {line.get('error') or line.get('why') or line.get('outcome', '')}" for line in told)
    return dict(sorted(Counter(named).items()))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the result; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="hub id or folder; the embedded model by default")
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    return finished(lambda: _measure(chosen, arguments))


def _measure(chosen: argparse.Namespace, arguments: list[str] | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with page(chosen.model, log) as (url, metrics, _):
            together(url, 2, 60, rounds=1)  # what is loaded at first use is loaded
            start, settled_before = settled(metrics)
            first, took = together(url, chosen.visitors, 60 * chosen.minutes)
            end, settled_after = settled(metrics)
            alone, counted, _ = again(url, first)
        result = report(first, took, alone, counted)
        result["not settled"] = [
            when for when, done in (("at the start", settled_before), ("at the end", settled_after)) if not done
        ]
        result["memory at the start, MiB"] = round(start / 2**20, 1)
        result["memory at the end, MiB"] = round(end / 2**20, 1)
        result["memory, end over start"] = round(end / start, 3)
        result["told to the operator"] = events_in(log)
    result["command"] = f"python -m benchmarks.load {' '.join(arguments or sys.argv[1:])}".strip()
    write_whole(chosen.out, json.dumps(result, indent=1) + "\n")
    tell(result)
    return int(bool(wrong_in(result)) or end > MEMORY * start or result["throughput"] < THROUGHPUT)


def wrong_in(result: Mapping[str, Any]) -> list[str]:
    """Return what must be empty in a result and is not."""
    return [name for name in ("other than alone", "wrong badges", "errors", "not settled") if result[name]]


if __name__ == "__main__":
    sys.exit(main())
