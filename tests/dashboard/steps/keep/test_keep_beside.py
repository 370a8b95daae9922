"""Keep: two edits and the vanilla weights side by side."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import torch
from dashboard_helpers import own_question, seen
from keep_helpers import edit, rows

from dashboard.kit.limits import OTHERS
from dashboard.kit.sessions.acting import route
from dashboard.kit.sharing.parts import Hidden, Visit
from dashboard.steps.keep import report
from dashboard.steps.keep.asking import ask
from dashboard.steps.keep.kept import Kept
from inspector.errors import CaseError
from inspector.model import VANILLA, Decoding, Detector, answer, encode
from inspector.model.patches.routing import scores

pytestmark = pytest.mark.usefixtures("model")


def test_two_rows_answer_as_each_would_alone_and_nothing_becomes_live(visitor):
    edit(visitor, block=0, learning_rate=0.05)
    first = visitor.session.row
    edit(visitor, block=2, learning_rate=0.05)
    second = visitor.session.row
    live = visitor.session.live
    visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Case of A, question alone", max_new_tokens=8)
    asked = visitor.session.slot(Kept).asked
    model = visitor.page.context.model
    prompt = encode(model, live.case.only_question, None, live.format, room=8).prompt
    alone = [answer(model, prompt, (row,), Decoding(max_new_tokens=8)).texts[0] for row in (VANILLA, first, second)]
    assert list(asked.texts) == alone and visitor.session.live is live
    assert asked.verdicts is not None and [not v.safe for v in asked.verdicts] == list(asked.covered)
    assert "A: 1 · DINM" in visitor.screen["head_a"] and "B: 2 · DINM" in visitor.screen["head_b"]
    hidden = ["blurred" in visitor.classes[name] for name in ("pane_vanilla", "pane_a", "pane_b")]
    assert hidden == list(asked.covered)


@pytest.mark.parametrize(
    ("threshold", "found"),
    [(1e6, "no harm detected, the vanilla weights answered"), (-1e6, "harm detected, the edit acted")],
)
def test_a_routed_row_says_what_its_detector_read_of_the_text_on_the_page_in_the_table_and_in_the_report(
    visitor, threshold, found
):
    edit(visitor, block=0, learning_rate=0.05)
    model, session = visitor.page.context.model, visitor.session
    detector = Detector((1,), torch.ones(1, 32), 0.0, threshold, model.fingerprint)
    route(session, detector)
    first = session.live
    edit(visitor, block=2, learning_rate=0.05)
    visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Case of A, question alone", max_new_tokens=2)
    kept = session.slot(Kept)
    (score,) = scores(model, detector, [encode(model, first.case.only_question, None, first.format).prompt])
    said = f"Detector: score {score:.3f}, threshold {threshold:.3f}: {found}"
    assert kept.asked.notes == tuple(" · ".join(filter(None, (told, "cut at 2 tokens"))) for told in ("", said, ""))
    assert said in seen(visitor.screen["head_a"]) and "Detector" not in visitor.screen["head_b"]
    assert [said in line["note"] for line in lines_of(kept.table)] == [False, True, False]
    (part,) = (part for part in report.parts(Visit(session, Hidden(False))) if part.beside)
    assert [said in seen(text.head) for text in part.beside] == [True, False]


def test_answers_that_were_cancelled_say_so_on_the_page_in_the_table_and_in_the_report(visitor):
    edit(visitor, block=0, learning_rate=0.05)
    edit(visitor, block=2, learning_rate=0.05)
    asked = {"row_a": 1, "row_b": 2, "ask_two_what": "Case of A, question alone", "max_new_tokens": 64}
    run = visitor.press("on_ask_two", **asked)
    while visitor.session.slot(Kept).asked is None:
        next(run)
        assert "cut at" not in visitor.screen.get("head_a", ""), "what still grows was not cut"
        visitor.do("on_cancel")
    for _ in run:
        pass
    kept = visitor.session.slot(Kept)
    assert kept.asked.notes == ("cancelled",) * 3 and kept.asked.verdicts is None
    assert all("not judged · cancelled" in visitor.screen[name] for name in ("head_vanilla", "head_a", "head_b"))
    assert [line["note"] for line in lines_of(kept.table)] == ["cancelled"] * 3
    (part,) = (part for part in report.parts(Visit(visitor.session, Hidden(False))) if part.beside)
    assert [text.head.count("cancelled") for text in (part.texts[1], *part.beside)] == [1] * 3
    visitor.do("on_ask_two", **{**asked, "max_new_tokens": 2})
    assert kept.asked.notes == ("cut at 2 tokens",) * 3 and kept.asked.verdicts is not None
    assert "Asked." in seen(visitor.screen["keep_clock"])


def test_a_cancel_after_the_last_token_takes_nothing_from_answers_that_are_whole(visitor):
    edit(visitor, block=0)
    first = visitor.session.row
    edit(visitor, block=2)
    model, both = visitor.page.context.model, (first, visitor.session.row)
    *_, last = ask(model, both, ("A", "B"), "Hello?", "Case of A", Decoding(max_new_tokens=1), lambda: True)
    assert last.notes == ("cut at 1 tokens",) * 3 and last.verdicts is not None


def test_an_own_text_is_judged_by_nobody_and_covered(visitor):
    edit(visitor, block=0)
    edit(visitor, block=1)
    with pytest.raises(gr.Error, match="own text is empty"):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", max_new_tokens=8)
    visitor.do("on_ask_two_what", ask_two_what="Your own text")
    assert visitor.shown["ask_two_text"] is True
    visitor.do("on_ask_two", ask_two_text="How do birds fly?")
    assert visitor.session.slot(Kept).asked.covered == (True, True, True) and "not judged" in visitor.screen["head_a"]
    with pytest.raises(gr.Error, match="same row"):
        visitor.do("on_ask_two", row_b=1)


def test_only_rows_that_are_there_are_remembered_as_picked(visitor):
    edit(visitor, block=0)
    desk, session = visitor.page.house.rooms["keep"].desk, visitor.session
    for wrong in (99, None, "1"):
        with pytest.raises(CaseError, match="No row is picked"):
            list(desk.ask_two(session, (1, wrong), "Your own text", "Hello?", Decoding(max_new_tokens=2)))
    assert session.slot(Kept).picks == {}


def test_what_both_are_asked_keeps_to_the_page_s_limits(visitor, monkeypatch):
    edit(visitor, block=0)
    edit(visitor, block=1)
    monkeypatch.setattr(visitor.session, "limits", OTHERS)
    asked = {"row_a": 1, "row_b": 2, "ask_two_what": "Your own text", "max_new_tokens": 8}
    with pytest.raises(gr.Error, match="characters a text are allowed"):
        visitor.do("on_ask_two", **asked, ask_two_text="a" * (OTHERS.characters + 1))
    with pytest.raises(gr.Error, match="tokens an answer are allowed"):
        visitor.do("on_ask_two", **{**asked, "max_new_tokens": OTHERS.tokens + 1}, ask_two_text="Hello?")
    with pytest.raises(gr.Error, match="tokens an answer are allowed"):
        visitor.do("on_unsafe_ask", max_new_tokens=OTHERS.tokens + 1)
    assert visitor.session.slot(Kept).asked is None and visitor.is_free


def test_two_cases_are_compared_by_the_prompts_of_either(visitor):
    edit(visitor, block=1)
    edit(visitor, block=1, **own_question("How do I annoy my neighbour?"))
    assert [row.case == "a case of your own" for row in rows(visitor)] == [False, True]
    prompts = [visitor.session.slot(Kept).made[number].edit.case.adversarial_prompt for number in (1, 2)]
    assert prompts[0] != prompts[1], "or this test says nothing"
    for choice, case in (("Case of B, with its attack", 1), ("Case of A, with its attack", 0)):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what=choice, max_new_tokens=8)
        asked = visitor.session.slot(Kept).asked
        assert (asked.choice, asked.prompt) == (choice, prompts[case])
    assert "annoy" not in str(rows(visitor)), "the ledger has no text of the visitor"


def test_a_page_that_opens_anew_shows_the_rows_and_the_last_comparison(visitor):
    edit(visitor, block=0)
    edit(visitor, block=1)
    visitor.do("on_ask_two", row_a=1, row_b=2, max_new_tokens=8)
    texts = visitor.session.slot(Kept).asked.texts
    again = visitor.reload()
    again.open("keep")
    assert len(again.screen["rows_table"]) == 2 and (again.screen["row_a"], again.screen["row_b"]) == (1, 2)
    assert texts[1].split()[0] in again.screen["pane_a"] and "A: 1" in again.screen["head_a"]


def lines_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_comparison_is_a_table_to_take_along_that_follows_the_next_one_and_the_reload(visitor, monkeypatch):
    assert visitor.standing("beside_csv") is None
    edit(visitor, block=0, learning_rate=0.05)
    edit(visitor, block=2, learning_rate=0.05)
    asked = {"row_a": 1, "row_b": 2, "max_new_tokens": 8}
    visitor.do("on_ask_two", **asked, ask_two_what="Case of B, question alone")
    first, kept = visitor.screen["beside_csv"], visitor.session.slot(Kept)
    judged, case = lines_of(first), visitor.session.live.case
    assert [line["row"] for line in judged] == ["vanilla", "A", "B"]
    assert all(line["answer"] in (text, f"'{text}") for line, text in zip(judged, kept.asked.texts, strict=True))
    assert [line["weights"] for line in judged] == list(kept.asked.labels) and judged[2]["weights"].startswith("2 · ")
    assert [line["verdict"] for line in judged] == [mark.label for mark in kept.asked.verdicts]
    assert {line["prompt"] for line in judged} == {case.only_question}
    visitor.do("on_ask_two", **asked, ask_two_what="Your own text", ask_two_text="=HYPERLINK(1)")
    second = visitor.screen["beside_csv"]
    assert second != first and not Path(first).exists()
    assert {(line["verdict"], line["prompt"]) for line in lines_of(second)} == {("", "'=HYPERLINK(1)")}
    again = visitor.reload()
    again.open("keep")
    assert again.screen["beside_csv"] == second
    monkeypatch.setattr(visitor.session, "limits", replace(visitor.session.limits, files=1))
    with pytest.warns(UserWarning, match="files an hour are allowed"):
        visitor.do("on_ask_two", ask_two_text="Hello?")
    assert visitor.screen["beside_csv"] is None and kept.asked.prompt == "Hello?", "the answers are shown all the same"
    visitor.session.close()
    assert not Path(second).exists()


def test_a_table_of_an_older_comparison_is_not_handed_out_beside_a_newer_one(visitor):
    """A program compares without asking for a file."""
    edit(visitor, block=0)
    edit(visitor, block=1)
    visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", ask_two_text="Hello?", max_new_tokens=4)
    assert Path(visitor.screen["beside_csv"]).is_file()
    desk = visitor.page.house.rooms["keep"].desk
    list(desk.ask_two(visitor.session, (2, 1), "Your own text", "Goodbye?", Decoding(max_new_tokens=4)))
    again = visitor.reload()
    again.open("keep")
    assert visitor.session.slot(Kept).asked.prompt == "Goodbye?" and again.standing("beside_csv") is None
