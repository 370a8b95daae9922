"""A calibrated model's page: where an edit acts and who chooses it, what the detector says, which layer is edited."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import gradio as gr
import pytest
import torch
from dashboard_helpers import QUICK, Page, Visitor, assert_idle, open_page, seen, tiny_model

from dashboard.edit_events import act, asked_for, edit_events
from dashboard.kit.acting import EVERYWHERE, WHERE_HARM, Acting
from dashboard.kit.parts import Visit
from dashboard.kit.typed import texts_of
from dashboard.steps.compare.report import answers
from dashboard.steps.compare.run import Measured
from dashboard.steps.compare.texts import BY_GATE, detector_note, routing_note
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate import gating
from dashboard.steps.operate.gating import Gated
from dashboard.steps.operate.run import make
from dashboard.steps.operate.texts import vitals_line
from dashboard.steps.stress.report import parts as stress_parts
from dashboard.steps.stress.run import Examined
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.choice import Chosen
from editing.gate.gate import RECORD, Acceptance, Check
from editing.methods.dinm import ROUTED, to_be_routed
from inspector.errors import CaseError, PatchError, RefusedEdit
from inspector.model import Detector, PromptFormat, encode
from inspector.model.routing import scores
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import ExamResult

pytestmark = pytest.mark.usefixtures("model")
EFFECTIVE = {**QUICK, "steps": 30, "budget": 0, "learning_rate": 0.05, "block": 1}
"""An edit that changes answers."""


NO_EXAM = ExamResult((), "", "rules", "", PromptFormat(), "same", 1, False, 0.0)
ABOUT = {"questions": 189, "harmless_prompts": 315}


@pytest.fixture(scope="module")
def detecting(example_folder) -> tuple[Page, Detector]:
    """A page on a calibrated model, and its detector, whose threshold a test may set."""
    made = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=ABOUT)
    layers = Layers((Trial(0, 0.5, 0.1, 1.0), Trial(1, 0.75, 0.1, 1.0)), 0.25, 5, 20)
    return open_page(example_folder, calibration=Calibration(layers, made)), made


def as_given(_model, detector, *_further):
    """In the place of :func:`inspector.detection.for_case`: the detector without a reading of the case's question."""
    yield from ()
    return detector


@pytest.fixture(autouse=True)
def without_a_reading_of_the_case(monkeypatch, request) -> None:
    """What is decided is decided by the detector whose threshold a test sets, but where a test is about the case."""
    if "its_own_question" not in request.node.name:
        monkeypatch.setattr("editing.gate.choice.for_case", as_given)


def test_a_detector_of_a_file_that_does_not_say_what_it_was_made_from_is_told_so(detecting):
    _, made = detecting
    assert detector_note(made).startswith(f"Made from {made.about['questions']} harmful questions, ")
    assert detector_note(replace(made, about={})) == "Made from texts that it does not name"
    shares = {"found_unseen": 0.9, "false_alarms_unseen": 0.02}
    note = routing_note(replace(made, about={**ABOUT, **shares, "too_long": 7}))
    assert "but its settings were chosen by: harm found in 90.0%, false alarms in 2.0% of them." in note
    assert "7 more texts are too long for this model" in note and "too long" not in routing_note(made)


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


def cancelled(*_given):
    """In the place of :func:`inspector.detection.for_case`, cancelled."""
    yield from ()


def test_the_switch_says_what_the_detector_was_made_of_or_how_to_make_one(detecting, visitor):
    parts = detecting[0].parts
    assert parts.routed.interactive and "Made from 189 harmful questions, 315 harmless prompts" in parts.note.value
    parts = visitor.page.parts
    assert not parts.routed.interactive and "python -m editing.calibrate" in parts.note.value
    assert parts.detected.value == ""
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
    visitor.do("on_routed", routed=WHERE_HARM)
    expected = "harm detected, so the edit acts" if fires else "no harm detected, so the vanilla weights answer"
    assert expected in seen(visitor.screen["detected"])
    visitor.do("on_undo")
    assert visitor.screen["routed"] == WHERE_HARM, "the next edit is examined as it will act"


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
    assert [part.interactive for part in parts] == [True, False] and "no detector yet" in parts[1].info
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.other is None and all(reply.reading is None for reply in kept.exam.replies)
    assert "harm is detected" not in visitor.screen["stress_table"]


