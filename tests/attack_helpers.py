"""What attacks on the served page share: the server, and a browser's own way of calling a handler by its number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
import httpx
from dashboard_helpers import free_port, tiny_model

from dashboard.kit.limits import OTHERS, Limits
from dashboard.kit.sessions.visitors import Sessions
from dashboard.page import build_app, launch_options

HTML = {"Accept": "text/html"}
CLOSED = [
    ("GET", "/gradio_api/deep_link?session_hash=mine"),
    ("GET", "/gradio_api/file=http://127.0.0.1:22/"),
    ("GET", "/gradio_api/file=HTTPS://example.org/"),
    ("GET", "/gradio_api/file/http://example.org/"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
    ("GET", "/gradio_api/custom_component/x/client/component/index.js"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/run-history/buckets"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/gradio_api/profiling/traces"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/vibe-code"),
    ("POST", "/gradio_api/stream/1"),
    ("POST", "/gradio_api/stream/1/close"),
    ("POST", "/"),
    ("PUT", "/"),
    ("DELETE", "/config"),
    ("TRACE", "/"),
    ("PATCH", "/gradio_api/queue/join"),
]
"""What Gradio's server has and no page uses."""


@dataclass
class Served:
    """A page on a server."""

    app: gr.Blocks
    url: str

    @property
    def sessions(self) -> Sessions:
        """Its visitors."""
        return self.app.guard.sessions

    def number(self, handler: str) -> int:
        """Return the number of a handler."""
        return next(n for n, fn in self.app.fns.items() if fn.name == handler)

    def values(self, handler: str, **changed: Any) -> list[Any]:
        """Return what a browser sends to a handler on a fresh page.

        Args:
            changed: Other values, by a component's ``elem_id``.
        """
        given = []
        for part in self.app.fns[self.number(handler)].inputs:
            name = (part.elem_id or "").replace("-", "_")
            given.append(changed[name] if name in changed else getattr(part, "value", None))
        return given


@contextmanager
def serve(limits: Limits = OTHERS, launched: dict[str, Any] | None = None, **options: Any) -> Iterator[Served]:
    """Serve the page on the tiny model, without an example.

    Args:
        launched: Further options of launching.
        options: Further options of building.
    """
    app = build_app(tiny_model(), example=False, limits=limits, **options)
    launched = {**launch_options(), **(launched or {})}
    app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launched)
    try:
        yield Served(app, app.local_url)
    finally:
        app.close(verbose=False)


def opened(served: Served, web: httpx.Client, page: str) -> None:
    """Open a page as a browser does: its HTML, then its first event; every view of it counts as opened then."""
    web.get("/", headers=HTML)
    press(served, web, page, "on_arrival")
    served.app._known[page] |= {container._id for container in served.app.later.containers}


def press(served: Served, web: httpx.Client, page: str, handler: str, **changed: Any) -> list[dict[str, Any]]:
    """Call a handler by its number, as a page does, and return every message that comes back."""
    body = {"data": served.values(handler, **changed), "fn_index": served.number(handler), "session_hash": page}
    joined = web.post("/gradio_api/queue/join", json=body)
    joined.raise_for_status()
    return told(web, page)


def told(web: httpx.Client, page: str) -> list[dict[str, Any]]:
    """Return the messages that wait for a page, until its stream closes."""
    answer = web.get("/gradio_api/queue/data", params={"session_hash": page})
    answer.raise_for_status()
    lines = answer.text.split("\n")  # nothing else ends one here, not even what Unicode calls the end of a line
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def call(web: httpx.Client, name: str, *data: Any, **more: Any) -> tuple[str, Any]:
    """Call a named endpoint as Gradio documents it for curl; returns the last event's kind and data."""
    event = web.post(f"/gradio_api/call/{name}", json={"data": list(data), **more}).json()["event_id"]
    lines = web.get(f"/gradio_api/call/{name}/{event}").text.strip().splitlines()
    kind = [line[7:] for line in lines if line.startswith("event: ")][-1]
    data = [line[6:] for line in lines if line.startswith("data: ")][-1]
    return kind, json.loads(data)
