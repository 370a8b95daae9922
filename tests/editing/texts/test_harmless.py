"""Answers that are kept of a model are used again, and asked again where another visitor's have pushed them out."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import pytest
from evicting import evicting

from editing import run
from editing.texts import harmless
from inspector.model import PromptFormat
from inspector.model.memory import batch_size


def test_an_answer_that_is_let_go_meanwhile_is_none_that_is_known(llama, monkeypatch):
    monkeypatch.setattr(harmless, "_OF_VISITS", WeakKeyDictionary())
    asked = (llama, "A visitor's own text", 4, PromptFormat(""))
    harmless.learn_answer(*asked, (5, 9, 33))
    assert harmless.known_answer(*asked).response == (5, 9, 33)
    harmless._OF_VISITS[llama] = evicting(harmless._OF_VISITS[llama])
    found = harmless.known_answer(*asked)
    assert found is None or found.response == (5, 9, 33)


@pytest.mark.parametrize(("free", "batches"), [(2**40, [8, 2]), (0, [1] * 10)])
def test_as_many_prompts_are_answered_at_once_as_fit_and_eight_at_most(llama, case, monkeypatch, free, batches):
    monkeypatch.setattr(harmless, "_OWN_ANSWERS", WeakKeyDictionary())
    monkeypatch.setattr(harmless, "_OF_VISITS", WeakKeyDictionary())
    monkeypatch.setattr(batch_size, "free_memory", lambda _device: free)
    asked, own = [], harmless.generate
    monkeypatch.setattr(
        harmless, "generate", lambda model, ids, *given: (asked.append(len(ids)), own(model, ids, *given))[1]
    )
    run(harmless.harmless_answers(llama, case, 10, 2, PromptFormat("")))
    assert asked == batches
