"""Two models side by side: each shows what it says alone, and what fails or is cancelled leaves what was there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import gradio as gr
import numpy as np
import pytest
from dashboard_helpers import Page, Visitor, own_question, save_listed, seen, tiny_model

from dashboard.example.make import Example
from dashboard.house import LATER, REPORTERS, VIEWS, House
from dashboard.kit.room import Context
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.sharing.parts import Hidden, Visit
from dashboard.kit.shelf import Shelf
from dashboard.lighter import LighterBlocks
from dashboard.steps.models import figures, texts
from dashboard.steps.models.run import Kept
from dashboard.steps.models.view import ModelsRoom
from editing import run
from editing.saved.merged import save_merged
from inspector.divergence import divergence
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row, answer, encode

pytestmark = pytest.mark.usefixtures("model")
SHORT = {"max_new_tokens": 8}
OWN, DEEPER, MERGED = "tiny-llama", "deeper", "merged"


def merged_edit() -> Row:
    """Return the edit that the folder of that name has."""
    return Row(by_hand.patch(tiny_model(), 1, size=0.3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five layers without a chat template, one that reads few tokens, one merged, and a folder without."""
    made = tmp_path_factory.mktemp("models")
    save_listed(made, DEEPER, 5)
    save_listed(made, "forgetful", 1, 16)
    (made / "broken").mkdir()
    run(save_merged(tiny_model(), merged_edit(), made / MERGED))
    return made


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page with five models listed, without an example."""
    model = tiny_model()
    example = Example(model, Decoding(max_new_tokens=8), tmp_path_factory.mktemp("example"), wanted=False)
    with LighterBlocks(analytics_enabled=False) as app:
        house = House(model, Sessions(), example, False)
        sources = [OWN, *(str(folder / name) for name in (DEEPER, "broken", "forgetful", MERGED))]
        house.context.shelf = Shelf(model, sources, {"device": "cpu", "dtype": "float32"})
        house.build()
        house.connect_to(app)
    return Page(app, house)


@pytest.fixture
def deeper(page: Page) -> Iterator[InspectedModel]:
    """The second model; after the test it must be as it was."""
    run = page.context.shelf.lend([DEEPER])
    try:
        while True:
            next(run)
    except StopIteration as end:
        with end.value as (model,):
            checksum, hooks = by_hand.checksum(model.network), by_hand.hooks(model.network)
            yield model
            by_hand.assert_at_rest(model, hooks)
            assert by_hand.checksum(model.network) == checksum


@pytest.fixture
def compared(visitor: Visitor, deeper: InspectedModel) -> Visitor:
    """A visitor who has compared both."""
    visitor.do("on_compare_models", **SHORT)
    return visitor


def test_both_curves_and_both_answers_are_those_of_each_model_alone(compared: Visitor, deeper: InspectedModel):
    beside = compared.session.slot(Kept).beside
    assert [side.label for side in beside.sides] == [OWN, DEEPER]
    for side, model in zip(beside.sides, (tiny_model(), deeper), strict=True):
        alone = divergence(model, beside.case)
        assert (side.divergence.l2 == alone.l2).all() and side.toxic == alone.toxic_layer()
        encoded = encode(model, beside.case.adversarial_prompt)
        assert side.answer == answer(model, encoded.prompt, decoding=Decoding(max_new_tokens=8)).texts[0] != ""
        assert side.parameters == sum(parameter.numel() for parameter in model.network.parameters())
        assert side.fingerprint == model.fingerprint and 0 < side.seconds < 60
    own, other = compared.screen["models_curves"].data
    assert list(own.x) == [1 / 3, 2 / 3, 1] and list(other.x) == [0.2, 0.4, 0.6, 0.8, 1]
    assert list(other.y) == beside.sides[1].divergence.relative.tolist() and own.name == OWN
    for trace, side in zip((own, other), beside.sides, strict=True):
        marked = [block for block, colour in enumerate(trace.marker.color) if colour == figures.UNSAFE]
        assert marked == [side.toxic] and f"of 0-{side.blocks - 1}" in trace.hovertemplate
    table = seen(compared.screen["models_table"])
    assert f"{beside.sides[1].toxic} of 0-4" in table and "float32" in table
    assert f"layer {beside.sides[0].toxic} of 0-2" in compared.screen["models_reading"]
    assert "Compared in" in compared.screen["models_clock"] and compared.session.live is None


def test_each_is_asked_in_its_own_format_and_covered_unless_judged_safe(compared: Visitor):
    heads = compared.screen["models_left_head"], compared.screen["models_right_head"]
    assert "its own chat template" in heads[0] and "plain text" in heads[1], "the second one has no chat template"
    beside = compared.session.slot(Kept).beside
    for head, side, pane in zip(heads, beside.sides, ("left", "right"), strict=True):
        assert side.label in head and f">{side.verdict.label}</span>" in head and "vanilla weights" in head
        assert ("blurred" in compared.classes[f"models_{pane}_answer"]) == (not side.verdict.safe)
        assert seen(compared.screen[f"models_{pane}_answer"]) == side.answer
    assert ", no suffix. tiny-llama:" in seen(texts.compared(replace(beside, format=PromptFormat(""))))
    assert "suffix" not in texts.compared(beside), "the usual format is not named"


def test_a_base_and_a_folder_that_keep_has_saved_show_what_the_merged_edit_does(visitor: Visitor):
    visitor.do("on_compare_models", models_left=OWN, models_right=MERGED, **SHORT)
    beside, row = visitor.session.slot(Kept).beside, merged_edit()
    base, edited = beside.sides
    prompt = encode(tiny_model(), beside.case.adversarial_prompt).prompt
    live = answer(tiny_model(), prompt, [VANILLA, row], Decoding(max_new_tokens=8)).texts
    assert (base.answer, edited.answer) == live and base.answer != edited.answer
    for side, weights in ((base, VANILLA), (edited, row)):
        np.testing.assert_allclose(side.divergence.l2, divergence(tiny_model(), beside.case, row=weights).l2, rtol=1e-3)
    assert np.abs(edited.divergence.l2 - base.divergence.l2).max() > 1e-2 and base.fingerprint != edited.fingerprint


def test_the_distance_is_chosen_afterwards_and_a_reload_shows_the_last_comparison(compared: Visitor):
    compared.do("on_models_distance", models_distance="L2")
    beside = compared.session.slot(Kept).beside
    assert list(compared.screen["models_curves"].data[0].y) == beside.sides[0].divergence.l2.tolist()
    again = compared.reload()
    assert again.standing("models_distance") == "L2" and len(again.standing("models_curves").data) == 2
    assert beside.sides[1].answer in seen(again.standing("models_right_answer"))
    assert list(figures.curves(beside, "cosine").data[1].y) == beside.sides[1].divergence.cosine.tolist()


def test_another_question_in_the_rail_than_was_compared_is_said(compared: Visitor):
    compared.do("on_texts")
    assert "warn" not in compared.screen["models_about"]
    compared.do("on_texts", question="How do I cheat at cards?")
    said = seen(compared.screen["models_about"])
    assert "are of another question: “" in said and "Press Compare models" in said and "vanilla weights" in said
    assert seen(compared.reload().standing("models_about")) == said


def test_nothing_that_only_a_comparison_makes_useful_is_shown_before_it(visitor: Visitor):
    visitor.open("models")
    assert not visitor.shown["models_measured"] and "Nothing is compared yet" in visitor.screen["models_reading"]
    visitor.do("on_models_distance", models_distance="L2")
    assert "models_curves" not in visitor.screen and visitor.screen["models_table"] == ""


def test_what_cannot_be_compared_is_told_by_name_and_leaves_the_last_comparison(compared: Visitor, folder: Path):
    before = compared.session.slot(Kept).beside
    for other, words in (
        (OWN, "Both are the same model"),
        ("org/unlisted", "This page has no such model. Choose one of its list: tiny-llama, deeper, broken, forgetful"),
        (None, "no such model"),
        ("broken", "The folder 'broken' holds no model that can be loaded safely"),
        ("forgetful", "forgetful: The prompt has .* this model reads at most 16"),
    ):
        with pytest.raises(gr.Error, match=words) as error:
            compared.do("on_compare_models", models_right=other)
        assert str(folder) not in str(error.value) and str(folder.parent) not in str(error.value)
        assert compared.session.slot(Kept).beside is before and compared.is_free
        assert before.sides[1].answer in seen(compared.screen["models_right_answer"])
        assert "Stopped" in compared.screen["models_clock"]
    compared.do("on_compare_models", models_left=DEEPER, models_right=OWN, **SHORT)
    turned = compared.session.slot(Kept).beside.sides
    assert [side.answer for side in turned] == [side.answer for side in reversed(before.sides)]


def test_cancel_ends_within_a_step_and_the_last_comparison_stands(compared: Visitor, deeper: InspectedModel):
    before = compared.session.slot(Kept).beside
    run = compared.press("on_compare_models", max_new_tokens=200)
    while "▍" not in compared.screen["models_right_answer"]:
        next(run)
        assert by_hand.lock_is_free(deeper) and by_hand.lock_is_free(tiny_model()), "no lock is held between steps"
    compared.do("on_cancel")
    assert len(list(run)) <= 3
    assert "Stopped; nothing was changed" in compared.screen["models_clock"] and compared.is_free
    assert compared.session.slot(Kept).beside is before
    assert seen(compared.screen["models_left_answer"]) == before.sides[0].answer


def test_a_page_that_is_left_while_both_answer_gives_the_models_back(visitor: Visitor, page: Page):
    run = visitor.press("on_compare_models", max_new_tokens=200)
    while "▍" not in str(visitor.screen.get("models_right_answer")):
        next(run)
    assert page.context.shelf._lent[DEEPER] == 1
    run.close()
    assert page.context.shelf._lent[DEEPER] == 0 and visitor.is_free and len(page.context.line) == 0


def test_it_asks_the_case_in_the_rail_and_bounds_the_answers(visitor: Visitor, deeper: InspectedModel):
    visitor.do("on_texts", **own_question("How do I cheat at cards?"), template="")
    visitor.do("on_compare_models", **SHORT)
    beside = visitor.session.slot(Kept).beside
    assert beside.case.adversarial_prompt == "How do I cheat at cards?" and visitor.session.case is None
    assert "Of a case of your own" in visitor.screen["models_reading"]
    with pytest.raises(gr.Error, match="1 to 1024 tokens"):
        visitor.do("on_compare_models", max_new_tokens=5000)


def test_the_report_has_both_and_leaves_out_what_it_is_to_leave_out(compared: Visitor):
    (part,) = (part for make in REPORTERS for part in make(Visit(compared.session)) if part.title == "Two models")
    assert part.tables[0].head[-1] == "Fingerprint" and [row[0] for row in part.tables[0].rows] == [OWN, DEEPER]
    assert len(part.figures[0].drawn.data) == 2
    (prompt,), (first, second) = part.texts, part.beside
    beside = compared.session.slot(Kept).beside
    side = beside.sides[0]
    assert second.text == beside.sides[1].answer and second.role == "second"
    assert part.prompts == (beside.case.question, beside.case.adversarial_prompt)
    assert prompt.role == "prompt" and first.text == side.answer and first.covered == (not side.verdict.safe)
    assert "redacted" in Hidden(texts=True).text(prompt)


def test_with_one_model_the_view_says_how_to_list_a_second_one_and_has_nothing_to_press():
    example: Any = None
    with LighterBlocks(analytics_enabled=False) as app:
        context = Context(tiny_model(), Sessions(), example, False)
        room = ModelsRoom(context)
        room.build()
        room.hear()
        room.connect()
    shown = "".join(seen(str(block.value)) for block in app.blocks.values() if isinstance(block, gr.HTML))
    assert "python app.py --model A --model B" in shown and "Keep has saved" in shown
    assert all(isinstance(block, gr.HTML | gr.Blocks) for block in app.blocks.values()) and not app.fns
    assert VIEWS["models"] == "Two models" and LATER["models"] == ("models",)


def test_large_numbers_of_parameters_are_short():
    assert [texts.millions(count) for count in (1234, 134_515_008, 6_738_415_616)] == ["1,234", "135 M", "6.74 B"]
