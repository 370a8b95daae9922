"""The gate on the page: an edit is live once it has passed or was kept by hand, and edits on top of edits say so."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace

import gradio as gr
import pytest
import torch
from dashboard_helpers import BRIEF, GENEROUS, QUICK, Visitor, assert_idle, seen, tiny_model

from dashboard.kit.sharing.parts import Visit
from dashboard.steps.operate import gating
from dashboard.steps.operate import texts as words
from dashboard.steps.operate.gate import BUDGETS
from dashboard.steps.operate.gating import Gated
from dashboard.steps.operate.report import parts
from dashboard.steps.operate.texts import _chip_words
from editing import run
from editing.gate.budgets import Check, checks_of
from editing.gate.exam import small_exam
from editing.gate.gate import RECORD
from editing.stacking import edits_in
from inspector.model import Detector
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import Marked, Reply
from inspector.safeedit.verdict import Verdict

pytestmark = pytest.mark.usefixtures("model")
STRICT = {**BRIEF, "allowed_harmless_kl": 0}
"""Any edit that changes anything is refused."""


def refused(visitor: Visitor) -> None:
    """Make an edit that the gate refuses."""
    visitor.do("on_edit", **STRICT)


def test_under_the_charts_of_a_cancelled_run_the_gate_s_word_is_said_to_be_of_the_live_edit(visitor):
    visitor.do("on_edit", **QUICK)
    live, run = visitor.session.live, visitor.press("on_edit", **QUICK)
    while "Step 1" not in visitor.standing("clock"):
        next(run)
    visitor.do("on_cancel")
    list(run)
    line, whole = visitor.screen["gate"].split("</summary>")
    assert visitor.session.live is live and seen(line).startswith("Live edit: gate passed")
    assert f"patch {live.patch.identifier}: Gate passed" in seen(whole)
    assert len(visitor.screen["vitals"].data[0].x) < len(live.result.trace), "they are of the cancelled run"
    assert seen(visitor.reload().standing("gate")).startswith("Gate passed"), "its charts are there again"
    visitor.do("on_edit", **BRIEF)
    assert seen(visitor.screen["gate"]).startswith("Gate passed"), "it is of what the charts show again"


def test_an_edit_that_passes_is_live_and_its_line_has_a_chip_for_each_budget(visitor):
    said = []
    for changed in visitor.press("on_edit", **BRIEF):
        if "clock" in changed:
            said.append(visitor.screen["clock"])
    assert visitor.session.live.patch.settings[RECORD]["passed"] is True
    assert visitor.screen["gate"].count('<span class="kept"') == 5
    assert "Gate passed" in visitor.screen["gate"] and "harmless KL" in visitor.screen["gate"]
    assert "of 100 points" in visitor.screen["gate"] and "of 100 nats" in visitor.screen["gate"]
    assert "of 100" in visitor.screen["gate"] and visitor.shown["keep"] is False
    assert "against the gate" not in visitor.screen["live"]
    assert any("prompts of the small exam" in words for words in said) or "updates kept" in said[-1]
    assert_idle(visitor)


def test_a_refused_edit_is_not_live_and_says_why_and_what_is_live_instead(visitor):
    before = visitor.session.live
    refused(visitor)
    assert visitor.session.live is before and "live" not in visitor.screen
    assert "Refused by the gate" in visitor.screen["gate"] and "nats a token (0 allowed" in visitor.screen["gate"]
    assert before.patch.identifier in visitor.screen["gate"]
    line, whole = visitor.screen["clock"].split("</summary>")
    assert seen(line) == f"Held back by the gate; patch {before.patch.identifier} stays live."
    assert f"{visitor.session.row.label()} stays live" in seen(whole)
    assert visitor.shown["keep"] is True
    held = visitor.session.slot(Gated).held
    assert held is not None and held.edit.patch.identifier != before.patch.identifier
    assert_idle(visitor)


@pytest.mark.parametrize(("count", "said"), [(1, "1 prompt not asked: too long"), (2, "2 prompts not asked: too long")])
def test_the_gate_says_how_many_prompts_of_its_exam_were_too_long_of_an_edit_that_waits_and_of_a_live_one(
    visitor, count, said
):
    refused(visitor)
    kept = visitor.session.slot(Gated)
    assert "not asked" not in words.gate_brief(visitor.session)
    kept.held = kept.held.worded(replace(kept.held.acceptance, too_long=count))
    waiting = words.gate_brief(visitor.session).split("</summary>")
    gating.keep(visitor.session)
    live = words.gate_brief(visitor.session).split("</summary>")
    visitor.session.scale(0.5)
    scaled = words.gate_brief(visitor.session).split("</summary>")
    for line, whole in (waiting, live, scaled):
        assert said in seen(line) and said in seen(whole), line


def test_from_vanilla_a_refused_edit_leaves_vanilla_live_and_the_page_says_so(visitor):
    visitor.do("on_undo")
    refused(visitor)
    assert visitor.session.live is None
    assert "vanilla stays live" in visitor.screen["gate"]
    assert seen(visitor.screen["clock"]).startswith("Held back by the gate; vanilla stays live.")


def test_one_click_keeps_a_refused_edit_and_patch_and_badge_say_so(visitor):
    refused(visitor)
    waiting = visitor.session.slot(Gated).held.edit.patch
    visitor.do("on_keep")
    live = visitor.session.live
    assert live.patch.identifier == waiting.identifier and live.patch.settings[RECORD]["overridden"] is True
    assert "kept against the gate's refusal" in visitor.screen["live"]
    assert waiting.identifier in visitor.screen["edited_head"], "both answers are asked anew"
    assert "kept by hand" in visitor.screen["gate"] and "too much" in visitor.screen["gate"]
    assert visitor.shown["keep"] is False and visitor.session.slot(Gated).held is None
    assert_idle(visitor)
    with pytest.raises(gr.Error, match="refused no edit"):
        visitor.do("on_keep")


def test_undo_after_keeping_brings_the_edit_before_back(visitor):
    before = visitor.session.live
    refused(visitor)
    visitor.do("on_keep")
    visitor.do("on_undo")
    assert visitor.session.live is before and "against the gate" not in visitor.screen["live"]


def test_a_cancel_while_the_gate_asks_decides_nothing_and_the_edit_waits_for_another_exam(visitor):
    before = visitor.session.live
    run = visitor.press("on_edit", **QUICK)
    while "Step 3" not in visitor.standing("clock"):  # the example's edit may have kept as many updates
        next(run)
    while "3 updates kept" not in visitor.standing("clock"):
        next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.live is before and "Not examined" in visitor.screen["gate"]
    assert visitor.shown["keep"] is False and visitor.screen["examine"] == "Examine"
    visitor.do("on_examine")
    assert visitor.session.live is not before and "Gate passed" in visitor.screen["gate"]
    assert visitor.session.live.patch.identifier in visitor.screen["live"]
    assert_idle(visitor)


def test_examine_gives_a_live_edit_that_was_never_examined_its_line_and_leaves_it_live(visitor):
    before = visitor.session.live
    visitor.do("on_examine", **{**GENEROUS, "allowed_harmless_kl": 0})
    live = visitor.session.live
    assert live.patch.deltas is before.patch.deltas and len(visitor.session.edits) == 1
    assert live.patch.settings[RECORD]["passed"] is False
    assert "loaded by hand" in visitor.screen["gate"] and visitor.screen["examine"] == "Examine again"
    assert_idle(visitor)


def test_examine_is_off_with_its_reason_where_there_is_no_edit(visitor):
    visitor.do("on_undo")
    assert visitor.screen["examine"] == "No edit to examine" and visitor.screen["gate"] == ""
    with pytest.raises(gr.Error, match="nothing to examine"):
        visitor.do("on_examine")


@pytest.mark.parametrize(("value", "words"), [(None, "'refused' is empty"), (-1, "over_refusal.*out of range")])
def test_a_budget_that_is_none_stops_an_edit_before_it_starts(visitor, value, words):
    before = visitor.session.live
    with pytest.raises(gr.Error, match=words):
        visitor.do("on_edit", **{**BRIEF, "allowed_over_refusal": value})
    assert visitor.session.live is before
    assert_idle(visitor)


def test_the_field_of_each_budget_says_the_unit_that_the_gate_counts_in_and_from_where(page):
    answer = Marked("Words.", True, "", Verdict("safe", 1.0, "", "hand"), False, 1.0, None)
    checks = checks_of([Reply(question, answer, answer, kl=0.0) for question in small_exam(bundled_cases()[0], 2, 1)])
    units = {check.name: check.unit for check in checks if not check.least}
    fields = {block.elem_id: block.info for block in page.app.blocks.values() if isinstance(block, gr.Number)}
    assert list(BUDGETS) == list(units)
    for name, unit in units.items():
        side = "below" if name == "lost_defence" else "above"  # of what vanilla defends, and of what is harm
        counted = f"points {side} vanilla" if unit == "points" else unit
        assert fields[f"gate-{name.replace('_', '-')}"].startswith(f"Allowed, {counted}"), name


@pytest.mark.parametrize(("value", "shown"), [(2.0, "gain +2"), (0.0, "gain +0"), (-2.0, "gain -2")])
def test_a_gain_is_told_with_its_sign(value, shown):
    gain = asdict(Check("gain", "gain", "prompts", value, 1.0, 13, least=True))
    assert _chip_words(gain) == f"{shown} prompts, at least 1"


def test_an_edit_on_top_is_the_stack_of_both_and_says_what_it_does_to_the_first_one_s_scores(visitor):
    first = visitor.session.live
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    live = visitor.session.live
    assert edits_in(live.patch) == 2 and "2 edits stacked" in visitor.screen["live"]
    modules = {delta.module for delta in live.patch.deltas}
    assert modules > {delta.module for delta in first.patch.deltas} or first.result.block == 0
    assert "2 edits are stacked. Edit 2 changes on edit 1's case DS" in seen(visitor.screen["stack"])
    assert_idle(visitor)
    visitor.do("on_edit", **BRIEF, on_top=True, block=1)
    assert "3 edits are stacked. Edit 3 changes on edit 2's case DS" in seen(visitor.screen["stack"])
    visitor.session.slot(Gated).stack = None
    assert "What edit 3 does to edit 2's scores was not measured" in words.stack_words(visitor.session)
    visitor.do("on_undo")
    visitor.do("on_undo")
    assert visitor.session.live is first and "1 edit live" in visitor.screen["live"]
    assert visitor.screen["stack"] == ""


def test_what_an_edit_on_top_did_is_told_of_the_weights_that_are_live_alone(visitor):
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    measured = "Edit 2 changes on edit 1's case DS"
    assert measured in seen(visitor.screen["stack"])
    visitor.do("on_strength", strength=0.5)
    other = "was measured at another strength, or where it acted otherwise; as the edit acts now it was not."
    (part,) = parts(Visit(visitor.session))
    for said in (seen(visitor.screen["stack"]), seen("".join(part.readings))):
        assert other in said and measured not in said
    visitor.do("on_strength", strength=1.0)
    assert measured in seen(visitor.screen["stack"])
    session = visitor.session
    session.detector = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint)
    assert other in words.stack_words(session), "it acts where harm is detected now"


def refused_on_top(visitor: Visitor) -> None:
    """Make an edit on top of the example's that the gate refuses."""
    visitor.do("on_edit", **STRICT, on_top=True, block=0)


