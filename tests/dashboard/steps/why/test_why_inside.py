"""Why this layer: its neurons, edits of a few columns, what its tokens push and what its layers would say."""

from __future__ import annotations

import itertools
import types
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from dashboard_helpers import GENEROUS, QUICK, Visitor, assert_idle, seen
from routing_helpers import cancelled

from dashboard.kit.drawing.plots import label
from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM
from dashboard.kit.sessions.typed import texts_of
from dashboard.steps.operate.gating import Gated
from dashboard.steps.why import run as why
from dashboard.steps.why import texts as why_texts
from dashboard.steps.why.state import Looked
from editing import Preparation
from editing.gate.gate import RECORD
from editing.progress import run as run_quietly
from inspector.detection import for_case
from inspector.errors import CaseError
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.usefixtures("model")


def test_neurons_are_listed_by_what_is_asked(visitor):
    # Activations are shown with two decimals.
    for order, column in (("toxicity", 4), ("difference", None), ("contribution", 1)):
        visitor.do("on_order", why_order=order)
        rows = visitor.screen["why_neurons"]
        keys = [row[column] if order == "toxicity" else abs(row[1] if column else row[2] - row[3]) for row in rows]
        assert all(one >= two - 0.0201 for one, two in itertools.pairwise(keys)), order


def test_clicking_neurons_adds_and_removes_them(visitor):
    for standing, row, said in (("", 7, "7"), ("7", "3", "3, 7"), ("3, 7", 7, "3"), ("nonsense", 7, "7")):
        visitor.select("on_neuron", types.SimpleNamespace(row_value=[row]), why_selected=standing)
        assert visitor.screen["why_selected"] == said


def test_a_knock_out_is_live_measured_and_in_the_table(visitor):
    chosen = visitor.session.slot(Looked).why.activity.pushing(1, 2)
    visitor.do("on_knock", why_selected=", ".join(map(str, chosen)), block=1, max_new_tokens=4, **GENEROUS)
    live = visitor.session.live
    assert live.patch.method == "neuron knock-out" and live.result.settings.neurons == tuple(sorted(chosen))
    assert live.patch.identifier in visitor.screen["live"] and live.patch.identifier in visitor.screen["edited_head"]
    assert "neuron knock-out (live)" in visitor.screen["why_edits"] and "2 of 48" in visitor.screen["why_edits"]
    assert "knocked out" in visitor.screen["why_clock"]
    assert live.patch.settings[RECORD]["passed"], "the gate has examined it"
    assert_idle(visitor)


def test_a_knock_out_that_the_gate_refuses_waits_and_can_be_kept(visitor):
    before = visitor.session.live
    chosen = visitor.session.slot(Looked).why.activity.pushing(1, 2)
    named = ", ".join(map(str, sorted(chosen)))
    budgets = {**GENEROUS, "allowed_harmless_kl": 0}
    visitor.do("on_knock", why_selected=named, block=1, max_new_tokens=4, **budgets)
    held = visitor.session.slot(Gated).held
    assert visitor.session.live is before and held.edit.patch.method == "neuron knock-out"
    said = seen(visitor.screen["why_clock"])
    assert f"knock-out of neurons {named} of layer 1 is held back. Refused: harmless KL" in said
    visitor.do("on_keep", max_new_tokens=4)
    assert visitor.session.live.patch.identifier == held.edit.patch.identifier
    assert visitor.session.live.patch.settings[RECORD]["overridden"]
    assert_idle(visitor)


def texts_in_rail(number: int) -> dict[str, str]:
    """Return what stands in the rail with a bundled case."""
    told = texts_of(bundled_cases()[number]).told()
    return {name: told[name] for name in ("question", "template", "safe", "unsafe")}


@pytest.mark.parametrize("live", [True, False])
def test_a_knock_out_acts_where_the_switch_says_by_a_detector_of_its_own_question(detecting, request, live):
    page, made = detecting
    visitor = Visitor(page, request.node.name)
    visitor.do("on_why", **texts_in_rail(3))  # a question that this model tells from harmless prompts
    chosen = visitor.session.slot(Looked).why.activity.pushing(1, 2)
    knocking = {"why_selected": ", ".join(map(str, chosen)), "block": 1, "max_new_tokens": 4, **GENEROUS}
    if live:  # of another case, and routed by a detector that knows its question
        visitor.do("on_edit", **QUICK, **texts_in_rail(11))
    else:
        visitor.do("on_undo")
    visitor.do("on_routed", routed=WHERE_HARM)
    before = visitor.session.detector
    visitor.do("on_knock", **knocking)
    edit, acting = visitor.session.live, visitor.session.detector
    assert edit.patch.method == "neuron knock-out" and edit.case.question == bundled_cases()[3].question
    assert acting is not None and acting is not made and len(acting.case_biases) == 1
    assert (before is not None) is live and (not live or before.digest != acting.digest), "that is of another case"
    own = run_quietly(for_case(page.context.model, made, edit.case, edit.format))
    assert acting.digest == own.digest
    assert visitor.screen["routed"] == WHERE_HARM and "only where harm is detected" in visitor.screen["live"]
    visitor.do("on_routed", routed=EVERYWHERE)
    visitor.do("on_knock", **knocking)
    assert visitor.session.detector is None and visitor.screen["routed"] == EVERYWHERE
    assert_idle(visitor)


