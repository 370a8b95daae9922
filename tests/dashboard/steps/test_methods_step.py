"""Methods: what its controls do on the page, and what they keep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from dashboard_helpers import GENEROUS, Page, Visitor, assert_idle, open_page, own_question, seen, tiny_model

from dashboard import api
from dashboard.example.make import CASE
from dashboard.kit.sessions.session import LARGEST_HISTORY, LiveEdit, Session
from dashboard.kit.sessions.typed import texts_of
from dashboard.steps.keep.entries import IN_METHODS, UNSEEN
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.ledger import Entry
from dashboard.steps.methods import figures as methods_figures
from dashboard.steps.methods import further
from dashboard.steps.methods import run as methods
from dashboard.steps.methods import texts as methods_texts
from dashboard.steps.methods.plane import COSINE, WRITTEN
from dashboard.steps.methods.state import Compared
from dashboard.steps.methods.view import LOAD
from editing.calibrating.calibration import Calibration, calibrate_command
from editing.calibrating.trial_edits import Layers, Trial
from editing.contest import ContestSettings
from editing.methods.dinm import to_be_routed
from editing.methods.registry import METHODS
from editing.progress import run as run_quietly
from editing.standing import Standing
from editing.standing_file import load_standings, save_standings
from inspector.errors import CaseError, PatchError
from inspector.model import Delta, Detector, Patch
from inspector.safeedit import bundled_cases
from inspector.safeedit.judges import MatcherJudge
from inspector.safeedit.questions import Size
from inspector.safeedit.sets import held_out_cases

SHORT = {"methods_chosen": ["FT-L", "SFT", "Self-Reminder"], "methods_tokens": 6, "max_new_tokens": 6}


pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture(scope="module", autouse=True)
def small_exam() -> Iterator[None]:
    """Methods take few steps, the case's prompts and two harmless ones are asked, few prompts' activations compared."""
    few = {"ft-l": {"steps": 6}, "sft": {"steps": 3}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "ContestSettings", lambda **given: ContestSettings(**given, changes=few))
        patch.setitem(methods.SIZES, "Brief", replace(methods.BRIEF, harmless=2, facts=0, passages=0))
        patch.setattr("editing.contest.held_out_cases", lambda: held_out_cases()[:3])
        yield


@pytest.fixture(scope="module")
def finished(page: Page, small_exam: None) -> Visitor:
    """A visitor for whom the methods of :data:`SHORT` have run; nobody but them presses anything."""
    visitor = Visitor(page, "for whom the methods have run")
    visitor.do("on_methods", **SHORT)
    return visitor


@pytest.fixture
def ran(finished: Visitor, visitor: Visitor) -> Visitor:
    """A new visitor for whom the same run has just ended: what they do stays theirs."""
    visitor.session.start_from(finished.session)
    visitor.screen.update(finished.screen)
    visitor.on.update(finished.on)
    return visitor


def titles(lines: list[list[str]]) -> list[str]:
    return [line[0] for line in lines]


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
    visitor.do("on_method_load", methods_picked="SFT")
    live = visitor.session.live
    assert live.patch.method == "SFT" and len(visitor.session.edits) == edits + 1
    assert live.patch is visitor.session.slot(Compared).contest.named("SFT").result.patch
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
    visitor.do("on_method_load", methods_picked="SFT")
    *others, loaded = rows_of(visitor)
    assert others == [replace(rows[0], live=False), rows[1]] and rows[2].verdicts == {}
    assert loaded == replace(rows[2], live=True, was_live=True, verdicts=loaded.verdicts) and len(loaded.verdicts) == 2
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


def test_loading_a_patch_again_drops_no_other_edit_from_undo(visitor, monkeypatch):
    monkeypatch.setattr("dashboard.kit.sessions.session.HISTORY", 2)
    first = visitor.session.live
    for _ in range(3):
        visitor.do("on_method_load", methods_picked="FT-L")
    assert [edit.patch.method for edit in visitor.session.edits] == ["DINM", "FT-L"]
    assert visitor.session.edits[0] is first


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


def test_companions_are_one_case_of_each_other_category_and_none_that_is_scored():
    case = bundled_cases()[3]
    found = methods.companions(case, methods.TOGETHER)
    assert len({c.category for c in found}) == len(found) == 8 and case.category not in {c.category for c in found}
    assert all(c.split == "edit" for c in found) and methods.companions(case, methods.ALONE) == ()


def test_standings_come_back_from_disk_with_and_without_patches(visitor, tmp_path):
    made = visitor.session.slot(Compared).contest.standings
    further = bundled_cases()
    made = tuple(replace(s, result=replace(s.result, learnt_from=further[:n])) for n, s in enumerate(made))
    for patches in (True, False):
        folder = tmp_path / str(patches)
        save_standings(made, folder, patches)
        read = load_standings(folder)
        assert methods_texts.rows(read) == methods_texts.rows(made)
        assert [s.exam for s in read] == [s.exam for s in made]
        assert [s.result.settings for s in read] == [s.result.settings for s in made]
        assert [s.result.learnt_from for s in read] == [s.result.learnt_from for s in made]
        for one, two in zip(read, made, strict=True):
            kept = one.result.patch.identifier if one.result.patch else None
            assert kept == (two.result.patch.identifier if patches and two.result.patch else None)
            assert np.allclose(one.shift.vanilla, two.shift.vanilla, rtol=1e-4)
            assert np.allclose(one.toxicity.after, two.toxicity.after, rtol=1e-4)
    with pytest.raises(PatchError, match="Run the contest again"):
        load_standings(tmp_path / "nowhere")


def test_scores_that_are_so_by_construction_are_marked(visitor):
    text = methods_texts.all_scores(visitor.session.slot(Compared).contest.standings)
    assert text.count(" *</td>") == 2 and "* so by construction" in text, "vanilla against itself: DL and KL"
    assert "its yardstick, what rounding alone does to it, is the column Rounded of a stress test" in seen(text)


def test_each_method_s_fluency_has_its_own_length_and_its_own_number_of_answers(visitor):
    known = visitor.session.slot(Compared).contest.standings[0]
    exam = known.exam
    judged = [n for n, reply in enumerate(exam.replies) if reply.edited.verdict is not None]

    def saying(text: str, count: int) -> Standing:
        chosen = [exam.replies[n] for n in judged[:count]]
        said = tuple(replace(one, edited=replace(one.edited, text=text, fluency=1.0)) for one in chosen)
        return replace(known, exam=replace(exam, replies=said))

    short, long = saying("No thanks", 2), saying("I would rather not do that", 3)
    (line,) = [line for line in methods_texts.all_scores([short, long]).split("<tr>") if "those answers" in line]
    head, _, *cells = line.split("<td>")
    assert "words at white space" in head and "edited" not in head and "n 2" not in head and "n 3" not in head
    assert "edited 2 words" in cells[0] and "n 2<" in cells[0]
    assert "edited 6 words" in cells[1] and "n 3<" in cells[1]
    (line,) = [line for line in methods_texts.all_scores([short, short]).split("<tr>") if "those answers" in line]
    assert "edited 2 words" in line.split("<td>")[0] and "n 2;" in line.split("<td>")[0], "what they share stands once"


def test_the_history_of_edits_has_a_limit_in_bytes(visitor, monkeypatch):
    monkeypatch.setattr("dashboard.kit.sessions.session.LARGEST_HISTORY", 3 * 32 * 48 * 4)
    session, made = Session(), visitor.session.live.result
    for number in range(5):
        delta = Delta("model.layers.1.mlp.down_proj", 1, made.patch.deltas[0].dense() * (number + 1))
        session.add(LiveEdit(bundled_cases()[0], replace(made, patch=Patch((delta,), made.patch.fingerprint, "DINM"))))
    assert len(session.edits) == 3 and LARGEST_HISTORY == 2**30


def test_a_patch_that_was_not_kept_cannot_be_loaded(visitor):
    session = visitor.session
    known = session.slot(Compared).contest
    lost = tuple(replace(s, result=replace(s.result, patch=None)) for s in known.standings)
    session.slot(Compared).contest = replace(known, standings=lost)
    with pytest.raises(CaseError, match="Press Run methods"):
        next(methods.load_method(tiny_model(), session, "SFT"))


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
    with pytest.raises(gr.Error, match="press Run methods"):
        visitor.session.slot(Compared).contest = None
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


@pytest.fixture(scope="module")
def detecting(example_folder) -> tuple[Page, Detector]:
    """A page on a calibrated model, and its detector, whose threshold a test may set."""
    about = {"questions": 2, "harmless_prompts": 2}
    made = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=about)
    layers = Layers((Trial(0, 0.5, 0.1, 1.0), Trial(1, 0.75, 0.1, 1.0)), 0.25, 5, 20)
    return open_page(example_folder, calibration=Calibration(layers, made)), made


@pytest.mark.parametrize(("threshold", "fires"), [(1e9, False), (-1e9, True)])
def test_routed_lines_stand_beside_the_plain_ones_and_load_as_routed(detecting, request, monkeypatch, threshold, fires):
    def as_given(_model, given, *_further):  # what fires is decided by the detector alone
        yield from ()
        return given

    monkeypatch.setattr("editing.gate.choice.for_case", as_given)
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_methods", **{**SHORT, "methods_chosen": ["FT-L", "Self-Reminder"]}, methods_routed=True)
    assert titles(visitor.screen["methods_table"]) == ["FT-L", "Self-Reminder", "FT-L, routed"]
    plain, _, routed = visitor.session.slot(Compared).contest.standings
    assert all(reply.held_back is not fires for reply in routed.exam.replies)
    own = [reply.edited.text for reply in (plain if fires else routed).exam.replies]
    expected = [reply.edited.text if fires else reply.vanilla.text for reply in routed.exam.replies]
    assert own == expected
    visitor.do("on_method_load", methods_picked="FT-L, routed")
    assert visitor.session.detector is made and "only where harm is detected" in visitor.screen["live"]
    visitor.do("on_method_load", methods_picked="FT-L")
    assert visitor.session.detector is None
    assert_idle(visitor)


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
    title = f"{further.LEARNS_MORE}{further.ROUTED}"
    assert titles(visitor.screen["methods_table"]) == ["DINM", "DINM, routed", title]
    plain, routed, more = visitor.session.slot(Compared).contest.standings
    assert more.result.settings == to_be_routed(plain.result.settings) != plain.result.settings
    assert more.result.patch is not plain.result.patch is routed.result.patch
    assert all(reply.held_back and reply.reading is not None for reply in more.exam.replies)
    assert title in seen(visitor.screen["methods_scores"])
    edits = methods.edits_of(visitor.session, page.context.example.session)
    assert [(edit.result, exam is not None) for edit, exam in edits] == [(plain.result, True), (more.result, False)]
    visitor.do("on_method_load", methods_picked=title)
    assert visitor.session.live.patch is more.result.patch and visitor.session.detector is made
    assert_idle(visitor)


def test_programs_get_the_same_routed_lines(detecting, monkeypatch):
    page, endpoints = detecting[0], {}
    monkeypatch.setattr("dashboard.api.named", lambda function, *_: endpoints.update({function.__name__: function}))
    monkeypatch.setattr("dashboard.api.connect_files", lambda _context: None)
    api.connect(page.context)
    monkeypatch.setitem(methods.SIZES, "Brief", Size(0, 1, 0, 0))
    given = texts_of(bundled_cases()[0])
    for routed, more in ((True, ["FT-L, routed"]), (False, [])):
        records = endpoints["methods"](
            given.question, given.template, given.safe, given.unsafe, 1, ["FT-L"], max_new_tokens=2, routed=routed
        )
        assert [record["method"] for record in records] == ["FT-L", *more]


def test_the_edit_that_operate_makes_first_says_why_where_there_is_none(detecting, request):
    page, made = detecting
    visitor, known = Visitor(page, request.node.name), page.context.example.session.slot(Compared).contest
    visitor.session.limits = replace(visitor.session.limits, steps=1)
    making = further.learning_more(
        tiny_model(), visitor.session, known, methods.exam_settings("Brief", 4, "same prompts"), made, MatcherJudge()
    )
    found = run_quietly(making)
    assert found.method.title == f"{further.LEARNS_MORE}{further.ROUTED}" and "steps an edit" in found.failed
    assert found.result is None and methods_texts.rows([found])[0][1] == "–"


def test_routed_lines_are_off_with_their_reason_where_there_is_no_detector(visitor):
    switch = visitor.page.parts.methods_routed
    assert not switch.interactive and calibrate_command(visitor.page.context.model) in switch.info