def test_an_edit_that_the_gate_refuses_can_be_examined_where_harm_is_detected_only(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", 1e9)
    visitor = Visitor(page, request.node.name)
    visitor.do("on_undo")
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_edit", **{**QUICK, "allowed_harmless_kl": 0})
    assert visitor.session.live is None and "set the switch and press Examine" in visitor.screen["gate"]
    visitor.do("on_routed", routed=WHERE_HARM)
    assert "Refused by the gate" in visitor.screen["gate"], "it still waits"
    visitor.do("on_examine")
    assert visitor.session.live is not None and "Gate passed" in visitor.screen["gate"]
    assert "only where harm is detected" in visitor.screen["live"]
    visitor.do("on_routed", routed=EVERYWHERE)
    assert "Not examined as it acts now" in visitor.screen["gate"], "the gate's word is about the routed edit"
    assert_idle(visitor)


def test_locate_picks_the_layer_where_trial_edits_work_and_the_paper_s_presets_the_toxic_one(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_locate", locate_preset="corrected")
    assert visitor.screen["block"] == 1
    assert "Trial edits work best at layer 1: 75 % defended" in seen(visitor.screen["locate_reading"])
    said = [note.text for note in visitor.screen["curve"].layout.annotations]
    assert any("recommended, picked" in text for text in said) and any("toxic layer" in text for text in said)
    visitor.do("on_locate", locate_preset="reference")
    assert visitor.screen["block"] == visitor.session.slot(LocatedCase).divergence.toxic_layer()


@pytest.mark.parametrize("name", ["paper", "reference"])
def test_operate_picks_the_layer_by_the_edit_s_preset_unless_a_person_has_picked_one(detecting, request, name):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.session.slot(Acting).wish = "everywhere"

    def operated(preset_name: str) -> int:
        visitor.do("on_operate", **QUICK, edit_preset=preset_name, loss_positions="aligned")
        block = visitor.session.live.result.block
        assert visitor.screen["block"] == block and visitor.session.live.patch.blocks == (block,)
        return block

    assert operated("corrected") == 1 and "is picked" not in visitor.screen["locate_reading"]
    toxic = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    assert operated(name) == toxic != 1, "whatever preset Locate has"
    assert f"Layer {toxic} is picked: the edit's preset {name} edits the toxic" in unescape(
        visitor.screen["locate_reading"]
    )
    visitor.do("on_hand", block=0)
    assert "Layer 0 is picked by hand" in visitor.screen["locate_reading"]
    assert operated(name) == operated("corrected") == 0 and "by hand" in visitor.reload().screen["locate_reading"]
    visitor.do("on_pick", block=2)
    assert "by hand" not in visitor.screen["locate_reading"], "another layer came there from elsewhere"
    assert operated("corrected") == 1
    visitor.do("on_hand", block=0)
    visitor.do("on_locate")
    assert operated("corrected") == 1, "Locate picks anew"


def test_a_layer_that_is_chosen_once_stays_and_says_so(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_locate", once=True)
    visitor.do("on_locate", locate_preset="reference")
    assert visitor.screen["block"] == 1 and "Layer 1 stays picked" in visitor.screen["locate_reading"]


@pytest.mark.parametrize(("threshold", "routed"), [(1e9, True), (-1e9, False)])
def test_the_gate_takes_an_edit_as_it_passes_with_less_harm_and_says_both_results(
    detecting, request, threshold, routed
):
    page, made = detecting
    object.__setattr__(made, "threshold", threshold)
    visitor = Visitor(page, request.node.name)
    strict = {**EFFECTIVE, **({"allowed_harmless_kl": 0} if routed else {})}
    clocks = []
    for changed in visitor.press("on_operate", **strict):
        if "clock" in changed:
            clocks.append(visitor.screen["clock"])
    live = visitor.session.live
    assert live is not None and ("only where harm is detected" in visitor.screen["live"]) is routed
    assert live.patch.settings[RECORD]["weights"] == visitor.session.row.label()
    why = "only so it passes" if routed else "they come to the same"
    said = visitor.screen["gate"]
    # Held back from all that is harmless it keeps the defaults; on every prompt it needs the looser budgets.
    assert ("Gate passed" if routed else "Passed under looser budgets, kept by hand") in said
    assert f"Taken: {'only where harm is detected' if routed else 'on every prompt'}" in said
    assert why in said and said.count(" at harmless KL") == (1 if routed else 2)
    assert ("0 allowed (refused before it was asked more)" in said) is routed
    assert visitor.screen["routed"] == BY_GATE and visitor.session.slot(Acting).wish == "gate"
    asked = [text for text in clocks if "prompts of the small exam" in text]
    assert not any("of 10 prompts" in text for text in asked), "one exam serves both"
    assert_idle(visitor)


def test_an_edit_that_passes_in_no_place_waits_and_says_both_results(detecting, request):
    page, made = detecting
    object.__setattr__(made, "threshold", -1e9)
    visitor = Visitor(page, request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **{**EFFECTIVE, "allowed_harmless_kl": 0})
    assert visitor.session.live is before and "Examined both ways" in visitor.screen["gate"]
    assert "set the switch" not in visitor.screen["gate"]
    visitor.do("on_keep")
    assert visitor.session.live is not before and visitor.session.detector is None


def gate_that_says(first: float, second: float):
    """Return a gate that finds one harmless KL for edits with companions and another one for the others."""

    def word(_model, row, _case, settings, **_further):
        kl = first if row.patch.settings["companions"] else second
        said = Acceptance((Check("harmless_kl", "harmless KL", "nats a token", kl, 0.2, 4),), NO_EXAM, settings)
        yield from ()
        return Chosen(row, said)

    return word


@pytest.mark.parametrize(("first", "second", "lives"), [(0.9, 0.1, 2), (0.1, 0.9, 1), (0.9, 0.5, 0), (0.5, 0.9, 0)])
def test_the_edit_made_to_be_routed_comes_first_and_the_held_one_only_where_the_gate_refuses_it(
    detecting, request, monkeypatch, first, second, lives
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **QUICK)
    held, live = visitor.session.slot(Gated).held, visitor.session.live
    assert (live is before) is (lives == 0)
    taken = live if lives else held.edit
    made_first = taken.patch.settings["companions"] == ROUTED["companions"]
    assert made_first is (lives == 1 if lives else first < second), "of two refused ones the better one waits"
    assert (held is None) is (lives > 0)
    assert_idle(visitor)


@pytest.fixture(autouse=True)
def any_pass_is_enough(monkeypatch) -> None:
    """The tiny model's answers are never safe ones; without this every edit that passes would be made twice."""
    monkeypatch.setattr("editing.gate.choice.enough", lambda acceptance: acceptance.passed)


@pytest.fixture
def never_enough(monkeypatch, any_pass_is_enough) -> None:
    """No edit defends as much as is enough, so that both are made."""
    monkeypatch.setattr("editing.gate.choice.enough", lambda acceptance: False)


@pytest.mark.parametrize(("first", "second", "taken"), [(0.1, 0.05, 2), (0.05, 0.1, 1), (0.1, 0.5, 1)])
def test_beside_an_edit_that_passed_and_defends_too_little_another_is_made_and_only_the_better_one_is_live(
    detecting, request, monkeypatch, never_enough, first, second, taken
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    visitor = Visitor(detecting[0], request.node.name)
    before, said = visitor.session.live, []
    for changed in visitor.press("on_edit", **QUICK):
        if "gate" in changed:
            said.append(visitor.screen["gate"])
    assert any("A second edit is made; the better of both is taken" in text for text in said)
    live = visitor.session.live
    assert live is not before and len(visitor.session.edits) == 1 + (before is not None), "one of the two"
    assert (live.patch.settings["companions"] == ROUTED["companions"]) is (taken == 1)
    assert f"Taken: the {('first', 'second')[taken - 1]}" in live.patch.settings[RECORD]["choice"]
    assert visitor.session.slot(Gated).held is None
    assert_idle(visitor)


def test_a_cancel_while_the_second_edit_is_made_leaves_the_first_one_that_passed(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.1, 0.05))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    run = visitor.press("on_edit", **QUICK)
    while "A second edit is made" not in visitor.standing("gate"):
        next(run)
    visitor.do("on_cancel")
    list(run)
    live = visitor.session.live
    assert live is not before and live.patch.settings["companions"] == ROUTED["companions"]
    assert live.patch.identifier in visitor.screen["live"] and live.patch.settings[RECORD]["passed"]
    assert_idle(visitor)


@pytest.mark.parametrize(("first", "lives"), [(0.1, True), (0.9, False)])
def test_a_second_edit_that_comes_to_nothing_leaves_the_first_one_live_or_held_as_the_gate_says(
    detecting, request, monkeypatch, never_enough, first, lives
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, 0.05))
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.live
    visitor.do("on_edit", **QUICK, learning_rate=1)  # its first step is beyond the budget that the second one has
    held, live = visitor.session.slot(Gated).held, visitor.session.live
    assert (live is not before) is lives and (held is None) is lives
    edit = live if lives else held.edit
    assert edit.patch.settings["companions"] == ROUTED["companions"]
    choice = live.patch.settings[RECORD]["choice"] if lives else held.acceptance.choice
    assert "which came to nothing: DINM kept no update" in choice
    assert ("Ended after" if lives else "Held back by the gate") in visitor.screen["clock"]
    assert visitor.screen["vitals_reading"] == vitals_line(edit.result.taken, edit.result.settings), "of the one taken"
    assert_idle(visitor)


def test_programs_hear_at_the_end_of_the_first_edit_where_the_second_comes_to_nothing(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.1, 0.05))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=1.0)
    tried = asked_for(page.context, session, short, None)
    texts = page.context.example.texts
    *_, last = edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)
    assert last["done"] and last["live"] and last["patch"] == session.live.patch.identifier
    assert "which came to nothing: DINM kept no update" in last["gate"]["choice"]