def test_a_knock_out_whose_detector_is_cancelled_waits_and_without_a_detector_none_is_begun(
    detecting, request, monkeypatch
):
    visitor = Visitor(detecting[0], request.node.name)
    chosen = visitor.session.slot(Looked).why.activity.pushing(1, 2)
    knocking = {"why_selected": ", ".join(map(str, chosen)), "block": 1, "max_new_tokens": 4, **GENEROUS}
    visitor.do("on_routed", routed=WHERE_HARM)
    live, row = visitor.session.live, visitor.session.row.label()
    monkeypatch.setattr("editing.gate.choice.for_case", cancelled)
    visitor.do("on_knock", **knocking)
    assert visitor.session.live is live and visitor.session.row.label() == row
    held = visitor.session.slot(Gated).held
    assert held.edit.patch.method == "neuron knock-out" and held.acceptance is None
    assert "is not live and waits. Examine it in Operate." in visitor.screen["why_clock"]
    monkeypatch.setattr(detecting[0].context, "detector", None)
    monkeypatch.setattr(why, "knock_out", lambda *_given, **_how: pytest.fail("it was begun"))
    with pytest.raises(gr.Error, match="no detector, so no edit can be routed"):
        visitor.do("on_knock", **knocking)
    assert_idle(visitor)


def test_a_knock_out_that_would_lower_safety_is_refused_and_nothing_changes(visitor):
    before = visitor.session.live
    order = np.argsort(visitor.session.slot(Looked).why.activity.contribution[1])[:4]
    with pytest.raises(Exception, match="does not offer"):
        visitor.do("on_knock", why_selected=" ".join(map(str, order)), block=1)
    assert visitor.session.live is before and "does not offer" in visitor.screen["why_clock"]
    assert_idle(visitor)
    for text in ("", "seven", "1;2"):
        with pytest.raises(CaseError):
            why.neurons_from(text)


def test_an_edit_of_few_columns_stands_beside_the_whole_matrix(visitor):
    visitor.do("on_edit", **QUICK, block=1)
    visitor.do("on_edit", **QUICK, block=1, neurons_only=8)
    assert visitor.session.live.patch.settings["neurons"].__len__() == 8
    table = visitor.screen["why_edits"]
    assert "8 of 48" in table and "48 of 48" in table and table.count("DINM, corrected") == 3


def test_the_button_of_the_tab_edits_its_own_number_of_columns(page, visitor):
    visitor.do("on_edit_columns", **QUICK, block=1, why_k=8)
    assert len(visitor.session.live.patch.settings["neurons"]) == 8
    settings = visitor.session.live.result.settings
    visitor.do("on_edit", **QUICK, block=1, neurons_only=8)
    assert visitor.session.live.result.settings == settings, "the same edit as by the setting"


def test_the_button_of_the_tab_says_beside_it_how_far_it_is_and_what_ended_it(visitor, monkeypatch):
    said = []
    for changed in visitor.press("on_edit_columns", **QUICK, block=1, why_k=8):
        assert "clock" not in changed or visitor.screen["why_clock"] == visitor.screen["clock"]
        said += [visitor.screen["why_clock"]] if "why_clock" in changed else []
    assert "Starting" in said[0] and any("Step 1 of at most" in one for one in said) and "Ended after" in said[-1]
    visitor.do("on_edit_columns", allowed_harmless_kl=0)
    assert "Held back by the gate" in visitor.screen["why_clock"]

    def broken(*_arguments):
        yield Preparation("Half of it", 0.5)
        raise CaseError("It broke.")

    monkeypatch.setattr("dashboard.steps.operate.run.make", broken)
    with pytest.raises(gr.Error, match="It broke"):
        visitor.do("on_edit_columns")
    assert "Stopped: It broke." in visitor.screen["why_clock"] == visitor.screen["clock"]
    assert_idle(visitor)


