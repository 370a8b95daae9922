"""Methods: the rounding row beside vanilla, of the harmless prompts of the run, made once a model."""

from __future__ import annotations

import pytest
from dashboard_helpers import Visitor, assert_idle, seen
from methods_helpers import SHORT, titles

from dashboard.kit.drawing.html import score_value
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.methods.report import parts
from dashboard.steps.methods.run import patch_of, rounding_record
from dashboard.steps.methods.state import Compared, Contest
from editing import rounding
from inspector.errors import CaseError
from inspector.model.patches.rounded import COMPUTED
from inspector.safeedit.yardstick import YARDSTICK

pytestmark = pytest.mark.usefixtures("model", "no_rows_yet")
ONE = {**SHORT, "methods_chosen": ["FT-L"]}


@pytest.fixture
def no_rows_yet() -> None:
    """No run has asked rounded weights anything."""
    rounding._ROWS.clear()


def contest_of(visitor: Visitor) -> Contest:
    return visitor.session.slot(Compared).contest


def test_the_rounding_row_stands_beside_vanilla_on_the_page_in_the_report_and_in_the_record(visitor, monkeypatch):
    visitor.do("on_methods", **ONE)
    known = contest_of(visitor)
    asked = [reply.question.prompt for reply in known.exam.replies if reply.question.kind == "harmless"]
    assert [reply.question.prompt for reply in known.rounded.replies] == asked, "the prompts of this run"
    assert (known.rounded.max_new_tokens, known.rounded.format) == (known.exam.max_new_tokens, known.exam.format)
    named = {score.name: score for score in known.yardstick}
    assert set(named) == set(YARDSTICK)
    (part,) = parts(Visit(visitor.session))
    for shown in (visitor.screen["methods_scores"], " ".join(part.readings)):
        head, *lines = shown.split("<tr>")[1:]
        assert [cell.split("<")[0] for cell in seen(head.replace("</th>", "|")).split("|")][:4] == [
            *("Score", "Vanilla", "Rounded", "FT-L"),
        ]
        (line,) = (line for line in lines if seen(line).startswith("DL "))
        assert seen(line.split("<td>")[2]) == score_value(named["DL"].edited.value, "%")
        (line,) = (line for line in lines if seen(line).startswith("DG-Avg "))
        assert seen(line.split("<td>")[2]) == "–", "rounding gives no measure of it"
        assert f"is the column Rounded. Rounded: {COMPUTED}." in seen(shown)
    record = rounding_record(known)
    assert (record["method"], record["failed"], record["updates"], record["delta_norm"]) == ("Rounded", "", None, None)
    assert [score["name"] for score in record["scores"]] == list(named) and record["asked"] == known.rounded.asked
    assert titles(visitor.screen["methods_table"]) == ["FT-L"] and "Ended: 1 method." in visitor.screen["methods_clock"]
    monkeypatch.setattr(rounding, "rounding_exam", lambda *_given, **_how: pytest.fail("it is asked once a model"))
    visitor.do("on_methods", **ONE)
    assert contest_of(visitor) is not known and contest_of(visitor).rounded.replies == known.rounded.replies
    drawn = visitor.reload()
    assert "Rounded</button></th>" in drawn.standing("methods_scores")
    assert_idle(visitor)


def test_a_cancel_while_the_rounded_weights_answer_keeps_the_methods_without_the_row(visitor):
    for _ in visitor.press("on_methods", **ONE):
        if "Rounded weights: " in visitor.screen["methods_clock"]:
            visitor.session.cancelled.set()
    known = contest_of(visitor)
    assert titles(visitor.screen["methods_table"]) == ["FT-L"] and "Cancelled" in visitor.screen["methods_clock"]
    assert known.rounded is None and known.rounded_as == "" and not rounding._ROWS.get(visitor.page.context.model)
    assert "is the column Rounded of a stress test." in seen(visitor.screen["methods_scores"])
    assert_idle(visitor)


def test_memory_that_runs_out_costs_the_row_and_not_the_run_and_every_place_says_why(visitor, monkeypatch):
    monkeypatch.setattr("editing.rounding.require_free_memory", refused)
    visitor.do("on_methods", **ONE)
    known = contest_of(visitor)
    assert known.rounded is None and known.standings[0].scores
    (part,) = parts(Visit(visitor.session))
    for said in (
        seen(visitor.screen["methods_scores"]),
        seen(" ".join(part.readings)),
        rounding_record(known)["failed"],
    ):
        assert "No rounding row: It does not fit." in said
    assert rounding_record(known)["scores"] == []
    assert_idle(visitor)


def refused(*_given):
    raise CaseError("It does not fit.")


def test_it_is_no_method_whose_patch_could_be_loaded(visitor):
    visitor.do("on_methods", **ONE)
    with pytest.raises(CaseError, match=r"^Rounded is no method: it says what bfloat16 by itself does\. Name a method"):
        next(patch_of(visitor.page.context.model, visitor.session, "Rounded"))
