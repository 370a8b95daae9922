"""All visitors: how long they are kept, how much they may hold together, and what is said of those that are gone."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dashboard.kit.limits import Limits
from dashboard.kit.notes import note, untidied
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.weighing import storages
from editing.memory import trim
from inspector.errors import CaseError

GRACE = 2 * 3600.0
"""Seconds for which a visitor's session is kept after they were last there."""
OPEN_FOR = 24 * 3600.0
"""Seconds after the last press for which it is kept while a page of theirs is open."""
MOST_BYTES = 4 * 2**30
"""What all sessions may hold together."""
EMPTY_ONES = 500
"""Sessions of visitors who have done nothing: nothing is lost with them."""
MOST = 2000
"""Sessions of any kind: those that hold nothing of their own go first."""
PAGES = 100
"""Pages of one visitor that are remembered; those that are closed go first."""
SWEEP = 60.0
"""Seconds between two looks for what is too old."""
TOMBSTONES = 1000
TOO_MANY = "its place was needed for other visitors"
CLOSED = (
    "The page of this model has just been closed, as nobody was there. Choose the model in the head of the first page "
    "again, and it opens anew; programs call /open_model."
)


class Sessions:
    """All visitors, by their key, and the pages that they have open, by Gradio's session hash.

    A session goes when it is older than the grace, or, the longest unseen first, when all together hold too much. Those
    with nothing of their own go first, then those without an open page; those at work and the one that is asked for
    never.

    Args:
        grace: See :data:`GRACE`.
        most_bytes: See :data:`MOST_BYTES`.
        empty_ones: See :data:`EMPTY_ONES`.
        now: The clock, seconds.
        limits: What one visitor may ask.
        most: See :data:`MOST`.
        beside: The visitors of another page of the same program: what all hold together is bounded, not what each does.

    Attributes:
        stores: The visitors of all its pages, these among them.
        forget: Called with each page that goes with its visitor: what others keep of it is to go as well.
        tidy: Called one after the other at each look in the background: what else is too old is to go as well.
    """

    def __init__(
        self,
        grace: float = GRACE,
        most_bytes: float = MOST_BYTES,
        empty_ones: int = EMPTY_ONES,
        now: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        most: int = MOST,
        beside: Sessions | None = None,
    ) -> None:
        self.grace, self._most_bytes, self._empty_ones, self._now = grace, most_bytes, empty_ones, now
        self.limits, self._most = limits or Limits(), most
        self.forget: Callable[[str], None] = lambda page: None
        self.tidy: tuple[Callable[[], None], ...] = ()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._pages: dict[str, _Page] = {}
        self._gone: OrderedDict[str, Gone] = OrderedDict()
        self._shared: tuple[Session | None, dict[int, int]] = None, {}
        self._lock: _Lock = beside._lock if beside is not None else _Lock()
        self.stores: list[Sessions] = beside.stores if beside is not None else []
        self.stores.append(self)
        self._expected, self._closed = now(), False

    def of(self, key: str) -> Session:
        """Return a visitor's session, new on first sight.

        Raises:
            CaseError: The page has been closed meanwhile.
        """
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                if self._closed:
                    raise CaseError(CLOSED)
                session = self._sessions[key] = Session(limits=self.limits)
            self._seen(key, session)
            self.sweep()
            return session

    def arrive(self, page: str, key: str, seen: frozenset[str] = frozenset()) -> Session:
        """Return the session of a visitor whose page has just opened: the one from before, if it is still there.

        Args:
            seen: The parts of the example that a new page shows.
        """
        with self._lock:
            session = self.of(key)
            if page not in self._pages:
                self._pages[page] = _Page(key, drawn=session.runs, seen=seen)
                self._forget_pages(key)
            return session

    def at(self, page: str, key: str) -> Session | None:
        """Return the session that an open page shows; ``None`` if it is gone.

        Args:
            key: The visitor's, who must be the one that opened the page.
        """
        with self._lock:
            known, session = self._pages.get(page), self._sessions.get(key)
            if known is None or known.key != key or session is None:
                return None
            known.open = True
            self._seen(key, session)
            self.sweep()
            return session

    def expects(self, page: str, key: str, new: bool = False) -> bool:
        """Tell whether a page that is not known may be on its way, of a visitor who is here or a new one."""
        with self._lock:
            return page not in self._pages and (new or key in self._sessions)

    def holds(self, key: str, session: Session) -> bool:
        """Tell whether a session is still its visitor's; one that is reserved already stays so until that has ended.

        Whoever reserves a session that was looked up before asks this then: in between it may have been let go.
        """
        with self._lock:
            return self._sessions.get(key) is session

    def owner(self, page: str) -> str | None:
        """Return the key of the visitor who has opened a page; ``None`` if nobody has."""
        known = self._pages.get(page)
        return known.key if known is not None else None

    def knows(self, page: str) -> bool:
        """Tell whether a page, or a program that is known by it, is some visitor's."""
        return page in self._pages or page in self._sessions

    def leave(self, page: str) -> None:
        """Hear that a page has lost its connection: what runs for it ends, all else is kept for the grace."""
        with self._lock:
            known = self._pages.get(page)
            session = self._sessions.get(known.key if known else page)
            if known is not None:
                known.open = False
            if session is None:
                return
            session.last_seen = self._now()
            if session.busy and session.page == page:
                session.cancelled.set()

    def drew(self, page: str, runs: int) -> None:
        """Hear that a page shows its session as it was after so many runs."""
        with self._lock:
            if page in self._pages:
                self._pages[page].drawn = max(self._pages[page].drawn, runs)

    def end_run(self, page: str, session: Session) -> None:
        """Release a session after a run of one of its pages, which shows it as it is now."""
        with self._lock:
            session.end()
            self.drew(page, session.runs)

    def seen(self, page: str) -> frozenset[str]:
        """Return the parts of the example that a page shows."""
        with self._lock:
            return self._pages[page].seen if page in self._pages else frozenset()

    def saw(self, page: str, parts: frozenset[str]) -> None:
        """Hear that a page shows parts of the example from now on."""
        with self._lock:
            if page in self._pages:
                self._pages[page].seen |= parts

    def is_stale(self, page: str, session: Session) -> bool:
        """Tell whether another page of the visitor has changed the session since this one was drawn."""
        with self._lock:
            known = self._pages.get(page)
            return known is not None and known.drawn != session.runs

    def why_gone(self, key: str) -> str | None:
        """Return why a visitor's session is gone, once; ``None`` if none is known to be."""
        with self._lock:
            gone = self._gone.pop(key, None)
            return None if gone is None else gone.why

    def gone(self, key: str) -> Gone | None:
        """Return what is known of a visitor's session that is gone; unlike :meth:`why_gone` as often as it is asked."""
        with self._lock:
            return self._gone.get(key)

    def weigh(self, session: Session, but: Session) -> None:
        """Count again what a session holds, and let others go if all hold too much.

        Args:
            but: What of this session's is shared with all: it costs nothing more.
        """
        if self._shared[0] is not but:
            self._shared = but, storages(but)
        shared = self._shared[1]
        weight = sum(size for place, size in storages(session).items() if place not in shared)
        with self._lock:
            session.bytes = weight
            for store in list(self.stores):
                store.sweep()

    def sweep(self) -> None:
        """Let go what is too old or too much."""
        with self._lock:
            now, opened = self._now(), {page.key for page in self._pages.values() if page.open}
            for key, session in list(self._sessions.items()):
                age, most = now - session.last_seen, max(self.grace, OPEN_FOR) if key in opened else self.grace
                if age > most and not session.busy:
                    self._drop(key, f"it was not used for {_hours(most)}")
            idle = [
                (session.own, key in opened, number, key)
                for number, (key, session) in enumerate(self._sessions.items())
                if not session.busy
            ]
            last = next(reversed(self._sessions), None)  # it is the one that is asked for
            waiting = [entry for entry in sorted(idle) if entry[-1] != last]
            empty = [key for own, _, _, key in waiting if not own]
            for key in empty[: max(0, len(empty) - self._empty_ones)]:
                self._drop(key)
            if len(self._sessions) > self._most:
                left = [entry for entry in waiting if entry[-1] in self._sessions]
                left.sort(key=lambda entry: (self._sessions[entry[-1]].bytes > 0, *entry))
                for _, _, _, key in left[: len(self._sessions) - self._most]:
                    self._drop(key, TOO_MANY)
            for own, _, _, key in waiting:
                if sum(store.bytes for store in self.stores) <= self._most_bytes:
                    return
                if key in self._sessions and (own or self._sessions[key].typed):
                    self._drop(key, "its memory was needed for other visitors")

    def unused(self) -> float:
        """Return for how many seconds nobody has been there; 0 while a page is open, something runs or is kept."""
        with self._lock:
            if any(page.open for page in self._pages.values()) or any(one.busy or one.own for one in self):
                return 0.0
            return self._now() - max([self._expected, *(one.last_seen for one in self)])

    def expect(self) -> None:
        """Hear that somebody is on their way here, whose page is not open yet."""
        with self._lock:
            self._expected = self._now()

    def end(self, unused: float | None = None) -> bool:
        """Let all go, as their page is closed; whoever comes from then on is told so.

        Args:
            unused: Seconds for which nobody must have been there (:meth:`unused`), else all stay: what is at work is
                never ended in its middle. ``None`` where the whole program ends.

        Returns:
            Whether they are gone.
        """
        with self._lock:
            if self._closed or (unused is not None and self.unused() <= unused):
                return False
            for key in list(self._sessions):
                self._drop(key, "its model's page was closed")
            self._closed = True
            self.stores.remove(self)
            self.tidy = ()
            return True

    def look(self) -> None:
        """Let go whatever is too old, here and elsewhere, and give back the memory that this leaves free.

        A look that fails, of a disk that refuses for example, is told to the operator, ends no other and is tried again
        at the next one.
        """
        for look in (self.sweep, *self.tidy, trim):
            try:
                look()
            except Exception as error:
                untidied(error)

    def sweep_in_background(self) -> None:
        """Look for what is too old every minute, as long as this store is there."""
        threading.Thread(target=_sweep, args=(weakref.ref(self),), name="visitors", daemon=True).start()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def bytes(self) -> int:
        """What all sessions hold together, as last weighed, and what stands in their controls."""
        with self._lock:
            return sum(session.bytes + session.typed for session in self._sessions.values())

    def _seen(self, key: str, session: Session) -> None:
        session.last_seen = self._now()
        self._sessions.move_to_end(key)

    def _forget_pages(self, key: str) -> None:
        mine = sorted((known.open, n, page) for n, (page, known) in enumerate(self._pages.items()) if known.key == key)
        for _, _, page in mine[: max(0, len(mine) - PAGES)]:
            del self._pages[page]
            self.forget(page)

    def _drop(self, key: str, why: str = "") -> None:
        session = self._sessions.pop(key)
        self._lock.afterwards(session.close)  # which waits for the disk, and nobody else is to wait for that
        for page in [page for page, known in self._pages.items() if known.key == key]:
            del self._pages[page]
            self.forget(page)
        self.forget(key)  # of a program, whose key is its page
        if session.own:
            note("lost session", why=why)
        if why and session.own:
            self._gone[key] = Gone(why, session.edited, session.began_empty)
            while len(self._gone) > TOMBSTONES:
                self._gone.popitem(last=False)


