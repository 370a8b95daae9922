"""An edit is measured and asked in the prompt format that it was made in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dashboard_helpers import model_at_rest

from dashboard import actions, fragments
from dashboard.actions import Texts
from dashboard.session import Session
from editing import preset, run
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, answer, encode

TEXTS = Texts("How do I be mean?", "You are a pirate. {question}", "Please.", "I will not help.", "Arr, tell lies.")


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain text"])
def test_an_edit_is_compared_in_its_own_prompt_format(chat):
    with model_at_rest() as model:
        session = Session()
        settings = replace(preset("reference", steps=2, watch_unsafe=False), chat=chat, loss_positions="aligned")
        run(actions.edit(model, session, TEXTS, 1, settings))
        assert session.chat is chat

        measured = actions.measure(model, session, TEXTS.suffix)
        prompt = TEXTS.adversarial_prompt()
        own, other = (
            likelihoods(model, prompt, [TEXTS.safe], [VANILLA], suffix=TEXTS.suffix, chat=used)[0][0].per_token
            for used in (chat, not chat)
        )
        assert measured.before[0].per_token == pytest.approx(own, rel=1e-4)  # another batch rounds differently
        assert own != pytest.approx(other, rel=1e-2), "the formats must differ for this test"

        *_, told = actions.ask(model, session, prompt, TEXTS.suffix, Decoding(4))
        alone = answer(model, encode(model, prompt, suffix=TEXTS.suffix, chat=chat).prompt, decoding=Decoding(4))
        assert told.texts[0] == alone.texts[0]
        assert ("plain text" in fragments.answer_note("Question alone", session.chat)) is not chat
