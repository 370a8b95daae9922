"""Gradio's own copies of what stands on a page: what they hold, how many there may be, that they go with the visitor.

Left alone Gradio keeps every value that was ever shown on 10,000 pages, for links to a page's state, which are off here
(:mod:`dashboard.kit.door.routes`); making room for them holds its one loop up for each page, or for each made-up
name of a page. What remains is what an event has sent until a browser takes it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.route_utils
import gradio.routes
import gradio.state_holder
from gradio.state_holder import SessionState
from gradio.utils import get_upload_folder

from dashboard.kit.door.uploads import drop_gone
from dashboard.kit.notes import note, places, untidied
from dashboard.kit.sessions.session import FOLDER

COPIES = 500
"""Pages whose parts Gradio keeps; those that no visitor has opened go first, made-up names and calls of programs."""
UNASKED = 600.0
"""Seconds after which what was answered to a page that no visitor has, and that nobody has taken, goes."""


FILES_FOR = 3600.0
"""Seconds after which a file that was sent, or a copy that Gradio has made, goes."""
NEVER = 10**9
"""Seconds between two looks of Gradio's own for old files: one error would end them (:meth:`Copies.drop_old`)."""


class BareState(SessionState):
    """What Gradio has to know of a page: the parts that an event has changed, no values for links to its state."""

    def __init__(self, blocks: Any) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        # A connection that was lost comes back without a word to this; what stands here goes by `Copies.forget`.
        self.STATE_TTL_WHEN_CLOSED = math.inf

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), gr.State):
            super().__setitem__(key, value)
            self.config_values.clear()
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def keep_little() -> None:
    """Let Gradio keep no values of pages, tell of an error by its place alone, and delete files at its end as here.

    Its own messages quote what a visitor has sent.
    """
    gradio.route_utils.delete_files_created_by_app = delete_files
    gradio.state_holder.SessionState = BareState
    gradio.state_holder.StateHolder.update = _make_room
    gradio.queueing.traceback = gradio.routes.traceback = SimpleNamespace(print_exc=_told)


def delete_files(app: Any, age: float | None) -> None:
    """Delete the files that an app was sent, or has copied; what is gone leaves no name and no folder.

    It takes the place of Gradio's own, which reads sets that events change meanwhile, fails then, and keeps the names
    of files that somebody else has deleted. Each file lies in a folder named after its content. Whoever is sent the
    same content in the very moment in which that is deleted is told that the file is gone. What lies in a visitor's
    own folder is handed out from there, without a copy, and goes with the visitor.

    Args:
        app: Gradio's ``Blocks``.
        age: Seconds; ``None`` for files of any age, those of visitors among them.
    """
    kept: set[str] = set().union(*(getattr(part, "keep_in_cache", ()) for part in list(app.blocks.values())))
    root, now = os.path.abspath(get_upload_folder()), time.time()
    for names in list(app.temp_file_sets):
        known = names.copy()
        for name in known - kept:
            if age is not None and os.path.abspath(name).startswith(os.path.join(root, FOLDER)):
                continue
            try:
                if age is None or now - os.lstat(name).st_ctime > age:
                    os.unlink(name)
            except FileNotFoundError:
                continue
            except OSError as error:  # the others go nevertheless; this one is tried again
                untidied(error)
        for name in known - drop_gone(names):
            folder = os.path.dirname(os.path.abspath(name))
            if os.path.dirname(folder) == root:
                with suppress(OSError):  # another file of the same content lies there, or it went with another name
                    os.rmdir(folder)


def _make_room(holder: Any, page: str) -> None:
    """Take the place of ``StateHolder.update``: it lets the longest unseen page go, whoever it belongs to."""
    with holder.lock:
        known = holder.session_data
        if page in known:
            known.move_to_end(page)
        if len(known) > holder.capacity:
            sessions = getattr(getattr(holder.blocks, "guard", None), "sessions", None)
            others = [one for one in known if one != page]
            strange = (one for one in others if sessions is None or sessions.owner(one) is None)
            gone = next(strange, others[0])
            known.pop(gone)
            holder.time_last_used.pop(gone, None)


def _told(*_options: Any, **_named: Any) -> None:
    kind, _, trace = sys.exc_info()
    note("defect", logging.ERROR, error=kind.__name__ if kind else "", at=places(trace), number="")


class Copies:
    """What Gradio keeps of the pages of one app.

    Args:
        app: Gradio's ``Blocks``.
        now: The clock, seconds.
    """

    def __init__(self, app: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._app, self._now = weakref.ref(app), now
        self._put_off: set[str] = set()
        self._unasked: dict[str, float] = {}

    def forget(self, page: str) -> None:
        """Delete what Gradio keeps of a page: its values, messages that nobody has taken, the names of its events.

        Args:
            page: Gradio's session hash.
        """
        app = self._app()
        if app is None:
            return
        holder = getattr(app, "state_holder", None)
        if holder is not None:
            holder.session_data.pop(page, None)
            holder.time_last_used.pop(page, None)
        queue = app._queue
        if any(event.session_hash == page for event in list(queue.event_ids_to_events.values())):
            self._put_off.add(page)  # something still runs that will want to tell its end
            return
        queue.pending_messages_per_session.pop(page, None)
        queue.pending_event_ids_session.pop(page, None)

    def drop_old(self) -> None:
        """Delete the copies of files that are too old."""
        app = self._app()
        if app is not None:
            delete_files(app, FILES_FOR)

    def tidy(self) -> None:
        """Forget what still ran when it was to be forgotten, and calls of no visitor whose answers nobody takes."""
        app = self._app()
        sessions = getattr(getattr(app, "guard", None), "sessions", None)
        if app is None or sessions is None:
            return
        again, self._put_off = self._put_off, set()
        for page in again:
            if not sessions.knows(page):
                self.forget(page)
        queue, now = app._queue, self._now()
        running = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        kept = {*list(queue.pending_messages_per_session), *list(queue.pending_event_ids_session)}
        nobodys = [page for page in kept - running if not sessions.knows(page)]
        self._unasked = {page: self._unasked.get(page, now) for page in nobodys}
        for page, since in self._unasked.items():
            if now - since >= UNASKED:
                self.forget(page)
