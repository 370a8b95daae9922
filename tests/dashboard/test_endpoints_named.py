"""What is read off an endpoint's hints: once for all pages, and given to each as its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from dashboard.endpoints import naming
from dashboard.endpoints.naming import answer, parameters


class Counted(TypedDict):
    """A word with its letters.

    Attributes:
        letters: How many there are.
    """

    letters: int


def made(page: str) -> Callable[..., Any]:
    """Return an endpoint of a page, as every page makes its own."""

    def count(word: Annotated[str, Field(description="A word.")]) -> Counted:
        return {"letters": len(word + page)}

    return count


WORD = {"word": {"type": "string", "description": "A word."}}


def test_a_second_page_s_endpoints_are_told_as_the_first_one_s_and_not_read_anew(monkeypatch: pytest.MonkeyPatch):
    first, second = made("first"), made("second")
    assert parameters(first) == WORD
    told = answer(first)
    assert told["properties"]["letters"] == {"type": "integer", "description": "How many there are."}
    monkeypatch.setattr(naming, "TypeAdapter", None)
    assert parameters(second) == WORD and answer(second) == told


def test_what_one_page_does_to_what_it_is_told_no_other_page_sees():
    parameters(made("first"))["word"].pop("description")
    answer(made("first"))["properties"].clear()
    assert parameters(made("second")) == WORD and answer(made("second"))["properties"]


def test_two_endpoints_of_one_name_are_each_told_as_they_are():
    def count(number: int) -> Counted:
        return {"letters": number}

    assert parameters(made("first")) == WORD
    assert parameters(count) == {"number": {"type": "integer"}}
