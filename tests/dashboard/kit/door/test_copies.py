"""Gradio's own copies of what stands on a page, without a server."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import gradio as gr
from gradio.state_holder import StateHolder

from dashboard.kit.door.copies import BareState
from dashboard.kit.sessions.visitors import OPEN_FOR


def test_what_a_page_keeps_outlasts_a_connection_that_was_lost(monkeypatch):
    """Gradio marks a page then, and never again hears that it is there."""
    with gr.Blocks(analytics_enabled=False) as app:
        part = gr.State({})
    holder = StateHolder()
    state = holder.session_data["page"] = BareState(app)
    state[part._id] = {"safe": "an answer"}
    state.is_closed = True
    later = datetime.now() + timedelta(seconds=OPEN_FOR)
    monkeypatch.setattr("gradio.state_holder.datetime", SimpleNamespace(datetime=SimpleNamespace(now=lambda: later)))
    holder.delete_all_expired_state()
    assert state[part._id] == {"safe": "an answer"}
