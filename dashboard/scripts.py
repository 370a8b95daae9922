"""The scripts and styles of the page, compressed once and not anew for every browser.

Gradio compresses what it sends piece by piece within the loop that all visitors are answered in. The script that draws
the figures alone has 4.6 MB, and a browser asks for sixty of them at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import brotli

from dashboard.front_end import BELOW, KEEP, KINDS, content_of, folder_of_scripts
from dashboard.kit.door.routes import path_of

QUALITY = 5


class Scripts:
    """Middleware of the server: answers for scripts and styles, and passes all else on.

    Args:
        app: What it stands before.
    """

    packed: dict[str, bytes] = {}  # noqa: RUF012, of all pages of the program: no more than the folder has
    """What was compressed, by its name."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._files = {path.name: path for path in folder_of_scripts().iterdir() if path.suffix in KINDS}

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        path = self._asked(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        content = self.packed.get(path.name)
        if content is None:
            content = self.packed[path.name] = await anyio.to_thread.run_sync(_packed, path)
        headers = [
            (b"content-type", KINDS[path.suffix].encode()),
            (b"content-length", str(len(content)).encode()),
            (b"content-encoding", b"br"),
            (b"cache-control", KEEP.encode()),
            (b"vary", b"Accept-Encoding"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _asked(self, scope: Any) -> Path | None:
        """Return the file that a browser asks for and can read compressed; ``None`` for anything else."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return None
        named = path_of(scope)
        takes = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
        if not named.startswith(BELOW) or b"br" not in takes.replace(b" ", b"").split(b","):
            return None
        return self._files.get(named.removeprefix(BELOW))


def _packed(path: Path) -> bytes:
    return bytes(brotli.compress(content_of(path), mode=brotli.MODE_TEXT, quality=QUALITY))
