"""What Gradio asks of a class for each of its components, asked once: nothing that it learns there can change.

Every answer of an event makes a component anew for each part that it changes, and each component asks, several times
over, for the signature of its class and looks through all names of it for functions of the server.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import SimpleNamespace
from typing import Any

import gradio.component_meta
from gradio.components import base


@cache
def _arguments(function: Any) -> inspect.FullArgSpec:
    """Return what a constructor takes."""
    return inspect.getfullargspec(function)


@cache
def _server_functions(component: type) -> list[str]:
    """Return the names in a class of components that a browser may call."""
    return [name for name in dir(component) if getattr(getattr(component, name), "_is_server_fn", False)]


def ask_classes_once() -> None:
    """Let Gradio ask each class once, from now on; components are what they were."""
    told = {**vars(inspect), "getfullargspec": _arguments}
    gradio.component_meta.inspect = SimpleNamespace(**told)
    base.dir = _server_functions  # type: ignore[attr-defined]
