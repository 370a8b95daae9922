"""The tools for programs that a language model drives: a real server, and a real client of the protocol."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import httpx
import numpy as np
import pytest
from dashboard_helpers import free_port, model_at_rest, tiny_model

from dashboard.endpoints import tools
from dashboard.kit.door.doors import may_use_tools
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sessions.visitors import Sessions
from dashboard.page import build_app, launch_options
from inspector.divergence import DISTANCES, divergence
from inspector.errors import CaseError
from inspector.likelihood import likelihoods
from inspector.safeedit import bundled_cases

mcp = pytest.importorskip("mcp", reason="the package mcp is not installed: pip install -r requirements-mcp.txt")
CASE = {
    name: value
    for name, value in vars(texts_of(bundled_cases()[2])).items()
    if name in ("question", "template", "safe", "unsafe")
}


VISITORS: list[Sessions] = []
"""Those of the page that is served."""


def _kept(*given: Any, **named: Any) -> Sessions:
    VISITORS.append(Sessions(*given, **named))
    return VISITORS[-1]


@pytest.fixture(scope="module")
def app() -> Iterator[gr.Blocks]:
    gradios = gradio.mcp.GradioMCPServer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboard.page.Sessions", _kept)
        made = build_app(tiny_model(), example=False)
    made.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options(mcp=True))
    yield made
    made.close(verbose=False)
    gradio.mcp.GradioMCPServer = gradios


def address(app: gr.Blocks) -> str:
    return f"{app.local_url}gradio_api/mcp/"


def asked(app: gr.Blocks, work: Any) -> Any:
    """Connect a client, let it work, and return what it has got."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> Any:
        async with (
            streamablehttp_client(address(app)) as (reading, writing, _),
            ClientSession(reading, writing) as talk,
        ):
            await talk.initialize()
            return await work(talk)

    return asyncio.run(asyncio.wait_for(talk(), 60))


def called(app: gr.Blocks, name: str, **arguments: Any) -> Any:
    """Call a tool and return its answer, or its error's text."""
    answer = asked(app, lambda talk: talk.call_tool(name, arguments))
    text = answer.content[0].text
    return text if answer.isError else json.loads(text)


def test_the_tools_are_those_that_read_and_each_says_what_it_takes(app):
    listed = asked(app, lambda talk: talk.list_tools()).tools
    assert [tool.name for tool in listed] == list(tools.READING)
    for tool in listed:
        assert "Returns JSON: " in tool.description
        for name, entry in tool.inputSchema["properties"].items():
            assert entry["description"] and ({"type", "enum", "anyOf"} & set(entry)), (tool.name, name)
    located = next(tool for tool in listed if tool.name == "locate").inputSchema
    assert located["required"] == ["question", "template", "safe", "unsafe"]
    assert located["properties"]["preset_name"]["enum"] == ["corrected", "paper", "reference"]
    told = httpx.get(f"{address(app)}schema").json()
    assert [entry["name"] for entry in told] == list(tools.READING)


def test_a_tool_tells_what_the_function_measures(app):
    with model_at_rest() as model:
        told = called(app, "locate", **CASE)
        expected = divergence(model, bundled_cases()[2])
        assert told["toxic_layer"] == expected.toxic_layer() and told["blocks"] == 3
        for distance in DISTANCES:
            assert np.allclose(told[distance], expected.by(distance)), distance
        safe, unsafe = called(app, "likelihoods", **CASE)
        case = bundled_cases()[2]
        ((measured, _),) = likelihoods(model, case.adversarial_prompt, (case.safe, case.unsafe))
        assert (safe["answer"], unsafe["answer"]) == ("safe", "unsafe")
        assert np.allclose(safe["log_probabilities"], measured.log_probabilities)
        assert called(app, "cases")[2]["question"] == case.question
        assert called(app, "status")["weights"] == "vanilla"
        opened = called(app, "open_link", link=f"?case={case.identifier}&layer=1")
        assert (opened["question"], opened["layer"]) == (case.question, 1)


def test_nothing_else_can_be_called_whether_listed_or_not(app):
    public = {fn.api_name for fn in app.fns.values() if fn.api_visibility == "public"}
    others = sorted(public - set(tools.READING))
    assert {"edit", "keep", "undo", "ask", "load_method", "methods", "stress_test", "cancel"} <= set(others)
    assert {"report", "make_link", "compare_models", "redo", "rename", "delete", "save"} <= set(others)

    async def each(talk: Any) -> list[Any]:
        return [await talk.call_tool(name, CASE) for name in others]

    for answer in asked(app, each):
        assert answer.isError and "Unknown tool" in answer.content[0].text


def test_a_mistake_is_told_with_its_remedy(app):
    assert "Write one or pick an example" in called(app, "locate", **{**CASE, "question": ""})
    assert "Input validation error" in called(app, "attribution", **CASE, way="guess")


def test_tools_know_nobody_so_they_neither_wait_for_each_other_nor_keep_anything(app):
    async def at_once(talk: Any) -> Any:
        return await asyncio.gather(*(talk.call_tool("likelihoods", CASE) for _ in range(4)))

    before = len(VISITORS[0])
    answers = asked(app, at_once)
    assert not any(answer.isError for answer in answers) and len({a.content[0].text for a in answers}) == 1
    assert len(VISITORS[0]) == before == 0, "a call has left a session"


def test_a_page_of_another_site_may_not_use_them(app):
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"accept": "application/json, text/event-stream"}
    assert httpx.post(address(app), json=ping, headers=accept).status_code == 200
    refused = httpx.post(address(app), json=ping, headers={**accept, "origin": "http://rebound.example:7860"})
    assert refused.status_code == 403 and "other sites" in refused.json()["detail"]
    assert may_use_tools(None) and may_use_tools("http://localhost:6274")
    assert not may_use_tools("null") and not may_use_tools("http://[") and not may_use_tools("")


def test_a_missing_or_other_package_is_told_with_its_remedy(monkeypatch):
    def other(_: str) -> str:
        return "2.3.0"

    monkeypatch.setattr(tools, "version", other)
    with pytest.raises(CaseError, match=r"needs version 1 .* this is 2\.3\.0\. Run: .*requirements-mcp\.txt"):
        launch_options(mcp=True)
    pinned = Path("requirements-mcp.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert pinned == f"mcp=={version('mcp')}"


def test_tools_go_with_no_login_because_they_would_go_around_it():
    ended = subprocess.run(
        [sys.executable, "app.py", "--mcp", "--auth", "a:b"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "goes with no login" in ended.stderr
