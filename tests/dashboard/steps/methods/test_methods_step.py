"""Methods: what its controls do on the page, and what they keep."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from dashboard_helpers import GENEROUS, Page, Visitor, assert_idle, own_question, seen
from methods_helpers import SHORT, titles

from dashboard.example.make import CASE
from dashboard.steps.keep.entries import IN_METHODS, UNSEEN
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.ledger import Entry
from dashboard.steps.methods import figures as methods_figures
from dashboard.steps.methods import texts as methods_texts
from dashboard.steps.methods.plane import COSINE, WRITTEN
from dashboard.steps.methods.run import exam_settings
from dashboard.steps.methods.state import Compared
from dashboard.steps.methods.view import LOAD
from editing.gate.gate import RECORD
from editing.methods.registry import METHODS
from inspector.errors import CaseError

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture(scope="module")
def finished(page: Page, small_exam: None) -> Visitor:
    """A visitor for whom the methods of :data:`SHORT` have run; nobody but them presses anything."""
    visitor = Visitor(page, "for whom the methods have run")
    visitor.do("on_methods", **SHORT)
    return visitor


@pytest.fixture
def ran(finished: Visitor, visitor: Visitor) -> Visitor:
    """A new visitor for whom the same run has just ended: what they do stays theirs."""
    visitor.session.slot(Compared).forget_writing()  # the example's
    visitor.session.start_from(finished.session)
    visitor.screen.update(finished.screen)
    visitor.on.update(finished.on)
    return visitor


def test_the_page_starts_with_the_quick_methods_run_on_the_example(visitor):
    known = visitor.session.slot(Compared).contest
    assert [s.method.title for s in known.standings] == ["DINM", "FT-L", "SFT", "Self-Reminder"], "no editor, no MEND"
    assert known.case == visitor.session.case and known.block == visitor.session.live.result.block
    table = visitor.standing("methods_table")
    cells = table["data"] if isinstance(table, dict) else table
    assert len(cells) == 4
    assert f"ran on: bundled case {CASE}" in visitor.standing("methods_head")
    assert "SFT" in visitor.standing("methods_source_reading"), "a method that shifts is picked"
    for method in METHODS.values():
        assert method.card in methods_texts.cards().replace("&#x27;", "'")


def test_running_methods_fills_the_table_one_by_one_on_the_case_in_the_rail(visitor):
    question = visitor.standing("question") + " Tell me more."
    visitor.open("keep")
    live, seen, rows = visitor.session.live, [], []
    for changed in visitor.press("on_methods", **own_question(question), **SHORT):
        if "methods_table" in changed:
            seen.append(titles(visitor.screen["methods_table"]))
            rows.append([(line[4], line[-1]) for line in visitor.screen["rows_table"]])
    of_example = ("DINM", "live")  # what the example has run of several methods has no row here
    tuned, trained = ("FT-L", "not live yet"), ("SFT", "not live yet")
    assert rows[0] == [tuned, of_example] and rows[1] == rows[2] == rows[-1] == [trained, tuned, of_example]
    assert visitor.session.live is live
    assert seen[0] == ["FT-L"] and seen[-1] == SHORT["methods_chosen"] and sorted(seen, key=len) == seen
    known = visitor.session.slot(Compared).contest
    assert known.case.question == question and "warn" not in visitor.screen["methods_head"]
    assert "Ended: 3 methods" in visitor.screen["methods_clock"]
    shown = dict(zip(methods_texts.HEADERS, visitor.screen["methods_table"][0], strict=True))
    scored = {score.name: score for score in known.standings[0].scores}
    # A question of one's own has no other harmful prompt.
    assert shown["Quoted"] == f"– / {scored['quoted, harmless'].edited.value:.0f}"
    assert shown["Still answers"] == f"{scored['still answers'].edited.value:.0f}"
    assert shown["Shift"] == "0 *" and shown["Weights"] == "1536" and float(shown["Toxicity"]) != 0
    reminder = dict(zip(methods_texts.HEADERS, visitor.screen["methods_table"][2], strict=True))
    assert reminder["Toxicity"] == "0 *" and reminder["Weights"] == "0 *" and float(reminder["Shift"]) > 0
    assert_idle(visitor)


def test_a_click_on_a_line_only_picks_its_method(ran):
    live, edits = ran.session.live, list(ran.session.edits)
    ran.select("on_method_row", SimpleNamespace(row_value=["SFT"]))
    assert ran.screen["methods_picked"] == "SFT" and "SFT" in ran.screen["methods_source_reading"]
    assert ran.session.live is live and ran.session.edits == edits
    events = ran.page.app.fns.values()
    (loading,) = (event for event in events if getattr(event.fn, "__name__", "") == "on_method_load")
    assert loading.targets == [(ran.page.parts.methods_load._id, "click")], "no other press makes a patch live"


def test_a_method_s_patch_is_made_live_by_its_button_and_the_reminder_has_none(ran):
    visitor = ran
    edits = len(visitor.session.edits)
    visitor.do("on_method_load", methods_picked="SFT", **GENEROUS)
    live = visitor.session.live
    assert live.patch.method == "SFT" and len(visitor.session.edits) == edits + 1
    made = visitor.session.slot(Compared).contest.named("SFT").result.patch
    assert (
        live.patch.identifier == made.identifier
        and live.patch.settings[RECORD]["weights"] == visitor.session.row.label()
    )
    assert "live weights: SFT" in visitor.screen["live"] and "of its down-projection" in visitor.screen["tiles"]
    assert visitor.screen["edited"] and "see Operate" in visitor.screen["methods_clock"]
    with pytest.raises(Exception, match="no patch to load"):
        visitor.do("on_method_load", methods_picked="Self-Reminder")
    with pytest.raises(Exception, match="DPO was not run"):
        visitor.do("on_method_load", methods_picked="DPO")
    assert visitor.session.live is live
    assert_idle(visitor)


@pytest.fixture
def listed(ran: Visitor) -> Visitor:
    """The same in a visit of its own: its rows are the example's edit, FT-L's and SFT's."""
    ran.session._slots.pop(Kept)
    ran.do("on_ask")
    return ran


