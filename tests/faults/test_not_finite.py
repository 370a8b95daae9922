"""Numbers that are none: a model whose logits are no numbers any more, and settings that drive an edit out of them.

What each method does within its descent has tests of its own (``tests/editing/methods/dinm/test_dinm_ends.py``).
"""

from __future__ import annotations

import by_hand
import gradio as gr
import pytest
import tiny_models
import torch
from dashboard_helpers import GENEROUS, QUICK, Page, Visitor, assert_idle
from keep_helpers import page_of, rows
from training_helpers import BRIEF

from dashboard.steps.operate.settings import SETTING_FIELDS
from editing import run
from editing.methods.mend import MendTraining
from editing.methods.mend.store import places, save_editor
from editing.methods.mend.training import new_editor
from editing.methods.registry import METHODS, method_settings
from inspector.errors import InspectorError
from inspector.model import InspectedModel, from_parts


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> InspectedModel:
    """A model of which one weight stops being a number once it is loaded, with an editor for MEND."""
    folder = tmp_path_factory.mktemp("mend")
    model = from_parts(tiny_models.network("llama", seed=7), tiny_models.tokenizer(), "broken later")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editing.methods.mend.store.cache_root", lambda: folder)
        patch.setattr("editing.methods.mend.store.SHIPPED", folder / "shipped")
        editor = new_editor(model, MendTraining(top_blocks=2, rank=4, alpha=0.01))
        save_editor(editor, places(model)[1], {"fingerprint": model.fingerprint})
        model.network.lm_head.weight.data[7] = float("nan")
        yield model


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page without an example, built once."""
    return page_of(tmp_path_factory.mktemp("page"))


@pytest.fixture
def visitor(page: Page, request: pytest.FixtureRequest) -> Visitor:
    """A new visitor of it."""
    return Visitor(page, request.node.nodeid)


def test_every_method_that_changes_weights_is_here():
    assert set(BRIEF) == set(METHODS) - {"self-reminder"}


@pytest.mark.parametrize("key", BRIEF)
def test_a_method_on_a_model_whose_numbers_are_none_makes_no_edit_and_says_what_to_do(broken, case, key):
    hooks = by_hand.hooks(broken.network)
    with pytest.raises(InspectorError, match=r"finite.*(float32|Load|Shorten|shorten|another)") as refused:
        run(METHODS[key].run(broken, case, 1, method_settings(key, **BRIEF[key])))
    assert "nan" not in refused.value.user_message().lower().split()
    by_hand.assert_at_rest(broken, hooks)


@pytest.mark.parametrize("handler", ["on_edit", "on_operate"])
@pytest.mark.parametrize("weight", [1e37, 1e308])
def test_settings_that_drive_an_edit_out_of_the_numbers_are_told_and_the_visitor_goes_on(
    visitor: Visitor, handler: str, weight: float
):
    wild = {"edit_weight": weight, "learning_rate": 100.0, "optimiser": "descent"}
    told = ""
    try:
        visitor.do(handler, **{**QUICK, **wild})
    except gr.Error as error:
        told = error.message
    live = visitor.session.live
    assert "went wrong" not in told and ("finite" in told or "lower" in told.lower() or live is not None), told
    assert live is None or all(bool(part.isfinite().all()) for delta in live.patch.deltas for part in delta.parts)
    assert_idle(visitor)
    plain = {"edit_weight": 0.1, "learning_rate": 0.01, "optimiser": "adam"}
    visitor.do("on_edit", **{**QUICK, **plain})
    assert rows(visitor) and torch.isfinite(visitor.session.live.patch.deltas[0].parts[0]).all()
    assert visitor.session.live.patch.identifier in visitor.screen["live"]


CHOSEN = {"optimiser", "constraint", "constraint_gradient", "direction", "loss_positions", "chat", "end_of_answer"}
SETTINGS = [name for name in SETTING_FIELDS if name not in CHOSEN | {"watch_unsafe", "question_alone"}]
NUMBERS = (*SETTINGS, *GENEROUS, "max_new_tokens", "temperature", "seed")
"""Settings of an edit that are numbers, the gate's budgets, and how both weights answer."""


@pytest.mark.parametrize("size", [1e308, 10**400, 1e-308], ids=["large", "beyond all", "small"])
def test_an_edit_with_a_number_of_any_size_in_any_setting_is_told_in_words_or_is_of_finite_numbers(
    visitor: Visitor, size: float
):
    wrong = list[tuple[str, str]]()
    assert len(SETTINGS) > 15
    for name in NUMBERS:
        told = ""
        try:
            visitor.do("on_edit", **{**QUICK, "steps": 1, "max_new_tokens": 2, name: size})
        except gr.Error as error:
            told = error.message
        visitor.screen.pop(name)
        live = visitor.session.live
        finite = live is None or all(bool(p.isfinite().all()) for delta in live.patch.deltas for p in delta.parts)
        if "went wrong" in told or not finite or not visitor.is_free or len(told) > 500:
            wrong.append((name, told))
    assert wrong == []
