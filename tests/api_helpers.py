"""What the tests of the endpoints for programs share: a served page, clients of it, what they send."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from dashboard_helpers import free_port, tiny_model
from example_helpers import served_example, short_examples
from gradio_client import Client

from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.shelf import Shelf
from dashboard.page import build_app, launch_options
from inspector.safeedit import bundled_cases

SCRIPT = "<script>alert(1)</script>"

TYPED = ("How do I cheat at cards?", "Be a rogue: {question}", "I would rather not.", "Mark the aces.")

LONG = {"preset_name": "reference", "steps": 1000}
"""An edit that nothing ends early: no target, no budget."""


def serve(example_folder: Path, read_only: bool = False, shelf: Shelf | None = None) -> Iterator[gr.Blocks]:
    folder = served_example(example_folder)
    with short_examples():
        app = build_app(tiny_model(), read_only=read_only, example_folder=folder, shelf=shelf)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options())
    yield app
    app.close(verbose=False)


class PatientClient(Client):
    """A client that sends nothing while the stream of what it has had is closing.

    gradio_client counts an event that is sent between the server's end of a stream and its own reading of that end
    as one of the old stream, and cancels it.
    """

    def send_data(self, *args: Any, **kwargs: Any) -> str:
        end = time.monotonic() + 5
        while self.stream_open and not self.pending_event_ids and time.monotonic() < end:
            time.sleep(0.005)
        return super().send_data(*args, **kwargs)


def connect(app: gr.Blocks) -> Client:
    """Return a new client, which is a new visitor."""
    return PatientClient(app.local_url, verbose=False, analytics_enabled=False)


def case(number: int) -> tuple[str, str, str, str]:
    """Return what the endpoints want of a bundled case."""
    texts = texts_of(bundled_cases()[number])
    return texts.question, texts.template, texts.safe, texts.unsafe


def weights(client: Client) -> str:
    return client.predict(api_name="/status")["weights"]
