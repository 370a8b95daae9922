"""Building a page while another one is open: what visitors' events make meanwhile does not land on it.

Gradio notes for the whole process which page is being built, and an event that answers with a component, as most here
do, would add it to that page. So the note is each thread's own, and a page is built on a thread that is in no event.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar

import gradio.context
from gradio.context import Context

Built = TypeVar("Built")

_ROOT: ContextVar[Any] = ContextVar("page that is being built", default=None)
_BLOCK: ContextVar[Any] = ContextVar("part of it that is being laid out", default=None)


class _Own(type):
    """Makes what Gradio notes as attributes of a class the thread's own."""

    root_block = property(lambda _cls: _ROOT.get(), lambda _cls, page: _ROOT.set(page) and None)
    block = property(lambda _cls: _BLOCK.get(), lambda _cls, part: _BLOCK.set(part) and None)


class OwnContext(Context, metaclass=_Own):
    """Takes the place of Gradio's note."""


def keep_apart() -> None:
    """Let each thread know only of the page that it is building itself; a second time does nothing."""
    if gradio.context.Context is OwnContext:
        return
    OwnContext.id = Context.id  # numbers of parts go on
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "gradio" and getattr(module, "Context", None) is Context:
            module.Context = OwnContext  # type: ignore[attr-defined]


def built_apart(make: Callable[[], Built]) -> Built:
    """Build a page from within an event, and return it.

    Args:
        make: Builds it.
    """
    made: Future[Built] = Future()

    def build() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # told to whoever waits
            made.set_exception(error)

    threading.Thread(target=build, name="page", daemon=True).start()
    return made.result()
