"""Which of the server's routes are open, how often, and in whose name.

What is posted: :mod:`dashboard.kit.door.posts`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread

from dashboard.kit.door.handing import give_back, keep_free
from dashboard.kit.door.posts import API, bounded, check_event, check_files, object_of, page_of, whole
from dashboard.kit.door.refused import PRIVATE, Refused
from dashboard.kit.door.upload_room import NO_DISK, Coming, UploadRoom
from dashboard.kit.door.uploads import COMING_NOW, still_there
from dashboard.kit.limits import Limits, Pace
from dashboard.kit.sessions.visitors import Sessions

POSTED = 2**20
"""Bytes that a post may have: every control of the page and the longest texts fit many times over."""
GUESSES, WITHIN = 10, 300.0
"""Wrong passwords that one address may send in so many seconds."""
ADDRESSES = 10_000

PAGE = frozenset(
    (*("/", "/config", "/theme.css", "/robots.txt", "/favicon.ico", "/manifest.json"), *("/login_check", "/logout"))
)
"""What a browser gets of the page itself."""
PARTS = ("/assets/", "/static/", "/svelte/", "/pwa_icon")
"""Its scripts, styles and icons begin so."""
READ = frozenset(
    ("info", "openapi.json", "queue/data", "queue/status", "app_id", "startup-events", "theme.css", "user", "token")
)
"""What is read of the interface for programs and pages."""
READ_BELOW = ("heartbeat/", "call/", "file=")
POST = frozenset(("queue/join", "cancel", "reset"))
LOGIN = "/login"
HEALTH = "/health"
"""Answers 200 while the page is open; while the model is loaded the waiting page answers 503 here as everywhere."""
TOOLS = f"{API}mcp"
"""Where programs that use tools post; open with ``--mcp`` only."""
FILES_READ, FILES_POST = "upload_progress", "upload"
"""Open only where a step of the page takes files."""
COMING = "dinm.coming"
"""Where a request keeps what it brings."""

DIRECT = (
    "Direct posts are off: they would go around the queue. Post to /gradio_api/call/NAME, or use gradio_client; "
    "/gradio_api/info lists the endpoints."
)
CLOSED = "This page has no such address."
NOT_YOURS = "This page was opened elsewhere. Reload it."
TOO_OFTEN = "Too many wrong passwords were tried. Try again in some minutes."
TOO_FAST = "This page asks more than the server answers in a minute. Wait some seconds, then go on."


def path_of(scope: Any) -> str:
    """Return the path that is asked for below where the page stands."""
    path, root = scope["path"], scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def check_route(method: str, path: str, app: Any) -> None:
    """Let through what the page and programs use.

    Args:
        app: The page, Gradio's ``Blocks``.

    Raises:
        Refused: It is something else.
    """
    rest = path.partition(API)[2] if path.startswith(API) else None
    if is_tool_path(path) and getattr(app, "mcp_server_obj", None) is not None and method in ("GET", "POST", "DELETE"):
        return
    if method in ("GET", "HEAD"):
        if rest is None:
            open_to_all = (path.rstrip("/") or "/") in PAGE or path.startswith(PARTS)
        else:
            known = rest.rstrip("/") in READ or rest.startswith(READ_BELOW)
            open_to_all = known and not rest.lower().startswith("file=http")
        if open_to_all or (rest == FILES_READ and takes_files(app)):
            return
    elif method == "OPTIONS":  # a browser asks whether another site may ask; Gradio answers
        return
    elif method == "POST":
        if rest is None:
            if path.rstrip("/") == "/login":
                return
        else:
            name = rest.rstrip("/")
            kind, _, called = name.partition("/")
            if kind in ("run", "api"):
                raise Refused(403, DIRECT, "direct")
            if kind == "call":
                if not is_endpoint(called.removeprefix("v2/"), app):
                    raise Refused(404, PRIVATE, "private")
                return
            if name in POST or (name == FILES_POST and takes_files(app)):
                return
    raise Refused(404, CLOSED, "route")


def is_tool_path(path: str) -> bool:
    """Tell whether a path belongs to the tools."""
    return path == TOOLS or path.startswith(f"{TOOLS}/")


def is_endpoint(name: str, app: Any) -> bool:
    """Tell whether a page has a public endpoint of a name."""
    return any(fn.api_name == name and fn.api_visibility == "public" for fn in app.fns.values())


def takes_files(app: Any) -> bool:
    """Tell whether a part of a page takes files."""
    return any(
        type(block).__name__ in ("File", "UploadButton") and getattr(block, "interactive", None) is not False
        for block in app.blocks.values()
    )


@dataclass
class Guard:
    """What a page lets in.

    Attributes:
        sessions: Its visitors; ``None`` for a page without.
        limits: What one of them may ask.
        room: For files that they send.
        sent: The files that have come in whole, by their paths, of each page of the program.
        pace: How fast events may come.
    """

    sessions: Sessions | None = None
    limits: Limits = field(default_factory=Limits)
    room: UploadRoom = field(default_factory=UploadRoom)
    sent: list[set[str]] = field(default_factory=list)
    pace: Pace = field(default_factory=lambda: Pace(None))
    _guesses: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def beside(self, sessions: Sessions) -> Guard:
        """Return the guard of another page of the same program: what has come here counts there.

        Args:
            sessions: That page's visitors.
        """
        return Guard(sessions, self.limits, self.room, self.sent, self.pace, self._guesses, self._lock)

    async def admitted(self, scope: Any, receive: Any, key: str) -> Any:
        """Return what the server may receive of a request.

        Args:
            key: In the cookie of whoever asks; empty without one.

        Raises:
            Refused: It is not let in.
        """
        method, path, app = scope["method"], path_of(scope), scope["app"].get_blocks()
        if method in ("GET", "HEAD") and path.rstrip("/") == HEALTH:
            raise Refused(200, "The page is open.", "")  # an answer of its own, without the server behind
        check_route(method, path, app)
        if method != "POST":
            self._check_page(_page_asked(scope, path), key)
            _check_file(path, scope["app"].uploaded_file_dir)
            return receive
        if path.rstrip("/") == LOGIN:
            self._guess(_client(scope))
        if path.rstrip("/").endswith(f"{API}{FILES_POST}"):
            return await self._files(scope, bounded(scope, receive, self.limits.upload + POSTED), app)
        body = await whole(bounded(scope, receive, POSTED))
        if path.startswith(API):
            said = object_of(body)
            check_files(said)
            page = page_of(said)
            self._check_page(page, key)
            if path.rstrip("/") == f"{API}queue/join":
                check_event(said, app)
            is_event = path.startswith((f"{API}queue/join", f"{API}call/"))
            if is_event and not self.pace.admits(key or page or "", _client(scope)):
                raise Refused(429, TOO_FAST, "events")
        sent = False

        async def again() -> Any:
            nonlocal sent
            if sent:
                return await receive()  # that the client has gone
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    def answered(self, scope: Any, status: int) -> None:
        """Hear how a request was answered: a password that was right was no guess.

        Args:
            status: HTTP's.
        """
        if status < 400 and scope["method"] == "POST" and path_of(scope).rstrip("/") == LOGIN:
            with self._lock:
                times = self._guesses.get(_client(scope))
                if times:
                    times.pop()

    def ended(self, scope: Any) -> None:
        """Hear that a request has ended, answered or not: what was kept free for its files is free again."""
        coming: Coming | None = scope.pop(COMING, None)
        if coming is not None:
            give_back(coming)
            self.room.end(coming)

    def _check_page(self, page: str | None, key: str) -> None:
        if page is None or self.sessions is None:
            return
        owner = self.sessions.owner(page)
        if owner is not None and owner.partition(":")[2] != key and owner != page:
            raise Refused(404, NOT_YOURS, "page")

    async def _files(self, scope: Any, receive: Any, app: Any) -> Any:
        headers, most = dict(scope["headers"]), self.limits.upload
        said = headers.get(b"content-length", b"")
        size = int(said) if said.isdigit() and b"transfer-encoding" not in headers else most
        folder = scope["app"].uploaded_file_dir

        def begin() -> Coming:
            came = still_there([app.upload_file_set, *self.sent])
            os.makedirs(folder, exist_ok=True)
            coming = self.room.begin(_client(scope), size, most, came)
            with ExitStack() as refused:
                refused.callback(self.room.end, coming)
                if not keep_free(coming, lambda: coming.missing, folder, self.limits.free):
                    raise Refused(507, NO_DISK, "disk")
                refused.pop_all()
            return coming

        # On a thread: each file's size is asked of the disk, and the loop serves everyone.
        coming = await anyio.to_thread.run_sync(begin)
        scope[COMING] = coming
        COMING_NOW.set(coming)
        return coming.counted(receive)

    def _guess(self, address: str) -> None:
        with self._lock:
            now, times = time.monotonic(), self._guesses.setdefault(address, deque(maxlen=GUESSES))
            self._guesses.move_to_end(address)
            if len(times) == GUESSES and now - times[0] < WITHIN:
                raise Refused(429, TOO_OFTEN, "password")
            times.append(now)
            while len(self._guesses) > ADDRESSES:
                self._guesses.popitem(last=False)


def _client(scope: Any) -> str:
    return (scope.get("client") or ("",))[0]


def guard_of(server: Any) -> Guard:
    """Return the guard of the page on a server: that of :func:`dashboard.page.build_app`, else one without visitors."""
    page = server.get_blocks()
    if not hasattr(page, "guard"):
        page.guard = Guard()
    return page.guard


def _page_asked(scope: Any, path: str) -> str | None:
    if path.startswith(f"{API}heartbeat/"):
        return path.removeprefix(f"{API}heartbeat/").rstrip("/")
    if path.startswith(f"{API}queue/data"):
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [])
        return given[-1] if given else None
    return None


def _check_file(path: str, folder: str) -> None:
    """Let a file be read only where Gradio keeps its copies; of any other it is not even said whether it is there."""
    name = path.removeprefix(f"{API}file=")
    if name != path and not os.path.abspath(name).startswith(os.path.abspath(folder) + os.sep):
        raise Refused(404, CLOSED, "file")
