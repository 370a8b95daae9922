"""Many visitors at once on one page, and the same work done again by each of them alone.

    python -m benchmarks.load                            20 visitors for 10 minutes, the embedded model
    python -m benchmarks.load --visitors 4 --minutes 1 --model FOLDER
    python -m benchmarks.load --model NAME --dtype bfloat16 --device-map auto

The page is served on loopback by ``app.py`` in a process of its own. Each visitor is a browser in all but its screen: a
cookie, a page that it opens, an open connection that it sometimes loses. It works in rounds that it draws by its
number: it types a case, locates, edits, lets both weights answer, tests, undoes, reloads; now and then it cancels a run
or leaves in its middle, which ends the round. When the time is up nobody begins anything more, what still waits for its
first turn is cancelled, and what has begun ends. Afterwards each different round is played with nobody else there, and
what it gave in it must be what it gave each visitor, word for word and number for number. Throughput is the time that
the actions take alone, one after the other, over the time that they took together, where what was cancelled counts as
nothing. What is known so far is written every few seconds: a run that is cut loses no more than that.

What goes on is told on the error stream, the result is printed as JSON and written to --out. Exit codes: 0; 1 where
something was wrong, memory stayed or throughput was too little; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load_result import Kept, Played, counted, defects_in, kinds_of, report, telling, wrong_in
from benchmarks.load_visitor import Interrupted, Lost, Visitor, every_kind, place_of, round_of
from inspector.command import add_model, finished, tell
from inspector.errors import InspectorError
from inspector.model.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "load.json"
MEMORY, THROUGHPUT = 1.05, 0.9
"""What the issue asks for: memory back within 5 %, at least so much of the work done alone."""
DRAIN = 600.0
"""Seconds after the time is up within which what has begun has to end; it is cancelled then."""
UP = "the time was up"

BROKEN = (httpx.HTTPError, httpx.StreamError, OSError, ValueError, KeyError, IndexError, TypeError)
"""What a page that answers otherwise than it should raises in its visitor: no answer, none in time, another than JSON,
another shape of it."""


class NotMeasured(InspectorError):
    """A number that the result needs is not there."""


def disturbances(visitor: int, number: int) -> Iterator[tuple[str, float]]:
    """Yield for each action of a round how it is ended, empty for not, and after how many seconds: always the same."""
    chance = random.Random(f"disturbed {visitor} {number}")
    while True:
        yield chance.choices(["", "cancel", "leave"], [0.86, 0.08, 0.06])[0], chance.uniform(0.05, 2.0)


def play(
    url: str,
    visitor: int,
    number: int,
    disturbed: bool,
    known: Visitor | None = None,
    until: float = math.inf,
    most: int | None = None,
) -> Played:
    """Play a round.

    Args:
        disturbed: Runs may be cancelled or left; else the round is played to its end.
        known: Who plays it; someone new by default.
        until: Nothing begins after this time of the clock: what waits for its first turn is cancelled then, and what
            has begun :data:`DRAIN` seconds later.
        most: Actions that are played; all by default.
    """
    played = Played(visitor, number)
    actions = round_of(visitor, number)[:most]
    ends = disturbances(visitor, number) if disturbed else itertools.repeat(("", 0.0))
    with ExitStack() as left:
        try:
            one = known or left.enter_context(Visitor(url))
            one.start_anew()
            one.stopped = False
            for most_seconds, begun in ((0.0, False), (DRAIN, True)) if until < math.inf else ():
                late = threading.Timer(max(0.0, until + most_seconds - time.monotonic()), _stopped, (one, begun))
                late.daemon = True
                late.start()
                left.callback(late.cancel)
            for action, (end, after) in zip(actions, ends, strict=False):
                if time.monotonic() > until:
                    raise Interrupted(UP)
                began = time.monotonic()
                gave = one.do(action, end, after)
                if one.stopped:
                    raise Interrupted(f"{action.kind}: {UP}")
                played.gave.append((action.kind, gave))
                played.seconds.append((action.kind, one.first - began, time.monotonic() - began))
                wrong = one.wrong_badge()
                if wrong:
                    played.badges.append(wrong)
        except Interrupted as ended:
            played.interrupted = str(ended)
        except (Lost, *BROKEN) as error:
            said = str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
            if time.monotonic() > until and "ancelled" in said:  # what was cancelled in line is told so
                played.interrupted = UP
            else:
                played.errors.append(said)
    return played


def _stopped(visitor: Visitor, begun: bool) -> None:
    """Cancel what a visitor waits for, and with ``begun`` also what has begun."""
    if begun or not visitor.begun:
        visitor.stopped = True
        with suppress(Lost, *BROKEN):
            visitor.stop()


def together(
    url: str, visitors: int, seconds: float, rounds: int | None = None, played: list[Played] | None = None
) -> tuple[list[Played], float]:
    """Let visitors play at once until the time is up, or so many rounds each; returns them and the seconds it took.

    Args:
        played: Filled with the rounds as they end.
    """
    until, began = time.monotonic() + seconds, time.monotonic()
    played = [] if played is None else played

    def visit(number: int) -> None:
        count = 0
        try:
            with Visitor(url) as one:
                while time.monotonic() < until and (rounds is None or count < rounds):
                    done = play(url, number, count, True, one, until)
                    played.append(done)
                    count += 1
                    if done.errors:  # a page that does not answer at all is not asked without end
                        time.sleep(1)
        except Exception as error:  # the page cannot be opened or left, or the visitor is wrong: counted, not lost
            said = f"{type(error).__name__}: {error}"
            played.append(Played(number, count, errors=[said]))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(played, key=lambda one: (one.visitor, one.number)), time.monotonic() - began


def again(
    url: str, first: Sequence[Played], tell: Callable[[dict[int, Played], int], None] = lambda known, of: None
) -> tuple[list[Played], float, float]:
    """Play each different round with nobody else there, as far as anybody came in it.

    Args:
        tell: Called after each with those that are known, by their place, and how many there will be.

    Returns:
        For each of the rounds the one alone, and the seconds of the actions that had ended among others, and of all.
    """
    began, longest = time.monotonic(), dict[int, int]()
    for one in first:
        place = place_of(one.visitor, one.number)
        longest[place] = max(longest.get(place, 0), len(one.gave))
    known: dict[int, Played] = {}
    for one in first:
        place = place_of(one.visitor, one.number)
        if place not in known:
            known[place] = play(url, one.visitor, one.number, False, most=max(1, longest[place]))
            tell(known, len(longest))
    alone = [known[place_of(one.visitor, one.number)] for one in first]
    return alone, counted(first, alone), time.monotonic() - began


@contextmanager
def page(
    model: str | None, log: Path, *more: str, ports: tuple[int, int] | None = None
) -> Iterator[tuple[str, str, int]]:
    """Serve the page in a process of its own: its address, that of its numbers, and its process.

    Args:
        more: Further options of ``app.py``.
        ports: Of both; free ones by default.
    """
    ports = ports or (_free(), _free())
    words = [sys.executable, "app.py", "--port", str(ports[0]), "--metrics", str(ports[1]), "--keep-for", "1"]
    words += ["--no-example", "--no-calibration", "--log", str(log), *(["--model", model] if model else []), *more]
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
    add_model(parser)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    return finished(lambda: _measure(chosen, arguments))


def loaded_as(chosen: argparse.Namespace) -> list[str]:
    """Return the options of ``app.py`` that load the model as was said here; its name is not among them."""
    named = {"--revision": chosen.revision, "--device": chosen.device, "--dtype": chosen.dtype}
    named["--device-map"] = chosen.device_map
    given = [(option, value) for option, value in named.items() if value is not None]
    given += [("--max-memory", entry) for entry in chosen.max_memory] + [("--path", entry) for entry in chosen.path]
    return [word for pair in given for word in pair]


def _measure(chosen: argparse.Namespace, arguments: list[str] | None) -> int:
    kept = Kept(chosen.out, f"python -m benchmarks.load {' '.join(arguments or sys.argv[1:])}".strip())
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        kept.say("The page is started", command=kept.command)
        with page(chosen.model, log, *loaded_as(chosen)) as (url, metrics, _):
            kept.say("Each kind of action and each layer once, so that what is loaded or kept at first use is there")
            warm = [play(url, *one, disturbed=False) for one in every_kind()]
            start, settled_before = settled(metrics)
            kept.say(
                f"{chosen.visitors} visitors for {chosen.minutes:g} minutes",
                **{"memory at the start, MiB": round(start / 2**20, 1)},
            )
            first: list[Played] = []
            with telling(kept, first):
                first, took = together(url, chosen.visitors, 60 * chosen.minutes, played=first)
            kept.say("Waiting until the page has let them go")
            end, settled_after = settled(metrics)
            kept.say(
                f"Memory is {end / start:.3f} of that at the start", **{"memory at the end, MiB": round(end / 2**20, 1)}
            )
            alone, seconds, _ = again(url, first, lambda known, of: kept.alone(first, known, of))
        result = {"complete": True, **report(first, took, alone, seconds)}
        result["not settled"] = [
            when for when, done in (("at the start", settled_before), ("at the end", settled_after)) if not done
        ]
        result["memory at the start, MiB"] = round(start / 2**20, 1)
        result["memory at the end, MiB"] = round(end / 2**20, 1)
        result["memory, end over start"] = round(end / start, 3)
        result["errors in the warm-up"] = kinds_of(said for one in warm for said in one.errors)
        result["told to the operator"] = events_in(log)
        result["defects"] = defects_in(result["told to the operator"])
    result["command"] = kept.command
    write_whole(chosen.out, json.dumps(result, indent=1) + "\n")
    tell(result)
    return int(bool(missed_in(result)))


def missed_in(result: Mapping[str, Any]) -> list[str]:
    """Return what a finished result misses: what must be empty and is not, memory that stays, too little throughput."""
    missed = wrong_in(result)
    missed += ["memory"] * (result["memory, end over start"] > MEMORY)
    return missed + ["throughput"] * (result["throughput"] < THROUGHPUT)


if __name__ == "__main__":
    sys.exit(main())
