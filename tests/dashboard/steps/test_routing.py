"""Where an edit acts: the switch, what the detector says of each prompt, and what undo brings back."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html import unescape

import gradio as gr
import pytest
import torch
from dashboard_helpers import QUICK, Visitor, assert_idle, seen, tiny_model
from keep_helpers import STRICT, copied, edit, taken_in, written
from routing_helpers import ABOUT, EFFECTIVE, cancelled

from dashboard.edit_events import act
from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM, Acting
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sharing.parts import Visit
from dashboard.steps.compare.report import answers
from dashboard.steps.compare.report import parts as reported
from dashboard.steps.compare.run import Detected, Measured
from dashboard.steps.compare.texts import BY_GATE, WISHES, detected_line, detector_note, routes, routing_note
from dashboard.steps.operate.gating import Gated
from editing import preset
from editing.calibrating.calibration import calibrate_command
from editing.gate.gate import RECORD
from editing.methods.dinm import ROUTED
from editing.stacking import edits_in
from inspector.detection import many_alarms, weakness
from inspector.errors import CaseError
from inspector.model import encode
from inspector.model.patches.routing import scores
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.usefixtures("model", "without_a_reading_of_the_case", "any_pass_is_enough")


def test_a_detector_of_a_file_that_does_not_say_what_it_was_made_from_is_told_so(detecting):
    page, made = detecting
    assert detector_note(made).startswith(f"Made from {made.about['questions']} harmful questions, ")
    assert detector_note(replace(made, about={})) == "Made from texts that it does not name"
    shares = {"found_unseen": 0.9, "false_alarms_unseen": 0.02}
    note = routing_note(page.context.model, replace(made, about={**ABOUT, **shares, "too_long": 7}))
    assert "but its settings were chosen by: harm found in 90.0%, false alarms in 2.0% of them." in note
    assert "7 more texts are too long for this model" in note and "too long" not in routing_note(
        page.context.model, made
    )


def test_a_weak_detector_is_said_to_be_so_at_the_switch_and_with_what_it_reads(detecting):
    page, made = detecting
    weak = replace(made, about={**ABOUT, "auc_unseen": 0.7})
    for wish, live in itertools.product(WISHES.values(), (None, True, False)):
        (labels, stands), (plain, _) = (routes(one, wish, live) for one in (weak, made))
        assert stands in dict(map(reversed, labels)) and [name for _, name in labels] == [name for _, name in plain]
        assert [label.endswith(" (weak detector)") for label, _ in labels] == [False, False, True]
        assert not any("weak" in label for label, _ in plain)
    note = unescape(seen(routing_note(page.context.model, weak)))
    assert weakness(weak) in note and "in another language than English" in note
    read = Detected(0.1, 0.5, False, True)
    assert weakness(weak) in unescape(seen(detected_line(read, weak)))
    assert "weak" not in detected_line(read, made) + routing_note(page.context.model, made)
    ringing = replace(made, about={**ABOUT, "auc_unseen": 0.95, "false_alarms_unseen": 0.06})
    (*_, label), _ = routes(ringing, "gate", None)
    assert label == (f"{WHERE_HARM} (false alarms)", WHERE_HARM), "it tells harm well"
    for shown in (routing_note(page.context.model, ringing), detected_line(read, ringing)):
        assert many_alarms(ringing) in unescape(seen(shown)) and "weak" not in shown


@pytest.mark.parametrize("wish", ["gate", "where harm", "everywhere"])
def test_a_routed_edit_acts_on_its_own_question_whatever_the_detector_knows_of_harm(detecting, request, wish):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.session.slot(Acting).wish = wish
    told = texts_of(bundled_cases()[3]).told()  # a question that this model tells from harmless prompts
    visitor.do("on_edit", **EFFECTIVE, **{name: told[name] for name in ("question", "template", "safe", "unsafe")})
    if visitor.session.detector is None:
        visitor.do("on_ask", max_new_tokens=4)
        said = seen(visitor.screen["detected"])
        assert "no harm detected, the edit acts on every prompt; routed, it would act where this detector" in said
        assert "and on its own question" in said, "which was asked: the model's detector alone does not know it"
    if wish != "where harm":
        visitor.do("on_routed", routed=WHERE_HARM)
    acting = visitor.session.detector
    assert acting is not None and acting is not made and len(acting.case_biases) == 1
    visitor.do("on_ask", max_new_tokens=4)
    assert visitor.session.slot(Measured).detected.fires and "so the edit acts" in visitor.screen["detected"]
    assert visitor.screen["edited"] != visitor.screen["vanilla"]


@pytest.mark.parametrize("wish", ["where harm", "everywhere"])
def test_a_stack_acts_on_the_question_of_each_of_its_edits_not_only_on_its_own_question(detecting, request, wish):
    """Whether it is made to act there, or switched to it afterwards, of three edits."""
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor, model = Visitor(page, request.node.name), page.context.model
    asked, prompts = [], []
    for number, block in ((3, 0), (11, 1), (11, 1)):
        visitor.session.slot(Acting).wish = "everywhere" if block == 0 else wish
        told = texts_of(bundled_cases()[number]).told()
        texts = {name: told[name] for name in ("question", "template", "safe", "unsafe")}
        visitor.do("on_edit", **{**QUICK, "block": block}, **texts, on_top=bool(prompts))
        asked.append(told["question"])
        prompts.append(bundled_cases()[number].adversarial_prompt)
    visitor.do("on_routed", routed=WHERE_HARM)
    acting, live = visitor.session.detector, visitor.session.live
    assert edits_in(live.patch) == 3 and [case.question for case in live.below] == asked[:2]
    found = scores(model, acting, [encode(model, prompt, None, live.format).prompt for prompt in prompts])
    assert min(found) >= acting.threshold, "else the stack did nothing there"


@pytest.mark.parametrize(("threshold", "fires"), [(1e9, False), (-1e9, True)])
def test_a_routed_edit_answers_only_where_harm_is_detected_and_says_which_weights_did(
    detecting, request, threshold, fires
):
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    visitor.session.slot(Acting).wish = "everywhere"
    visitor.do("on_edit", **EFFECTIVE)
    always = visitor.screen["edited"]
    assert always != visitor.screen["vanilla"] and "detected" not in visitor.screen["live"]
    tiles = visitor.screen["tiles"]
    assert "harmless answers moved by" in visitor.screen["numbers"]
    visitor.do("on_routed", routed=WHERE_HARM)
    assert "harmless answers, if it acted there" in visitor.screen["numbers"]
    assert visitor.screen["edited"] == (always if fires else visitor.screen["vanilla"])
    assert "only where harm is detected" in visitor.screen["live"]
    assert ("no harm detected: the vanilla weights answered" in visitor.screen["edited_head"]) is not fires
    assert visitor.reload().screen["edited_head"] == visitor.screen["edited_head"]
    assert ("the vanilla weights answered" in answers(visitor.session)[-1].head) is not fires, "in the report, too"
    assert visitor.screen["tiles"] == tiles, "the patch itself is measured, as before"
    assert_idle(visitor)
    visitor.do("on_routed", routed=EVERYWHERE)
    assert visitor.screen["edited"] == always and "detected" not in visitor.screen["live"]
    assert "harmless answers moved by" in visitor.screen["numbers"]


def test_setting_the_switch_says_how_far_it_is_and_a_cancel_leaves_the_edit_acting_where_it_did(
    detecting, request, monkeypatch
):
    page = detecting[0]
    visitor = Visitor(page, request.node.name)
    visitor.session.slot(Acting).wish = "everywhere"
    visitor.do("on_edit", **QUICK)
    shares = []

    def slow(_model, detector, _case, _format, cancel):
        for share in (0.25, 0.75):
            shares.append(share)
            yield share
            if cancel():
                return None
        return replace(detector, cases=torch.zeros(1, 1, 32), case_biases=(-1.0,))

    monkeypatch.setattr("editing.gate.choice.for_case", slow)
    clocks = []
    for changed in visitor.press("on_routed", routed=WHERE_HARM):
        if "clock" in changed:
            clocks.append(visitor.screen["clock"])
            visitor.session.cancelled.set()
    assert shares == [0.25] and "Reading the case's question" in unescape(clocks[0])
    assert "Cancelled: the edit acts where it did" in visitor.screen["clock"]
    assert visitor.session.detector is None and visitor.session.slot(Acting).wish == "everywhere"
    assert visitor.screen["routed"] == EVERYWHERE
    assert_idle(visitor)
    monkeypatch.setattr("editing.gate.choice.for_case", cancelled)
    with pytest.raises(CaseError, match="Cancelled before the edit was routed"):
        act(page.context, visitor.session, 0.5, True)
    assert visitor.session.strength == 1.0, "nor is it scaled"


def test_the_switch_says_what_the_detector_was_made_of_or_how_to_make_one(detecting, visitor):
    parts = detecting[0].parts
    assert parts.routed.interactive and "Made from 189 harmful questions, 315 harmless prompts" in parts.note.value
    parts = visitor.page.parts
    assert not parts.routed.interactive and calibrate_command(visitor.page.context.model) in parts.note.value
    assert parts.detected.value == ""
    with pytest.raises(CaseError, match=re.escape(calibrate_command(visitor.page.context.model))):
        act(visitor.page.context, visitor.session, None, True)
    visitor.do("on_ask", max_new_tokens=2)
    assert visitor.screen["routed"] == "acts on every prompt (no detector yet)" and visitor.screen["detected"] == ""


@pytest.mark.parametrize(("threshold", "fires"), [(1e9, False), (-1e9, True)])
def test_each_prompt_asked_shows_the_detector_s_score_and_threshold_whether_the_edit_is_routed_or_not(
    detecting, request, threshold, fires
):
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_ask", max_new_tokens=2)
    found, live = visitor.session.slot(Measured).detected, visitor.session.live
    prompt = encode(tiny_model(), live.case.adversarial_prompt, None, live.format).prompt
    assert [found.score] == scores(tiny_model(), made, [prompt]) and found.fires is fires and not found.routed
    said = seen(visitor.screen["detected"])
    assert f"score {found.score:.3f} on this prompt, threshold {threshold:.3f}" in said
    assert (
        "routed, it would act where this detector finds harm" in said
    ) is not fires and "189 harmful questions" in said
    both = next(part for part in reported(Visit(visitor.session)) if part.title == "Both answers")
    assert unescape(seen(both.readings[0])).startswith(f"Detector: score {found.score:.3f} on this prompt, threshold ")
    visitor.do("on_routed", routed=WHERE_HARM)
    expected = "harm detected, so the edit acts" if fires else "no harm detected, so the vanilla weights answer"
    assert expected in seen(visitor.screen["detected"])
    visitor.do("on_undo")
    assert visitor.screen["routed"] == WHERE_HARM, "the next edit is examined as it will act"


def test_an_edit_that_the_gate_refuses_can_be_examined_where_harm_is_detected_only(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_undo")
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_edit", **{**QUICK, "allowed_harmless_kl": 0})
    assert visitor.session.live is None and "set the switch and press Examine" in visitor.screen["gate"]
    assert "press Examine. A gated edit (under Methods) is made to do nothing on harmless" in seen(
        visitor.screen["gate"]
    )
    visitor.do("on_routed", routed=WHERE_HARM)
    assert "Refused by the gate" in visitor.screen["gate"], "it still waits"
    visitor.do("on_examine")
    assert visitor.session.live is not None and "Gate passed" in visitor.screen["gate"]
    assert "only where harm is detected" in visitor.screen["live"]
    visitor.do("on_routed", routed=EVERYWHERE)
    assert "Not examined as it acts now" in visitor.screen["gate"], "the gate's word is about the routed edit"
    assert_idle(visitor)


def test_a_plain_edit_of_a_file_that_the_gate_refuses_can_be_examined_where_harm_is_detected_only(
    detecting, request, tmp_path
):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    writer = Visitor(page, f"{request.node.name}, writing")
    writer.do("on_routed", routed=EVERYWHERE)
    identifier = edit(writer)
    writer.session.scale(0.5)
    writer.do("on_examine", **QUICK)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_undo")
    visitor.do("on_routed", routed=WHERE_HARM)
    taken_in(visitor, copied(written(writer), tmp_path / "edit.zip"), **STRICT)
    held = visitor.session.slot(Gated).held
    assert visitor.session.live is None and held.detector is None, "it is examined as the file has brought it"
    assert "set the switch and press Examine" in visitor.screen["gate"]
    visitor.do("on_examine", **STRICT)
    live = visitor.session.live
    assert live.patch.identifier == identifier and live.patch.settings[RECORD]["passed"]
    assert visitor.session.strength == 0.5 and "only where harm is detected" in visitor.screen["live"]
    assert live.patch.settings[RECORD]["weights"] == visitor.session.row.label()
    assert_idle(visitor)


def test_an_edit_that_is_asked_for_routed_is_made_with_settings_of_its_own_and_examined_so(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_routed", routed=WHERE_HARM)
    settings = {**QUICK, "target": preset("corrected").target_probability}
    visitor.do("on_edit", **settings)
    found = visitor.session.live.result.settings
    assert {name: getattr(found, name) for name in ROUTED} == {**ROUTED, "steps": QUICK["steps"]}, "set by hand"
    assert "only where harm is detected" in visitor.session.live.patch.settings[RECORD]["weights"]
    assert visitor.session.live.patch.settings[RECORD]["choice"] == "", "there was none"
    visitor.do("on_edit", **{**settings, "step_kl": 1e-3})
    assert visitor.session.live.result.settings.step_kl == 1e-3, "what was set by hand stays"
    usual = preset("corrected").step_kl
    visitor.do("on_edit", **{**settings, "edit_preset": "paper", "step_kl": usual})
    assert visitor.session.live.result.settings.step_kl == usual, "the paper's presets stay"
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_edit", **{**settings, "edit_preset": "corrected"})
    assert visitor.session.live.result.settings.target_probability == preset("corrected").target_probability


def test_the_switch_without_a_live_edit_says_that_there_is_none_to_route_and_keeps_the_wish(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_undo", max_new_tokens=2)
    answered = visitor.screen["vanilla"]
    for choice, words in (
        (WHERE_HARM, "made and examined to act only where harm is detected"),
        (EVERYWHERE, "it acts on every prompt"),
        (BY_GATE, "the gate chooses where it acts"),
    ):
        changed = visitor.do("on_routed", routed=choice)
        assert "no edit is live, so there is none to route" in visitor.screen["clock"].lower()
        assert words in visitor.screen["clock"] and "Undone" not in visitor.screen["clock"]
        assert visitor.screen["routed"] == choice and not any("vanilla" in one for one in changed)
    assert visitor.screen["vanilla"] == answered
    assert_idle(visitor)


def test_undo_brings_the_edit_before_back_as_it_acted_and_says_so_where_the_switch_changes(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_edit", **{**QUICK, "allowed_harmless_kl": 0}, block=0)
    routed = visitor.session.row.label()
    object.__setattr__(made, "threshold", -1e9)
    visitor.do("on_edit", **QUICK, block=2)
    assert "detected" in routed and "detected" not in visitor.session.row.label()
    visitor.do("on_undo")
    assert visitor.session.row.label() == routed and visitor.screen["routed"] == BY_GATE
    assert "switch" not in visitor.screen["clock"], "it stands as it stood"
    visitor.do("on_edit", **QUICK, block=2)
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_undo")
    assert visitor.session.row.label() == routed
    assert visitor.screen["routed"] == WHERE_HARM, "the switch says what is so"
    assert f"and {WHERE_HARM}, as it did. The switch says so now" in seen(visitor.screen["clock"])


def test_undo_gives_an_edit_that_acted_everywhere_no_detector_and_the_switch_one_of_its_own_question(
    detecting, request
):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_routed", routed=EVERYWHERE)
    told = texts_of(bundled_cases()[3]).told()
    visitor.do("on_edit", **EFFECTIVE, **{name: told[name] for name in ("question", "template", "safe", "unsafe")})
    first, before = visitor.session.live, visitor.session.row.label()
    visitor.do("on_edit", **QUICK, block=2)
    visitor.do("on_routed", routed=WHERE_HARM)
    visitor.do("on_undo")
    assert visitor.session.live is first and visitor.session.row.label() == before
    assert visitor.screen["routed"] == EVERYWHERE
    assert f"and {EVERYWHERE}, as it did. The switch says so now" in seen(visitor.screen["clock"])
    visitor.do("on_redo")
    assert visitor.session.detector is not None
    visitor.do("on_undo_here")
    assert visitor.session.detector is None and f"It {EVERYWHERE}, as it did" in seen(visitor.screen["keep_clock"])
    visitor.do("on_routed", routed=WHERE_HARM)
    acting = visitor.session.detector
    assert acting is not made and len(acting.case_biases) == 1, "it acts on its own question"
    prompt = encode(page.context.model, first.case.adversarial_prompt, None, first.format).prompt
    assert scores(page.context.model, acting, [prompt])[0] >= acting.threshold


def test_a_choice_that_is_none_changes_nothing(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.row.label()
    with pytest.raises(gr.Error, match="Choose one of: the gate chooses"):
        visitor.do("on_routed", routed="acts at random")
    assert visitor.session.row.label() == before and visitor.session.slot(Gated).held is None
    assert_idle(visitor)
