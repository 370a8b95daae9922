"""The soft null space: what harmless prompts use is measured as by hand, and an edit stays off it."""

from __future__ import annotations

import pytest
import torch

from editing import dinm, preset, run
from editing.methods.dinm import DinmSettings
from editing.optimising.matrix import Matrix
from editing.optimising.null_space import (
    MOST_KEPT,
    PROMPTS,
    harmless_moment,
    known_moments,
    moment_key,
    soft_null_space,
)
from editing.texts.harmless import further_harmless_texts, harmless_texts
from inspector.errors import EditError, RefusedEdit, TooLong
from inspector.model import PromptFormat, encode
from inspector.model.hooks import observe_inputs
from inspector.presets import PRESETS

FORMAT = PromptFormat("Be good.")
TEXTS = ("How are you?", "Sing.", "What is the largest river?")
BLOCK = 1


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    monkeypatch.setattr("editing.optimising.null_space.further_harmless_texts", lambda count: list(TEXTS))


def keys_by_hand(model, block: int) -> torch.Tensor:
    """Return what enters a down-projection, ``[tokens, d_ff]``, one sequence a pass, without each first token."""
    found = []

    def keep(_position, inputs):
        found.append(inputs.reshape(-1, inputs.shape[-1])[1:].float())

    with torch.no_grad(), observe_inputs([model.architecture.down_projections[block]], keep):
        for text in TEXTS:
            model.network(input_ids=model.batch(encode(model, text, None, FORMAT).prompt), use_cache=False)
    return torch.cat(found)


def test_the_moment_is_the_mean_over_all_tokens_but_the_first_of_each_sequence(model):
    for block in (0, model.architecture.last_block):
        keys = keys_by_hand(model, block)
        moment = run(harmless_moment(model, block, FORMAT))
        assert moment == pytest.approx(keys.T @ keys / len(keys), rel=1e-3, abs=1e-6)


def test_it_is_measured_once_and_can_be_cancelled(llama):
    own = PromptFormat("Be brief.")
    assert run(harmless_moment(llama, 2, own, lambda: True)) is None
    told = list(harmless_moment(llama, 2, own))
    assert len(told) == 1 and "layer 2: 3 of 3" in told[0].message
    assert list(harmless_moment(llama, 2, own)) == []


def test_no_more_moments_are_kept_than_is_said_wherever_they_come_from(llama):
    kept = known_moments(llama)
    kept.clear()
    for block in range(MOST_KEPT + 1):
        kept.setdefault((block, "a format"), torch.zeros(1))  # as a calibration puts its own there
    assert [block for block, _ in kept] == [*range(1, MOST_KEPT + 1)]
    kept.clear()


def test_a_prompt_longer_than_the_model_s_context_is_left_out_and_no_prompt_at_all_is_an_error(tiny, monkeypatch):
    """GPT-2 has no positions beyond its 512."""
    model, own = tiny("gpt2"), PromptFormat("Be short.")
    few = run(harmless_moment(model, 0, own))
    known_moments(model).clear()
    long = "Why? " * 200
    monkeypatch.setattr("editing.optimising.null_space.further_harmless_texts", lambda count: [long, *TEXTS])
    assert torch.equal(run(harmless_moment(model, 0, own)), few)
    known_moments(model).clear()
    monkeypatch.setattr("editing.optimising.null_space.further_harmless_texts", lambda count: [long])
    with pytest.raises(TooLong, match="at most 512"):
        run(harmless_moment(model, 0, own))


def test_it_is_not_measured_on_the_few_prompts_that_a_short_context_leaves(tiny, monkeypatch):
    model, own = tiny("gpt2"), PromptFormat("Be kind.")
    long = ["Why? " * 200] * 4
    monkeypatch.setattr("editing.optimising.null_space.further_harmless_texts", lambda count: [*long, *TEXTS])
    with pytest.raises(EditError, match=r"at most 512 tokens, and only 3 of the 7 harmless prompts .* shorter suffix"):
        run(harmless_moment(model, 0, own))
    assert moment_key(0, own) not in known_moments(model)


@pytest.mark.parametrize("constrained", [96, 500])
def test_what_is_read_is_none_that_an_edit_is_constrained_on(case, constrained):
    assert not set(further_harmless_texts(PROMPTS)) & set(harmless_texts(case, constrained))


def test_a_direction_used_as_much_as_the_border_is_halved_and_an_unused_one_is_free():
    moment = torch.diag(torch.tensor([0.0, 1.0, 3.0]))  # mean eigenvalue 4 / 3
    projection = soft_null_space(moment, 0.75)  # lambda 1
    assert projection == pytest.approx(torch.diag(torch.tensor([1.0, 0.5, 0.25])))
    assert soft_null_space(moment * 100, 0.75) == pytest.approx(projection), "the region's scale says nothing"
    assert soft_null_space(torch.zeros(3, 3), 0.75) == pytest.approx(torch.eye(3))


def test_a_projected_matrix_changes_by_the_projected_step_alone():
    torch.manual_seed(0)
    base, projection = torch.randn(3, 4), torch.rand(4, 4)
    matrix = Matrix(base, None, projection)
    assert torch.equal(matrix.weight(), base)
    kept = matrix.kept()
    with torch.no_grad():
        matrix.parameters[0] += 1.0
    expected = torch.ones(3, 4) @ projection
    assert matrix.change() == pytest.approx(expected) and matrix.weight().detach() == pytest.approx(base + expected)
    assert matrix.delta_norm() == pytest.approx(float(expected.norm()))
    matrix.restore(kept)
    assert torch.equal(matrix.weight(), base)


def share_written(model, patch) -> float:
    """Return how much an edit writes on the harmless tokens, for its size."""
    change, keys = patch.deltas[0].dense(), keys_by_hand(model, BLOCK)
    return float((keys @ change.T).norm() / change.norm() / keys.norm())


@pytest.mark.parametrize("neurons", [None, 6])
def test_an_edit_in_the_null_space_writes_less_for_harmless_prompts(llama, case, neurons):
    changes = {"steps": 3, "harmless_prompts": 6, "harmless_tokens": 3, "harmless_at_once": 3, "neurons_only": neurons}
    changes |= {"suffix": FORMAT.suffix, "damage_budget": None, "target_probability": None}
    free, held = (
        run(dinm(llama, case, BLOCK, preset("corrected", null_space=border, **changes))).patch
        for border in (None, 0.01)
    )
    assert share_written(llama, held) < 0.7 * share_written(llama, free)


def test_no_preset_has_a_null_space_and_a_clamp_would_leave_it():
    assert all(preset(name).null_space is None for name in PRESETS)
    with pytest.raises(EditError, match="null_space to none"):
        DinmSettings(clamp=0.1, null_space=0.05)
    assert DinmSettings(clamp=0.1).clamp == 0.1


def test_what_is_not_finite_refuses_the_edit_and_names_a_setting_only_where_there_is_one(overflowing, case):
    above = overflowing.architecture.last_block
    with pytest.raises(RefusedEdit, match=r"layer 2 is not a finite number in float16.*--dtype float32\)\.$"):
        run(harmless_moment(overflowing, above, FORMAT))
    quick = {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0}
    with pytest.raises(RefusedEdit, match=r"\(--dtype float32\), or set null_space to none"):
        run(dinm(overflowing, case, above, preset("corrected", null_space=0.01, **quick)))