def test_keep_stands_in_no_line_and_the_exam_of_the_stack_that_follows_it_does(visitor, monkeypatch):
    line = visitor.page.context.line
    monkeypatch.setattr(line, "rest", 60)
    refused_on_top(visitor)
    with closing(line.turns((step for step in range(2)), "edit")) as ahead:
        next(ahead)
        keeping, kept = visitor.press("on_keep"), visitor.session.slot(Gated)
        while "In line, place 2" not in seen(visitor.standing("clock")):
            next(keeping)
        live = visitor.session.live
        assert edits_in(live.patch) == 2 and live.patch.settings[RECORD]["overridden"] is True
        assert live.patch.identifier in visitor.screen["live"]
        assert kept.stack is None and "was not measured" in visitor.screen["stack"]
        assert visitor.on["cancel"] and not visitor.on["edit"]
        with pytest.raises(gr.Error, match="still running"):
            visitor.do("on_undo")
        visitor.do("on_cancel")
        list(keeping)
        assert "Cancelled in line. The edit that you have kept stays live." in visitor.screen["clock"]
        assert visitor.session.live is live and kept.stack is None
        assert_idle(visitor)


def test_what_a_kept_edit_does_to_the_one_below_it_is_examined_before_anything_else_can_run(visitor):
    refused_on_top(visitor)
    said = []
    for _ in visitor.press("on_keep"):
        said.append(seen(visitor.screen["clock"]))
        assert visitor.session.busy
    assert any(one.startswith("Kept by hand: patch") for one in said) and words.STACK_NEXT in said
    kept = visitor.session.slot(Gated)
    assert kept.stack is not None and "stands in the head" in visitor.screen["clock"]
    assert "Edit 2 changes on edit 1's case DS" in seen(visitor.screen["stack"])
    assert edits_in(visitor.session.live.patch) == 2
    assert_idle(visitor)


