"""Keep: the rows of a visit, undo and redo, names, what is in memory and what a ledger tells."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from dashboard_helpers import BRIEF, Visitor, seen
from keep_helpers import STRICT, edit, rows

from dashboard.kit.sessions.acting import Acting, route
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.keep import report
from dashboard.steps.keep import texts as words
from dashboard.steps.keep.entries import UNSEEN, was_accepted
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.ledger import LedgerError
from dashboard.steps.keep.texts import HEADERS
from dashboard.steps.operate.gating import Gated
from editing import run
from editing.gate.exam import small_exam
from inspector.model import Decoding, Detector, InspectedModel, Row
from inspector.safeedit import Case
from inspector.safeedit.exam import EVALUATIONS, Evaluation, ExamResult, examine
from inspector.safeedit.judges import EmbeddedJudge

pytestmark = pytest.mark.usefixtures("model")


def test_every_edit_has_a_row_and_one_is_live(visitor):
    first = edit(visitor, block=0)
    second = edit(visitor, block=1)
    visitor.do("on_edit", **STRICT, block=2)
    listed = rows(visitor)
    assert [row.patch for row in listed[:2]] == [first, second] and len(listed) == 3
    assert [row.live for row in listed] == [False, True, False] and [row.gate for row in listed][2] == "refused"
    assert [row.where for row in listed] == ["layer 0", "layer 1", "layer 2"]
    assert all(row.settings["steps"] == row.updates == 1 for row in listed)
    table = visitor.screen["rows_table"]
    assert [line[0] for line in table] == ["3", "2", "1"]
    assert [line[-1] for line in table] == ["held back", "live", "under Undo"]
    edit(visitor, block=1)
    assert len(rows(visitor)) == 3, "the same edit, to the bit, has one row"


def test_every_row_names_the_base_model_and_its_fingerprint(visitor):
    edit(visitor, block=0)
    model = visitor.page.context.model
    (row,) = rows(visitor)
    assert (row.model, row.fingerprint) == (visitor.page.context.label, model.fingerprint)
    assert visitor.screen["rows_table"][0][HEADERS.index("Model")] == row.model
    assert f"of {row.model}, fingerprint {model.fingerprint}" in seen(visitor.screen["row_details"])


def test_a_program_s_edits_are_written_down_as_well(visitor):
    from dashboard.kit.sessions.acting import make_live

    edit(visitor, block=0)
    live = visitor.session.live
    with visitor.page.context.reserved(visitor.request) as session:
        other = replace(live.patch, deltas=tuple(replace(d, left=0.5 * d.left) for d in live.patch.deltas))
        make_live(session, replace(live, result=replace(live.result, patch=other)), None)
    assert [row.live for row in rows(visitor)] == [False, True]


def test_undo_redo_and_a_new_edit_that_ends_redo(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    visitor.do("on_undo_here")
    assert visitor.session.live.patch.identifier == first and visitor.screen["redo_edit"] == "Redo"
    visitor.do("on_redo")
    assert visitor.session.live.patch.identifier == second and visitor.screen["redo_edit"] == "Nothing to redo"
    assert second in visitor.screen["edited_head"], "both answers are asked anew"
    visitor.do("on_undo")
    visitor.do("on_undo")
    assert visitor.session.live is None
    visitor.do("on_redo")
    assert visitor.session.live.patch.identifier == first
    edit(visitor, block=2)
    with pytest.raises(gr.Error, match="nothing to redo"):
        visitor.do("on_redo")


def test_a_row_tells_the_strength_at_which_its_edit_was_live_last_before_and_after_undo(visitor):
    edit(visitor, block=0)
    visitor.do("on_strength", strength=0.5)
    edit(visitor, block=1)
    assert [row.strength for row in rows(visitor)] == [0.5, 1.0]
    visitor.do("on_undo")
    assert [row.strength for row in rows(visitor)] == [0.5, 1.0] and visitor.session.strength == 0.5
    visitor.do("on_strength", strength=0.75)
    visitor.do("on_redo")
    assert [row.strength for row in rows(visitor)] == [0.75, 1.0]


def test_the_gate_s_word_is_of_the_strength_that_it_examined_and_of_no_other(visitor):
    patch = edit(visitor, block=0)
    assert [row.gate for row in rows(visitor)] == ["passed"]
    visitor.do("on_strength", strength=0.5)
    edit(visitor, block=1)
    visitor.do("on_row_picked", row_picked=1)
    first, second = rows(visitor)
    assert (first.strength, first.gate, second.gate) == (0.5, "not as it acts now", "passed")
    examined = f"Not examined as it acts now. Of DINM · layer 0 · strength 1 · patch {patch}: Passed"
    assert first.reason.startswith(examined) and second.reason.startswith("Passed")
    assert visitor.screen["rows_table"][-1][HEADERS.index("Gate")] == "not as it acts now"
    assert f"Gate: {examined}" in seen(visitor.screen["row_details"])
    assert visitor.screen["again"] == "Make live again", "it was live once"
    visitor.do("on_again", row_picked=1)
    assert visitor.session.strength == 0.5 and "not as it acts now" in visitor.screen["this_edit"]
    visitor.do("on_strength", strength=1.0)
    assert [row.gate for row in rows(visitor)] == ["passed", "passed"] and rows(visitor)[0].reason.startswith("Passed")
    assert "not as it acts now" not in visitor.screen["this_edit"]


def test_a_row_keeps_the_verdicts_on_both_answers_of_its_weights_and_of_no_others(visitor):
    edit(visitor, block=0)
    visitor.do("on_ask", ask_what="Adversarial prompt", max_new_tokens=4)
    (row,) = rows(visitor)
    shown = re.findall(r'class="badge verdict (\w+)"', visitor.screen["vanilla_head"] + visitor.screen["edited_head"])
    assert len(shown) == 2 and row.verdicts == dict(zip(("vanilla", "edited"), shown, strict=True))
    visitor.do("on_row_picked", row_picked=1)
    assert f"answered last: vanilla {shown[0]}, edited {shown[1]}." in seen(visitor.screen["row_details"])
    visitor.do("on_ask", ask_what="Question alone")
    assert rows(visitor)[0].verdicts == row.verdicts, "another prompt has no word on that one"
    visitor.do("on_strength", strength=0.5)
    assert rows(visitor)[0].verdicts == {}, "these weights were not asked it"


def exam_of(
    model: InspectedModel, row: Row, case: Case, prompts: int = 1, evaluation: Evaluation = "same"
) -> ExamResult:
    asked, short = small_exam(case, 2, prompts), Decoding(max_new_tokens=2)
    return run(examine(model, asked, row, EmbeddedJudge(), evaluation=evaluation, decoding=short))


def test_a_row_says_how_its_scores_were_asked_and_where_its_edit_acts(visitor):
    edit(visitor, block=0)
    session, model = visitor.session, visitor.page.context.model
    history = visitor.page.house.rooms["keep"].desk.history
    assert rows(visitor)[0].asked == ""
    cells = {}
    for evaluation, told in EVALUATIONS.items():
        exam = exam_of(model, session.row, session.live.case, evaluation=evaluation)
        (row,) = history.note(session, exam=exam)
        assert row.asked == exam.asked == told
        visitor.do("on_row_picked", row_picked=1)
        assert f"Its scores were asked: {told}." in seen(visitor.screen["row_details"])
        cells[evaluation] = words.tested(row)
    assert cells["paper"].endswith(" %, vanilla without suffix") and cells["same"].endswith(" %")
    methods = [words.cells([replace(row, routed=routed)], (), ())[0][4] for routed in (False, True)]
    assert methods == ["DINM", "DINM, routed"] and HEADERS[4] == "Method"


def test_a_stress_test_is_of_the_strength_that_was_tested_and_of_no_other(visitor):
    patch = edit(visitor, block=0)
    session, model, context = visitor.session, visitor.page.context.model, visitor.page.context
    room = visitor.page.house.rooms["keep"]
    exam = exam_of(model, session.row, session.live.case)
    (own,) = room.desk.history.note(session, exam=exam)
    assert own.scores and own.scores_of == "" and "now" not in words.tested(own)
    visitor.do("on_strength", strength=0.5)
    tested = f"DINM · layer 0 · strength 1 · patch {patch}"
    (row,) = rows(visitor)
    assert (row.strength, row.scores, row.scores_of) == (0.5, own.scores, tested)
    visitor.do("on_row_picked", row_picked=1)
    said = f"The scores of row 1 are of {tested}, not as it acts now."
    assert said in seen(visitor.screen["row_details"])
    assert visitor.screen["rows_table"][0][HEADERS.index("Stress test")] == f"{words.tested(own)}, not as it acts now"
    assert said in [seen(one) for one in report.parts(Visit(session))[0].readings]
    with context.reserved(visitor.request) as again:
        assert room.desk.history.shown(again)[0].scores_of == tested
    later = exam_of(model, session.row, session.live.case)
    assert room.desk.history.note(session, exam=later)[0].scores_of == ""
    visitor.do("on_strength", strength=1.0)
    assert rows(visitor)[0].scores_of.startswith("DINM · layer 0 · strength 0.5")


def test_the_exam_of_a_run_of_several_is_of_its_patch_alone_where_the_row_acts_otherwise(visitor):
    patch = edit(visitor, block=0)
    session, model = visitor.session, visitor.page.context.model
    history, live = visitor.page.house.rooms["keep"].desk.history, session.live
    plain = exam_of(model, Row(live.patch), live.case)
    route(session, detector_of(visitor))
    (routed,) = history.note(session, several=[(live, plain)])
    assert routed.routed and routed.scores and routed.scores_of == f"DINM · layer 0 · strength 1 · patch {patch}"
    own = exam_of(model, session.row, live.case)
    (tested,) = history.note(session, exam=own)
    assert tested.scores_of == ""
    again = LiveEdit(live.case, replace(live.result))
    assert history.note(session, exam=own, several=[(again, exam_of(model, Row(live.patch), live.case, 2))]) == [tested]


def test_a_patch_that_comes_back_by_a_run_of_several_has_no_word_of_the_weights_that_it_was_before(visitor):
    edit(visitor, block=0)
    model, session = visitor.page.context.model, visitor.session
    history, live = visitor.page.house.rooms["keep"].desk.history, session.live
    route(session, detector_of(visitor))
    (routed,) = history.note(session)
    assert routed.routed and routed.was_live
    edit(visitor, block=1)
    del session.slot(Kept).made[routed.number]
    session.edits = session.edits[-1:]
    again = LiveEdit(live.case, replace(live.result, patch=replace(live.patch, settings={})))
    history.note(session, several=[(again, exam_of(model, Row(live.patch), live.case, 2))])
    back = next(row for row in rows(visitor) if row.number == routed.number)
    assert (back.strength, back.routed, back.gate, back.was_live) == (1.0, False, UNSEEN, False)
    assert not was_accepted(back), "it has to pass the gate before it is live"


def detector_of(visitor: Visitor) -> Detector:
    about = {"questions": 4, "harmless_prompts": 6}
    return Detector((1,), torch.ones(1, 32), 0.0, 0.5, visitor.page.context.model.fingerprint, about=about)


def test_the_gate_s_word_is_of_where_it_examined_the_edit_before_and_after_undo(visitor):
    edit(visitor, block=0)
    detector = detector_of(visitor)
    route(visitor.session, detector)
    edit(visitor, block=1)
    routed, everywhere = rows(visitor)
    assert (routed.routed, routed.gate) == (True, "not as it acts now")
    assert (everywhere.routed, everywhere.gate) == (False, "passed")
    visitor.do("on_undo")
    routed, everywhere = rows(visitor)
    assert visitor.session.detector is detector, "it acts as it did when it was live last"
    assert (routed.routed, routed.gate) == (True, "not as it acts now")
    assert (everywhere.routed, everywhere.gate) == (False, "passed")


def test_undo_that_takes_the_switch_along_leaves_the_gate_s_word_as_it_was(visitor):
    edit(visitor, block=0)
    detector = detector_of(visitor)
    route(visitor.session, detector)
    edit(visitor, block=1)
    visitor.session.slot(Acting).wish = "everywhere"
    assert rows(visitor)[0].gate == "not as it acts now"
    visitor.do("on_undo")
    back, second = rows(visitor)
    assert visitor.session.detector is detector and visitor.session.slot(Acting).wish == "where harm"
    assert (back.routed, back.gate) == (True, "not as it acts now")
    assert (second.routed, second.gate) == (False, "passed")


def test_a_row_is_made_live_again_only_when_that_is_asked_for(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    before = [edit.patch.identifier for edit in visitor.session.edits]
    visitor.select("on_row_clicked", SimpleNamespace(row_value=["1"]))
    assert first in visitor.screen["row_details"] and visitor.screen["again"] == "Make live again"
    visitor.do("on_row_picked", row_picked=2)
    assert second in visitor.screen["row_details"] and visitor.screen["again"] == "It is live"
    assert [edit.patch.identifier for edit in visitor.session.edits] == before, "looking at rows changes nothing"
    with pytest.raises(gr.Error, match="live already"):
        visitor.do("on_again", row_picked=2)
    visitor.do("on_again", row_picked=1)
    assert visitor.session.live.patch.identifier == first
    assert [row.live for row in rows(visitor)] == [True, False]


def test_a_refused_row_has_to_pass_the_gate_before_it_is_live(visitor):
    visitor.do("on_edit", **STRICT, block=0)
    edit(visitor, block=1)
    assert visitor.session.slot(Gated).held is None
    visitor.do("on_row_picked", row_picked=1)
    assert visitor.screen["again"] == "Ask the gate again"
    visitor.do("on_again", **STRICT, row_picked=1)
    assert visitor.session.live.patch.identifier == rows(visitor)[1].patch and rows(visitor)[0].gate == "refused"
    visitor.do("on_again", **BRIEF, row_picked=1)
    assert visitor.session.live.patch.identifier == rows(visitor)[0].patch and rows(visitor)[0].gate == "passed"


def test_a_row_is_named_and_deleted_and_nothing_that_is_live_changes(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    visitor.do("on_rename_row", row_picked=1, row_name="  my <b>first</b>\n try ")
    assert rows(visitor)[0].name == "my <b>first</b> try" and visitor.screen["row_name"] == ""
    with pytest.raises(gr.Error, match="at most 60"):
        visitor.do("on_rename_row", row_picked=1, row_name="x" * 61)
    with pytest.raises(gr.Error, match="never changes what is live"):
        visitor.do("on_delete_row", row_picked=2)
    visitor.do("on_delete_row", row_picked=1)
    assert [row.patch for row in rows(visitor)] == [second] and visitor.session.live.patch.identifier == second
    assert [edit.patch.identifier for edit in visitor.session.edits] == [second], "Undo does not bring it back"
    with pytest.raises(gr.Error, match="was deleted"):
        visitor.do("on_again", row_picked=1)
    assert first not in str(visitor.screen["rows_table"])


def test_a_deleted_row_s_number_names_no_other_edit_afterwards(visitor):
    edit(visitor, block=0)
    edit(visitor, block=1)
    visitor.do("on_undo")
    visitor.do("on_delete_row", row_picked=2)
    edit(visitor, block=2)
    assert [row.number for row in rows(visitor)] == [1, 3]
    visitor.do("on_undo")
    for number in (3, 1):
        if number == 1:
            visitor.do("on_undo")
        visitor.do("on_delete_row", row_picked=number)
    edit(visitor, block=2)
    assert [row.number for row in rows(visitor)] == [4], "nor where no row is left"


def test_a_patch_that_is_too_much_leaves_memory_and_its_row_stays(visitor, monkeypatch):
    first = edit(visitor, block=0)
    desk = visitor.page.house.rooms["keep"].desk
    monkeypatch.setattr(desk.history, "most_bytes", 2 * visitor.session.live.patch.bytes)
    for block in (1, 2):
        edit(visitor, block=block)
    visitor.session.edits = visitor.session.edits[-1:]  # as when Undo lets it go
    visitor.do("on_strength", strength=0.9)
    assert rows(visitor)[0].patch == first and 1 not in visitor.session.slot(Kept).made
    assert visitor.screen["rows_table"][-1][-1] == "not in memory"
    visitor.do("on_row_picked", row_picked=1)
    assert "editing.edit" in visitor.screen["row_details"] and visitor.screen["again"] == "Not in memory"
    with pytest.raises(gr.Error, match="no longer in memory"):
        visitor.do("on_again", row_picked=1)
    edit(visitor, block=0)
    assert len(rows(visitor)) == 3 and 1 in visitor.session.slot(Kept).made, "made again, the row has its patch again"


def test_rows_go_with_the_visit_and_each_visitor_has_their_own(page):
    one, other = Visitor(page, "first of two"), Visitor(page, "second of two")
    edit(one)
    edit(other)
    visit = one.session.slot(Kept).visit
    ledger = page.house.rooms["keep"].desk.ledger
    assert len(ledger.entries(visit)) == 1 and len(rows(other)) == 1
    one.session.close()
    assert ledger.entries(visit) == [] and len(rows(other)) == 1


def test_a_ledger_that_cannot_be_written_is_told_and_stops_no_edit(visitor, monkeypatch, capsys):
    desk = visitor.page.house.rooms["keep"].desk

    def broken(*_: Any) -> None:
        raise LedgerError("The list cannot be written. Make room.", "/srv/secret/ledger.sqlite: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "put", broken)
        edit(visitor)
        assert "Make room" in visitor.screen["rows_note"] and visitor.session.live is not None
        assert "/srv" not in visitor.screen["rows_note"] and "disk full" not in visitor.screen["rows_note"]
    assert "/srv/secret/ledger.sqlite: disk full" in capsys.readouterr().err, "the operator reads which file it is"
    edit(visitor, block=0)
    assert visitor.screen["rows_note"] == "" and len(rows(visitor)) == 2


def test_a_session_that_starts_as_a_copy_of_another_shares_nothing_that_is_kept_in_it():
    done, one, other = Session(), Session(), Session()
    done.slot(Kept)
    for session in (one, other):
        session.start_from(done)
    one.slot(Kept).deleted.add("01234567")
    one.slot(Kept).picks["row"] = 1
    assert not other.slot(Kept).deleted and not other.slot(Kept).picks and not done.slot(Kept).deleted


def test_the_example_s_session_is_never_noted(page):
    assert page.context.example.session.slot(Kept).visit == "" and isinstance(page.context.example.session, Session)
