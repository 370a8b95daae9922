"""What Gradio makes of a page too early, and too often."""

from __future__ import annotations

import builtins
from typing import Any

import gradio as gr
import httpx
from gradio.routes import App

from dashboard.lighter import LighterBlocks


def test_a_page_s_server_is_made_when_it_is_launched_and_not_before(monkeypatch):
    made: list[gr.Blocks] = []
    make = App.create_app

    def counted(blocks: gr.Blocks, **named: Any) -> App:
        made.append(blocks)
        return make(blocks, **named)

    monkeypatch.setattr(App, "create_app", staticmethod(counted))
    with LighterBlocks(analytics_enabled=False) as page:
        gr.Markdown("Here it is")
    page.queue(max_size=8)
    assert made == []
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert made == [page] and page.app is page.server_app
        assert "Here it is" in httpx.get(url).text
        with gr.Blocks(analytics_enabled=False) as other:
            gr.Markdown("As Gradio has it")
        assert other in made and other.app is not None
    finally:
        page.close(verbose=False)


def test_no_event_imports_matplotlib(monkeypatch):
    asked: list[str] = []
    imports = builtins.__import__

    def noted(name: str, *given: Any, **named: Any) -> Any:
        asked.append(name)
        return imports(name, *given, **named)

    def say() -> str:
        import json

        return json.loads('"Here it is"')

    with LighterBlocks(analytics_enabled=False) as page:
        gr.api(say, api_name="say")
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        monkeypatch.setattr(builtins, "__import__", noted)
        event = httpx.post(f"{url}gradio_api/call/say", json={"data": []}).json()["event_id"]
        assert "Here it is" in httpx.get(f"{url}gradio_api/call/say/{event}").text
        assert "json" in asked and not [name for name in asked if name.startswith("matplotlib")]
    finally:
        page.close(verbose=False)
