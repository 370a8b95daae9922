"""The endpoints that only read, as tools of the Model Context Protocol (MCP), for a program that a model drives.

Gradio makes such a server of every endpoint, calls them all from one client, so that all who ask share its session, and
answers in Python's own notation. This one offers those that read, answers in JSON, and knows no visitor
(:func:`dashboard.kit.door.doors.is_tool`).
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gradio.mcp
from gradio.mcp import GradioMCPServer

from dashboard.kit.door.doors import TOOL_HEADER
from inspector.errors import CaseError

READING = ("cases", "prompt", "locate", "likelihoods", "lens", "attribution", "status", "open_link")
"""The endpoints that are tools: none of them edits, keeps, writes, asks with an edit or loads one."""
REMEDY = "Run: python -m pip install -r requirements-mcp.txt"


def require_mcp() -> None:
    """Check that the package that speaks the protocol is there.

    Raises:
        CaseError: It is not, or its version is another than Gradio works with.
    """
    try:
        found = version("mcp")
    except PackageNotFoundError:
        raise CaseError(f"--mcp needs the package mcp. {REMEDY}") from None
    if not found.startswith("1."):
        raise CaseError(f"--mcp needs version 1 of the package mcp, this is {found}. {REMEDY}")


def offer_reading_tools() -> None:
    """Let every MCP server that Gradio makes from now on in this process be one of reading tools.

    Raises:
        CaseError: See :func:`require_mcp`.
    """
    require_mcp()
    gradio.mcp.GradioMCPServer = ReadingTools


class ReadingTools(GradioMCPServer):
    """Gradio's server, with :data:`READING` and nothing else."""

    def get_tool_to_endpoint(self) -> dict[str, str]:
        """Return the endpoint of each tool; a name that is not here can be neither listed nor called."""
        known = super().get_tool_to_endpoint()
        return {tool: endpoint for tool, endpoint in known.items() if endpoint.lstrip("/") in READING}

    def get_fn_description(self, block_fn: Any, tool_name: str) -> tuple[str, dict[str, str]]:
        """Return what a tool does and what each of its parameters means."""
        endpoint = self.api_info["named_endpoints"][self.tool_to_endpoint[tool_name]]
        meanings = {
            entry["parameter_name"]: entry["python_type"]["description"] or "" for entry in endpoint["parameters"]
        }
        answers = " ".join(entry["python_type"]["description"] or "" for entry in endpoint["returns"])
        return f"{endpoint['description']} Returns JSON: {answers}", meanings

    def get_input_schema(self, tool_name: str, parameters: dict[str, str] | None = None) -> tuple[dict[str, Any], list]:
        """Return the schema of a tool's parameters; none of them is a file."""
        schema, files = super().get_input_schema(tool_name, parameters)
        for entry in schema["properties"].values():
            entry.pop("additional_description", None)
        return schema, files

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> tuple[str, list[Any], dict, Any]:
        endpoint, given, _, function = super()._prepare_tool_call_args(name, arguments)
        return endpoint, given, dict([TOOL_HEADER]), function  # nothing of the asker's, a cookie for instance

    def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
        """Return an answer as text: JSON."""
        return [self.types.TextContent(type="text", text=json.dumps(output, ensure_ascii=False)) for output in data]
