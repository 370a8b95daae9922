"""Attacks by what a page asks as something is typed, picked or opened: it runs no model, or is a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import BRIEF, Page, Visitor, tiny_model
from example_helpers import open_page
from memory_faults import passes

from dashboard.kit.limits import Runs
from inspector.errors import CaseError

CLICKED: dict[str, Any] = {
    "on_example": SimpleNamespace(number=3),
    "on_question": SimpleNamespace(number=2),
    "on_neuron": SimpleNamespace(row_value=["1"]),
    "on_answer": SimpleNamespace(row_value=["1"]),
    "on_method_row": SimpleNamespace(row_value=["DINM"]),
    "on_row_clicked": SimpleNamespace(row_value=["1"]),
}
"""What is clicked in a table, a list or a figure."""
ELSEWHERE = {"on_cancel", "on_link", "on_example_part", "on_opening"}
"""What ends a run, what an address opens, and what draws an example that is still made: each has tests of its own."""


@pytest.fixture(scope="module")
def page(example_folder: Path) -> Page:
    return open_page(example_folder)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The visitors whose runs were counted, each as often."""
    found: list[str] = []
    monkeypatch.setattr(Runs, "begin", lambda _runs, visitor, _address: found.append(visitor))
    yield found


def asked_of_the_model(visitor: Visitor, handler: str) -> int:
    """Do what calls a handler and return how many passes the model has made for it."""
    with passes(tiny_model()) as made:
        try:
            if handler in CLICKED:
                visitor.select(handler, CLICKED[handler])
            else:
                visitor.do(handler)
        except gr.Error as error:
            assert "went wrong" not in error.message, (handler, error.message)
    return len(made.rows)


def test_what_is_no_run_asks_the_model_nothing_that_it_was_asked_before(page, counted):
    """A view that is opened, or other weights that are live, may be measured once: then it is known."""
    visitor = Visitor(page, "types and picks")
    visitor.do("on_edit", **BRIEF)
    visitor.do("on_why")
    handlers = {str(getattr(event.fn, "__name__", "")) for event in page.app.fns.values() if event.targets}
    short = sorted(name for name in handlers - ELSEWHERE - set(page.context.reserving) if name.startswith("on_"))
    assert {"on_texts", "on_pick", "on_hand", "on_why_pick", "on_lens", "on_make", "on_return", "on_open_why"} <= set(
        short
    )
    before = list(counted)
    for handler in short:
        asked_of_the_model(visitor, handler)
    again = {handler: asked_of_the_model(visitor, handler) for handler in short}
    assert {handler: count for handler, count in again.items() if count} == {} and counted == before


@pytest.mark.parametrize("handler", ["on_locate", "on_ask", "on_edit"])
def test_what_asks_the_model_is_a_run_and_one_too_many_asks_it_nothing(page, counted, monkeypatch, handler):
    visitor = Visitor(page, f"asks by {handler}")
    assert asked_of_the_model(visitor, handler) > 0 and counted == [visitor.key]

    def refused(*_: Any) -> None:
        raise CaseError("60 runs an hour are allowed here.")

    monkeypatch.setattr(Runs, "begin", refused)
    case = visitor.session.case
    assert asked_of_the_model(visitor, handler) == 0
    assert visitor.session.case is case and not visitor.session.busy
