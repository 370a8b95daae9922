"""The heading stands in the page's own HTML, so that it is painted before any script was read.

Gradio draws everything from its scripts, and takes seconds for it. ``assets/page.js`` takes this heading away as soon
as the page's own one is there. The largest script, which draws the figures, is asked for by Gradio when all else
stands; here the browser is told of it at once, and reads it beside the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio

HEADING = (
    '<header class="mast" id="early" style="position:fixed;inset:0 0 auto;z-index:9;display:flex;gap:12px;'
    "align-items:center;height:52px;padding:0 16px;font:14px system-ui,sans-serif;color-scheme:light dark;"
    'background:Canvas;color:CanvasText"><h1 style="font-size:18px;font-weight:600;margin:0">DINM Inspector</h1>'
    "<span>Opening the page</span></header>"
)
BEFORE = b"<gradio-app"
"""Where the page's own content begins."""

SOON = "PlotlyPlot-*.js"
"""The script that draws figures, in Gradio's own folder; its name holds a hash."""

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]


class EarlyHeading:
    """Puts the heading into the page; every other answer passes as it is.

    Args:
        app: What answers.
    """

    def __init__(self, app: _App) -> None:
        self.app = app
        folder = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
        soon = "".join(f'<link rel="modulepreload" href="./assets/{path.name}">' for path in folder.glob(SOON))
        self.first = (soon + HEADING).encode()

    async def __call__(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith("/"):
            await self.app(scope, receive, send)
            return
        start: _Message | None = None
        body = b""

        async def rewrite(message: _Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            whole = body.replace(BEFORE, self.first + BEFORE, 1)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(whole)).encode())]})
            await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, rewrite)


def _is_page(start: _Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    plain = b"content-encoding" not in headers
    return start["status"] == 200 and plain and headers.get(b"content-type", b"").startswith(b"text/html")
