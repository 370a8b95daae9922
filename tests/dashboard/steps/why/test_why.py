"""Why this layer: its runs, what they leave on the page, and its probe."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from dashboard_helpers import QUICK, Visitor, assert_idle, own_question, seen
from example_helpers import open_page

from dashboard.kit.drawing import html as kit_html
from dashboard.kit.later import page_with
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.why import figures as why_figures
from dashboard.steps.why import run as why
from dashboard.steps.why.state import Looked, Why
from editing import Preparation
from inspector.errors import ArchitectureError, EditError
from inspector.locators import LOCATORS
from inspector.safeedit.exam import EVALUATIONS
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


def test_the_lens_is_read_on_the_first_look_after_undo_to_vanilla(visitor):
    kept = visitor.session.slot(Looked)
    kept.why = replace(kept.why, lenses={}, lens_weights=Why().lens_weights)  # nobody has looked at the example's yet
    with page_with(set()):
        visitor.do("on_undo", max_new_tokens=2)
        visitor.do("on_live_changed")
    assert visitor.session.live is None and not kept.why.lenses
    visitor.open("why")
    assert "Vanilla: the last layer puts" in visitor.standing("why_lens_reading")


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
