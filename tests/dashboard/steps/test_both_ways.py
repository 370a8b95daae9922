"""A stress test of an edit both ways: on every prompt, and only where harm is detected."""

from __future__ import annotations

import re
from dataclasses import replace

import gradio as gr
import pytest
from dashboard_helpers import Visitor, assert_idle, seen, tiny_model
from routing_helpers import EFFECTIVE

from dashboard import api
from dashboard.endpoints import gives
from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM, Acting
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.stress.report import parts as stress_parts
from dashboard.steps.stress.run import Examined
from editing.calibrating.calibration import calibrate_command
from inspector.model import encode
from inspector.model.patches.routing import scores

pytestmark = pytest.mark.usefixtures("model", "without_a_reading_of_the_case", "any_pass_is_enough")


@pytest.mark.parametrize("wish", ["everywhere", "where harm"])
def test_a_stress_test_has_a_column_for_each_way_marks_the_live_one_and_reads_every_prompt(
    detecting, request, monkeypatch, wish
):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    read: list[int] = []

    def counted(_model, detector, *_further):
        read.append(1)
        yield from ()
        return replace(detector)

    monkeypatch.setattr("editing.gate.choice.for_case", counted)
    visitor = Visitor(page, request.node.name)
    visitor.session.slot(Acting).wish = wish
    visitor.do("on_edit", **EFFECTIVE)
    read.clear()
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    kept, live, routed = visitor.session.slot(Examined), visitor.session.row, wish == "where harm"
    exams = kept.exam, kept.other
    assert kept.exam.key == live.key and [bool(exam.detector) for exam in exams] == [routed, not routed]
    silent, plain = exams if routed else exams[::-1]
    assert all(reply.held_back and reply.edited == reply.vanilla for reply in silent.replies)
    assert not any(reply.held_back for reply in plain.replies)
    assert any(reply.edited.text != reply.vanilla.text for reply in plain.replies)
    for reply in kept.exam.replies:
        prompt = encode(tiny_model(), reply.question.prompt, None, visitor.session.live.format).prompt
        assert [reply.reading.score] == pytest.approx(scores(tiny_model(), made, [prompt]), rel=1e-4, abs=1e-5)
    assert {row[-1].rpartition(", ")[2] for row in visitor.screen["stress_rows"]} == {"missed"}
    assert ("the vanilla weights answered" in visitor.screen["stress_edited_head"]) is routed

    names = (WHERE_HARM, EVERYWHERE) if routed else (EVERYWHERE, WHERE_HARM)

    def columns() -> list[str]:
        return re.findall(r"acts on(?:ly where harm is detected|\s*every prompt)(?: live)?", heads_of_table(visitor))

    assert columns() == [f"{names[0]} live", names[1]]
    assert f"are of the edit that {names[0]}" in seen(visitor.screen["stress_table"])
    visitor.do("on_routed", routed=names[1])
    assert columns() == [names[0], f"{names[1]} live"] and len(read) <= 1, "its detector is made once"
    assert f"The edit now {names[1]}: that column" in seen(visitor.screen["stress_head"])
    (part,) = stress_parts(Visit(visitor.session))
    reported = seen("".join(part.readings))
    assert f"{names[1]} live" in reported and f"The edit now {names[1]}: that column" in reported

    visitor.do("on_stress", stress_size="This case", stress_tokens=4, stress_both=False)
    assert kept.other is None and kept.exam.key == visitor.session.row.key and columns() == []
    assert_idle(visitor)


def test_programs_get_both_ways_unless_they_ask_for_one(detecting, monkeypatch):
    page, endpoints = detecting[0], {}
    monkeypatch.setattr("dashboard.api.named", lambda function, *_: endpoints.update({function.__name__: function}))
    monkeypatch.setattr("dashboard.api.connect_files", lambda _context: None)
    api.connect(page.context)
    for both in (True, False):
        *_, last = endpoints["stress_test"]("This case", max_new_tokens=2, both=both)
        assert last["done"] and last["detector"] == "" and (last["other"] is not None) is both
        if both:
            asked = [[reply["question"]["prompt"] for reply in exam["replies"]] for exam in (last, last["other"])]
            assert last["other"]["detector"] and last["other"]["scores"] and asked[0] == asked[1] != []


def test_while_a_program_s_detector_is_made_others_have_their_turns(detecting, monkeypatch):
    page, endpoints = detecting[0], {}

    def slow(_model, detector, *_further):
        yield 0.25
        yield 0.75
        return replace(detector)

    monkeypatch.setattr("editing.gate.choice.for_case", slow)
    monkeypatch.setattr("dashboard.api.named", lambda function, *_: endpoints.update({function.__name__: function}))
    monkeypatch.setattr("dashboard.api.connect_files", lambda _context: None)
    api.connect(page.context)
    request = gr.Request(session_hash="while it is made")
    events = list(endpoints["stress_test"]("This case", max_new_tokens=2, request=request))
    made = [event for event in events if event.get("kind") == "preparation"]
    assert [event["fraction"] for event in made] == [0.25, 0.75] and events[: len(made)] == made, "a step each"
    assert {*made[0], *events[-1]} <= {*gives.StressEvent.__annotations__, *gives.StressExam.__annotations__}
    assert set(events[-1]["other"]) == set(gives.StressExam.__annotations__)


def heads_of_table(visitor: Visitor) -> str:
    """Return what stands at the head of the stress test's columns."""
    return seen(visitor.screen["stress_table"].partition("</thead>")[0])


def test_a_stress_test_that_is_cancelled_while_its_detector_is_made_keeps_the_one_before(
    detecting, request, monkeypatch
):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    before = visitor.session.slot(Examined).exam

    def slow(*_given):
        yield 0.5
        visitor.session.cancelled.set()

    monkeypatch.setattr("editing.gate.choice.for_case", slow)
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    assert visitor.session.slot(Examined).exam is before and "Cancelled before" in visitor.screen["stress_clock"]
    assert_idle(visitor)


def test_both_ways_of_a_stress_test_are_off_without_a_detector_and_it_says_why(detecting, visitor):
    parts = detecting[0].parts.stress_both, visitor.page.parts.stress_both
    assert [part.interactive for part in parts] == [True, False]
    assert calibrate_command(visitor.page.context.model) in parts[1].info
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.other is None and all(reply.reading is None for reply in kept.exam.replies)
    assert "harm is detected" not in visitor.screen["stress_table"]
