"""Why this layer: what its controls do on the page, and what its figures and texts say."""

from __future__ import annotations

import itertools
import types
from dataclasses import replace
from functools import partial

import gradio as gr
import numpy as np
import pytest
from dashboard_helpers import QUICK, Visitor, assert_idle, open_page, own_question, seen

from dashboard.kit.drawing import html as kit_html
from dashboard.kit.drawing.plots import label
from dashboard.kit.later import page_with
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.why import figures as why_figures
from dashboard.steps.why import run as why
from dashboard.steps.why import texts as why_texts
from dashboard.steps.why.state import Looked
from editing import Preparation
from editing.atlas import Atlas, AtlasSettings, Entry
from inspector.errors import ArchitectureError, CaseError, EditError
from inspector.locators import LOCATORS, Located, agreement
from inspector.safeedit.exam import EVALUATIONS
from inspector.token_attribution import TokenAttribution
from inspector.toxicity import neuron_toxicity

FEW = ("divergence", "logit attribution", "region toxicity")
PANELS = ("why_locators", "why_atlas", "why_neurons", "why_lens", "why_regions")


pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def few_locators(monkeypatch) -> None:
    """Three locators, for what does not depend on how many are asked: the chart of all is drawn after each."""
    monkeypatch.setattr(why, "locate_with", partial(why.locate_with, names=FEW))


def test_the_page_starts_with_every_panel_filled(page, visitor):
    known = visitor.session.slot(Looked).why
    assert [item.locator for item in known.located] == list(LOCATORS)
    assert len(known.atlas.entries) == 3 and known.activity is not None and known.padding is not None
    assert len(known.tokens) == 2
    assert 0 <= visitor.session.probe.accuracy.value <= 100
    assert f"measured: {kit_html.case_name(visitor.session.case)}" in visitor.standing("why_head")
    for name in PANELS:
        shown = visitor.standing(name)
        assert len(shown if isinstance(shown, list) else shown.data), name
    lenses = visitor.session.slot(Looked).why.lenses
    assert set(lenses) == {"safe answer", "unsafe answer"}, "read when the view is first opened"


def test_asking_fills_the_charts_one_by_one_and_measures_the_case_in_the_rail(visitor):
    question = visitor.standing("question") + " Tell me more."
    counts = []
    for changed in visitor.press("on_why", **own_question(question)):
        assert visitor.on["edit"] == ("why_edits" in changed)
        counts.append(
            len(visitor.session.slot(Looked).why.located)
            if visitor.session.slot(Looked).why.case.question == question
            else 0
        )
    assert sorted(counts) == counts and counts[-1] == len(LOCATORS)
    known = visitor.session.slot(Looked).why
    assert known.case.question == question and known.atlas is None and known.refused == ()
    assert "a case of your own" in visitor.screen["why_head"] and "another" not in visitor.screen["why_head"]
    assert "press Run atlas" in visitor.screen["why_atlas"].layout.annotations[0].text
    assert visitor.screen["why_clock"].count(">Asked.<") == 1
    assert_idle(visitor)


def test_the_atlas_fills_and_judges_the_locators(visitor):
    visitor.do("on_atlas", why_answers=why.NO_ANSWERS)
    known = visitor.session.slot(Looked).why
    assert [entry.block for entry in known.atlas.entries] == [0, 1, 2]
    assert f"Best layer {known.atlas.best}" in visitor.screen["why_agreement"]
    for name in LOCATORS:
        assert f"<tr><th>{name}</th>" in visitor.screen["why_agreement"]
    assert_idle(visitor)


@pytest.mark.parametrize("way", WAYS)
def test_an_atlas_with_answers_is_judged_by_what_is_defended(visitor, way):
    visitor.do("on_atlas", why_answers=way)
    made = visitor.session.slot(Looked).why.atlas
    assert made.truth == "defended" and made.settings.evaluation == WAYS[way]
    assert "share of five prompts defended" in visitor.screen["why_agreement"]
    assert EVALUATIONS[WAYS[way]] in seen(visitor.screen["why_atlas_reading"])


@pytest.mark.parametrize("handler", ["on_why", "on_atlas"])
def test_a_cancel_ends_within_a_step_and_frees_the_page(visitor, handler):
    run = visitor.press(handler)
    next(run)
    assert visitor.on["cancel"]
    visitor.do("on_cancel")
    list(run)
    assert "Cancelled" in visitor.screen["why_clock"]
    assert_idle(visitor)