def test_programs_hear_of_an_edit_that_passed_before_the_one_beside_which_it_is_taken(
    detecting, request, monkeypatch, never_enough
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(0.05, 0.1))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=0.01)
    tried = asked_for(page.context, session, short, None)
    texts = page.context.example.texts
    events = [*edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)]
    kinds = [event.get("kind") for event in events]
    assert kinds.count("passed") == 1 and "refused" not in kinds and "step" in kinds[kinds.index("passed") :]
    assert events[-1]["live"] and events[-1]["gate"]["choice"].startswith("Made in turn")
    assert session.live.patch.settings["companions"] == ROUTED["companions"]


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.1), (0.5, 0.9)])
def test_programs_hear_of_the_refused_edit_before_the_one_that_follows_and_at_the_end_of_what_is_so(
    detecting, request, monkeypatch, first, second
):
    monkeypatch.setattr(gating, "accept_where_best", gate_that_says(first, second))
    page, session = detecting[0], Visitor(detecting[0], request.node.name).session
    short = preset("corrected", steps=2, harmless_prompts=2, harmless_tokens=2, learning_rate=0.01)
    texts = page.context.example.texts
    tried = asked_for(page.context, session, short, None)
    events = [*edit_events(page.context, session, lambda each: make(tiny_model(), session, texts, 1, each), tried)]
    (refused,) = [number for number, event in enumerate(events) if event.get("kind") == "refused"]
    assert not events[refused]["gate"]["passed"] and [n for n, event in enumerate(events) if event["done"]] == [
        len(events) - 1
    ]
    assert any(event.get("kind") == "step" for event in events[refused:])
    held, lives = session.slot(Gated).held, second <= 0.2
    what = session.live if lives else held.edit
    assert events[-1]["live"] is lives is events[-1]["gate"]["passed"] and events[-1]["patch"] == what.patch.identifier
    assert (what.patch.settings["companions"] == 0) is lives, "of two refused ones the better one waits"


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


