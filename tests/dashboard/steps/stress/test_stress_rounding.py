"""The rounding row: what bfloat16 by itself does, asked once a model, and why there is none."""

from __future__ import annotations

import types

import gradio as gr
import pytest
import torch
from dashboard_helpers import seen

from dashboard import api
from dashboard.steps.stress import rounding
from dashboard.steps.stress import run as stress
from dashboard.steps.stress.run import Examined
from editing.rounding import why_not_rounded
from inspector.errors import NotFinite
from inspector.model.memory.memory_need import bytes_of
from inspector.model.patches.rounded import COMPUTED
from inspector.safeedit import known
from inspector.safeedit.yardstick import YARDSTICK


@pytest.fixture
def no_rows_yet() -> None:
    """No test has asked rounded weights anything."""
    rounding._ROWS.clear()


@pytest.mark.usefixtures("no_rows_yet")
def test_the_rounding_row_comes_with_a_test_and_stands_beside_the_scores_of_the_same_harmless_prompts(
    visitor, monkeypatch
):
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.exam.max_new_tokens == 4 and {score.name for score in kept.yardstick} == set(YARDSTICK)
    assert "Rounded</button></th>" in visitor.screen["stress_table"]
    assert f"Rounded: {COMPUTED}." in seen(visitor.screen["stress_table"]), "the tiny model computes in float32"
    assert "bfloat16 by itself does" in visitor.screen["stress_reading"]
    assert "prompts, each answered by" in visitor.screen["stress_clock"]
    assert visitor.screen["rounding"] == "The rounding row is there" and not visitor.usable["rounding"]
    assert [r.question.prompt for r in kept.rounded.replies] == [
        r.question.prompt for r in kept.exam.replies if r.question.kind == "harmless"
    ]
    assert visitor.is_free
    row = kept.rounded
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "rounded_exam", lambda *_given, **_how: pytest.fail("it is asked once a model"))
        visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
        assert kept.rounded.replies == row.replies and kept.yardstick
        patch.setattr(rounding, "why_not_rounded", lambda _model: "No rounding row: this model is bfloat16 already")
        visitor.do("on_stress", stress_size="Quick", stress_tokens=5)
    assert kept.yardstick == (), "answers of another length are no yardstick"
    assert "Rounded</button></th>" not in visitor.screen["stress_table"]
    assert "No rounding row: this model is bfloat16 already." in seen(visitor.screen["stress_table"])


@pytest.mark.usefixtures("no_rows_yet")
def test_the_rounded_weights_alone_are_asked_what_vanilla_has_just_answered(visitor, monkeypatch, model):
    asked = []
    own = known.generate

    def generating(network, *given):
        asked.append(network is model)
        return own(network, *given)

    monkeypatch.setattr(known, "generate", generating)
    monkeypatch.setattr("inspector.safeedit.asking.in_step", lambda *_: pytest.fail("vanilla is asked again"))
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert asked and not any(asked) and kept.yardstick
    before = {r.question.prompt: r.vanilla.text for r in kept.exam.replies}
    assert [r.vanilla.text for r in kept.rounded.replies] == [before[r.question.prompt] for r in kept.rounded.replies]


@pytest.mark.usefixtures("no_rows_yet")
def test_memory_that_runs_out_costs_the_rounding_row_and_not_the_test(visitor, monkeypatch):
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 1)
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.exam.max_new_tokens == 4 and kept.yardstick == () and visitor.is_free
    assert "No rounding row: A second network" in seen(visitor.screen["stress_table"])


@pytest.mark.usefixtures("no_rows_yet")
def test_rounded_weights_that_leave_the_finite_numbers_cost_the_rounding_row_and_not_the_test(visitor, monkeypatch):
    def overflows(*_given, **_how):
        raise NotFinite("The rounded weights' prediction is no finite number.")
        yield

    monkeypatch.setattr(rounding, "rounded_exam", overflows)
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    assert visitor.session.slot(Examined).exam.max_new_tokens == 4 and visitor.is_free
    assert "No rounding row: The rounded weights' prediction" in seen(visitor.screen["stress_table"])
    assert "prompts, each answered by" in visitor.screen["stress_clock"]


@pytest.mark.usefixtures("no_rows_yet")
def test_a_program_s_stress_test_has_the_rounding_row_or_why_there_is_none(page, monkeypatch):
    endpoints = {}
    monkeypatch.setattr(api, "named", lambda function, *_: endpoints.update({function.__name__: function}))
    monkeypatch.setattr(api, "connect_files", lambda _context: None)
    api.connect(page.context)
    *events, last = endpoints["stress_test"]("Quick", max_new_tokens=4, request=gr.Request(session_hash="a program"))
    assert {score["name"] for score in last["rounding"]} == set(YARDSTICK)
    assert last["rounding_note"] == f"Rounded: {COMPUTED}."
    assert sum(len(event["replies"]) for event in events) == len(last["replies"]), "each answer is told once"
    *_, last = endpoints["stress_test"]("This case", max_new_tokens=4, request=gr.Request(session_hash="a program"))
    assert last["rounding"] == [] and last["rounding_note"].startswith("No rounding row: this stress test asks no")


def test_rounding_without_harmless_prompts_and_without_scores_is_refused_with_the_remedy(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    with pytest.raises(gr.Error, match="Choose Quick or Full"):
        visitor.do("on_rounding")
    assert visitor.is_free


def test_a_second_network_that_does_not_fit_is_not_begun(visitor, monkeypatch, model):
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    visitor.session.slot(Examined).rounded = None
    rounding._ROWS.clear()
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: sum(bytes_of(model.network).values()) - 1)
    monkeypatch.setattr("inspector.safeedit.yardstick.rounded", lambda _model: pytest.fail("it was begun"))
    with pytest.raises(gr.Error, match=r"second network.*more memory"):
        visitor.do("on_rounding")
    assert visitor.session.slot(Examined).rounded is None and visitor.is_free


def test_a_model_that_is_bfloat16_already_or_quantised_has_no_rounding_row_and_says_why(model):
    assert why_not_rounded(model) is None
    half = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    assert "bfloat16 already" in why_not_rounded(types.SimpleNamespace(network=half, quantisation=None))
    assert "quantised (nf4)" in why_not_rounded(types.SimpleNamespace(network=half, quantisation="nf4"))


@pytest.mark.usefixtures("no_rows_yet")
def test_a_cancelled_suffix_study_and_rounding_keep_what_was_there(visitor, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    for handler in ("on_suffixes", "on_rounding"):
        run = visitor.press(handler)
        next(run)
        visitor.session.cancelled.set()
        list(run)
        assert "what was measured before stays" in visitor.screen["stress_clock"]
    kept = visitor.session.slot(Examined)
    assert kept.study is None and kept.rounded is None and visitor.is_free
