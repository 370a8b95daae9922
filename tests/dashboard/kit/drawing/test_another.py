"""What a view says when it shows another case than the one that stands in the rail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dashboard_helpers import seen

from dashboard.kit.drawing.another import SHOWN, of_another
from dashboard.kit.sessions.typed import case_of, texts_of
from inspector.safeedit import bundled_cases

TEXTS = texts_of(bundled_cases()[0])
CASE = case_of(TEXTS)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"question": "Is it so?"}, "These panels are of another question: “"),
        ({"template": "Now: {question}"}, "These panels are of another attack on this question. Press Run"),
        ({"safe": "No."}, "These panels are of other answers to this question. Press Run"),
        ({"unsafe": "Yes."}, "These panels are of other answers to this question. Press Run"),
    ],
)
def test_it_says_in_what_the_case_in_the_rail_is_another_one(typed, said):
    shown = of_another(replace(TEXTS, **typed), CASE, "These panels", "Run")
    assert said in seen(shown) and 'class="reading warn"' in shown
    assert of_another(TEXTS, CASE, "These panels", "Run") == of_another(TEXTS, None, "These panels", "Run") == ""


def test_where_the_rail_makes_no_prompt_the_case_is_named_and_no_button():
    shown = seen(of_another(None, CASE, "These panels", "Run"))
    assert "make no prompt" in shown and "Press" not in shown and CASE.question[:20] in shown


def test_a_question_is_named_short_in_one_line_and_stays_text():
    shown = of_another(TEXTS, replace(CASE, question="<b>word\n" * 40), "These panels", "Run")
    assert "<b>" not in shown and "“&lt;b&gt;word &lt;b&gt;word" in shown
    assert len(seen(shown)) < SHOWN + 140