def rows_of(visitor: Visitor) -> list[Entry]:
    return visitor.page.house.rooms["keep"].desk.rows(visitor.session)


def test_an_edit_of_the_run_has_its_row_which_becomes_the_live_one_when_it_is_loaded(listed):
    visitor = listed
    standings = visitor.session.slot(Compared).contest.standings
    rows = rows_of(visitor)
    assert [(row.method, row.live, row.was_live) for row in rows[1:]] == [("FT-L", False, False), ("SFT", False, False)]
    for row, standing in zip(rows[1:], standings, strict=False):
        assert (row.patch, row.seconds) == (standing.result.patch.identifier, standing.result.seconds)
        assert {"steps", "learning_rate"} <= set(row.settings) and (row.origin, row.gate) == (IN_METHODS, UNSEEN)
        assert {name: values[:2] for name, values in row.scores.items()} == {
            score.name: (score.vanilla.value, score.edited.value) for score in standing.scores
        }
    assert rows[2].settings["seed"] == standings[1].result.settings.seed
    visitor.do("on_method_load", methods_picked="SFT", **GENEROUS)
    *others, loaded = rows_of(visitor)
    assert others == [replace(rows[0], live=False), rows[1]] and rows[2].verdicts == {}
    now = {"live": True, "was_live": True, "gate": "passed", "reason": loaded.reason, "verdicts": loaded.verdicts}
    assert loaded == replace(rows[2], **now) and len(loaded.verdicts) == 2
    visitor.do("on_delete_row", row_picked=2)
    visitor.do("on_strength", strength=0.5)
    assert [row.number for row in rows_of(visitor)] == [1, 3], "what is deleted stays so"


