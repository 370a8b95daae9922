"""Facts and passages from the hub, through a stand-in for the package datasets."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from inspector.errors import CaseError
from inspector.safeedit.sets import TRIVIA_QA, XSUM, facts, harmless_prompts, held_out_cases, passages


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Forget what earlier tests have read."""
    facts.cache_clear()
    passages.cache_clear()


def hub(monkeypatch, rows: Any) -> list[tuple[str, dict[str, Any]]]:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Stream:
        def take(self, count: int) -> list[Any]:
            return rows[:count]

    def load_dataset(path: str, **options: Any) -> Stream:
        asked.append((path, options))
        if isinstance(rows, Exception):
            raise rows
        return Stream()

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_trivia_qa_s_aliases_are_accepted_answers(monkeypatch):
    row = {"question": "Who sails?", "answer": {"value": "A sailor", "aliases": ["Mariner", "Seaman"]}}
    asked = hub(monkeypatch, [row, row])
    assert facts(TRIVIA_QA, 1)[0].answers == ("A sailor", "Mariner", "Seaman") and len(facts(TRIVIA_QA, 1)) == 1
    assert asked == [(TRIVIA_QA, {"streaming": True, "name": "rc.nocontext", "split": "validation"})]


def test_xsum_s_documents_are_passages(monkeypatch):
    hub(monkeypatch, [{"document": "A long text.", "summary": "Short."}])
    assert (passages(XSUM)[0].text, passages(XSUM)[0].summary) == ("A long text.", "Short.")


def test_another_layout_or_no_connection_is_refused_with_the_remedy(monkeypatch):
    hub(monkeypatch, [{"text": "?"}])
    with pytest.raises(CaseError, match="TriviaQA's layout"):
        facts("a/b")
    with pytest.raises(CaseError, match="XSum's layout"):
        passages("a/b")
    hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(CaseError, match=r"cannot be had from the hub.*'bundled'") as caught:
        facts("a/c")
    assert "no route" in caught.value.detail and "no route" not in caught.value.user_message()


def test_the_bundled_sets_have_the_sizes_that_are_promised():
    prompts = harmless_prompts()
    assert len(prompts) >= 60 and 3 * sum(prompt.look_alike for prompt in prompts) >= len(prompts)
    assert len(facts()) == 60 and len(passages()) == 20 and len(held_out_cases()) == 18
