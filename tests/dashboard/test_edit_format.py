"""An edit is measured and asked in the prompt format that it was made in."""

from __future__ import annotations

import numpy as np
import pytest
from dashboard_helpers import QUICK, Visitor, assert_idle, model_at_rest

from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.steps.case.view import CHAT_TEMPLATE, PLAIN_TEXT
from dashboard.steps.compare import report
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare import texts as compare_texts
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate import run as operating
from editing import preset, run
from inspector.divergence import divergence
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, PromptFormat, answer, encode

SUFFIX = "Please."
TEXTS = Texts(
    "How do I be mean?", "You are a pirate. {question}", "I will not help.", "Arr, tell lies.", PromptFormat(SUFFIX)
)
OTHER = PromptFormat("Be brief.")
"""What stands in the rail when the edit is asked."""


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain text"])
def test_an_edit_is_compared_in_its_own_prompt_format(chat):
    with model_at_rest() as model:
        session = Session()
        changes = {"chat": chat, "suffix": SUFFIX, "turn_end": False, "constraint": "next token"}
        settings = preset("reference", steps=2, watch_unsafe=False, loss_positions="aligned", **changes)
        assert session.asked_in(OTHER) == OTHER
        run(operating.edit(model, session, TEXTS, 1, settings))
        made_in = PromptFormat(SUFFIX, chat, turn_end=False)
        assert session.live.format == made_in == session.asked_in(OTHER)

        measured = comparing.measure(model, session)
        prompt = TEXTS.adversarial_prompt()
        own, *others = (
            likelihoods(model, prompt, [TEXTS.safe], [VANILLA], format=used)[0][0].per_token
            for used in (made_in, PromptFormat(SUFFIX, not chat), PromptFormat("", chat))
        )
        assert measured.before[0].per_token == pytest.approx(own, rel=1e-4)  # another batch rounds differently
        assert all(own != pytest.approx(other, rel=1e-2) for other in others), "the formats must differ for this test"

        *_, told = comparing.ask(model, session, comparing.prompt_of(session, prompt), OTHER, Decoding(4))
        alone = answer(model, encode(model, prompt, None, made_in).prompt, decoding=Decoding(4))
        assert told.texts[0] == alone.texts[0]
        note = compare_texts.answer_note("Question alone", session.live.format)
        assert ("plain text" in note) is not chat and "its own suffix" in note


def test_the_rail_s_plain_text_reaches_the_prompt_locate_the_edit_and_what_is_asked(visitor: Visitor):
    model, suffix = visitor.page.context.model, visitor.standing("suffix")
    in_template = visitor.standing("prompt")
    visitor.do("on_texts", form=PLAIN_TEXT)
    plain = visitor.screen["prompt"]
    assert plain != in_template and plain.endswith(suffix) and "[assistant]" not in plain
    assert "Press Locate to measure them" in visitor.screen["locate_reading"]

    visitor.do("on_locate")
    session = visitor.session
    assert session.format == PromptFormat(suffix, chat=False)
    expected = divergence(model, session.case, format=session.format)
    found = session.slot(LocatedCase).divergence
    assert np.allclose(found.by("l2"), expected.by("l2"))
    assert not np.allclose(found.by("l2"), divergence(model, session.case).by("l2")), "the formats must differ"

    assert visitor.standing("chat") is True, "the setting of the preset itself is as it was"
    visitor.do("on_edit", **{**QUICK, "steps": 2})
    assert session.live.format == PromptFormat(suffix, chat=False)
    assert "plain text, as the edit was made" in visitor.screen["edited_head"]
    assert visitor.reload().screen["edited_head"] == visitor.screen["edited_head"]
    visitor.do("on_undo")
    assert session.live.format == PromptFormat(suffix)
    assert "in the chat template, as the edit was made" in visitor.screen["edited_head"]
    assert visitor.reload().screen["edited_head"] == visitor.screen["edited_head"]
    assert "in the chat template" in report.answers(session)[-1].head
    visitor.do("on_undo")
    assert session.live is None
    visitor.do("on_ask", max_new_tokens=4)
    shown = session.slot(comparing.Measured).answers.texts[0]
    prompt = encode(model, session.case.adversarial_prompt, None, session.format).prompt
    assert shown == answer(model, prompt, decoding=Decoding(4)).texts[0]
    assert_idle(visitor)


def test_what_was_made_in_the_template_says_so_where_the_rail_is_in_plain_text():
    made, typed = PromptFormat(), PromptFormat(chat=False)
    assert "in the chat template, as the edit was made" in compare_texts.answer_note("Case", made, typed)
    assert "as the edit was made" not in compare_texts.answer_note("Case", made, made)


def test_the_choice_of_a_format_is_offered_where_there_is_a_template(page):
    assert page.parts.form.visible is True
    assert [value for _, value in page.parts.form.choices] == [CHAT_TEMPLATE, PLAIN_TEXT]
