"""What one visitor may ask of this machine: defaults for a page of one's own and for one that others reach."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from dashboard.kit.notes import note
from inspector.errors import CaseError

if TYPE_CHECKING:  # the options are read before anything large is imported
    from inspector.model import Decoding

Counted = TypeVar("Counted")

HOUR = 3600.0
SHARED_BY = 10
"""An address may have as many visitors at work as this, each up to the limit: a school's leave by one address."""
MINUTE = 60.0
BURST = 12.0
"""Seconds whose events may come at once."""
KNOWN = 10_000
"""Visitors and addresses of whom it is remembered how much they have asked."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one visitor.

    Attributes:
        tokens: Tokens of one answer.
        steps: Updates of one edit.
        harmless: Harmless prompts that one edit is held to.
        harmless_a_step: Those of them that one update meets together.
        prompts: Prompts of one exam.
        characters: Characters of one text.
        runs_an_hour: Runs an hour; ``None`` for any number.
        in_line: Long runs that may stand in line at once, of all visitors who come from one address; ``None`` for any
            number.
        events: Events a minute, what a page asks as something is typed, picked or opened, runs among them; ``None`` for
            any number.
        stored: Bytes that the edits kept for Undo and the results may take together.
        upload: Bytes of one file, where a step of the page takes files.
        files: Bytes of the edits that are written for them to take along within an hour; ``None`` for any number.
        free: Bytes of the disk that stay free whatever is written for anybody.
        sources: Judges and datasets that a visitor may name: hub ids, files, folders; ``None`` for any.
        packages: Attack texts of other packages may be asked.
    """

    tokens: int = 1024
    steps: int = 1000
    harmless: int = 512
    harmless_a_step: int = 512
    prompts: int = 100_000
    characters: int = 200_000
    runs_an_hour: int | None = None
    in_line: int | None = None
    events: int | None = None
    stored: int = 4 * 2**30
    upload: int = 256 * 2**20
    files: int | None = None
    free: int = 2**30
    sources: frozenset[str] | None = None
    packages: bool = True

    def require_tokens(self, count: Any) -> int:
        """Return the length of an answer as a whole number of tokens, at least 1.

        Raises:
            CaseError: It is no number, or more than is allowed.
        """
        wanted = _whole(count, "The longest answer")
        if wanted > self.tokens:
            raise self._over("tokens an answer", wanted, self.tokens)
        return max(1, wanted)

    def require_decoding(self, decoding: Decoding) -> None:
        """Refuse answers that are longer than is allowed.

        Raises:
            CaseError: They are.
        """
        self.require_tokens(decoding.max_new_tokens)

    def require_steps(self, count: int) -> None:
        """Refuse edits with more updates than are allowed.

        Raises:
            CaseError: There are more.
        """
        if count > self.steps:
            raise self._over("steps an edit", count, self.steps)

    def require_harmless(self, count: int, a_step: int | None) -> None:
        """Refuse edits that are held to more harmless prompts than are allowed, in all or in one step.

        Args:
            a_step: How many of them a step meets; ``None`` for all.

        Raises:
            CaseError: There are more.
        """
        if count > self.harmless:
            raise self._over("harmless prompts an edit", count, self.harmless)
        together = min(count, a_step or count)
        if together > self.harmless_a_step:
            note("refused", why="limit")
            raise CaseError(
                f"At most {self.harmless_a_step} harmless prompts a step are allowed here, {together} were asked for. "
                f"Ask for fewer prompts, or let a step meet {self.harmless_a_step} of them or fewer, in turn."
            )

    def require_prompts(self, count: int) -> None:
        """Refuse exams with more prompts than are allowed.

        Raises:
            CaseError: There are more.
        """
        if count > self.prompts:
            raise self._over("prompts a test", count, self.prompts)

    def require_short(self, *texts: str) -> None:
        """Refuse texts that are longer than is allowed, before anything reads them.

        Raises:
            CaseError: One is.
        """
        longest = max((len(text) for text in texts), default=0)
        if longest > self.characters:
            raise self._over("characters a text", longest, self.characters)

    def require_source(self, name: str, what: str) -> str:
        """Return the name of a judge or a dataset that a visitor may have this machine read.

        Args:
            what: What it is called in the error, for example ``judge``.

        Raises:
            CaseError: The operator has not allowed it. The error is the same whether it is there or not.
        """
        if self.sources is not None and name not in self.sources:
            note("refused", why="source")
            allowed = f" Allowed: {', '.join(sorted(self.sources))}." if self.sources else ""
            raise CaseError(
                f"This page reads no {what} that a visitor names; whoever runs it can allow one (--allow-source)."
                f"{allowed}"
            )
        return name

    def require_packages(self) -> None:
        """Refuse attack texts of other packages where they are off.

        Raises:
            CaseError: They are.
        """
        if not self.packages:
            note("refused", why="packages")
            raise CaseError("Attacks of other packages are off on this page. Choose none.")

    @staticmethod
    def _over(what: str, wanted: float, most: float) -> CaseError:
        note("refused", why="limit")
        shown = f"{wanted:,}" if wanted < 10**9 else "far more"
        return CaseError(f"At most {most:,} {what} are allowed here, {shown} were asked for. Ask for fewer.")


