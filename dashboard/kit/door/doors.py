"""What stands before the page's server: it gives each browser its key, and lets in only what the page and programs use.

The key is a random cookie that scripts cannot read. It comes with every request by itself, also with the first one of a
page that was reloaded, and needs no event of the page before it is known: so it is more robust than a value that the
page would have to read out of the browser's storage and send along. It names nothing and holds no text.

Gradio's server has many more routes than this page needs: some write what stands on a page to disk, some take files of
any kind, some fetch other addresses. What is not in :mod:`dashboard.kit.door.routes` is refused here, and so is
whatever asks in the name of a page that another browser has opened.
"""

from __future__ import annotations

import os
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from dashboard.kit.door.refused import Refused
from dashboard.kit.door.routes import guard_of, is_tool_path, path_of
from dashboard.kit.notes import note

STARTED = secrets.token_hex(4)
"""Names this start of the program: a key of another one says that the program was started anew since."""
AGAIN = ".again"
"""Ends the key of a browser that had one of an earlier start."""
KEEP = 7 * 24 * 3600
"""Seconds for which a browser keeps its key; the server forgets what belongs to it long before."""
TOOL_HEADER = ("x-dinm-tool", secrets.token_urlsafe(24))
"""Marks what the program's own server of tools asks for; nobody outside this process knows the value."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = re.compile(rf"[0-9a-f]{{8}}\.[A-Za-z0-9_-]{{32}}(?:{re.escape(AGAIN)})?")

FOREIGN = "Pages of other sites may not use this program's tools; programs without a page may."


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


def address_of(request: Any) -> str | None:
    """Return the address that a visitor comes from, as the server sees it; ``None`` for nobody in particular.

    Behind a proxy it is the one that the proxy names, if uvicorn trusts it (``FORWARDED_ALLOW_IPS``).
    """
    client = getattr(getattr(request, "request", None), "client", None)
    return client.host if client is not None else None


def is_tool(request: Any) -> bool:
    """Tell whether a tool asks: it is nobody's in particular, so it gets a session that nobody else has."""
    asked = getattr(request, "request", None)
    said = getattr(asked, "headers", {}).get(TOOL_HEADER[0], "")
    return secrets.compare_digest(said.encode(), TOOL_HEADER[1].encode())


def is_from_before(key: str) -> bool:
    """Tell whether a visitor had a key of an earlier start of the program."""
    return key.endswith(AGAIN)


def has_earlier_key(request: Any) -> bool:
    """Tell whether who asks goes on with the key that a page of an earlier start of the program has given."""
    key = key_of(request)
    return key != (getattr(request, "session_hash", None) or "") and not key.rpartition(":")[2].startswith(STARTED)


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
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        guard = guard_of(scope["app"])
        try:
            if is_tool_path(path_of(scope)) and not may_use_tools(headers.get(b"origin")):
                raise Refused(403, FOREIGN, "tools")
            receive = await guard.admitted(scope, receive, cookie_key(scope))
        except Refused as refused:
            if refused.why:
                note("refused", why=refused.why)
            await refused.answer(send)
            return
        wants_page = scope["method"] == "GET" and "text/html" in headers.get(b"accept", "")
        begun = False

        async def with_key(message: Any) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                guard.answered(scope, message["status"])
            if wants_page and message["type"] == "http.response.start" and _is_page(message):
                cookie = _cookie(scope, headers.get(b"cookie", ""))
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, with_key)
        except Refused as refused:  # more was sent than had been said
            note("refused", why=refused.why)
            if not begun:
                await refused.answer(send)
        finally:
            guard.ended(scope)


def cookie_key(scope: Any) -> str:
    """Return the key in a request's cookie, empty without a valid one."""
    try:
        known = SimpleCookie(_headers(scope).get(b"cookie", "")).get(_name(scope))
    except CookieError:
        return ""
    return known.value if known is not None and _KEY.fullmatch(known.value) else ""


def _headers(scope: Any) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


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


def _is_page(message: Any) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])


def _cookie(scope: Any, sent: str) -> str:
    key = cookie_key({**scope, "headers": [(b"cookie", sent.encode("latin-1"))]})
    if not key.startswith(STARTED):
        key = f"{STARTED}.{secrets.token_urlsafe(24)}{AGAIN if key else ''}"
    sent_to = "SameSite=Lax"
    if scope["scheme"] == "https":
        # A Space stands in another site's frame, where a browser keeps a cookie only if it is cut off from other sites.
        sent_to = "Secure; SameSite=None; Partitioned" if os.environ.get("SPACE_ID") else "Secure; SameSite=Lax"
    return f"{_name(scope)}={key}; Path=/; Max-Age={KEEP}; HttpOnly; {sent_to}"