def test_undo_brings_the_edit_before_back_as_it_acted_unless_one_place_was_asked_for(detecting, request):
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
    visitor.do("on_edit", **QUICK, block=2)
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_undo")
    assert visitor.session.row.label() == routed.removesuffix(" · only where harm is detected")
    assert visitor.screen["routed"] == EVERYWHERE, "the switch says what is so"


def test_a_choice_that_is_none_changes_nothing(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    before = visitor.session.row.label()
    with pytest.raises(gr.Error, match="Choose one of: the gate chooses"):
        visitor.do("on_routed", routed="acts at random")
    assert visitor.session.row.label() == before and visitor.session.slot(Gated).held is None
    assert_idle(visitor)


@pytest.fixture(scope="module")
def helpless(example_folder) -> Page:
    """A page on a calibrated model whose trial edits helped at no layer."""
    layers = Layers((Trial(0, 0.25, 0.1, 1.0), Trial(1, 0.3, 0.1, 2.0)), 0.25, 5, 20)
    made = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=ABOUT)
    return open_page(example_folder, calibration=Calibration(layers, made))


NO_LAYER = "at layer 1, defend 30 % of 20 unseen prompts of 5 cases and vanilla 25 %"


@pytest.mark.parametrize("handler", ["on_edit", "on_operate"])
def test_where_no_layer_helps_corrected_edits_none_and_says_why(helpless, request, handler):
    visitor = Visitor(helpless, request.node.name)
    visitor.do("on_undo", max_new_tokens=2)
    visitor.do(handler, **QUICK)
    assert visitor.session.live is None and visitor.session.slot(Gated).held is None
    assert "No layer helps, so nothing was edited" in visitor.screen["clock"] and NO_LAYER in visitor.screen["clock"]
    assert "Live is still: vanilla." in visitor.screen["clock"] and "paper or reference" in visitor.screen["clock"]
    visitor.do("on_locate")
    assert NO_LAYER in visitor.screen["locate_reading"] and "corrected edits none" in visitor.screen["locate_reading"]
    assert_idle(visitor)