OTHERS = Limits(
    tokens=256,
    steps=100,
    harmless=128,
    harmless_a_step=32,
    prompts=200,
    characters=20_000,
    runs_an_hour=60,
    in_line=SHARED_BY,
    events=600,
    stored=2**29,
    upload=32 * 2**20,
    files=4 * 2**30,
    free=4 * 2**30,
    sources=frozenset(),
)
"""Where others can reach the page."""
DEMO = replace(OTHERS, prompts=60, packages=False)
"""Where they may only use what is bundled."""


def _whole(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise CaseError(f"{what} must be a whole number.") from None


class Runs:
    """Counts the runs of the last hour, by visitor and by the address that they come from.

    Args:
        most: See :attr:`Limits.runs_an_hour`.
        now: The clock, seconds.
    """

    def __init__(self, most: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._known: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, visitor: str, address: str | None) -> None:
        """Count a run.

        Args:
            address: ``None`` where there is none, as for calls inside this program.

        Raises:
            CaseError: It would be one too many; it says when the next one is possible.
        """
        if self._most is None:
            return
        asked = [(f"visitor {visitor}", self._most, "you have had them")]
        if address is not None:
            asked.append(
                (f"address {address}", SHARED_BY * self._most, "your address has had those of all who share it")
            )
        with self._lock:
            now, counted = self._now(), {}
            for key, most, said in asked:
                times = counted[key] = self._known.get(key, deque())  # kept below, so that a refusal keeps nothing
                while times and now - times[0] >= HOUR:
                    times.popleft()
                if len(times) >= most:
                    note("refused", why="runs")
                    wait = max(1, round((HOUR - (now - times[0])) / 60))
                    raise CaseError(
                        f"{self._most} runs an hour are allowed here, and {said}. The next one is possible in "
                        f"{wait} min."
                    )
            for times in counted.values():
                times.append(now)
            _remember(self._known, counted)


class Pace:
    """Counts events by visitor and by address: so many a minute, and those of :data:`BURST` at once.

    Args:
        most: See :attr:`Limits.events`.
        now: The clock, seconds.
    """

    def __init__(self, most: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By visitor and address, how many events they had left, and when."""
        self._lock = threading.Lock()

    def admits(self, visitor: str, address: str) -> bool:
        """Count an event; ``False`` where it is one too many, which counts nothing.

        Args:
            visitor: Empty where it is nobody's in particular.
        """
        if self._most is None:
            return True
        asked = [(f"address {address}", SHARED_BY * self._most)]
        if visitor:
            asked.append((f"visitor {visitor}", self._most))
        with self._lock:
            now, left = self._now(), {}
            for key, most in asked:
                at_once = max(1.0, most * BURST / MINUTE)
                before, since = self._known.get(key, (at_once, now))
                left[key] = min(at_once, before + (now - since) * most / MINUTE) - 1
            if min(left.values()) < 0:
                return False
            _remember(self._known, {key: (count, now) for key, count in left.items()})
            return True


def _remember(known: OrderedDict[str, Counted], fresh: Mapping[str, Counted]) -> None:
    """Keep what was counted of visitors and addresses; those that asked longest ago are forgotten first."""
    for key, counted in fresh.items():
        known[key] = counted
        known.move_to_end(key)
    while len(known) > KNOWN:
        known.popitem(last=False)