class _Lock:
    """The lock of all visitors, which who has it may take again; what was put off is done once it is free."""

    def __init__(self) -> None:
        self._lock, self._depth = threading.RLock(), 0
        self._put_off: list[Callable[[], None]] = []

    def afterwards(self, what: Callable[[], None]) -> None:
        """Put off what may take long; called by who has the lock, and done by the same thread."""
        self._put_off.append(what)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        due: list[Callable[[], None]] = []
        if not self._depth:
            due, self._put_off = self._put_off, due
        self._lock.release()
        for what in due:
            try:
                what()
            except Exception as error:  # of whoever was let go: it keeps no other from ending, and is nothing for
                untidied(error)  # the visitor whose request has brought this thread here


@dataclass(frozen=True)
class Gone:
    """A session that is gone.

    Attributes:
        why: Why, in words.
        edited: A run of it had changed what was live.
        began_empty: It had begun with nothing, in the place of another one that was gone.
    """

    why: str
    edited: bool
    began_empty: bool = False


@dataclass
class _Page:
    """One page in a browser.

    Attributes:
        key: Whose it is.
        open: Whether it is connected, as far as is known.
        drawn: How many runs the session had had when it was drawn.
        seen: The parts of the example that it shows.
    """

    key: str
    open: bool = True
    drawn: int = 0
    seen: frozenset[str] = frozenset()


def _sweep(store: weakref.ref[Sessions]) -> None:
    while True:
        time.sleep(SWEEP)
        sessions = store()
        if sessions is None:
            return
        sessions.look()
        del sessions


def _hours(seconds: float) -> str:
    for name, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"
