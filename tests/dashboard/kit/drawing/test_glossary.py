"""The glossary has a meaning for every column head of the page, and the help a word on every view."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from dashboard_helpers import Page, Visitor, seen

from dashboard import heading
from dashboard.house import LATER, STEPS, VIEWS
from dashboard.kit.drawing import glossary
from dashboard.kit.drawing.html import reading
from dashboard.steps.methods.state import Compared
from dashboard.steps.methods.texts import HEADERS as METHOD_HEADERS
from dashboard.steps.methods.texts import all_scores
from dashboard.steps.questions.texts import QUESTIONS
from dashboard.steps.stress.run import AnswerRows, Examined
from dashboard.steps.stress.texts import suffix_table, table
from dashboard.steps.why.texts import EDIT_HEADERS, NEURON_HEADERS, PEAK_HEADERS
from editing.gate.exam import small_exam
from editing.methods.registry import METHODS
from inspector.safeedit import bundled_cases
from inspector.safeedit.questions import UNSEEN
from inspector.safeedit.scores import score_table

pytestmark = pytest.mark.usefixtures("model")
HEAD = re.compile(r"<thead>.*?</thead>", re.DOTALL)
HEADING = re.compile(r"<h([234])\b[^>]*>(.*?)</h\1>", re.DOTALL)


def heads_of(html: str) -> list[str]:
    """Return the column heads in some HTML that are no terms."""
    cells = [cell for head in HEAD.findall(html) for cell in re.findall(r"<th(?: [^>]*)?>(.*?)</th>", head)]
    return [cell for cell in cells if not re.fullmatch(r'<button type="button" class="term".*</button>', cell)]


def test_every_column_head_of_the_page_is_a_term(page: Page):
    plain, tables = [], 0
    visitor = Visitor(page, "heads")
    for view in LATER:
        visitor.open(view)
    drawn = {getattr(page.parts, name): value for name, value in visitor.screen.items()}
    for block in page.app.blocks.values():
        if isinstance(block, gr.HTML):
            html = str(drawn.get(block, block.value))
            tables += len(HEAD.findall(html))
            plain += heads_of(html)
        if isinstance(block, gr.Dataframe):
            tables += 1
            plain += [head for head in block.headers or [] if glossary.known(head) is None]
    assert tables >= 6 and plain == []


def test_every_column_head_that_a_run_brings_is_a_term(page: Page):
    headers = (*METHOD_HEADERS, *AnswerRows.HEADERS, *NEURON_HEADERS, *EDIT_HEADERS, *PEAK_HEADERS)
    assert [head for head in headers if glossary.known(head) is None] == []
    session = page.context.example.session
    exam = session.slot(Examined).exam
    scores = score_table(exam.replies, exam.judge)
    assert heads_of(table(scores, scores)) == [] and heads_of(all_scores(session.slot(Compared).contest)) == []
    assert suffix_table(None) == ""
    assert all(glossary.known(method.title) for method in METHODS.values())


def drawn(page: Page, views: Sequence[str] = LATER) -> Iterator[str]:
    """Return the HTML of every part of the page that is seen, all views opened."""
    visitor = Visitor(page, "terms")
    for view in views:
        visitor.open(view)
    shown = {getattr(page.parts, name): value for name, value in visitor.screen.items()}
    for block in page.app.blocks.values():
        if isinstance(block, gr.HTML) and "unseen" not in (block.elem_classes or ()):
            yield str(shown.get(block, block.value))


def left_plain(html: str) -> list[str]:
    """Return the terms that some HTML has and links nowhere, found another way than they are linked."""
    text = seen(re.sub(r"<(button|code|a)\b.*?</\1>", " ", html, flags=re.DOTALL))
    found = []
    for word in sorted({*_words()} - glossary.IN_COLUMNS, key=len, reverse=True):
        small = word if word[1:2].isupper() or "(" in word else f"[{word[0]}{word[0].lower()}]{re.escape(word[1:])}"
        own = rf"(?<![\w(-]){small if small != word else re.escape(word)}s?(?![\w-])"
        if re.search(own, text) and f'data-term="{glossary.anchor(word)}"' not in html:
            found.append(word)
        text = re.sub(own, " ", text)
    return found


def _words() -> list[str]:
    return [word for group in glossary.GLOSSARY.values() for word in group]


def test_every_term_in_a_heading_of_the_page_opens_the_glossary(page: Page):
    pieces = [html.partition('<details class="glossary"')[0] for html in drawn(page)]
    headings = [one for html in pieces for _, one in HEADING.findall(html)]
    assert len(headings) >= 25 and [left_plain(one) for one in headings if left_plain(one)] == []
    linked = {place for one in headings for place in re.findall(r'data-term="glossary-([^"]+)"', one)}
    assert linked >= {"layer", "edit", "vanilla", "atlas", "activation-shift", "toxicity", "neuron", "strength", "gate"}


def test_the_numbers_of_an_edit_and_the_forms_of_a_file_link_their_terms(page: Page):
    parts = {getattr(block, "elem_id", ""): block for block in page.app.blocks.values()}
    tiles = [html[html.index('<div class="tiles') :] for html in (parts["numbers"].value, parts["tiles"].value)]
    cards = [html for html in drawn(page, ("keep",)) if "keep-card" in html]
    assert len(cards) == 3 and sum('class="term"' in html for html in (*tiles, *cards)) >= 4
    for html in (*tiles, *(re.sub(r'<p class="reading.*?</p>', "", card) for card in cards)):
        assert left_plain(html) == [], html


def test_every_term_of_the_ten_answers_opens_the_glossary(page: Page):
    visitor, told = Visitor(page, "ten"), list[str]()
    for number, question in enumerate(QUESTIONS):
        visitor.select("on_question", SimpleNamespace(number=number))
        asked, answered = re.fullmatch(
            r'(<h3.*?</h3>)(.*?)<nav class="tries".*', visitor.screen["questions_answer"], flags=re.DOTALL
        ).groups()
        assert left_plain(asked) == left_plain(answered) == [], question.asked
        for side in ("own", "kept"):
            assert left_plain(visitor.screen[f"questions_{side}_head"]) == [], question.asked
            readings = re.findall(r'<p class="reading.*?</p>', visitor.screen[f"questions_{side}_reading"])
            assert [left_plain(one) for one in readings if set(left_plain(one)) - glossary.EVERYDAY] == []
            told += readings
    assert {"glossary-degenerate", "glossary-kl"} <= set(re.findall(r'data-term="([^"]+)"', "".join(told)))


def test_a_reading_links_what_it_is_about_once_and_leaves_everyday_words_and_methods_alone():
    shown = reading("DINM at layer 3: the <gate> keeps the edit, its KL is 0.1 and a KL of 0.2 is over the budget.")
    assert (
        seen(shown) == "DINM at layer 3: the <gate> keeps the edit, its KL is 0.1 and a KL of 0.2 is over the budget."
    )
    assert re.findall(r'data-term="glossary-([^"]+)"', shown) == ["gate", "kl"]
    assert set(glossary.EVERYDAY) <= {*_words()} - glossary.IN_COLUMNS, "each is a term that would be linked"


def test_a_term_is_linked_where_it_stands_first_and_words_of_columns_and_code_are_not():
    shown = glossary.marked(
        "<p title='a layer'>Edits at a layer, another layer; <code>KL</code> and the KL: mend, MEND</p>"
    )
    assert seen(shown) == "Edits at a layer, another layer; KL and the KL: mend, MEND"
    assert re.findall(r'data-term="glossary-([^"]+)"', shown) == ["edit", "layer", "kl", "mend"]
    assert "<code>KL</code>" in shown and "title='a layer'" in shown and "mend, <button" in shown
    assert glossary.marked("The name, the time, P(safe) and 3 % more") == "The name, the time, P(safe) and 3 % more"
    assert "P(safe) per token</button>" in glossary.marked("P(safe) per token")
    assert ">categories</button>" in glossary.marked("categories") and ">prompt</button>s" in glossary.marked("prompts")
    once = glossary.marked(f"{glossary.term('harmless KL')} is the KL")
    assert once.count("<button") == 1 and glossary.marked(once) == once
    assert glossary.marked("&lt;b&gt;x") == "&lt;b&gt;x"


def test_where_there_is_no_glossary_a_term_tells_its_meaning_and_is_not_pressed():
    shown = glossary.alone(f"<th>{glossary.term('DL')}</th>")
    assert seen(shown) == "DL" and "<button" not in shown and 'class="term" title="Defense locality' in shown


def test_each_term_has_one_meaning_and_one_place():
    words = [word for group in glossary.GLOSSARY.values() for word in group]
    anchors = re.findall(r'id="(glossary-[^"]+)"', glossary.page())
    assert [word for word, times in Counter(map(str.lower, words)).items() if times > 1] == []
    assert len(anchors) == len(set(anchors)) == len(words)
    assert all(meaning.endswith(".") for group in glossary.GLOSSARY.values() for meaning in group.values())
    assert all(word in words for word in glossary.ALSO.values())


def test_parroting_is_said_of_the_prompts_that_it_is_counted_of():
    meaning = glossary.GLOSSARY["A case and its answers"]["Parroting"]
    counted = [question.kind for question in small_exam(bundled_cases()[0], 1, 1) if question.taught]
    assert counted == ["transfer", "harmless", "otherQ", "otherAQ"] == [kind for kind in counted if kind in UNSEEN]
    assert meaning.startswith("A prompt about something else than the edit's case ")


def test_the_design_s_words_are_in_it():
    wanted = (
        *(
            "Case",
            "Layer",
            "Block output",
            "Divergence",
            "Toxic layer",
            "Recommended layer",
            "Patch",
            "Vanilla",
            "Edited",
        ),
        *("DS", "DG-Avg", "onlyQ", "otherA", "otherQ", "otherAQ", "DL", "Calibration", "Gated", "Routed", "Parroting"),
        *("Gate", "Suffix", "KL", "Fluency", "KQA", "CSum", "Activation shift", "Lens", "Down-projection"),
    )
    assert [word for word in wanted if glossary.known(word) is None] == []


def test_a_term_tells_its_meaning_and_points_at_its_place_and_an_unknown_one_is_named():
    shown = glossary.term("KL, nats")
    assert seen(shown) == "KL, nats" and 'data-term="glossary-kl"' in shown and "nats a token" in shown
    with pytest.raises(KeyError, match="no such word"):
        glossary.term("no such word")
    assert glossary.linked("<b>x") == "&lt;b&gt;x"


def test_each_step_says_itself_where_it_stands_and_each_view_has_a_name_and_a_word_of_help():
    assert list(VIEWS) == ["operate", "stress", "why", "methods", "models", "keep", "questions"]
    assert {kind.view for kind in STEPS} == set(VIEWS) and all(kind.help for kind in STEPS if kind.title)
    assert {*LATER} == {*VIEWS} - {"operate"} and LATER["keep"] == ("keep", "report")
    standing = [name for steps in LATER.values() for name in steps]
    assert standing == [kind.name for kind in STEPS if kind.view != "operate"], "each once, in the order of the page"


def test_the_help_has_a_word_on_every_view_and_the_tour_and_the_glossary():
    shown = heading.help_page(STEPS)
    for name, title in VIEWS.items():
        if name != "operate":
            assert f'<a href="#{name}" data-view="{name}">{title}</a>' in shown
    for step in ("Case", "Locate", "Operate", "Compare"):
        assert f"<b>{step}" in shown
    assert 'id="take-tour"' in shown and 'id="glossary"' in shown
    assert "Where several are listed the name is a menu" in shown
    tour = Path("assets/tour.js").read_text(encoding="utf-8")
    assert "where several are listed, its name opens a menu" in tour
    stops = "Cancel stops within one step and leaves nothing behind but a first edit that the gate has passed."
    assert stops in tour and stops in shown
