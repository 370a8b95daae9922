"""Methods: the lines of edits that act only where harm is detected."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from dashboard_helpers import Visitor, assert_idle, seen, tiny_model
from methods_helpers import SHORT, titles

from dashboard import api
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods import further
from dashboard.steps.methods import run as methods
from dashboard.steps.methods import texts as methods_texts
from dashboard.steps.methods.report import parts
from dashboard.steps.methods.state import Compared
from editing.calibrating.calibration import calibrate_command
from editing.contest import ROUTED, ContestSettings, examine_routed
from editing.methods.dinm import to_be_routed
from editing.progress import run as run_quietly
from inspector.errors import PromptError
from inspector.safeedit import bundled_cases
from inspector.safeedit.judges import MatcherJudge
from inspector.safeedit.questions import Size

pytestmark = pytest.mark.usefixtures("model")


@pytest.mark.parametrize(("threshold", "fires"), [(1e9, False), (-1e9, True)])
def test_routed_lines_stand_beside_the_plain_ones_unless_unticked_and_load_as_routed(
    detecting, request, monkeypatch, threshold, fires
):
    def as_given(_model, given, *_further):  # what fires is decided by the detector alone
        yield from ()
        return given

    monkeypatch.setattr("editing.gate.choice.for_case", as_given)
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["FT-L", "Self-Reminder"]})
    assert titles(visitor.screen["methods_table"]) == ["FT-L", "Self-Reminder", "FT-L, routed"]
    plain, _, routed = visitor.session.slot(Compared).contest.standings
    assert all(reply.held_back is not fires for reply in routed.exam.replies)
    own = [reply.edited.text for reply in (plain if fires else routed).exam.replies]
    expected = [reply.edited.text if fires else reply.vanilla.text for reply in routed.exam.replies]
    assert own == expected
    shown, record = told_of(visitor, "FT-L, routed"), methods.standing_record(routed)
    prompts = [reply.question.prompt for reply in routed.exam.replies]
    readings = [reply.reading for reply in routed.exam.replies]
    then = "harm detected, the edit acted" if fires else "no harm detected, the vanilla weights answered"
    said = f"Detector: score {readings[0].score:.3f}, threshold {threshold:.3f}: {then}"
    assert said in shown["methods_answer_head"] and f"FT-L, routed. {said} (adversarial prompt)." in shown["report"]
    acted = (
        "on 5 of 5 harmful prompts, 2 of 2 harmless prompts (false alarms)" if fires else "on 0 of 5 harmful prompts"
    )
    for place in ("methods_scores", "report"):
        assert f"The detector let the edit act {acted}" in shown[place] and shown[place].count("The detector let") == 1
    assert [read["prompt"] for read in record["detector"]] == prompts
    assert [read["score"] for read in record["detector"]] == [read.score for read in readings]
    assert {(read["threshold"], read["fires"]) for read in record["detector"]} == {(threshold, fires)}
    assert record["false_alarms"] == (2 if fires else 0)
    plain_record = methods.standing_record(plain)
    assert (record["asked"], plain_record["asked"]) == (routed.exam.asked, plain.exam.asked)
    assert plain_record["detector"] is None is plain_record["false_alarms"]
    assert "Detector" not in told_of(visitor, "FT-L")["methods_answer_head"]
    visitor.do("on_method_load", methods_picked="FT-L, routed")
    assert visitor.session.detector is made and "only where harm is detected" in visitor.screen["live"]
    visitor.do("on_method_load", methods_picked="FT-L")
    assert visitor.session.detector is None
    assert_idle(visitor)


def told_of(visitor: Visitor, title: str) -> dict[str, str]:
    """Return what page and report say with a method picked."""
    visitor.do("on_method_picked", methods_picked=title)
    (part,) = parts(Visit(visitor.session))
    shown = {name: seen(visitor.screen[name]) for name in ("methods_answer_head", "methods_scores")}
    return {**shown, "report": seen(" ".join(part.readings))}


def test_dinm_has_a_routed_line_of_the_edit_that_operate_makes_first_and_it_loads_as_that(
    detecting, request, monkeypatch
):
    def as_given(_model, given, *_further):
        yield from ()
        return given

    monkeypatch.setattr("editing.gate.choice.for_case", as_given)
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["DINM"]}, methods_routed=True)
    title = f"{further.LEARNS_MORE}{ROUTED}"
    assert titles(visitor.screen["methods_table"]) == ["DINM", "DINM, routed", title]
    plain, routed, more = visitor.session.slot(Compared).contest.standings
    assert more.result.settings == to_be_routed(plain.result.settings) != plain.result.settings
    assert more.result.patch is not plain.result.patch is routed.result.patch
    assert all(reply.held_back and reply.reading is not None for reply in more.exam.replies)
    assert title in seen(visitor.screen["methods_scores"])
    edits = methods.edits_of(visitor.session, page.context.example.session)
    assert [(edit.result, exam is not None) for edit, exam in edits] == [(plain.result, True), (more.result, False)]
    visitor.do("on_method_load", methods_picked=title)
    live = visitor.session.live.patch
    assert live.identifier == more.result.patch.identifier and visitor.session.detector is made
    assert_idle(visitor)


def test_each_method_edits_its_own_layer_until_a_person_has_picked_one_for_all(detecting, request, monkeypatch):
    monkeypatch.setattr("editing.gate.choice.for_case", lambda _model, given, *_further: given_back(given))
    few = {"dinm": {"steps": 2, "harmless_prompts": 2}, "ft-l": {"steps": 2}}
    monkeypatch.setattr(methods, "ContestSettings", lambda **given: ContestSettings(**given, changes=few))
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_locate")
    toxic = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    asked = {**SHORT, "methods_chosen": ["DINM", "FT-L"], "methods_routed": True}
    visitor.do("on_methods", **asked, block=0)

    def layers() -> dict[str, int]:
        return {one.method.title: one.result.block for one in visitor.session.slot(Compared).contest.standings}

    own = layers()
    assert own["DINM"] == own[f"{further.LEARNS_MORE}{ROUTED}"] == 1 != toxic == own["FT-L"]
    assert "region: down-projection of layer 0" in visitor.screen["methods_head"]
    assert f"FT-L edits layer {toxic}" in visitor.screen["methods_head"]
    # A routed line is about the patch of its plain one; DINM's further one has a patch of its own.
    titles = ["DINM", "FT-L", f"{further.LEARNS_MORE}{ROUTED}"]
    assert list(visitor.session.slot(Compared).contest.elsewhere) == titles
    visitor.do("on_hand", block=0)
    visitor.do("on_methods", **asked)
    assert set(layers().values()) == {0} and "edits layer" not in visitor.screen["methods_head"]
    assert_idle(visitor)


def given_back(given):
    yield from ()
    return given


def test_programs_get_the_same_routed_lines(detecting, monkeypatch):
    page, endpoints = detecting[0], {}
    monkeypatch.setattr("dashboard.api.named", lambda function, *_: endpoints.update({function.__name__: function}))
    monkeypatch.setattr("dashboard.api.connect_files", lambda _context: None)
    api.connect(page.context)
    monkeypatch.setitem(methods.SIZES, "Brief", Size(0, 1, 0, 0))
    given = texts_of(bundled_cases()[0])
    monkeypatch.setattr("dashboard.api.Throttle", lambda _seconds: SimpleNamespace(due=lambda: True))
    for routed, more in ((True, ["FT-L, routed"]), (False, [])):
        told = list(
            endpoints["methods"](
                given.question, given.template, given.safe, given.unsafe, 1, ["FT-L"], max_new_tokens=2, routed=routed
            )
        )
        records = [record for record in told if not isinstance(record, Elsewhere)]
        assert [record["method"] for record in records] == ["FT-L", "Rounded", *more]
        assert isinstance(told[0], Elsewhere), "others have a turn while a method runs"
        assert not routed or isinstance(told[-2], Elsewhere), "and while a routed line is examined"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PromptError("Too long. Shorten it."), "Too long. Shorten it."),
        (MemoryError(), "The device ran out of memory. "),
    ],
    ids=["too long", "memory"],
)
def test_a_routed_line_that_cannot_be_examined_says_why_and_the_others_go_on(
    detecting, request, monkeypatch, error, said
):
    contest, asked = sys.modules[examine_routed.__module__], []
    own = contest.exam_of

    def failing_once(model, case, row, *how):
        if row.detector is not None:
            asked.append(row)
            if len(asked) == 1:
                raise error
        return own(model, case, row, *how)

    monkeypatch.setattr("editing.gate.choice.for_case", lambda _model, given, *_further: given_back(given))
    monkeypatch.setattr(contest, "exam_of", failing_once)
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["DINM"]}, methods_routed=True)
    plain, routed, more = visitor.session.slot(Compared).contest.standings
    assert routed.unmeasured.startswith(said) and not routed.failed and routed.exam is None
    assert routed.toxicity is None and routed.result is plain.result and plain.exam is not None
    assert more.exam is not None and not more.unmeasured and len(asked) == 2
    assert f"not measured: {said}" in seen(visitor.screen["methods_clock"])
    assert_idle(visitor)


def test_a_routed_line_is_measured_where_its_plain_one_was_not(detecting, request, monkeypatch):
    monkeypatch.setattr("editing.gate.choice.for_case", lambda _model, given, *_further: given_back(given))
    page, made = detecting
    visitor = Visitor(page, request.node.name)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["FT-L"]}, methods_routed=False)
    known = visitor.session.slot(Compared).contest
    (plain,) = known.standings
    settings = methods.exam_settings("Brief", 2, "same prompts")
    unmeasured = replace(plain, unmeasured="No memory.", exam=None)
    model, session = page.context.model, visitor.session
    making = further.routed_standing(model, session, known, unmeasured, settings, made, MatcherJudge())
    found = run_quietly(making)
    assert found.exam is not None and found.unmeasured == ""


def test_the_edit_that_operate_makes_first_says_why_where_there_is_none(detecting, request):
    page, made = detecting
    visitor, known = Visitor(page, request.node.name), page.context.example.session.slot(Compared).contest
    visitor.session.limits = replace(visitor.session.limits, steps=1)
    making = further.learning_more(
        tiny_model(), visitor.session, known, methods.exam_settings("Brief", 4, "same prompts"), made, MatcherJudge()
    )
    found = run_quietly(making)
    assert found.method.title == f"{further.LEARNS_MORE}{ROUTED}" and "steps an edit" in found.failed
    assert found.result is None and methods_texts.rows([found])[0][1] == "–"


def test_routed_lines_are_off_with_their_reason_where_there_is_no_detector(visitor):
    switch = visitor.page.parts.methods_routed
    assert not switch.interactive and calibrate_command(visitor.page.context.model) in switch.info
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["FT-L"]})
    assert titles(visitor.screen["methods_table"]) == ["FT-L"]