def test_no_exam_of_a_stack_follows_on_keep_where_none_is_due(visitor):
    refused(visitor)
    visitor.do("on_keep")
    assert "Kept by hand: patch" in visitor.screen["clock"], "it stands on no other edit"
    refused_on_top(visitor)
    keeping = visitor.press("on_keep")
    while visitor.session.slot(Gated).held is not None:
        next(keeping)
    visitor.do("on_cancel")
    list(keeping)
    assert edits_in(visitor.session.live.patch) > 1 and visitor.session.slot(Gated).stack is None, "Cancel ends both"
    assert "Kept by hand: patch" in visitor.screen["clock"]


def test_a_cancel_of_the_exam_that_follows_on_keep_says_what_stays(visitor):
    refused_on_top(visitor)
    keeping = visitor.press("on_keep")
    while words.STACK_NEXT not in seen(visitor.standing("clock")):
        next(keeping)
    live = visitor.session.live
    visitor.do("on_cancel")
    list(keeping)
    assert "Stopped before its end. The edit that you have kept stays live." in visitor.screen["clock"]
    assert visitor.session.live is live and "was not measured" in visitor.screen["stack"]
    assert_idle(visitor)


def test_a_stack_is_examined_as_each_of_its_edits_acts(visitor, monkeypatch):
    routed = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint)
    first, asked = visitor.session.live, []

    def exam(_model, _cases, *rows, **_options):
        asked.append(rows)
        yield from ()

    monkeypatch.setattr(gating, "examine_stack", exam)
    visitor.session.detector = routed
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    ((alone, both),) = asked
    assert alone.detector is routed and alone.patch is first.patch
    assert both.patch is visitor.session.live.patch and both.detector is None
    visitor.session.detector = routed
    visitor.session.scale(0.5)
    list(gating.stack_exam(tiny_model(), visitor.session))
    assert asked[1][1].detector is routed and asked[1][1].strength == 0.5