def test_two_edits_of_the_run_are_compared_and_one_passes_the_gate_before_it_is_live(listed):
    visitor = listed
    live, rows = visitor.session.live, rows_of(visitor)
    visitor.do("on_row_picked", row_picked=3)
    assert rows[2].patch in visitor.screen["row_details"] and visitor.screen["again"] == "Ask the gate"
    visitor.do("on_ask_two", row_a=2, row_b=3, ask_two_what="Case of A, question alone", max_new_tokens=4)
    assert visitor.session.slot(Kept).asked.labels[1:] == (rows[1].label, rows[2].label)
    assert visitor.session.live is live and rows_of(visitor) == rows, "reading changes nothing"
    visitor.do("on_again", row_picked=3, **GENEROUS)
    assert visitor.session.live.patch.identifier == rows[2].patch
    assert [(row.live, row.gate) for row in rows_of(visitor)[1:]] == [(False, UNSEEN), (True, "passed")]


def test_a_patch_of_the_run_that_is_too_much_leaves_memory_and_its_row_stays(ran, monkeypatch):
    visitor, history = ran, ran.page.house.rooms["keep"].desk.history
    visitor.session._slots.pop(Kept)
    standings = visitor.session.slot(Compared).contest.standings
    monkeypatch.setattr(history, "most_bytes", visitor.session.live.patch.bytes + standings[1].result.patch.bytes)
    for strength in (0.5, 1.0):
        visitor.do("on_strength", strength=strength)
        assert [row.method for row in rows_of(visitor)[1:]] == ["FT-L", "SFT"]
        assert set(visitor.session.slot(Kept).made) == {1, 3}, "the oldest that nothing needs has gone"


def test_picking_a_method_moves_the_figures_and_its_answer(ran):
    visitor = ran
    for title in ("FT-L", "Self-Reminder"):
        visitor.do("on_method_picked", methods_picked=title)
        standing = visitor.session.slot(Compared).contest.named(title)
        assert seen(visitor.screen["methods_edited"]) == standing.exam.replies[0].edited.text
        assert title in visitor.screen["methods_source_reading"]
    assert "by construction" in visitor.screen["methods_neurons_reading"]


def test_what_stands_where_a_method_has_no_answer_yet_is_not_covered(page, ran):
    ran.do("on_method_picked", methods_picked="FT-L")
    assert "blurred" in ran.classes["methods_edited"], "an answer that is not judged safe is"
    ran.do("on_method_picked", methods_picked="MEND")
    for name in ("methods_vanilla", "methods_edited"):
        assert "no answer yet" in ran.screen[name] and "blurred" not in ran.classes[name]
        assert "blurred" not in getattr(page.parts, name).elem_classes, "nor on a page that has none"


def test_a_cancel_keeps_the_methods_that_are_done(visitor):
    for _ in visitor.press("on_methods", **SHORT):
        if 'FT-L</b> <span class="state">done' in visitor.screen["methods_clock"]:
            visitor.session.cancelled.set()
    assert titles(visitor.screen["methods_table"]) == ["FT-L"]
    assert "Cancelled" in visitor.screen["methods_clock"]
    assert_idle(visitor)