@pytest.mark.parametrize("handler", ["on_edit", "on_operate"])
def test_where_no_layer_helps_one_that_is_picked_by_hand_is_edited(helpless, request, handler):
    visitor = Visitor(helpless, request.node.name)
    visitor.do("on_undo", max_new_tokens=2)
    visitor.do("on_hand", block=2)
    visitor.do(handler, **QUICK)
    held = visitor.session.slot(Gated).held
    made = visitor.session.live or held.edit
    assert made.result.block == 2 and made.result.settings.preset == "corrected"
    visitor.do("on_pick", block=0)
    visitor.do("on_edit", **QUICK)
    assert "No layer helps, so nothing was edited" in visitor.screen["clock"], "nobody has picked this one"
    assert "pick it by hand" in visitor.screen["clock"]
    assert_idle(visitor)


def test_where_no_layer_helps_the_paper_s_presets_edit_the_toxic_layer_by_choice(helpless, request):
    visitor = Visitor(helpless, request.node.name)
    before = visitor.session.live
    visitor.do("on_operate", **QUICK, edit_preset="reference", loss_positions="aligned")
    assert visitor.session.live is not before
    assert visitor.session.live.result.block == visitor.session.slot(LocatedCase).divergence.toxic_layer()


def test_programs_are_told_the_same_and_ask_for_a_place_in_the_same_words(helpless, visitor, request):
    context, session, given = helpless.context, Visitor(helpless, request.node.name).session, preset("corrected")
    with pytest.raises(RefusedEdit, match="No layer helps"):
        asked_for(context, session, given, None)
    paper = preset("paper")
    for routed, wish in ((True, "where harm"), (False, "everywhere"), (None, "gate")):
        assert asked_for(context, session, paper, routed) == (paper,) and session.slot(Acting).wish == wish
    assert {name: getattr(to_be_routed(given), name) for name in ROUTED} == ROUTED
    with pytest.raises(CaseError, match=r"editing\.calibrate"):
        asked_for(visitor.page.context, visitor.session, given, True)
    act(context, session, 0.5, True)
    label = session.row.label()
    assert "strength 0.5" in label and "only where harm" in label
    act(context, session, None, None)
    assert session.row.label() == label
    with pytest.raises(PatchError, match="out of range"):
        act(context, session, 9.0, False)
    assert session.row.label() == label, "what is refused changes nothing"
