"""What Gradio asks of a class for each of its components, asked once: nothing that it learns there can change.

Every answer of an event makes a component anew for each part that it changes, and each component asks, several times
over, for the signature of its class, looks through all names of it for functions of the server, and asks the disk where
the folder of copies truly lies.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

import gradio.blocks
import gradio.component_meta
import gradio.utils
from gradio.components import base


@cache
def _arguments(function: Any) -> inspect.FullArgSpec:
    """Return what a constructor takes."""
    return inspect.getfullargspec(function)


@cache
def _signature_of(function: FunctionType) -> inspect.Signature:
    return inspect.signature(function)


def _signature(called: Any) -> inspect.Signature:
    """Return how something is called; a method of one component, which would be kept with it, is asked each time."""
    return _signature_of(called) if isinstance(called, FunctionType) else inspect.signature(called)


@cache
def _folder_of(_named: str | None, _temporary: str) -> str:
    return gradio.utils.get_upload_folder()


def _copies_folder() -> str:
    """Return where Gradio keeps its copies of files, which is asked of the disk for each name of that folder once."""
    return _folder_of(os.environ.get("GRADIO_TEMP_DIR"), tempfile.gettempdir())


@cache
def _server_functions(component: type) -> list[str]:
    """Return the names in a class of components that a browser may call."""
    return [name for name in dir(component) if getattr(getattr(component, name), "_is_server_fn", False)]


def ask_classes_once() -> None:
    """Let Gradio ask each class once, from now on; components are what they were."""
    told = {**vars(inspect), "getfullargspec": _arguments, "signature": _signature}
    gradio.component_meta.inspect = gradio.blocks.inspect = SimpleNamespace(**told)
    gradio.blocks.get_upload_folder = _copies_folder
    base.dir = _server_functions  # type: ignore[attr-defined]
