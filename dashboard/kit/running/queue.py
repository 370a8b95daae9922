"""The line of long runs over all steps: one at a time, in slices, so that brief runs end soon and long ones in turn.

Slices go in turn to a run that has not begun and to the oldest that has: whoever comes is served soon, and runs that
take many slices end one after the other instead of all at the very end. A run that is likely to need more than one
slice begins only where few others are under way, as each of those holds memory for its edit. Whoever waits is told at
once how many are ahead and for how long. Brief work does not stand in line: it passes between the steps of the run
whose turn it is, at the model's lock. What is done in the background has the place behind all of them: it looks at the
line after each of its steps and goes on only once nobody is there, however long that takes.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dashboard.kit.notes import note
from inspector.errors import CaseError

Event = TypeVar("Event")

SLICE = 15.0
"""Seconds of a turn while others wait."""
UNDER_WAY = 4
"""Runs that may be under way at a time; beyond these only such begin as are known to end within a slice."""
LOOK = 1.0
"""Seconds between two words to whoever waits."""
OPENING = 8.0
"""Seconds for which a page that opens has the machine to itself, as far as what is done in the background goes."""
NAP = 0.1
"""Seconds between two looks at whether it was cancelled."""
REST = 2.0
"""Seconds for which a run may leave its turn unused while others wait: who asked for it may be gone."""
BEHIND = ". It waits as long as visitors' runs go on."
"""What follows on what is said of work in the background while somebody is in line."""
PLACES = 100
"""Runs that may stand in line."""
FORESEEN = 300
"""Turns ahead of which a wait is foreseen at most."""
REMEMBERED = 8
"""Runs of a kind by whose mean its length is expected."""


@dataclass(frozen=True)
class Place:
    """Where a run stands.

    Attributes:
        ahead: Runs before it, the one whose turn it is among them.
        seconds: How long it is likely to wait, from what such runs have taken so far.
        begun: It has had a turn already, and goes on.
    """

    ahead: int
    seconds: float
    begun: bool

    def text(self) -> str:
        """Say it in plain words."""
        turn = "goes on" if self.begun else "starts"
        wait = f"in about {round(self.seconds)} s" if self.seconds >= 1.5 else "in a moment"
        return f"In line, place {self.ahead + 1}: {turn} {wait}. Cancel leaves the line."


@dataclass(frozen=True)
class Elsewhere:
    """What a run yields while it waits for something that is not the model, a download for example: others go first.

    Attributes:
        update: What is shown meanwhile; ``None`` for nothing.
    """

    update: Any = None


@dataclass(eq=False)
class _Run:
    """One run in line: its kind, the address that it comes from, whose it is, seconds that it has had in all and in
    this turn, since when it makes no step, whether it has begun, when it came and was last heard of, and how long it
    waited: for its first turn, or until it left without one."""

    kind: str
    address: str | None = None
    whose: Any = None
    spent: float = 0.0
    turn: float = 0.0
    resting: float | None = None
    begun: bool = False
    joined: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    waited: float = 0.0


@dataclass
class Line:
    """Who runs and who waits.

    Args:
        slice: See :data:`SLICE`.
        rest: See :data:`REST`.
        of_one: Runs of one address that may stand in it (:attr:`dashboard.kit.limits.Limits.in_line`); ``None`` for any
            number.
    """

    slice: float = SLICE
    rest: float = REST
    of_one: int | None = None
    _runs: list[_Run] = field(default_factory=list)
    _now: _Run | None = None
    _took: dict[str, deque[float]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _opened: float = -math.inf

    def turns(
        self,
        run: Generator[Event, None, Any],
        kind: str,
        cancelled: Callable[[], bool] = lambda: False,
        tell: Callable[[Place], Event] | None = None,
        address: str | None = None,
        whose: Any = None,
    ) -> Generator[Event, None, bool]:
        """Run something step by step whenever it is its turn.

        Args:
            run: The run; it may hold the model's lock during a step, never between two.
            kind: By which its length is expected.
            cancelled: Whether it is to end: it leaves the line if it has not begun, else goes on
                at once and ends itself.
            tell: What is yielded at once and every second while it waits; nothing by default.
            address: Where it comes from; ``None`` for nowhere, as for calls inside this program.
            whose: Whose session it is for, by which :meth:`place_of` finds it; ``None`` for nobody's.

        Returns:
            Whether it has begun.

        Raises:
            CaseError: The line is full, or holds as many runs of that address as it may.
        """
        mine = self._join(kind, address, whose)
        finished, outcome = False, "failed"
        try:
            patience = 0.0 if tell else LOOK
            while True:
                while not self._wait(mine, patience, cancelled):
                    if cancelled():
                        outcome = "cancelled"
                        return False
                    if tell:
                        yield tell(self._place(mine))
                    patience = LOOK
                began = time.monotonic()
                try:
                    event = next(run)
                except StopIteration:
                    finished = not cancelled()
                    outcome = "done" if finished else "cancelled"
                    return True
                finally:
                    self._stepped(mine, time.monotonic() - began)
                if isinstance(event, Elsewhere):
                    self._let_pass(mine)
                    if event.update is not None:
                        yield event.update
                    time.sleep(NAP)
                else:
                    yield event
        except GeneratorExit:
            outcome = "left"
            raise
        finally:
            try:
                run.close()
            finally:
                self._leave(mine, finished)
            note("run", kind=kind, outcome=outcome, waited=round(mine.waited, 3), seconds=round(mine.spent, 3))

    def give_way(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait until nobody is in line and no page is opening.

        What is done in the background does this after each of its steps. There is no end to its patience: a line that
        is never empty leaves it unfinished.

        Args:
            cancelled: Whether it is to end: it waits no longer then, and ends itself.
        """
        with self._changed:
            while (self._runs or time.monotonic() < self._opened + OPENING) and not cancelled():
                self._changed.wait(NAP)

    def page_opens(self) -> None:
        """Say that a page is opening, which asks the same processors for more than a second's work."""
        self._opened = time.monotonic()

    def place_of(self, whose: Any) -> Place | None:
        """Return where somebody's run stands while others have their turn; ``None`` where none of theirs waits."""
        with self._changed:
            waiting = next((run for run in self._runs if run.whose is whose and run is not self._now), None)
            return None if waiting is None else self._place(waiting)

    def __len__(self) -> int:
        return len(self._runs)

    def _join(self, kind: str, address: str | None, whose: Any) -> _Run:
        with self._changed:
            of_them = sum(run.address == address for run in self._runs) if address is not None else 0
            if self.of_one is not None and of_them >= self.of_one:
                note("refused", why="line of one address")
                raise CaseError(
                    f"{of_them} runs from your address stand in line already, and more are not allowed here. Try again "
                    "when one of them has ended; whoever runs this page can allow more (--runs-in-line)."
                )
            if len(self._runs) >= PLACES:
                note("refused", why="line")
                raise CaseError(f"{PLACES} runs stand in line already. Try again in some minutes.")
            mine = _Run(kind, address, whose, resting=time.monotonic())
            self._runs.append(mine)
            if self._now is None:
                self._pass_on()
            return mine

    def _leave(self, mine: _Run, finished: bool) -> None:
        with self._changed:
            if not mine.begun:
                mine.waited = time.monotonic() - mine.joined
            if finished:
                self._took.setdefault(mine.kind, deque(maxlen=REMEMBERED)).append(mine.spent)
            if self._now is mine:
                self._pass_on(passing=mine)
            self._runs.remove(mine)
            if not self._runs:
                self._now = None
            self._changed.notify_all()

    def _wait(self, mine: _Run, patience: float, cancelled: Callable[[], bool]) -> bool:
        """Wait for a turn; tells whether it has come. A cancelled run that has begun has it at once."""
        until = time.monotonic() + patience
        with self._changed:
            while True:
                mine.heard = time.monotonic()
                if self._turn_of(mine):
                    if not mine.begun:
                        mine.waited = time.monotonic() - mine.joined
                    mine.begun, mine.resting = True, None
                    return True
                if cancelled():
                    return mine.begun
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, NAP))

    def _turn_of(self, mine: _Run) -> bool:
        now, others = self._now, len(self._runs) > 1
        assert now is not None  # somebody's turn it is as long as anybody is in line
        unused = now is not mine and now.resting is not None and time.monotonic() - now.resting > self.rest
        if others and (unused or (now is mine and now.turn >= self.slice)):
            self._pass_on(passing=now if unused else None)
            self._changed.notify_all()
        return self._now is mine

    def _pass_on(self, passing: _Run | None = None) -> None:
        """Give the turn to the next; to one that passes only if nobody else is there."""
        late = time.monotonic() - self.rest
        others = [run for run in self._runs if run is not passing]
        there = [run for run in others if run.heard >= late] or others or self._runs
        self._now = self._next(there, self._now is _oldest(self._runs))
        self._now.turn, self._now.resting = 0.0, time.monotonic()

    def _next(self, runs: Sequence[_Run], newcomers: bool) -> _Run:
        """Choose whose turn is next.

        Args:
            runs: Those who can have it, one at least.
            newcomers: It is theirs, the oldest run has had one.
        """
        oldest = _oldest(runs)
        room = sum(run.begun for run in runs) < UNDER_WAY
        newcomer = next((run for run in runs if not run.begun and (room or self._brief(run))), None)
        if newcomer is not None and (newcomers or oldest is None):
            return newcomer
        return oldest or newcomer or runs[0]

    def _brief(self, run: _Run) -> bool:
        """Tell whether a run is known to end within a slice, from those of its kind."""
        took = self._took.get(run.kind, ())
        return len(took) > 0 and sum(took) / len(took) <= self.slice

    def _left(self, run: _Run) -> float:
        """Return how much time a run is likely to need, seconds; a slice where nothing is known of its kind."""
        took = self._took.get(run.kind)
        return max(sum(took) / len(took) - run.spent, 1.0) if took else max(self.slice - run.turn, 0.0)

    def _stepped(self, mine: _Run, seconds: float) -> None:
        with self._changed:
            mine.spent, mine.turn = mine.spent + seconds, mine.turn + seconds
            mine.heard = mine.resting = time.monotonic()

    def _let_pass(self, mine: _Run) -> None:
        with self._changed:
            if self._now is mine and len(self._runs) > 1:
                self._pass_on(passing=mine)
                self._changed.notify_all()

    def _place(self, mine: _Run) -> Place:
        """Foresee the turns until it is this one's, if nobody else comes and each takes what such runs have taken."""
        with self._changed:
            copies = {id(run): replace(run) for run in self._runs}
            now, me, runs = copies[id(self._now)], copies[id(mine)], list(copies.values())
            ahead, seconds = set[int](), 0.0
            for _ in range(FORESEEN):
                if now is me:
                    break
                took = min(self._left(now), max(self.slice - now.turn, 0.0))
                ended = took >= self._left(now)
                seconds, now.spent = seconds + took, now.spent + took
                ahead.add(id(now))
                now.begun = True
                newcomers = now is _oldest(runs)
                if ended:
                    runs.remove(now)
                now = self._next(runs, newcomers)
                now.turn = 0.0
            return Place(len(ahead), seconds, mine.begun)


def _oldest(runs: Sequence[_Run]) -> _Run | None:
    """Return the run that came first of those that have begun."""
    return next((run for run in runs if run.begun), None)
