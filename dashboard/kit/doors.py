"""What stands before the page's server: it gives each browser its key, and refuses what goes around the queue.

The key is a random cookie that scripts cannot read. It comes with every request by itself, also with the first one of a
page that was reloaded, and needs no event of the page before it is known: so it is more robust than a value that the
page would have to read out of the browser's storage and send along. It names nothing and holds no text.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

API = "/gradio_api/"
STARTED = secrets.token_hex(4)
"""Names this start of the program: a key of another one says that the program was started anew since."""
AGAIN = ".again"
"""Ends the key of a browser that had one of an earlier start."""
KEEP = 7 * 24 * 3600
"""Seconds for which a browser keeps its key; the server forgets what belongs to it long before."""
TOOL_HEADER = ("x-gradio-user", "mcp")
"""Marks what the program's own server of tools asks for."""
TOOLS = API + "mcp"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = re.compile(rf"[0-9a-f]{{8}}\.[A-Za-z0-9_-]{{32}}(?:{re.escape(AGAIN)})?")

DIRECT = (
    "Direct posts are off: they would go around the queue. Post to /gradio_api/call/NAME (all values in their order) "
    "or /gradio_api/call/v2/NAME (by their names), or use gradio_client; /gradio_api/info lists the endpoints."
)
FOREIGN = "Pages of other sites may not use this program's tools; programs without a page may."
PRIVATE = "There is no such endpoint; /gradio_api/info lists those that there are."


def key_of(request: Any) -> str:
    """Return the key of whoever asks: the browser's cookie, else, as for a program, Gradio's session hash.

    Args:
        request: Gradio's; ``None`` for nobody in particular.
    """
    page = getattr(request, "session_hash", None) or ""
    asked = getattr(request, "request", None)  # FastAPI's
    if asked is None:
        return page
    key = asked.cookies.get(_name(asked.scope), "")
    if not _KEY.fullmatch(key):
        return page
    return f"{getattr(request, 'username', None) or ''}:{key}"


def is_tool(request: Any) -> bool:
    """Tell whether a tool asks: it is nobody's in particular, so it gets a session that nobody else has."""
    asked = getattr(request, "request", None)
    return getattr(asked, "headers", {}).get(TOOL_HEADER[0]) == TOOL_HEADER[1]


def is_from_before(key: str) -> bool:
    """Tell whether a visitor had a key of an earlier start of the program."""
    return key.endswith(AGAIN)


def _name(scope: Any) -> str:
    # Browsers send the cookies of one port to all ports of a host.
    return f"dinm-visitor-{(scope.get('server') or (None, 0))[1]}"


class Doors:
    """Middleware of the server.

    Args:
        app: What it stands before.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse a request, or pass it on; a page that is sent brings the visitor's key."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if TOOLS in scope["path"] and not may_use_tools(headers.get(b"origin")):
            await _refuse(send, 403, FOREIGN)
            return
        if scope["method"] == "POST":
            refused = refusal(scope["path"], scope["app"])
            if refused is not None:
                await _refuse(send, *refused)
                return
        wants_page = scope["method"] == "GET" and "text/html" in headers.get(b"accept", "")

        async def with_key(message: Any) -> None:
            if wants_page and message["type"] == "http.response.start" and _is_page(message):
                cookie = _cookie(scope, headers.get(b"cookie", ""))
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        await self._app(scope, receive, with_key)


def refusal(path: str, app: Any) -> tuple[int, str] | None:
    """Return status and words with which a post is refused, ``None`` for one that is let through."""
    _, _, rest = path.partition(API)
    kind, _, name = rest.strip("/").partition("/")
    if kind in ("run", "api"):
        return 403, DIRECT
    if kind == "call":
        name = name.removeprefix("v2/")
        fns = app.get_blocks().fns.values()
        if not any(fn.api_name == name and fn.api_visibility == "public" for fn in fns):
            return 404, PRIVATE
    return None


def may_use_tools(origin: str | None) -> bool:
    """Tell whether a request may use the tools: one of no page, or of a page on this machine.

    A browser says by itself which site a page is of; a name that leads to this machine by a trick is none of
    its own names.

    Args:
        origin: The header of that name, ``None`` where there is none.
    """
    try:
        return origin is None or urlsplit(origin).hostname in _LOOPBACK
    except ValueError:  # no address at all
        return False


async def _refuse(send: Any, status: int, words: str) -> None:
    content = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _is_page(message: Any) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])


def _cookie(scope: Any, sent: str) -> str:
    try:
        known = SimpleCookie(sent).get(_name(scope))
    except CookieError:
        known = None
    key = known.value if known is not None and _KEY.fullmatch(known.value) else ""
    if not key.startswith(STARTED):
        key = f"{STARTED}.{secrets.token_urlsafe(24)}{AGAIN if key else ''}"
    sent_to = "SameSite=Lax"
    if scope["scheme"] == "https":
        # A Space stands in another site's frame, where a browser keeps a cookie only if it is cut off from other sites.
        sent_to = "Secure; SameSite=None; Partitioned" if os.environ.get("SPACE_ID") else "Secure; SameSite=Lax"
    return f"{_name(scope)}={key}; Path=/; Max-Age={KEEP}; HttpOnly; {sent_to}"