def test_a_cancelled_exam_of_a_stack_leaves_the_one_before(visitor):
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    kept = visitor.session.slot(Gated)
    before = kept.stack
    visitor.session.cancelled.set()
    made = gating.stack_exam(tiny_model(), visitor.session)
    assert run(made) is None and before is not None and kept.stack is before


def test_a_stack_is_examined_anew_by_examine_where_it_acts_or_is_asked_otherwise(visitor, monkeypatch):
    """Not where it is known: the gate alone is asked then."""
    visitor.do("on_edit", **BRIEF, on_top=True, block=0, stack_way="as in the paper")
    kept = visitor.session.slot(Gated)
    assert kept.stack.evaluation == "paper" and "Asked: as in the paper" in visitor.screen["stack"]
    visitor.do("on_examine", **BRIEF, stack_way="as in the paper")
    known = kept.stack
    visitor.do("on_examine", **BRIEF, stack_way="as in the paper")
    assert kept.stack is known, "as it acts and as it was asked"
    visitor.do("on_examine", **BRIEF, stack_way="same prompts")
    assert kept.stack.evaluation == "same" and "Asked: as in the paper" not in visitor.screen["stack"]
    visitor.session.scale(0.5)
    visitor.do("on_examine", **BRIEF)
    assert kept.stack.both == visitor.session.row.key
    monkeypatch.setattr(gating, "examine_stack", lambda *_, **__: pytest.fail("no stack"))
    visitor.do("on_edit", **BRIEF, on_top=False, block=0)
    visitor.do("on_examine", **BRIEF)


@pytest.mark.parametrize("handler", ["on_edit", "on_examine", "on_keep", "on_method_load"])
def test_an_unknown_way_of_asking_a_stack_is_refused_before_anything_is_done(visitor, handler):
    if handler == "on_keep":
        refused(visitor)
    live, held = visitor.session.live, visitor.session.slot(Gated).held
    with pytest.raises(gr.Error, match="Unknown way of asking"):
        visitor.do(handler, **BRIEF, methods_picked="FT-L", stack_way="loudly")
    assert visitor.session.live is live and visitor.session.slot(Gated).held is held
    assert_idle(visitor)


