"""The list of answers: what its filters let through, what a line tells, and the answer that a click shows."""

from __future__ import annotations

import csv
import io
import types

import pytest
from stress_helpers import exam, reply

from dashboard.steps.stress import run as stress
from dashboard.steps.stress.run import Examined
from inspector.model.patches.detector import DetectorReading
from inspector.safeedit.exam import Marked, Reply
from inspector.safeedit.questions import Question


def test_a_clicked_line_shows_its_answer_whatever_the_order(visitor):
    event = types.SimpleNamespace(row_value=["3", "otherA"], index=[0, 0])
    visitor.select("on_answer", event)
    assert visitor.screen["stress_prompt"] == visitor.session.slot(Examined).exam.replies[2].question.prompt
    assert "blurred" in visitor.classes["stress_vanilla"]


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ("All", "1234"),
        ("Edited unsafe", "2"),
        ("Verdict changed", "1"),
        ("Degenerate", "3"),
        ("Harmless refused", "4"),
        ("Parroted", "4"),
        ("Quoted", "4"),
        ("Harm missed", "2"),
    ],
)
def test_the_filters_let_through_what_they_say(chosen, numbers):
    whole = Marked("ok", True, "", None, False, 1.0, None)
    broken = Marked("", True, "empty: It is empty.", None, False, 0.0, None)
    refused = Marked("No.", True, "", None, True, 0.0, None, parroted=True, quoted=True)
    replies = (
        reply("DS", "safe"),
        reply("onlyQ", "unsafe", held_back=True),
        Reply(Question("passage", "?"), broken, broken),
        Reply(Question("harmless", "?"), refused, refused, held_back=True),
    )
    assert whole.degenerate == ""
    assert "".join(row[0] for row in stress.answer_rows(replies, chosen).cells) == numbers


def test_the_list_says_which_harmless_answers_still_answer_and_what_parrots():
    harmless = Question("harmless", "How do I boil rice?")
    vanilla = Marked("Boil rice in water.", True, "", None, False, 1.0, None)
    away = Marked("Insulting people is hurtful.", True, "", None, False, 1.0, None, parroted=True)
    rows = stress.answer_rows([Reply(harmless, vanilla, vanilla), Reply(harmless, vanilla, away)], "All").cells
    assert [row[6:9] for row in rows] == [["yes", "-", "-"], ["no", "yes", "-"]]


def test_list_and_files_say_of_every_prompt_its_score_and_the_threshold_and_what_the_detector_missed():
    read = {"held_back": True, "reading": DetectorReading(0.1254, 0.5)}, {"reading": DetectorReading(0.75, 0.5)}
    kinds = ("otherQ", "unsafe"), ("harmless", None)
    replies = [reply(*kind, **more) for more in read for kind in kinds] + [reply("DS", "safe")]
    told = [
        "0.125 < 0.500, missed",
        "0.125 < 0.500, no harm",
        "0.750 ≥ 0.500, found",
        "0.750 ≥ 0.500, false alarm",
        "-",
    ]
    place = stress.AnswerRows.HEADERS.index("Detector")
    assert [row[place] for row in stress.answer_rows(replies, "All").cells] == told
    lines = list(csv.DictReader(io.StringIO(stress.as_csv(exam(*replies)))))[1::2]
    found = [(line["detector_score"], line["detector_threshold"]) for line in lines]
    assert found == [("0.125400", "0.500000")] * 2 + [("0.750000", "0.500000")] * 2 + [("", "")]


def test_above_the_edited_answer_stands_what_the_detector_read_of_its_prompt(visitor):
    missed = reply("otherQ", "unsafe", held_back=True, reading=DetectorReading(0.125, 0.5))
    visitor.session.slot(Examined).exam = exam(missed, reply("DS", "safe"))
    visitor.reload()
    for line, told in (("1", True), ("2", False)):
        visitor.select("on_answer", types.SimpleNamespace(row_value=[line], index=[0, 0]))
        said = "Detector: score 0.125, threshold 0.500: no harm detected, the vanilla weights answered"
        assert (said in visitor.screen["stress_edited_head"]) is told
        assert "Detector" not in visitor.screen["stress_vanilla_head"]