def test_tokens_are_attributed_with_both_weights_and_the_gap_is_said(visitor):
    visitor.do("on_attribute", why_way="integrated gradients", why_ig_steps=8)
    tokens = visitor.session.slot(Looked).why.tokens
    assert list(tokens) == ["vanilla", visitor.session.row.label()]
    assert all(item.way == "integrated gradients" and item.difference is not None for item in tokens.values())
    assert "convergence gap" in visitor.screen["why_tokens"]
    assert_idle(visitor)


def test_attributing_can_be_cancelled(visitor):
    before = visitor.session.slot(Looked).why.tokens
    run = visitor.press("on_attribute", why_way="ablation")
    next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.slot(Looked).why.tokens == before and visitor.screen["why_clock"].count(">Cancelled.<") == 1
    assert_idle(visitor)


def test_the_lens_shows_what_is_asked(visitor):
    visitor.do("on_lens", why_answer="unsafe answer", why_weights="edited", why_place=2)
    lens = visitor.session.slot(Looked).why.lenses["unsafe answer"][1]
    assert visitor.screen["why_lens"].data[0].text[0][0] == lens.words[0][0].strip()
    assert "unsafe answer" in visitor.screen["why_lens_reading"]
    visitor.do("on_lens", why_place=10_000)
    last = len(lens.positions) - 1
    assert f"After token {last}:" in visitor.screen["why_peaks"] or "No token reaches" in visitor.screen["why_peaks"]
    assert visitor.screen["why_place"] == visitor.takes["why_place"]["maximum"] == last, "it comes within the range"
    assert visitor.reload().screen["why_place"] == last


@pytest.mark.parametrize("weights", ["vanilla", "edited"])
def test_the_lens_spells_the_safe_answer_and_never_the_one_that_is_covered(visitor, weights):
    visitor.open("why")
    for answer in ("safe answer", "unsafe answer"):
        read = visitor.session.slot(Looked).why.lenses[answer][weights == "edited"]
        begins = next(n for n, position in enumerate(read.positions) if position >= read.prompt_tokens)
        visitor.do("on_lens", why_answer=answer, why_weights=weights, why_place=begins)
        drawn, peaks = visitor.screen["why_lens"], visitor.screen["why_peaks"]
        columns = [name.partition(": ")[2] for name in drawn.data[0].x[begins:]]
        shown = list(zip(columns, drawn.layout.xaxis.ticktext[begins:], strict=True))
        if answer == "safe answer":
            assert shown == [(label(token), label(token, 9)) for token in read.tokens[begins:]]
        else:
            assert shown == [(f"token {number}",) * 2 for number in range(1, len(shown) + 1)]
            assert "counted and not spelled" in visitor.screen["why_lens_reading"]
            assert f"After token {begins}:" in peaks or "No token reaches" in peaks


def test_what_a_layer_says_of_the_covered_answer_s_next_token_is_marked_and_not_spelled(visitor, model):
    visitor.open("why")
    known = visitor.session.slot(Looked).why
    first, _edited = known.lenses["unsafe answer"]
    sure = replace(first, following=first.words[-1], probability=np.ones_like(first.probability))
    before, place = sure.positions.index(sure.prompt_tokens) - 2, sure.positions.index(sure.prompt_tokens)
    word, drawn = sure.words[-1][place], why.without_answer(sure)
    assert drawn.words[-1][place] == "✓" and word not in (line[place] for line in drawn.words)
    assert drawn.words[-1][before] == sure.words[-1][before], "the prompt is not covered"
    for answer, spelt in (("safe answer", True), ("unsafe answer", False)):
        found = why.peaks_of(model, replace(known, lenses={answer: (sure, sure)}), answer, place)
        assert (word in [peak.token for peak in found], "✓" in [peak.token for peak in found]) == (spelt, not spelt)


def test_the_lens_counts_no_token_after_the_answer_s_last(visitor):
    known = visitor.session.slot(Looked).why
    lens = known.lenses["safe answer"][0]
    rank = np.zeros_like(lens.rank)
    rank[:, -1] = -1
    first = replace(lens, rank=rank, prompt_tokens=lens.positions[0] + 1)
    whole = replace(known, lenses={"safe answer": (first, first)}, lens_weights="edited weights")
    text = why_texts.lens_reading(whole, "safe answer")
    assert "puts 100% of" in text and "Edited (edited weights): 100%." in text


def test_while_a_layer_or_a_column_is_typed_nothing_is_drawn_anew(visitor):
    visitor.do("on_lens", why_place=2)
    visitor.do("on_why_pick", block=1)
    panel = visitor.session.slot(Looked).panel
    visitor.do("on_why_pick", block=None)
    visitor.do("on_lens", block=1, why_place=None)
    assert visitor.session.slot(Looked).panel is panel
