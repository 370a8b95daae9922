"""What the vanilla weights have answered is not asked again; an answer that is pushed out meanwhile is no error."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from evicting import evicting
from word_models import word_model

from editing import run
from editing.gate import answers
from editing.gate.exam import small_exam
from inspector.model import Decoding, PromptFormat
from inspector.safeedit import bundled_cases


def test_answers_that_are_let_go_meanwhile_are_the_same(monkeypatch):
    monkeypatch.setattr(answers, "_KEPT", WeakKeyDictionary())
    asked = small_exam(bundled_cases()[0], 2, 2)
    model = word_model([question.prompt for question in asked], seed=3)
    given = (model, asked, PromptFormat(""), Decoding(max_new_tokens=4))
    first = run(answers.vanilla_answers(*given))
    answers._KEPT[model] = evicting(answers._KEPT[model])
    assert run(answers.vanilla_answers(*given)) == first
