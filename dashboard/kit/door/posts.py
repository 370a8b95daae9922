"""What is posted to the server: how large it may be, and what may stand in it."""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import unquote, urlsplit

from dashboard.kit.door.refused import PRIVATE, Refused

API = "/gradio_api/"
FILE = "gradio.FileData"
"""Marks a file in what is posted."""

LONGEST_NAME = 256
"""Characters of the name that a page or a program gives itself; Gradio's have up to 36."""

NO_EVENT = "This is no event."
FETCHES = "This page fetches nothing from other addresses. Send the file itself."
TOO_LARGE = "That is more than this page takes."


def bounded(scope: Any, receive: Any, most: int) -> Any:
    """Return a ``receive`` that takes so many bytes, whatever the headers say."""
    said = dict(scope["headers"]).get(b"content-length", b"0")
    if not said.isdigit() or len(said) > 15 or int(said) > most:
        raise Refused(413, TOO_LARGE, "size")
    taken = 0

    async def counted() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise Refused(413, TOO_LARGE, "size")
        return message

    return counted


async def whole(receive: Any) -> bytes:
    """Return a body; what has come of it where the client goes."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client has gone
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def object_of(body: bytes) -> dict[str, Any]:
    """Return what a body holds.

    Raises:
        Refused: It is no JSON object. Python would also read what is no number, or larger than any: no browser sends
            that, and no control has it.
    """
    try:
        said = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Refused(422, NO_EVENT, "body") from None
    if not isinstance(said, dict):
        raise Refused(422, NO_EVENT, "body")
    return said


def page_of(said: dict[str, Any]) -> str | None:
    """Return the name by which a page or a program posts; ``None`` without one.

    Raises:
        Refused: It is longer than any: much is kept under it.
    """
    name = said.get("session_hash")
    if isinstance(name, str) and len(name) > LONGEST_NAME:
        raise Refused(422, NO_EVENT, "body")
    return name if isinstance(name, str) else None


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError
    return number


def check_files(said: Any) -> None:
    """Refuse files that the server would have to fetch from an address, however deep they stand in a post.

    The page's own script names, beside the path of a file that it has sent, the address under which this page shows
    it. Gradio reads only the path; whether that lies in its folder it checks itself.
    """
    looked = [said]
    while looked:
        one = looked.pop()
        if isinstance(one, list):
            looked += one
        elif isinstance(one, dict):
            looked += one.values()
            meta = one.get("meta")
            if isinstance(meta, dict) and meta.get("_type") == FILE:
                path, address = one.get("path"), one.get("url")
                if _is_address(path) or (_is_address(address) and not _is_of_file(str(address), path)):
                    raise Refused(422, FETCHES, "address")


def _is_address(given: Any) -> bool:
    return isinstance(given, str) and given.strip().lower().startswith(("http:", "https:"))


def _is_of_file(address: str, path: Any) -> bool:
    try:
        shown = unquote(urlsplit(address).path)
    except ValueError:  # no address at all
        return False
    return isinstance(path, str) and path != "" and shown.endswith(f"{API}file={path}")


def check_event(said: dict[str, Any], app: Any) -> None:
    """Let only events through that a page has, with all of their inputs.

    Raises:
        Refused: It is another one.
    """
    number, data = said.get("fn_index"), said.get("data")
    if not isinstance(number, int) or number not in app.fns:
        raise Refused(404, PRIVATE, "number")
    if not isinstance(data, list) or len(data) < len(app.fns[number].inputs):
        raise Refused(422, NO_EVENT, "body")
