"""The events of Operate: an edit from press to end, and errors, cancels and leaving in its middle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import by_hand
import gradio as gr
import pytest
import torch
from dashboard_helpers import CONTROLS, QUICK, Visitor, assert_idle, own_question, seen
from made_up import result as made_up_result
from made_up import steps

from dashboard.kit.drawing.html import LINE, probability
from dashboard.kit.limits import OTHERS
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare.run import Measured
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate import run as operating
from dashboard.steps.operate.report import parts
from dashboard.steps.operate.texts import budget_line, vitals_line
from editing import Step, preset
from editing.values import setting_value
from inspector.errors import EditError, PatchError
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.usefixtures("model")


def until_step(visitor: Visitor, run: Iterator[set[str]], number: int) -> None:
    """Let an edit run until its clock shows a step."""
    for _ in run:
        if f"Step {number} of" in visitor.standing("clock"):
            return
    raise AssertionError(f"no step {number}: {visitor.standing('clock')}")


def test_an_edit_locks_the_page_shows_every_step_and_ends_with_its_patch_live(visitor):
    before = visitor.session.live
    run = visitor.press("on_edit", **QUICK, block=0)
    next(run)
    assert [name for name in CONTROLS if visitor.on[name]] == ["cancel"]
    clocks = [visitor.screen["clock"] for _ in run]
    for number in range(4):
        assert [clock for clock in clocks if f"Step {number} of at most 3" in clock], number
    live = visitor.session.live
    assert live is not before and live.result.block == 0 and len(live.result.trace) == 4
    assert f"layer 0 · strength 1 · patch {live.patch.identifier}" in visitor.screen["live"]
    assert live.patch.identifier in visitor.screen["edited_head"] and live.patch.identifier in visitor.screen["tiles"]
    assert "the step limit was reached; 3 updates kept" in visitor.screen["clock"]
    assert [len(line.x) for line in visitor.screen["vitals"].data] == [4] * 4
    assert_idle(visitor)


def test_nothing_but_cancel_can_be_pressed_while_something_runs(visitor):
    for handler, typed in (("on_edit", QUICK), ("on_strength", {"strength": 0.5}), ("on_ask", {}), ("on_undo", {})):
        run = visitor.press(handler, **typed)
        next(run)
        running = dict(visitor.on)
        while next(run, None) is not None:
            states, running = running, dict(visitor.on)
            assert [name for name in CONTROLS if states[name]] == ["cancel"], handler
        assert_idle(visitor)


def test_an_edit_takes_every_setting_from_the_page(visitor):
    typed = {"learning_rate": 0.02, "optimiser": "descent", "clamp": 0.001, "chat": False, "watch_unsafe": False}
    visitor.do("on_edit", **QUICK, **typed, null_space=0, block=2, suffix="Be good.")
    settings = visitor.session.live.result.settings
    assert {name: setting_value(settings, name) for name in typed} == typed
    assert settings.target_probability is None and settings.null_space is None and settings.format.suffix == "Be good."
    assert float(visitor.session.live.patch.deltas[0].left.abs().max()) <= 0.001 * 1.001


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"steps": None}, "'steps' is empty"),
        ({"learning_rate": -1}, "learning_rate = -1 is out of range"),
        ({"max_new_tokens": 0}, "longest answer"),
        ({"block": None}, "No layer is picked"),
        ({"block": 99}, "blocks 0 to 2. Pick one"),
        ({"question": ""}, "question is empty"),
        ({"template": "none"}, r"no \{question\} slot"),
        ({"safe": "x", "unsafe": "x"}, "same text"),
        (own_question("word " * 20_000), "Shorten it by at least"),
        ({"question": "Mine?"}, "answers belong to another question"),
    ],
)
def test_an_edit_that_cannot_start_says_why_and_leaves_everything_as_it_was(visitor, typed, words):
    before = visitor.session.live
    with pytest.raises(gr.Error, match=words):
        visitor.do("on_edit", **{**QUICK, **typed})
    line, *whole = visitor.screen["clock"].split("</summary>")
    assert bool(whole) == (len(seen(line)) > LINE), "what is cut opens over the page"
    assert visitor.session.live is before and "live" not in visitor.screen
    assert_idle(visitor)


@pytest.mark.parametrize(
    ("prompts", "a_step", "words"), [(129, 8, "At most 128 harmless prompts an edit"), (40, 0, "let a step meet 32")]
)
def test_an_edit_is_held_to_no_more_harmless_prompts_than_a_visitor_may_ask(visitor, prompts, a_step, words):
    before, visitor.session.limits = visitor.session.live, OTHERS
    with pytest.raises(gr.Error, match=words):
        visitor.do("on_edit", **{**QUICK, "harmless_prompts": prompts, "harmless_at_once": a_step})
    assert visitor.session.live is before
    visitor.do("on_edit", **{**QUICK, "harmless_at_once": 0})
    assert visitor.session.live is not before, "two at once are few"


def test_an_error_in_the_middle_gives_the_page_back_and_keeps_the_edit_before(visitor, monkeypatch):
    before, real = visitor.session.live, operating.make

    def broken(*arguments):
        for event in real(*arguments):
            yield event
            if isinstance(event, Step):
                raise EditError("The <b>tail</b> broke. Try again.")

    monkeypatch.setattr(operating, "make", broken)
    with pytest.raises(gr.Error) as caught:
        visitor.do("on_edit", **QUICK)
    assert caught.value.message == "The &lt;b&gt;tail&lt;/b&gt; broke. Try again."
    assert "Step 0" not in visitor.screen["clock"] and "broke. Try again." in visitor.screen["clock"]
    assert visitor.session.live is before and "live" not in visitor.screen
    assert_idle(visitor)


def test_leaving_in_the_middle_frees_the_session_and_leaves_vanilla_bit_for_bit(visitor, model):
    ids = by_hand.bytes_of(model, "The same text before and after.")
    vanilla, before = by_hand.vanilla_logits(model, ids), visitor.session.live
    hooks = by_hand.hooks(model.network)
    run = visitor.press("on_edit", **QUICK)
    until_step(visitor, run, 1)
    assert not visitor.is_free
    run.close()
    assert visitor.is_free
    assert torch.equal(by_hand.vanilla_logits(model, ids), vanilla)
    assert by_hand.hooks(model.network) == hooks and visitor.session.live is before


@pytest.mark.parametrize("when", [None, 0, 3])
def test_a_cancel_before_the_first_and_at_the_last_step_leaves_the_edit_before_live_and_says_so(visitor, when):
    before = visitor.session.live
    run = visitor.press("on_edit", **QUICK)
    next(run)
    if when is not None:
        until_step(visitor, run, when)
    assert visitor.do("on_cancel") == [], "its answer could come after the run's last word"
    list(run)
    assert visitor.session.live is before and "live" not in visitor.screen and "edited" not in visitor.screen
    assert "it was cancelled; nothing was changed" in visitor.screen["clock"]
    assert len(visitor.screen["vitals"].data[0].x) == (0 if when is None else when + 1)
    assert_idle(visitor)


def test_a_cancel_while_the_answers_stream_keeps_the_new_edit_and_cuts_them(visitor):
    before = visitor.session.live
    run = visitor.press("on_edit", **{**QUICK, "max_new_tokens": 200})
    while "vanilla" not in visitor.screen:
        next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.live is not before
    assert "cancelled" in visitor.screen["edited_head"] and len(seen(visitor.screen["edited"])) < 200
    assert "3 updates kept" in visitor.screen["clock"]
    assert_idle(visitor)


@pytest.mark.parametrize("handler", ["on_edit", "on_ask", "on_strength", "on_undo", "on_locate", "on_unsafe_ask"])
def test_a_second_run_while_one_runs_is_refused_and_disturbs_nothing(visitor, handler):
    run = visitor.press("on_edit", **QUICK)
    until_step(visitor, run, 1)
    with pytest.raises(gr.Error, match=r"still running for you. Wait for it, or press Cancel"):
        visitor.do(handler)
    list(run)
    assert len(visitor.session.live.result.trace) == 4 and len(visitor.session.edits) == 2
    assert_idle(visitor)


def test_an_error_of_the_measurement_gives_the_page_back_with_the_new_edit_live(visitor, monkeypatch):
    def broken(*_arguments):
        raise PatchError("Cannot be measured. Edit anew.")

    monkeypatch.setattr(comparing, "measure", broken)
    with pytest.raises(gr.Error, match="Edit anew"):
        visitor.do("on_edit", **QUICK)
    assert visitor.session.live.patch.identifier in visitor.screen["live"]
    assert "Stopped: Cannot be measured. Edit anew." in visitor.screen["clock"]
    assert_idle(visitor)


def test_two_visitors_do_not_see_each_other_s_edit(page, visitor):
    other = Visitor(page, f"{visitor.key} other")
    example = other.session.live
    first, second = visitor.press("on_edit", **QUICK, block=0), other.press("on_edit", **QUICK, block=2)
    next(first), next(second)
    while next(first, None) is not None or next(second, None) is not None:  # step by step in turns
        pass
    for one, two in ((visitor, other), (other, visitor)):
        assert one.session.live.patch.identifier in one.screen["live"]
        assert two.session.live.patch.identifier not in one.screen["live"]
    assert [v.session.live.result.block for v in (visitor, other)] == [0, 2]
    visitor.do("on_undo")
    assert other.session.live.result.block == 2 and visitor.session.live.patch is example.patch
    assert Visitor(page, f"{visitor.key} new").session.live.patch is example.patch


def test_steps_of_the_clock_count_up_to_the_limit(visitor):
    numbers = []
    for _ in visitor.press("on_edit", **QUICK):
        numbers += [int(n) for n in re.findall(r"Step (\d+) of at most 3", visitor.screen["clock"])]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2, 3}


def test_operate_locates_edits_the_layer_that_this_picks_and_compares_in_one_run(visitor):
    question = visitor.standing("question") + " Tell me more."
    clocks = []
    for changed in visitor.press("on_operate", **QUICK, question=question, block=0):
        if "clock" in changed:
            clocks.append(visitor.screen["clock"])
    picked, live = visitor.session.slot(LocatedCase).divergence.toxic_layer(), visitor.session.live
    assert visitor.session.case.question == live.case.question == question
    bundled = {text for case in bundled_cases() for text in (case.safe, case.unsafe)}
    assert not bundled & {live.case.safe, live.case.unsafe}, "the bundled case's answers belong to its own question"
    assert visitor.screen["block"] == live.result.block == picked
    asked = next(number for number, text in enumerate(clocks) if "Both answers are there" in text)
    assert "Locating" in clocks[asked + 1] and any("Step 3 of at most 3" in clock for clock in clocks)
    assert "3 updates kept" in clocks[-1]
    comparison = visitor.session.slot(Measured).comparison
    assert comparison is not None and probability(comparison.after[0].per_token) in visitor.screen["numbers"]
    assert_idle(visitor)


def test_a_cancel_while_operate_locates_changes_nothing(visitor):
    before = visitor.session.live
    run = visitor.press("on_operate", **QUICK)
    next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.live is before and "nothing was changed" in visitor.screen["clock"]
    assert_idle(visitor)


def test_the_edit_button_names_the_picked_layer(visitor):
    visitor.do("on_layer", block=1)
    assert visitor.screen["edit"] == "Edit layer 1"


def test_an_update_that_was_taken_back_is_told_neither_by_the_page_nor_in_a_report(visitor):
    over = made_up_result(reason="damage budget", trace=steps(0.1, 0.4, 0.9), kept=1)
    assert over.last is over.trace[1] and over.taken == over.trace[:2]
    visitor.do("on_edit", **QUICK)
    visitor.session.edits = [replace(visitor.session.live, result=over)]
    (part,) = parts(Visit(visitor.session))
    for said in (seen(visitor.reload().screen["vitals_reading"]), part.figures[0].reading):
        assert probability(0.4) in said and "1 update" in said and probability(0.9) not in said
    cancelled = made_up_result(reason="cancelled", trace=steps(0.1, 0.4), kept=0)
    assert cancelled.taken == cancelled.trace[:1]


def test_the_gate_s_line_says_whether_what_is_kept_is_within_the_budget(visitor):
    result = visitor.session.live.result
    assert "Within budget" in budget_line(result) and "of 0.2 nats" in budget_line(result)
    strict = replace(result, settings=replace(result.settings, damage_budget=1e-6))
    assert "Beyond budget" in budget_line(strict)
    assert budget_line(replace(result, patch=None)) == ""


def test_the_kl_that_an_edit_was_held_to_is_called_otherwise_than_an_exam_s_and_has_its_direction(visitor):
    """The gate's exam asks other prompts, and is read the other way round than the paper's term."""
    result = visitor.session.live.result
    assert "<span>constraint KL (vanilla to edited) " in budget_line(result)
    paper = replace(result, settings=preset("paper"))
    assert "constraint KL (edited to vanilla) " in budget_line(paper)
    assert "(constraint KL, edited to vanilla)" in seen(vitals_line(paper.trace, paper.settings))
