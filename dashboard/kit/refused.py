"""A request that is not let in, and how it is answered."""

from __future__ import annotations

import json
from typing import Any

PRIVATE = "There is no such endpoint; /gradio_api/info lists those that there are."


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
