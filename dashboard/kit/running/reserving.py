"""Whose session a request is about, what is said where it is gone, and one run at a time for each visitor."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import gradio as gr

from dashboard.kit.bus import Update
from dashboard.kit.door.doors import address_of, has_earlier_key, is_from_before, is_tool, key_of
from dashboard.kit.drawing.html import reading
from dashboard.kit.limits import Runs
from dashboard.kit.running.queue import Line
from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.visitors import Gone, Sessions
from inspector.errors import CaseError

One = TypeVar("One")
Result = TypeVar("Result")

ARRIVING, LOOK = 2.0, 0.05
"""Seconds for which the arrival of a page is waited for that asks something before it, and between two looks."""
RUNNING = "Something is still running for you. Wait for it, or press Cancel."
LEFT_LINE = "Cancelled while it waited in line; nothing was changed."
STARTED_ANEW = "the program was started anew since"
NOT_SHOWN = (
    "This page did not show your session yet, and is drawn anew from it. If you have just pressed something, nothing "
    "came of it: press it again."
)
CHANGED_ELSEWHERE = (
    "Another window of yours has run something since this page was drawn; your runs so far: {runs}. Live now: {live}. "
    "This page is drawn anew, and nothing came of what you have just pressed: press it again to go on."
)
"""The number tells one such line from the next: a page is drawn anew because the line has changed."""
MAKE_AGAIN = (
    "What it had edited went with it, and nothing was done. Make the edit again (/edit), or take in the patch that you "
    "have saved (/take_in); whatever is called from now on goes on with the vanilla weights."
)


class Places:
    """Places for those who wait, so that no number of them holds every thread: so many for all and for each.

    Args:
        of_all: How many there are.
        of_one: How many each may have.
    """

    def __init__(self, of_all: int, of_one: int) -> None:
        self._of_all, self._of_one = of_all, of_one
        self._taken, self._lock = Counter[str](), threading.Lock()

    @contextmanager
    def taken(self, who: str) -> Iterator[bool]:
        """Take a place, and give it back; gives whether there was one."""
        with self._lock:
            free = self._taken.total() < self._of_all and self._taken[who] < self._of_one
            self._taken[who] += free
        try:
            yield free
        finally:
            with self._lock:
                self._taken[who] -= free
                self._taken += Counter()  # those who have none are forgotten


class Reserving:
    """The sessions of one page, each lent to one run at a time.

    Args:
        sessions: All visitors.
        example: What a new visitor starts with.
        beside: Another page of the same program: all its pages have one line of long runs, and count a visitor's runs
            together.
    """

    def __init__(self, sessions: Sessions, example: Any, beside: Reserving | None = None) -> None:
        self.sessions = sessions
        self.example = example
        self.limits = sessions.limits
        self.runs: Runs = beside.runs if beside is not None else Runs(self.limits.runs_an_hour)
        self.after: list[Callable[[Session], None]] = []
        """Called with the session after each of its runs, on the page or of a program, while it is still reserved, and
        before its first one: what it started with is known then."""
        self.line: Line = beside.line if beside is not None else Line(of_one=self.limits.in_line)
        self._shared: dict[type, Any] = beside._shared if beside is not None else {}
        self.notice: Any = None
        self._overtaking = Places(of_all=16, of_one=4)
        self._passing: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()

    def shared(self, kind: type[One], make: Callable[[], One]) -> One:
        """Return what all pages of the program have one of, for example the file of all visits' edits.

        Args:
            kind: The step's own class of it.
            make: Makes it on first sight.
        """
        if kind not in self._shared:
            self._shared[kind] = make()
        return self._shared[kind]

    def session(self, request: gr.Request | None) -> Session:
        """Return the session of whoever asks, which starts with the example; a tool's is empty and not kept."""
        if is_tool(request):
            return self._passing.setdefault(request, Session(limits=self.limits, passing=True))
        session = self.sessions.of(key_of(request))
        if not session.started:
            self.example.fill(session)
        return session

    def asking(self, request: gr.Request | None) -> Session:
        """Return the session of a program that asks for what its edits decide.

        In the place of one that is gone with its edits it gets an empty one, not the example's: else other weights than
        its own would answer without a word.

        Raises:
            CaseError: That is so; said once.
        """
        key = key_of(request)
        if is_tool(request) or self.sessions.of(key).started:
            return self.session(request)
        gone = self.sessions.gone(key)
        if gone is None and has_earlier_key(request):  # nobody knows any more whether it had edits
            gone = Gone(STARTED_ANEW, edited=True)
        if gone is None or not (gone.edited or gone.began_empty):
            return self.session(request)
        session = self.sessions.of(key)
        session.started = session.own = session.began_empty = True
        if gone.edited:
            raise CaseError(f"Your session is gone: {gone.why}. {MAKE_AGAIN}")
        return session

    def arrive(self, request: gr.Request) -> Session:
        """Return the session of a visitor whose page has just opened; what was lost since is in its ``said``."""
        key = key_of(request)
        session = self.sessions.arrive(request.session_hash or "", key, self.example.drawn)
        if not session.started:
            self.example.fill(session)
            why = self.sessions.why_gone(key) or (STARTED_ANEW if is_from_before(key) else None)
            if why is not None:
                session.said = f"What you did here before is gone: {why}. The page is as for a new visitor."
        return session

    def visit(self, request: gr.Request) -> Session | None:
        """Return the session that an open page shows; ``None`` if it is gone.

        What a page asks as it opens may overtake its arrival, which is waited for then; so is that of a visitor who has
        a key of this start of the program, and of whom nothing is gone.
        """
        page, key = request.session_hash or "", key_of(request)
        session = self.sessions.at(page, key)
        known = key == page or has_earlier_key(request) or is_from_before(key)
        new = not known and self.sessions.gone(key) is None
        if session is not None or not self.sessions.expects(page, key, new):
            return session
        with self._overtaking.taken(key) as may_wait:
            until = time.monotonic() + ARRIVING
            while may_wait and session is None and time.monotonic() < until:
                time.sleep(LOOK)
                session = self.sessions.at(page, key)
        return session

    def gone(self, request: gr.Request) -> Update:
        """Take in a page that shows no session, or not what another window has run, and say so: it is drawn anew then.

        It gets the session that its visitor has by now, else an empty one.
        """
        page, key = request.session_hash or "", key_of(request)
        here = self.sessions.at(page, key)
        if here is not None and self.sessions.is_stale(page, here):
            return self._said(CHANGED_ELSEWHERE.format(runs=here.runs, live=here.row.label()))
        why = self.sessions.why_gone(key) or (STARTED_ANEW if has_earlier_key(request) else None)
        session = self.sessions.arrive(page, key, self.example.drawn)
        session.undrawn = True
        if session.started and why is None:
            said = NOT_SHOWN
        else:
            session.started = session.own = True
            said = (
                f"Your session is gone: {why or STARTED_ANEW}. Live now: {session.row.label()}. Nothing was done; your "
                "texts are still in the rail, so press again to go on."
            )
        return self._said(said)

    def _said(self, said: str) -> Update:
        gr.Warning(said, duration=20)
        return {self.notice: reading(said, "warn")}

    def admit(self, session: Session, request: gr.Request | None, room: bool = True) -> None:
        """Count a run of whoever asks; one that is refused is not counted.

        Args:
            room: They may not hold all that they may already.

        Raises:
            CaseError: They have had, or hold, all that they may.
        """
        if room:
            session.require_room()
        self.runs.begin(key_of(request), address_of(request))

    @contextmanager
    def reserved(self, request: gr.Request | None, room: bool = False) -> Iterator[Session]:
        """Reserve the session of whoever asks for one run at a time.

        Args:
            room: They may not hold all that they may already.

        Raises:
            CaseError: Something runs for them, or they have had, or hold, all that they may.
        """
        counted = False
        while True:
            session = self.asking(request)
            if not (counted or session.waits_for(request)):  # what stands in line was counted when it came
                self.admit(session, request, room)
                counted = True
            with self._reserving(session, request) as there:
                if there:
                    yield session
                    return

    def _is_there(self, session: Session, request: gr.Request | None) -> bool:
        return session.passing or self.sessions.holds(key_of(request), session)

    @contextmanager
    def _reserving(
        self, session: Session, request: gr.Request | None, admit: Callable[[], None] | None = None, shown: bool = False
    ) -> Iterator[bool]:
        """Reserve a session; gives whether it is still its visitor's: nothing may be done in one that is not.

        Args:
            admit: Refuses the run by an error where it is not allowed; it is none then. By default it was admitted
                before.
            shown: Nothing may be done either where the page that asks does not show what another one has run.
        """
        if not session.begin(request):
            raise CaseError(RUNNING)
        page = request.session_hash or "" if request else ""
        # It may have been let go since it was looked up.
        if not self._is_there(session, request) or (shown and self.sessions.is_stale(page, session)):
            session.end(ran=False)
            yield False
            return
        try:
            if admit is not None:
                admit()
        except BaseException:
            session.end(ran=False)
            raise
        session.page, session.broken = request.session_hash if request else None, False
        looks, weights = () if session.passing else tuple(self.after), session.row.key
        try:
            for look in looks if not session.runs else ():
                look(session)
            yield True
        except GeneratorExit:  # nobody takes what it yields any more
            session.broken = True
            raise
        finally:
            session.edited = session.edited or session.row.key != weights
            try:
                for look in looks:
                    look(session)
            finally:
                self.sessions.end_run(page, session)
            self.weigh(session)

    def in_turn(
        self, run: Generator[Any, None, Result], kind: str, session: Session, request: gr.Request | None
    ) -> Result:
        """Run something step by step whenever its turn in the line of long runs comes, for who is answered once.

        Args:
            run: Its events are told to nobody.
            kind: By which its length is expected.
            session: Reserved by whoever asks.

        Raises:
            CaseError: It was cancelled before it began, or the line is full (:meth:`Line.turns`).
        """
        made: list[Result] = []

        def whole() -> Generator[Any, None, None]:
            made.append((yield from run))

        turns = self.line.turns(whole(), kind, session.cancelled.is_set, address=address_of(request), whose=session)
        for _ in turns:
            pass
        if not made:
            raise CaseError(LEFT_LINE)
        return made[0]

    def weigh(self, session: Session) -> None:
        """Count again what a session holds beside what it has of the example."""
        self.sessions.weigh(session, self.example.session)

    def _queued(self, request: gr.Request | None) -> Session:
        """Return the session of a program whose run stands in line from now on."""
        while True:
            session = self.asking(request)
            if not session.enqueue(request):
                raise CaseError(RUNNING)
            if self._is_there(session, request):
                return session
            session.dequeue()  # it was let go since it was looked up

    def in_line(
        self,
        endpoint: Callable[..., Any],
        first: Callable[..., None] = lambda session, *given, **named: None,
        last: Callable[[Session], None] = lambda session: None,
    ) -> Callable[..., Any]:
        """Let an endpoint for programs stand in line, if it is a long run: one that yields.

        Args:
            first: What is done before it waits; called with the session and what the endpoint is called with.
            last: What is done when it has ended, also where it has never begun.
        """
        if not inspect.isgeneratorfunction(endpoint):
            return endpoint

        @functools.wraps(endpoint)
        def in_line(*arguments: Any, **named: Any) -> Iterator[Any]:
            request = next((one for one in (*arguments, *named.values()) if isinstance(one, gr.Request)), None)
            with shown_to_user():
                session = self._queued(request)
                try:
                    self.admit(session, request)
                    session.page = request.session_hash if request else None
                    first(session, *arguments, **named)
                    run = endpoint(*arguments, **named)
                    begun = yield from self.line.turns(
                        run,
                        endpoint.__name__,
                        session.cancelled.is_set,
                        address=address_of(request),
                        whose=session,
                    )
                finally:
                    try:
                        last(session)
                    finally:
                        session.dequeue()
                if not begun:
                    raise CaseError(LEFT_LINE)

        return in_line