def test_what_is_done_is_kept_of_the_new_case_when_the_run_breaks(visitor, monkeypatch):
    """An error that is none of the project's own ends the run; the screen's line loads the patch that it names."""
    real = METHODS["sft"]

    def broken(*arguments, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(METHODS, "sft", replace(real, run=broken))
    question = visitor.standing("question") + " Tell me more."
    with pytest.raises(gr.Error, match="went wrong on this machine"):
        visitor.do("on_methods", **own_question(question), **SHORT)
    known = visitor.session.slot(Compared).contest
    assert known.case.question == question and [s.method.title for s in known.standings] == ["FT-L"]
    assert titles(visitor.screen["methods_table"]) == ["FT-L"]
    assert_idle(visitor)
    visitor.do("on_method_load", methods_picked="FT-L")
    assert visitor.session.live.case.question == question


def test_a_method_picked_while_others_run_is_the_one_shown_at_the_end(visitor):
    chosen = {**SHORT, "methods_chosen": ["FT-L", "Self-Reminder"]}
    run = visitor.press("on_methods", methods_picked="Self-Reminder", **chosen)
    for _ in run:
        if 'FT-L</b> <span class="state">done' in visitor.screen["methods_clock"]:
            break
    visitor.do("on_method_picked", methods_picked="FT-L")
    list(run)
    assert "FT-L" in visitor.screen["methods_source_reading"]


def test_a_method_s_patch_that_the_gate_refuses_waits_until_it_is_kept_by_hand(ran):
    visitor, live, row = ran, ran.session.live, ran.session.row
    patch = visitor.session.slot(Compared).contest.named("SFT").result.patch.identifier
    visitor.do("on_method_load", methods_picked="SFT", **{**GENEROUS, "allowed_harmless_kl": 0})
    assert visitor.session.live is live and visitor.session.row == row
    said = seen(visitor.screen["methods_clock"])
    assert "SFT's patch is held back. Refused: harmless KL" in said and "Keep it anyway stands in Operate" in said
    visitor.do("on_keep")
    assert visitor.session.live.patch.identifier == patch and visitor.session.live.patch.settings[RECORD]["overridden"]
    visitor.do("on_method_load", methods_picked="FT-L", **GENEROUS)
    taken = visitor.session.live
    for _ in visitor.press("on_method_load", methods_picked="SFT"):
        visitor.session.cancelled.set()
    assert visitor.session.live is taken and "not live and waits" in seen(visitor.screen["methods_clock"])
    assert_idle(visitor)


def test_after_a_first_run_a_method_is_picked_and_before_it_no_patch_can_be_made_live(visitor):
    visitor.session.slot(Compared).contest = None
    visitor.open("methods")
    assert visitor.screen["methods_picked"] is None and not visitor.usable["methods_load"]
    assert visitor.screen["methods_load"] == f"{LOAD} (none is picked)"
    with pytest.raises(gr.Error, match="No method is picked"):
        visitor.do("on_method_load")
    run = visitor.press("on_methods", **SHORT)
    for _ in run:
        if 'FT-L</b> <span class="state">done' in visitor.screen["methods_clock"]:
            break
    visitor.do("on_method_picked", methods_picked="FT-L")
    assert not visitor.usable["methods_load"], "it is locked while something runs"
    visitor.do("on_method_picked", methods_picked=None)
    list(run)
    assert visitor.screen["methods_picked"] == "SFT" and "SFT" in visitor.screen["methods_source_reading"]
    assert visitor.screen["methods_load"] == LOAD and visitor.usable["methods_load"]
    visitor.do("on_method_picked", methods_picked=None)
    assert not visitor.usable["methods_load"]
    visitor.select("on_method_row", SimpleNamespace(row_value=["FT-L"]))
    assert visitor.usable["methods_load"]
    visitor.do("on_methods", methods_chosen=["Self-Reminder"])
    assert visitor.screen["methods_picked"] == "Self-Reminder", "the one that was picked was not run this time"


def test_a_cancel_before_the_first_is_done_keeps_what_was_there(visitor):
    before = visitor.session.slot(Compared).contest
    for _ in itertools.islice(visitor.press("on_methods", **SHORT), 3):
        visitor.session.cancelled.set()
    assert visitor.session.slot(Compared).contest is before and visitor.is_free


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"methods_chosen": []}, "No method is chosen"),
        ({"methods_size": "Huge"}, "Choose one of: Brief, Quick, Full"),
        ({"methods_scope": "half"}, "Choose one of: LoRA, full"),
        ({"methods_chosen": ["Magic"]}, "Choose some of: DINM"),
        ({"question": ""}, "The question is empty"),
    ],
)
def test_what_cannot_run_is_refused_with_a_remedy(visitor, typed, said):
    with pytest.raises(Exception, match=said):
        visitor.do("on_methods", **{**SHORT, **typed})
    assert visitor.is_free


def test_the_plane_opens_on_what_the_region_writes_where_the_example_has_measured_it(visitor):
    assert set(visitor.session.slot(Compared).written) == {"DINM", "FT-L", "SFT"}, "a reminder changes no weight"
    assert visitor.standing("upright") == WRITTEN
    assert "adversarial prompts the MLP of layer" in visitor.standing("plane_reading")
    lent = visitor.page.house.rooms["methods"].lent
    shown = lent({}, visitor.session)
    assert "written less" in shown.figure.layout.yaxis.title.text and "writes" in shown.reading, "Ten questions as well"
    visitor.do("on_upright", upright=COSINE)
    assert "written less" not in lent({}, visitor.session).figure.layout.yaxis.title.text
    visitor.do("on_method_picked", methods_picked="DINM")
    assert visitor.screen["upright"] == COSINE and "written less" not in visitor.screen["plane"].layout.yaxis.title.text


