"""A request that is not let in, and how it is answered."""

from __future__ import annotations

import json
from html import escape
from typing import Any

PRIVATE = "There is no such endpoint; /gradio_api/info lists those that there are."
PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>DINM Inspector</title></head>"
    '<body style="color-scheme:light dark;background:Canvas;color:CanvasText;font:16px/1.5 system-ui,sans-serif;'
    'max-width:40em;margin:48px auto;padding:0 16px"><h1 style="font-size:20px">DINM Inspector</h1><p>{words}</p>'
    '<p><a href="{back}" style="color:LinkText">Go to the first page</a></p></body></html>'
)


class Refused(Exception):
    """A request that is not let in, or is answered before the server.

    Args:
        status: HTTP's.
        words: What whoever asks is told.
        why: One word for the operator; empty for nothing to tell.
    """

    def __init__(self, status: int, words: str, why: str) -> None:
        super().__init__(words)
        self.status, self.words, self.why = status, words, why

    async def answer(self, send: Any) -> None:
        """Send it."""
        content = json.dumps({"detail": self.words}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def page_answer(scope: Any, send: Any, status: int, words: str, back: str) -> None:
    """Answer a request for a page that is not there: to a browser as a page with the way back, else as JSON.

    Args:
        status: HTTP's.
        words: What whoever asks is told.
        back: Where the first page is.
    """
    accepts = dict(scope["headers"]).get(b"accept", b"")
    if scope["method"] != "GET" or b"text/html" not in accepts:
        await Refused(status, words, "").answer(send)
        return
    content = PAGE.format(words=escape(words), back=escape(back)).encode()
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