def test_picking_a_layer_moves_every_panel(visitor):
    for block in (0, 2):
        visitor.do("on_why_pick", block=block)
        assert f"Layer {block}:" in visitor.screen["why_neurons_reading"]
        assert f"Layer {block}: mean cosine" in visitor.screen["why_probe_reading"]
        patterns = visitor.screen["why_locators"].data[0].marker.pattern.shape
        assert patterns[block] == "x" and list(patterns).count("x") == 1
        rows = visitor.screen["why_neurons"]
        assert len(rows) == 40 and abs(rows[0][1]) >= abs(rows[-1][1])
        (rect,) = [s for s in visitor.screen["why_lens"].layout.shapes if s.type == "rect" and s.xref != "x"]
        assert (rect.y0, rect.y1) == (block - 0.5, block + 0.5)


@pytest.mark.usefixtures("few_locators")
@pytest.mark.parametrize("handler", ["on_why", "on_atlas"])
def test_what_is_picked_while_a_run_lasts_is_what_its_end_shows(visitor, handler):
    run = visitor.press(handler, block=1, why_answers=why.NO_ANSWERS)
    next(run)
    visitor.do("on_why_pick", block=0)
    visitor.do("on_lens", why_answer="unsafe answer", why_place=2)
    list(run)
    assert "Layer 0:" in visitor.screen["why_neurons_reading"]
    assert "Layer 0: mean cosine" in visitor.screen["why_probe_reading"]
    assert visitor.screen["why_locators"].data[0].marker.pattern.shape[0] == "x"
    assert "unsafe answer" in visitor.screen["why_lens_reading"]


def test_an_atlas_of_another_case_that_is_cancelled_at_once_leaves_what_was_measured(visitor):
    before = visitor.session.slot(Looked).why
    run = visitor.press("on_atlas", **own_question("Why is it so?"), why_answers=why.NO_ANSWERS)
    next(run)
    visitor.do("on_cancel")
    list(run)
    assert visitor.session.slot(Looked).why is before and "what was measured is kept" in visitor.screen["why_clock"]


def test_an_error_in_the_middle_of_an_atlas_keeps_the_layers_that_are_done(visitor, monkeypatch):
    real = why.make_atlas

    def broken(*arguments, **options):
        for event in real(*arguments, **options):
            yield event
            if not isinstance(event, Preparation) and event.atlas.entries:
                raise EditError("It broke.")

    monkeypatch.setattr(why, "make_atlas", broken)
    with pytest.raises(Exception, match="It broke"):
        visitor.do("on_atlas", **own_question("Why is it so?"), why_answers=why.NO_ANSWERS)
    known = visitor.session.slot(Looked).why
    assert known.case.question == "Why is it so?" and known.atlas.entries and known.located == ()
    assert "It broke" in visitor.screen["why_clock"]
    assert_idle(visitor)


@pytest.mark.usefixtures("few_locators")
def test_a_locator_that_the_architecture_does_not_allow_is_named_and_the_others_go_on(visitor, monkeypatch):
    def refused(*arguments):
        raise ArchitectureError("No final norm here. Use another locator.")

    locator = LOCATORS["logit attribution"]
    monkeypatch.setitem(LOCATORS, locator.name, replace(locator, measure=refused))
    visitor.do("on_why")
    known = visitor.session.slot(Looked).why
    assert [item.locator for item in known.refused] == ["logit attribution"] and known.activity is not None
    assert [item.locator for item in known.located] == ["divergence", "region toxicity"]
    assert "No logit attribution: No final norm here." in visitor.screen["why_locators_reading"]


def test_what_shows_the_live_weights_is_measured_once_the_view_is_opened_and_is_weighed(visitor, monkeypatch):
    measured, real = [], why.lenses
    monkeypatch.setattr(why, "lenses", lambda *given: measured.append("lens") or real(*given))
    session, panels = visitor.session, []
    monkeypatch.setattr(why_figures, "locators", lambda *given: panels.append(given[1]))
    with page_with(set()):
        visitor.do("on_edit", **QUICK)
        assert visitor.do("on_live_changed") == [set()] and visitor.do("on_why_pick", block=1) == [set()]
    assert measured == panels == [] and session.slot(Looked).panel.block == 1, "the report marks the picked layer"
    session.bytes = 0
    visitor.open("why")
    assert measured == ["lens"] and panels == [1]
    assert f"Edited ({session.weights.label()})" in visitor.screen["why_lens_reading"]
    assert session.live.patch.identifier in visitor.screen["why_tokens"]
    assert session.bytes > 0
    visitor.do("on_strength", strength=0.5)
    session.bytes = 0
    visitor.do("on_live_changed")
    assert measured == ["lens"] * 2 and session.slot(Looked).why.lens_weights == session.weights.label()
    assert session.bytes > 0


