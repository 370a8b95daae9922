"""Pages beside the first one on the same server: each a Gradio app of its own below an address, made while it runs.

Gradio mounts what is there before the server starts. A page that comes later needs its startup events, and one that
goes its shutdown, both within the server's loop; and the addresses are looked up here, since routes cannot be taken
away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount as Mounted

from dashboard.kit.door.refused import page_answer
from dashboard.kit.door.routes import path_of
from dashboard.kit.notes import note

BELOW = "/model/"
"""Addresses of pages on other models begin so, below where the first page stands."""
PATIENCE = 60.0
"""Seconds within which the server's loop starts or ends a page."""
NOT_OPEN = (
    "No page on another model is open at this address. Go to the first page and choose the model in its head; if it "
    "is listed there, its page is opened, and this address works again."
)


CLOSED = (
    "The page of this model is closed: nobody was there for a while, or the program was started anew. Go to the first "
    "page and choose the model in its head: its page opens again, at this same address. Programs call /open_model."
)


class Mounts:
    """The pages that are served beside the first one, by what stands in their addresses.

    Args:
        first: The first page, which is launched.
    """

    def __init__(self, first: gr.Blocks) -> None:
        self._first = first
        self._mounts: dict[str, Mount] = {}
        self.listed: frozenset[str] = frozenset()
        """What stands in the addresses of all pages that can be opened."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.at_end: Callable[[], None] = lambda: None
        """Called when the server ends."""

    def at(self, slug: str) -> Any:
        """Return the server of a page, ``None`` where there is none."""
        mount = self._mounts.get(slug)
        return mount.server if mount is not None else None

    def open(self, slug: str, page: gr.Blocks, options: dict[str, Any]) -> None:
        """Serve a page from now on.

        Args:
            slug: What stands in its address.
            page: The page.
            options: Those that the first one was launched with, see :func:`dashboard.page.launch_options`.
        """
        assert self.loop is not None, "pages are chosen on a page that is served"
        mount = Mount(self._first, page, f"{BELOW}{slug}", options)
        mount.start(self.loop)
        self._mounts[slug] = mount

    def close(self, slug: str) -> None:
        """Serve a page no more."""
        mount = self._mounts.pop(slug, None)
        if mount is not None and self.loop is not None and not self.loop.is_closed():
            mount.end(self.loop)


class Mount:
    """One page and its server.

    Args:
        first: The page that is launched: it has the log-in, and where it all stands.
        page: The page.
        path: Where it stands below the first one.
        options: See :meth:`Mounts.open`.
    """

    def __init__(self, first: gr.Blocks, page: gr.Blocks, path: str, options: dict[str, Any]) -> None:
        self.page = page
        taken = {name: value for name, value in options.items() if name not in _OF_LAUNCH}
        page.max_threads = page._queue.max_thread_count = options["max_threads"]
        page.state_session_capacity = options["state_session_capacity"]
        page.share = first.share
        around = FastAPI()
        root = (first.root_path or "").rstrip("/") + path
        gr.mount_gradio_app(around, page, path, root_path=root, mcp_server=False, **taken)
        (mounted,) = (route for route in around.routes if isinstance(route, Mounted))
        self.server = cast(Any, mounted.app)
        server = first.server_app
        # One log-in for all pages: whoever has given the password on one of them has given it.
        self.server.auth, self.server.tokens, self.server.cookie_id = server.auth, server.tokens, server.cookie_id
        page.auth, page.auth_message = first.auth, first.auth_message
        page.server_app = page.app = self.server
        self._over = asyncio.Event()
        self._task: Future[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start what the page does by itself; returns when it can be asked."""
        begun: Future[None] = Future()
        self._task = asyncio.run_coroutine_threadsafe(self._live(begun), loop)
        begun.result(PATIENCE)

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """End it; streams to browsers are closed."""
        loop.call_soon_threadsafe(self._over.set)

    async def _live(self, begun: Future[None]) -> None:
        try:
            async with self.server.router.lifespan_context(self.server):
                self.page.run_startup_events()
                await self.page.run_extra_startup_events()
                self.server.startup_events_triggered = True
                begun.set_result(None)
                await self._over.wait()
                self.server.stop_event.set()
                self.page._queue.close()
                self.page.is_running = False
            # FastAPI remembers the routes of servers that are gone, so what the page's events hold is let go by hand.
            self.page.clear()
            self.page._queue.process_time_per_fn.clear()
            self.server.state_holder.session_data.clear()
        except Exception as error:
            if not begun.done():
                begun.set_exception(error)
            raise


_OF_LAUNCH = ("mcp_server", "max_threads", "state_session_capacity")
"""Options of launching that a mounted page has no words for."""


class OtherPages:
    """Middleware of the first page's server: what is asked for below another page's address goes to that one.

    Each has its own doors (:class:`dashboard.kit.door.doors.Doors`), so this stands before the first page's.

    Args:
        app: The first page's server, as it is behind this.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        mounts = getattr(scope["app"].get_blocks(), "mounts", None) if "app" in scope else None
        if mounts is None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "lifespan":
            mounts.loop = asyncio.get_running_loop()
            try:
                await self._app(scope, receive, send)
            finally:
                mounts.at_end()
            return
        path = path_of(scope)
        if scope["type"] != "http" or not path.startswith(BELOW):
            await self._app(scope, receive, send)
            return
        slug, slash, rest = path.removeprefix(BELOW).partition("/")
        server = mounts.at(slug)
        if server is None:
            note("refused", why="no such page")
            words = CLOSED if slug in mounts.listed else NOT_OPEN
            await page_answer(scope, send, 404, words, f"{scope.get('root_path', '')}/")
        elif not slash:
            query = scope.get("query_string", b"").decode("latin-1")
            where = f"{scope.get('root_path', '')}{BELOW}{slug}/{'?' if query else ''}{query}"
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", where.encode())]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await server({**scope, "path": f"/{rest}", "root_path": ""}, receive, send)
