"""An edit is measured and asked in the prompt format that it was made in."""

from __future__ import annotations

import pytest
from dashboard_helpers import model_at_rest

from dashboard.kit.session import Session
from dashboard.kit.typed import Texts
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare import texts as compare_texts
from dashboard.steps.operate import run as operating
from editing import preset, run
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, PromptFormat, answer, encode

TEXTS = Texts("How do I be mean?", "You are a pirate. {question}", "Please.", "I will not help.", "Arr, tell lies.")
OTHER = PromptFormat("Be brief.")
"""What stands in the rail when the edit is asked."""


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain text"])
def test_an_edit_is_compared_in_its_own_prompt_format(chat):
    with model_at_rest() as model:
        session = Session()
        changes = {"chat": chat, "suffix": TEXTS.suffix, "turn_end": False}
        settings = preset("reference", steps=2, watch_unsafe=False, loss_positions="aligned", **changes)
        assert session.asked_in(OTHER) == OTHER
        run(operating.edit(model, session, TEXTS, 1, settings))
        made_in = PromptFormat(TEXTS.suffix, chat, turn_end=False)
        assert session.live.format == made_in == session.asked_in(OTHER)

        measured = comparing.measure(model, session)
        prompt = TEXTS.adversarial_prompt()
        own, *others = (
            likelihoods(model, prompt, [TEXTS.safe], [VANILLA], format=used)[0][0].per_token
            for used in (made_in, PromptFormat(TEXTS.suffix, not chat), PromptFormat("", chat))
        )
        assert measured.before[0].per_token == pytest.approx(own, rel=1e-4)  # another batch rounds differently
        assert all(own != pytest.approx(other, rel=1e-2) for other in others), "the formats must differ for this test"

        *_, told = comparing.ask(model, session, prompt, OTHER, Decoding(4))
        alone = answer(model, encode(model, prompt, None, made_in).prompt, decoding=Decoding(4))
        assert told.texts[0] == alone.texts[0]
        note = compare_texts.answer_note("Question alone", session.live.format)
        assert ("plain text" in note) is not chat and "its own suffix" in note
