"""Edits of bfloat16 and float16 models: what is optimised is float32, and the change is that of the float32 model."""

from __future__ import annotations

import math

import by_hand
import pytest
import torch
from half_precision_helpers import cosine, rounded
from training_helpers import BRIEF, SMALL, small

from editing import dinm, preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.mend import MendTraining
from editing.methods.mend.store import places, save_editor
from editing.methods.mend.top import TopBlocks, gradient_factors
from editing.methods.mend.training import new_editor
from editing.methods.registry import METHODS, method_settings
from editing.methods.sft import SftSettings, sft
from editing.optimising.trainee import TrainedScope, trainee
from editing.values import setting_names
from inspector.model import InspectedModel, encode

BLOCK = 1


def test_dinm_s_change_is_float32_and_points_where_the_float32_model_s_does(pair, case):
    """The released code's loss positions are compared on Llama alone."""
    names = ("corrected", "reference") if pair[0].name.startswith("llama") else ("corrected",)
    for name in names:
        same_direction(pair, case, name)


def same_direction(pair: tuple[InspectedModel, InspectedModel], case, name: str) -> None:
    settings = preset(name, steps=1, learning_rate=0.1, optimiser="descent", target_probability=None, **SMALL)
    half, single = (run(dinm(model, case, BLOCK, settings)) for model in pair)
    changes = [result.patch.deltas[0].left for result in (half, single)]
    assert all(change.dtype == torch.float32 for change in changes)
    assert cosine(*changes) > 0.98
    assert float(changes[0].norm()) == pytest.approx(float(changes[1].norm()), rel=0.05), "no scale is left in it"
    assert half.trace[0].edit_loss == pytest.approx(single.trace[0].edit_loss, rel=0.03)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_measured_step_is_about_as_large_as_the_float32_model_s_and_costs_as_much(family, dtype, case):
    """Of two families: what enters a step, the gradient, is compared of all of them above."""
    pair = rounded(family, dtype)
    settings = preset("corrected", steps=1, target_probability=None, harmless_at_once=None, **SMALL)
    half, single = (run(dinm(model, case, BLOCK, settings)) for model in pair)
    sizes = [result.patch.settings["learning_rate"] for result in (half, single)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)
    assert half.trace[1].constraint_kl == pytest.approx(settings.step_kl, rel=0.5)


@pytest.mark.parametrize(("edit", "kind"), [(ft_l, FtLSettings), (sft, SftSettings), (dpo, DpoSettings)])
def test_a_step_below_half_a_unit_in_the_last_place_is_not_lost(dtype, case, edit, kind):
    """LoRA's factors are some 0.1 in size, of which bfloat16 keeps steps of 4e-4; DPO's are 1e-4 by default."""
    half, single = rounded("llama", dtype)
    changes = {"learning_rate": 1e-5, "steps": 3}
    if kind is DpoSettings:
        changes |= {"warm_up": 1, "preference_rate": 1e-5}
    results = [run(edit(model, case, BLOCK, small(kind, **changes))) for model in (half, single)]
    norms = [result.patch.norm for result in results]
    assert results[0].kept == results[1].kept > 0 and norms[0] == pytest.approx(norms[1], rel=0.05)
    if kind is not FtLSettings:  # the first factors, which bfloat16 would leave where they were
        drawn = [parameter.detach() for parameter in trainee(half, TrainedScope()).parameters[::2]]
        for delta, before in zip(results[0].patch.deltas, drawn, strict=True):
            assert 0 < float((delta.right - before).abs().max()) < 1e-3


@pytest.mark.parametrize("scope", ["LoRA", "full"])
def test_what_is_trained_is_float32_whatever_the_base(pair, scope):
    model, _ = pair
    student = trainee(model, TrainedScope(scope))
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters)
    before = [parameter.detach().clone() for parameter in student.parameters]
    optimiser = torch.optim.SGD(student.parameters, lr=1e-6)
    student.logits([(1, 40, 80, 120)], [range(4)]).log_softmax(dim=-1)[:, 7].sum().backward()
    optimiser.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, student.parameters, strict=True)]
    # LoRA's second factor is zero, so that the first one has no gradient yet.
    assert all(moved[1::2] if scope == "LoRA" else moved) and all(
        torch.isfinite(parameter).all() for parameter in student.parameters
    )


def test_the_atlas_measures_in_half_precision_what_it_does_in_float32(dtype, case):
    settings = AtlasSettings(learning_rate=0.01, harmless_prompts=2, harmless_tokens=4)
    half, single = (run(make_atlas(model, case, settings)) for model in rounded("llama", dtype))
    gains = [atlas.curve("margin gain") for atlas in (half, single)]
    assert gains[0] == pytest.approx(gains[1], rel=0.15, abs=0.02)


@pytest.mark.parametrize("key", ["delman", "gated", "mend", "ext-sub"])
def test_the_changes_of_the_methods_that_are_not_compared_are_float32_and_finite(
    dtype, case, key, tmp_path, monkeypatch
):
    model, _ = rounded("llama", dtype)
    monkeypatch.setattr("editing.methods.mend.store.cache_root", lambda: tmp_path)
    if key == "mend":
        editor = new_editor(model, MendTraining(top_blocks=2, rank=4, alpha=0.01))
        save_editor(editor, places(model)[1], {"fingerprint": model.fingerprint})
    known = setting_names(METHODS[key].settings)
    whole = {name: value for name, value in {"damage_budget": None, "position": "prompt"}.items() if name in known}
    result = run(METHODS[key].run(model, case, BLOCK, method_settings(key, **BRIEF[key], **whole)))
    tensors = [part for delta in result.patch.deltas for part in (delta.left, delta.right) if part is not None]
    assert {part.dtype for part in tensors} == {torch.float32}
    assert all(bool(part.isfinite().all()) for part in tensors) and 0 < result.patch.norm < math.inf


def test_a_scale_that_is_too_much_for_the_atlas_s_first_gradient_backs_off(case, too_large):
    settings = AtlasSettings(learning_rate=0.01, harmless_prompts=2, harmless_tokens=4)
    half, single = (run(make_atlas(model, case, settings)) for model in rounded("llama", torch.float16))
    assert half.curve("margin gain") == pytest.approx(single.curve("margin gain"), rel=0.15, abs=0.02)


def test_a_scale_that_is_too_much_for_mend_s_gradient_backs_off(case, too_large):
    found = []
    for model in rounded("llama", torch.float16):
        name = by_hand.down_name(model.network, BLOCK)
        top = TopBlocks(model, [encode(model, case.adversarial_prompt, case.safe)], BLOCK)
        inputs, gradients = gradient_factors(top, [name])[name]
        found.append(gradients.T @ inputs)
    assert cosine(*found) > 0.99 and float(found[0].norm()) == pytest.approx(float(found[1].norm()), rel=0.03)