def test_of_a_stack_whose_lower_edit_is_not_known_any_more_the_page_says_how_to_measure_it(visitor, monkeypatch):
    for block in (0, 1):
        visitor.do("on_edit", **BRIEF, on_top=True, block=block)
    visitor.do("on_undo")
    said = seen(visitor.screen["stack"])
    assert "What edit 2 does to edit 1's scores was not measured. Examine cannot measure it" in said
    assert "make edit 2 again on top of edit 1" in said and words.MEASURES not in said
    monkeypatch.setattr(gating, "examine_stack", lambda *_, **__: pytest.fail("no stack"))
    visitor.do("on_examine", **BRIEF)
    assert seen(visitor.screen["clock"]).startswith("The gate has examined the edit")
    assert seen(visitor.screen["stack"]) == said


def test_examine_asks_about_an_edit_that_waits_and_leaves_a_live_stack_alone(visitor, monkeypatch):
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    visitor.do("on_edit", **STRICT, on_top=False)
    visitor.do("on_strength", strength=0.5)
    said = seen(visitor.screen["stack"])
    assert "While another edit waits, Examine is about that one." in said and words.MEASURES not in said
    monkeypatch.setattr(gating, "examine_stack", lambda *_, **__: pytest.fail("it is not asked about"))
    visitor.do("on_examine", **STRICT)
    assert visitor.session.slot(Gated).held is not None and edits_in(visitor.session.live.patch) == 2
    assert seen(visitor.screen["clock"]).startswith("The gate has examined the edit")
    assert_idle(visitor)


@pytest.mark.parametrize("waits", [False, True], ids=["live", "waiting"])
def test_examine_ends_with_what_came_of_the_exam_of_a_stack(visitor, waits):
    visitor.do("on_edit", **(STRICT if waits else BRIEF), on_top=True, block=0)
    assert (visitor.session.slot(Gated).held is not None) is waits
    examining, standing = visitor.press("on_examine", **BRIEF, stack_way="as in the paper"), []
    for _ in examining:
        standing.append(seen(visitor.standing("clock")))
    kept = visitor.session.slot(Gated)
    assert kept.stack.evaluation == "paper" and any("Exam 1 of 4" in one for one in standing)
    assert standing[-1].startswith("Examined. Its effect on the first edit stands above.")
    assert_idle(visitor)


@pytest.mark.parametrize("waits", [False, True], ids=["live", "waiting"])
def test_a_cancel_of_the_exam_of_a_stack_that_follows_on_examine_says_that_it_stopped(visitor, waits):
    visitor.do("on_edit", **(STRICT if waits else BRIEF), on_top=True, block=0)
    examining = visitor.press("on_examine", **BRIEF, stack_way="as in the paper")
    while "Exam 1 of 4" not in seen(visitor.standing("clock")):
        next(examining)
    kept = visitor.session.slot(Gated)
    live, before = visitor.session.live, kept.stack
    visitor.do("on_cancel")
    list(examining)
    assert seen(visitor.screen["clock"]).startswith("Stopped. The gate's word on the edit stands below.")
    assert visitor.session.live is live and live.patch.settings[RECORD]["passed"] and kept.stack is before
    assert_idle(visitor)


def test_a_cancel_of_the_exam_that_follows_on_keep_says_so_where_an_older_one_is_known(visitor):
    visitor.do("on_edit", **BRIEF, on_top=True, block=0)
    visitor.do("on_examine", **STRICT)
    kept = visitor.session.slot(Gated)
    before, keeping = kept.stack, visitor.press("on_keep", stack_way="as in the paper")
    while words.STACK_NEXT not in seen(visitor.standing("clock")):
        next(keeping)
    visitor.do("on_cancel")
    list(keeping)
    assert "Stopped before its end. The edit that you have kept stays live." in visitor.screen["clock"]
    assert before is not None and kept.stack is before
    assert_idle(visitor)


def test_a_report_says_how_a_stack_was_asked_and_names_no_button_that_measures_it(visitor):
    visitor.do("on_edit", **BRIEF, on_top=True, block=0, stack_way="as in the paper")
    (part,) = parts(Visit(visitor.session))
    assert "Asked: as in the paper" in seen("".join(part.readings))
    visitor.session.scale(0.5)
    (part,) = parts(Visit(visitor.session))
    (said,) = (one for one in map(seen, part.readings) if "edits are stacked" in one)
    assert "as the edit acts now it was not." in said and "Examine" not in said
    assert words.MEASURES in seen(words.stack_line(visitor.session))


