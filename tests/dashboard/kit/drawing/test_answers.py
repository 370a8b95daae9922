"""Two answers side by side: what is marked is what the other lacks, nothing is lost, nothing is markup."""

from __future__ import annotations

import re

import pytest
from dashboard_helpers import seen

from dashboard.kit.drawing.answers import answer, both_answers, differing

PAIRS = [
    ("Sure, first watch the courier.", "I'm sorry, I can't help. Ask the courier."),
    ("a b c", "a x c"),
    ("  one\n\ntwo ", "one two"),
    ("", "something"),
    ("<b>x</b> & y", "<b>x</b> & z"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_pieces_of_an_answer_are_the_answer(pair):
    for text, pieces in zip(pair, differing(*pair), strict=True):
        assert "".join(piece for piece, _ in pieces) == text


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_in_both_reads_the_same_in_both(pair):
    one, two = (" ".join("".join(p for p, differs in side if not differs).split()) for side in differing(*pair))
    assert one == two


def test_only_words_that_the_other_lacks_are_marked():
    one, two = both_answers(("You can wait here.", "You cannot wait here."))
    assert re.findall("<mark>(.*?)</mark>", one) == ["can"] and re.findall("<mark>(.*?)</mark>", two) == ["cannot"]


def test_equal_answers_empty_ones_and_words_of_the_page_have_no_marks():
    for texts, compared in ((("a b", "a b"), True), (("", "a"), True), (("…", "No edit is live"), False)):
        assert "<mark>" not in "".join(both_answers(texts, compared=compared))
    assert seen(both_answers(("", "a"))[0]) == "(empty answer)"


def test_what_a_model_writes_is_never_markup():
    hostile = "<img src=x onerror=alert(1)> </div><mark>"
    for html in (answer(hostile), both_answers((hostile, "other"))[0]):
        assert "<img" not in html and html.count("</div>") == 1 and seen(html) == hostile


IN_TOKENS = [
    (("I", " can", "'t", " help", " you", " steal", "."), ("I", " can", " help", " you", " steal", "ing", "!")),
    (("Well", ",", " I", " can", "not", "\n\n", "wait"), ("I", " can", " not", " ", "wait")),
    (("<b>", "x", "</b>"), ("<b>", "y", "</b>")),
]


@pytest.mark.parametrize("tokens", IN_TOKENS)
def test_the_tokens_of_an_answer_are_the_answer(tokens):
    texts = "".join(tokens[0]), "".join(tokens[1])
    for text, pieces, html in zip(texts, differing(*texts, tokens), both_answers(texts, tokens=tokens), strict=True):
        assert "".join(piece for piece, _ in pieces) == text == seen(html)
        assert "<b>" not in html


def test_only_tokens_that_the_other_lacks_are_marked_each_run_of_them_once():
    marks = []
    for tokens in IN_TOKENS:
        texts = "".join(tokens[0]), "".join(tokens[1])
        htmls = both_answers(texts, tokens=tokens)
        marks.append([[seen(mark) for mark in re.findall("<mark>(.*?)</mark>", html)] for html in htmls])
    assert marks[0] == [["'t", "."], ["ing!"]], "a part of a word and a sign have no word marked"
    assert marks[1] == [["Well,", "not"], ["not"]], "white space is set aside, but a word is no end of another one"
    assert marks[2] == [["x"], ["y"]]


def test_tokens_that_are_not_of_these_answers_leave_the_words_compared():
    texts = "You can't stay.", "You can stay."
    others = ("You", " can", "'t"), ("You", " can", " stay", ".")
    assert both_answers(texts, tokens=others) == both_answers(texts)
    assert "<mark>can" in both_answers(texts)[0] and "<mark>can<" in both_answers(texts)[1]
