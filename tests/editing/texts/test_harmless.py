"""Answers that are kept of a model are used again, and asked again where another visitor's have pushed them out."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from evicting import evicting

from editing.texts import harmless
from inspector.model import PromptFormat


def test_an_answer_that_is_let_go_meanwhile_is_none_that_is_known(llama, monkeypatch):
    monkeypatch.setattr(harmless, "_OF_VISITS", WeakKeyDictionary())
    asked = (llama, "A visitor's own text", 4, PromptFormat(""))
    harmless.learn_answer(*asked, (5, 9, 33))
    assert harmless.known_answer(*asked).response == (5, 9, 33)
    harmless._OF_VISITS[llama] = evicting(harmless._OF_VISITS[llama])
    found = harmless.known_answer(*asked)
    assert found is None or found.response == (5, 9, 33)
