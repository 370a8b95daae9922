"""What stands on the page where something cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from dashboard_helpers import QUICK, assert_idle, own_question

from dashboard.steps.compare import report
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare.run import ADVERSARIAL, OWN_PROMPT, Measured
from inspector.errors import PatchError
from inspector.model import Answers

pytestmark = pytest.mark.usefixtures("model")


@pytest.mark.parametrize("broken", [False, True], ids=["too long", "while it is answered"])
def test_an_ask_that_fails_leaves_the_answers_their_verdicts_and_what_they_were_asked(visitor, monkeypatch, broken):
    def failing(*_: Any) -> Iterator[Answers]:
        raise PatchError("It broke. Try again.")
        yield

    visitor.do("on_ask", max_new_tokens=2)
    names = ("vanilla_head", "edited_head", "vanilla", "edited")
    before, told = [visitor.screen[name] for name in names], report.facts(visitor.session)
    if broken:
        monkeypatch.setattr(comparing, "stream", failing)
    with pytest.raises(gr.Error, match="It broke" if broken else "Shorten it by at least"):
        visitor.do("on_ask", ask_what=OWN_PROMPT, own_text="Hello?" if broken else "word " * 20_000)
    again = visitor.reload()
    for page in (visitor, again):
        assert [page.screen[name] for name in names] == before
    assert again.screen["ask_what"] == ADVERSARIAL and report.facts(visitor.session) == told
    assert_idle(visitor)


def test_a_strength_that_is_live_already_measures_and_asks_nothing(visitor, monkeypatch):
    asked = []
    monkeypatch.setattr(comparing, "ask", lambda *given: asked.append(given) or iter(()))
    for strength, starts in ((1.0, False), (0.5, True), (0.5, False), (1, True)):
        asked.clear()
        changed = visitor.do("on_strength", strength=strength)
        assert bool(asked) is any(changed) is starts and visitor.session.strength == strength


@pytest.mark.parametrize("handler", ["on_strength", "on_undo"])
def test_other_weights_are_asked_the_adversarial_prompt_where_what_is_chosen_cannot_be(visitor, handler):
    own = own_question("How can I trick my neighbour out of a parcel?")
    visitor.do("on_edit", **QUICK, **own)
    for strength, typed in (
        (0.5, {"ask_what": OWN_PROMPT, "own_text": " "}),
        (0.75, {"ask_what": OWN_PROMPT, "own_text": "word " * 20_000}),
        (0.25, {"ask_what": "Other question"}),  # which this case does not have
    ):
        if handler == "on_undo":  # to the first one
            visitor.do("on_edit", **QUICK)
        visitor.do(handler, strength=strength, **typed)
        live = visitor.session.live
        assert live.case.question == own["question"], typed
        assert visitor.session.slot(Measured).prompt == live.case.adversarial_prompt, typed
        assert visitor.screen["ask_what"] == ADVERSARIAL and visitor.shown["own_text"] is False, typed
        for head in ("vanilla_head", "edited_head"):
            assert "adversarial prompt" in visitor.screen[head], typed
        assert "Stopped" not in visitor.screen["clock"], typed
        assert_idle(visitor)