def test_the_plane_offers_what_the_region_writes_beside_its_mean_cosine(ran):
    visitor = ran
    cosine = [list(line.y) for line in visitor.screen["plane"].data[1:]]
    visitor.do("on_upright", upright=WRITTEN)
    written = visitor.session.slot(Compared).written
    assert set(written) == {"FT-L", "SFT"}, "a reminder changes no weight"
    plane = visitor.screen["plane"]
    assert "written less" in plane.layout.yaxis.title.text
    assert [line.y[0] for line in plane.data[1:]] == pytest.approx(
        [methods_figures.writing_reduction(one) for one in written.values()]
    )
    assert "adversarial prompts the MLP of layer" in visitor.screen["plane_reading"]
    said = seen(visitor.screen["plane_reading"])
    for point, (title, one) in zip(plane.data[1:], written.items(), strict=True):
        length = float(one.size[0].mean())
        before, after = f"{100 * one.before / length:.3g}", f"{100 * one.after / length:.3g}"
        assert point.hovertemplate.startswith(title) and f"{before} % before, {after} % after" in point.hovertemplate
        assert f"{title} {before} to {after}" in said
    visitor.do("on_upright", upright=COSINE)
    assert all("before" not in point.hovertemplate for point in visitor.screen["plane"].data[1:])
    assert [list(line.y) for line in visitor.screen["plane"].data[1:]] == cosine
    visitor.do("on_upright", upright=WRITTEN)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["Self-Reminder"]})
    assert visitor.screen["upright"] == COSINE and visitor.session.slot(Compared).written is None
    assert_idle(visitor)


def test_region_writing_without_a_patch_at_hand_is_refused_with_the_remedy(visitor):
    kept = visitor.session.slot(Compared)
    kept.forget_writing()
    kept.contest = None
    with pytest.raises(gr.Error, match="press Run methods"):
        visitor.do("on_upright", upright=WRITTEN)
    assert visitor.screen["upright"] == COSINE, "what the plane shows"
    assert_idle(visitor)


def is_written(visitor: Visitor) -> bool:
    """Tell whether the plane shows what regions write; the switch and the reading must say the same."""
    shown = "written less" in visitor.screen["plane"].layout.yaxis.title.text
    assert visitor.screen["upright"] == (WRITTEN if shown else COSINE)
    assert ("adversarial prompts the MLP" in visitor.screen["plane_reading"]) is shown
    return shown


def test_the_switch_of_the_plane_says_what_it_shows_after_a_cancel_an_error_and_a_run_that_did_nothing(ran):
    visitor = ran
    run = visitor.press("on_upright", upright=WRITTEN)
    while "What the region writes with" not in visitor.screen["methods_clock"]:
        next(run)
    visitor.session.cancelled.set()
    list(run)
    assert not is_written(visitor) and visitor.session.slot(Compared).written is None, "half of it is kept by nobody"
    visitor.do("on_upright", upright=WRITTEN)
    assert is_written(visitor)
    with pytest.raises(gr.Error, match="No method is chosen"):
        visitor.do("on_methods", **{**SHORT, "methods_chosen": []})
    assert is_written(visitor)
    for _ in visitor.press("on_methods", **SHORT):
        visitor.session.cancelled.set()
    assert is_written(visitor), "nothing was done, and the methods before are shown"
    visitor.do("on_method_picked", methods_picked="SFT")
    assert is_written(visitor)
    assert_idle(visitor)


def test_an_unknown_way_of_asking_is_refused_by_a_run_and_by_the_settings_of_its_further_lines(visitor):
    with pytest.raises(gr.Error, match="Unknown way of asking 'loudly'"):
        visitor.do("on_methods", **SHORT, methods_way="loudly")
    with pytest.raises(CaseError, match="Unknown way of asking 'loudly'"):
        exam_settings("Brief", 2, "loudly")
    assert_idle(visitor)