def test_a_new_page_s_buttons_say_what_they_say_after_any_run(visitor):
    named = ("examine", "measure", "take")
    at_first = [visitor.page.roles[name].value for name in named]
    assert at_first[0] == "Examine again", "the gate has examined the example"
    visitor.do("on_ask", max_new_tokens=2)
    assert at_first == [visitor.screen[name] for name in named]


def test_an_edit_starts_from_vanilla_unless_it_is_asked_on_top(visitor):
    visitor.do("on_edit", **BRIEF, block=0)
    assert edits_in(visitor.session.live.patch) == 1 and visitor.screen["stack"] == ""


def test_on_top_is_off_with_its_reason_where_no_edit_is_live(visitor):
    visitor.do("on_undo")
    assert visitor.page.parts.on_top.interactive is not False
    assert visitor.screen["on_top"] is False


def test_an_edit_on_top_in_another_prompt_format_is_refused_before_it_runs(visitor, monkeypatch):
    before = visitor.session.live
    monkeypatch.setattr("dashboard.steps.operate.run.dinm", lambda *_, **__: pytest.fail("the edit ran"))
    with pytest.raises(gr.Error, match="in the format of the first"):
        visitor.do("on_edit", **BRIEF, on_top=True, suffix="Be good.")
    assert visitor.session.live is before
    assert_idle(visitor)


def test_examining_a_kept_edit_again_leaves_it_on_record_that_it_was_kept_by_hand(visitor):
    refused(visitor)
    visitor.do("on_keep")
    visitor.do("on_examine", allowed_harmless_kl=0)
    record = visitor.session.live.patch.settings[RECORD]
    assert (record["passed"], record["overridden"]) == (False, True) and "kept by hand" in visitor.screen["gate"]
    assert "loaded by hand" not in visitor.screen["gate"]
    visitor.do("on_examine", **GENEROUS)
    record = visitor.session.live.patch.settings[RECORD]
    assert (record["passed"], record["overridden"]) == (True, True)
    assert "Gate passed" in visitor.screen["gate"] and "earlier refusal" in visitor.screen["gate"]


def test_what_was_kept_by_hand_is_not_kept_at_another_strength(visitor):
    refused(visitor)
    visitor.do("on_keep")
    visitor.do("on_strength", strength=0.5)
    visitor.do("on_examine", allowed_harmless_kl=0)
    record = visitor.session.live.patch.settings[RECORD]
    assert (record["passed"], record["overridden"]) == (False, False) and "loaded by hand" in visitor.screen["gate"]
    assert visitor.shown["keep"] is True
    assert record["reason"].startswith("Refused: harmless KL") and "kept" not in record["reason"]
    visitor.do("on_keep")
    kept = visitor.session.live.patch.settings[RECORD]
    assert kept["overridden"] is True
    assert kept["reason"] == record["reason"].replace("Refused:", "Refused, and overridden by hand:")
    assert kept["reason"] in seen(visitor.standing("this_edit")), "so do the files"


def test_the_gate_s_word_is_no_word_on_another_strength(visitor):
    visitor.do("on_edit", **BRIEF)
    assert "Gate passed" in visitor.screen["gate"]
    visitor.do("on_strength", strength=0.5)
    assert "Not examined as it acts now" in visitor.screen["gate"] and "Gate passed" not in visitor.screen["gate"]
    assert "strength 1 " in visitor.screen["gate"] and "strength 0.5" in visitor.screen["gate"]
    visitor.do("on_examine")
    assert "Gate passed" in visitor.screen["gate"] and "Not examined" not in visitor.screen["gate"]
    visitor.do("on_strength", strength=1)
    assert "Not examined as it acts now" in visitor.screen["gate"]


def test_a_waiting_edit_stands_beside_the_live_one_each_by_its_name(visitor):
    visitor.do("on_edit", **BRIEF, block=0)
    live = visitor.session.live
    visitor.do("on_edit", **STRICT, block=2)
    held = visitor.session.slot(Gated).held.edit
    said = visitor.screen["gate"]
    waiting, now = said.split("</div>")[:2]
    assert f"Waiting, layer 2, patch {held.patch.identifier}: Refused by the gate" in waiting
    assert f"Live, layer 0, patch {live.patch.identifier}: Gate passed" in now