def test_strength_zero_moves_no_neuron_and_no_region(visitor):
    visitor.do("on_why_pick", block=visitor.session.live.result.block)
    assert "live edit changes" in visitor.screen["why_probe_reading"]
    moved = [row[5] for row in visitor.screen["why_neurons"]]
    visitor.do("on_strength", strength=0.5)
    visitor.do("on_live_changed")
    assert [row[5] for row in visitor.screen["why_neurons"]] == pytest.approx([m / 2 for m in moved], abs=0.011)
    visitor.do("on_strength", strength=0.0)
    visitor.do("on_live_changed")
    assert "live edit changes" not in visitor.screen["why_probe_reading"]
    assert "live edit changes" not in visitor.screen["why_neurons_reading"]
    assert {row[5] for row in visitor.screen["why_neurons"]} == {0.0}


def test_measurements_of_the_live_weights_do_not_undo_an_atlas_made_meanwhile(visitor, monkeypatch):
    """An edit has ended; its panels are still being measured when the atlas has its first layers."""
    visitor.do("on_strength", strength=0.5)
    made = replace(visitor.session.slot(Looked).why.atlas)
    real = why.lenses

    def slow(*arguments):
        found = real(*arguments)
        visitor.session.slot(Looked).learn(
            visitor.session.slot(Looked).why.case, visitor.session.slot(Looked).why.format, atlas=made
        )
        return found

    monkeypatch.setattr(why, "lenses", slow)
    visitor.do("on_live_changed")
    assert (
        visitor.session.slot(Looked).why.atlas is made
        and visitor.session.slot(Looked).why.lens_weights == visitor.session.row.label()
    )


@pytest.mark.parametrize("handler", ["on_texts", "on_locate"])
def test_another_case_in_the_rail_says_that_these_panels_belong_to_the_one_before(visitor, handler):
    before = {name: visitor.standing(name) for name in ("question", "safe", "unsafe")}
    visitor.do(handler, **own_question("Why is it so?"))
    for head in ("why_head", "methods_head"):
        assert "are of another question: “" in seen(visitor.screen[head])
    visitor.do("on_texts", question=" ")
    for head in ("why_head", "methods_head"):
        assert "The texts in the rail make no prompt" in seen(visitor.screen[head])
    visitor.do("on_texts", **before)
    for head in ("why_head", "methods_head"):
        assert "warn" not in visitor.screen[head]


def test_a_question_that_is_typed_while_a_run_lasts_is_another_one_than_that_of_its_panels(visitor):
    run = visitor.press("on_atlas")
    next(run)
    visitor.do("on_texts", question="Why is it so?")
    visitor.do("on_cancel")
    list(run)
    for head in ("why_head", "methods_head"):
        assert "are of another question: “" in seen(visitor.screen[head])


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
    visitor.do("on_knock", why_selected=", ".join(map(str, chosen)), block=1, max_new_tokens=4)
    live = visitor.session.live
    assert live.patch.method == "neuron knock-out" and live.result.settings.neurons == tuple(sorted(chosen))
    assert live.patch.identifier in visitor.screen["live"] and live.patch.identifier in visitor.screen["edited_head"]
    assert "neuron knock-out (live)" in visitor.screen["why_edits"] and "2 of 48" in visitor.screen["why_edits"]
    assert "knocked out" in visitor.screen["why_clock"]
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


@pytest.mark.usefixtures("few_locators")
def test_a_probe_trained_on_other_texts_replaces_the_first(model, visitor, tmp_path):
    path = tmp_path / "texts.csv"
    lines = "".join(f"rude words number {n},1\nkind words number {n},0\n" for n in range(12))
    path.write_text("comment_text,toxic\n" + lines)
    visitor.do("on_train", why_source=str(path))
    assert visitor.session.probe.source == str(path) and "texts (24)" in visitor.screen["why_probe_reading"]
    trained = visitor.session.probe
    visitor.do("on_why")
    assert visitor.session.probe is trained, "asking again keeps it"
    by = {item.locator: item.scores for item in visitor.session.slot(Looked).why.located}
    expected = [neuron_toxicity(model, trained, block).mean() for block in range(model.blocks)]
    assert by["region toxicity"] == pytest.approx(expected)
    with pytest.raises(Exception, match="cannot be read"):
        visitor.do("on_train", why_source=str(tmp_path / "none.csv"))
    assert_idle(visitor)


def test_a_read_only_page_keeps_its_probe_and_its_texts(example_folder):
    page = open_page(example_folder, read_only=True)
    visitor = Visitor(page, "read only")
    assert page.parts.why_train.interactive is False
    with pytest.raises(Exception, match="read-only"):
        visitor.do("on_train", why_source="other.csv")
    with pytest.raises(Exception, match="read-only"):
        visitor.do("on_why", question="My own?")
    assert visitor.is_free


def made_atlas(*values: float) -> Atlas:
    entries = tuple(Entry(n, value, -3.0, 0.01 * (n + 1), 1.0) for n, value in enumerate(values))
    return Atlas(entries, -3.0, -3.0, {}, AtlasSettings(), len(values) + 1, 1.0)


