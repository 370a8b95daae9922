"""The page's HTML: the heading stands in it, so that it is painted before any script was read, and it is made once.

Gradio draws everything from its scripts, and takes seconds for it. ``assets/page.js`` takes this heading away as soon
as the page's own one is there. The largest script, which draws the figures, is asked for by Gradio when all else
stands; here the browser is told of it at once, and reads it beside the others.

Gradio makes the HTML anew for every browser, a tenth of a second or more that nobody else is answered in, though it
is the same for all who come by the same address where nobody logs in: so it is kept.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dashboard.front_end import FIGURES, folder_of_scripts
from dashboard.lighter import tell_browsers_less
from inspector.model.memory.recent import Recent

HEADING = (
    '<header class="mast" id="early" style="position:fixed;inset:0 0 auto;z-index:9;display:flex;gap:12px;'
    "align-items:center;height:52px;padding:0 16px;font:14px system-ui,sans-serif;color-scheme:light dark;"
    'background:Canvas;color:CanvasText"><h1 style="font-size:18px;font-weight:600;margin:0">DINM Inspector</h1>'
    "<span>Opening the page</span></header>"
)
BEFORE = b"<gradio-app"
"""Where the page's own content begins."""

KEPT = 8
"""Addresses, as the browsers of a page name it, for which its HTML is kept."""
SAYS_WHERE = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
"""What of a request stands in the page: Gradio reads from these at what address it is."""

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]
_Whole = tuple[_Message, bytes]
"""How an answer starts, and its content."""


class EarlyHeading:
    """Puts the heading into the page and keeps it; every other answer passes as it is.

    Args:
        app: What answers.
    """

    def __init__(self, app: _App) -> None:
        self.app = app
        files = folder_of_scripts().glob(FIGURES)
        soon = "".join(f'<link rel="modulepreload" href="./assets/{path.name}">' for path in files)
        self.first = (soon + HEADING).encode()
        self._pages: Recent[Any, tuple[_Whole, _Whole]] = Recent(KEPT)  # one loop answers all

    async def __call__(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith("/"):
            await self.app(scope, receive, send)
            return
        tell_browsers_less(scope["app"])
        line = getattr(scope["app"].get_blocks(), "line", None)
        if line is not None:
            line.page_opens()
        where = _where(scope)
        kept = self._pages.get(where)
        if kept is None:
            kept = await self._made(scope, receive, send)
            if kept is None:
                return
            if where is not None:
                self._pages[where] = kept
        plain, packed = kept
        start, body = packed if b"gzip" in _header(scope, b"accept-encoding") else plain
        await send({**start, "headers": list(start["headers"])})
        await send({"type": "http.response.body", "body": body})

    async def _made(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send
    ) -> tuple[_Whole, _Whole] | None:
        """Return the page as it is and compressed; ``None`` where the answer was none, and was passed on."""
        start: _Message | None = None
        body, whole = b"", False

        async def collect(message: _Message) -> None:
            nonlocal start, body, whole
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            whole = not message.get("more_body")

        await self.app(scope, receive, collect)
        if start is None or not whole:
            return None
        content = body.replace(BEFORE, self.first + BEFORE, 1)
        return _answer(start, content), _answer(start, gzip.compress(content, 5), (b"content-encoding", b"gzip"))


def _answer(start: _Message, content: bytes, *further: tuple[bytes, bytes]) -> _Whole:
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    length = (b"content-length", str(len(content)).encode())
    return {**start, "headers": [*headers, length, *further, (b"vary", b"Accept-Encoding")]}, content


def _where(scope: _Message) -> Any:
    """Name the address at which a browser sees the page; ``None`` where the page may be somebody's own.

    It is where they log in, and where an address asks for something: a link's content, for example.
    """
    server = scope["app"]
    if server.auth is not None or server.auth_dependency is not None or scope.get("query_string"):
        return None
    said = tuple(_header(scope, name) for name in SAYS_WHERE)
    return scope.get("scheme"), scope.get("server"), scope.get("root_path"), scope["path"], said


def _header(scope: _Message, wanted: bytes) -> bytes:
    return b",".join(value for name, value in scope["headers"] if name.lower() == wanted)


def _is_page(start: _Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    plain = b"content-encoding" not in headers
    return start["status"] == 200 and plain and headers.get(b"content-type", b"").startswith(b"text/html")