def test_the_atlas_figure_marks_the_best_layer_and_leaves_unmade_ones_empty():
    figure = why_figures.atlas(made_atlas(-2.0, -1.0, -2.5), 0)
    gains = figure.data[0]
    assert list(gains.y) == [1.0, 2.0, 0.5, None] and gains.marker.color[1] == why_figures.UNSAFE
    harm = figure.data[1]
    assert list(harm.y) == [0.01, 0.02, 0.03, None] and len(figure.data) == 3
    assert all(axis.type is None for axis in figure.select_yaxes()), "bars stand on zero"
    assert "layer 1 lifts" in seen(why_texts.atlas_reading(made_atlas(-2.0, -1.0, -2.5), 0))
    assert "budget" not in seen(why_texts.atlas_reading(made_atlas(-2.0, -1.0, -2.5), 0))


def test_readings_say_which_bar_is_the_picked_layer_s():
    atlas, scores = made_atlas(-2.0, -1.0, -2.5), np.array([1.0, 3.0, 2.0])
    located = [Located("one", "", "", scores, 0.0), Located("two", "", "", scores, 0.0)]
    for picked, said in ((1, "one, two would edit it"), (2, "no locator names it")):
        drawn = why_figures.locators(located, picked).data + why_figures.atlas(atlas, picked).data
        assert all([n for n, shape in enumerate(bar.marker.pattern.shape) if shape == "x"] == [picked] for bar in drawn)
        crossed = f"Layer {picked} is picked (crossed)"
        assert f"{crossed}: {said}." in seen(why_texts.locators_reading(located, picked))
        assert f"{crossed}." in seen(why_texts.atlas_reading(atlas, picked))
    assert "Layer 3 is picked and not measured." in seen(why_texts.atlas_reading(atlas, 3))


def test_a_best_layer_that_does_too_much_harm_is_named_beside_the_best_one_within_the_budget():
    atlas = made_atlas(-2.0, -1.0, -2.5)
    dear = replace(atlas, entries=(*atlas.entries[:1], replace(atlas.entries[1], kl=0.5), *atlas.entries[2:]))
    assert "within it layer 0 is best, with 1.00 nats" in seen(why_texts.atlas_reading(dear, 0))


def test_the_table_judges_locators_in_order_of_regret():
    atlas = made_atlas(-2.0, -1.0, -2.5)
    achieved = atlas.curve("margin gain")
    found = [
        agreement(Located(name, "", "", np.array(scores, dtype=float), 0.0), achieved)
        for name, scores in (("bad <b>", [0, 0, 9, 0]), ("good", [1, 9, 0, 0]))
    ]
    text = why_texts.agreements(found, atlas)
    assert text.index("good") < text.index("bad &lt;b&gt;") and "<b>" not in text
    assert "1.50" in text and "0.00" in text and "The atlas has 3 of 4 layers" in seen(text)
    whole = replace(atlas, blocks=3)
    assert "The atlas has" not in seen(why_texts.agreements(found, whole))


def test_tokens_are_escaped_scaled_and_named():
    item = TokenAttribution("ablation", ("<s>", "\n", "kill"), np.array([0.0, -0.5, 1.0]), range(1, 3), 0.4, 5)
    text = why_texts.token_spans({"vanilla": item})
    assert "&lt;s&gt;" in text and "<s>" not in text and "⏎<br>" in text
    assert "--unsafe) 85%" in text and "--safe) 42%" in text and text.count('class="strong"') == 2
    assert "sum to +0.500" in text and "to be explained +0.400, interaction of tokens +0.100" in text
    assert "token 2 (&#x27;kill&#x27;)" in why_texts.tokens_reading({"vanilla": item})


def test_what_was_measured_of_another_case_is_not_shown_as_this_one(model, visitor):
    session, before = visitor.session, visitor.session.slot(Looked).why
    probe = session.probe
    assert session.slot(Looked).learn(before.case, before.format, located=()).atlas is before.atlas
    other = replace(before.case, safe="Something else.")
    kept = session.slot(Looked).why
    assert (
        session.slot(Looked).learn(other, before.format, only_current=True, atlas=None)
        is kept
        is session.slot(Looked).why
    )
    assert session.slot(Looked).learn(other, before.format, located=before.located) is session.slot(Looked).why
    assert session.slot(Looked).why.located == before.located and session.slot(Looked).why.case == other
    assert (
        session.slot(Looked).why.atlas is None and session.slot(Looked).why.activity is None and session.probe is probe
    )


def test_while_a_layer_or_a_column_is_typed_nothing_is_drawn_anew(visitor):
    visitor.do("on_lens", why_place=2)
    visitor.do("on_why_pick", block=1)
    panel = visitor.session.slot(Looked).panel
    visitor.do("on_why_pick", block=None)
    visitor.do("on_lens", block=1, why_place=None)
    assert visitor.session.slot(Looked).panel is panel
