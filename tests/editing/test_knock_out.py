"""Knock-out as an edit: what it does is measured, and what would lower safety is refused."""

from __future__ import annotations

import math

import by_hand
import numpy as np
import pytest
import torch

from editing import run
from editing.knock_out import knock_out
from inspector.errors import EditError, PatchError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, PromptFormat, Row
from inspector.neurons import neuron_activity


def test_a_knock_out_is_an_edit_with_a_trace_of_what_it_does(llama, case):
    activity = neuron_activity(llama, case, format=PromptFormat(""))
    pushing = activity.pushing(2, 3)
    result = run(knock_out(llama, case, 2, pushing, format=PromptFormat("")))
    assert (result.kept, result.stop_reason) == (1, "one pass") and [step.step for step in result.trace] == [0, 1]
    base = by_hand.down_weight(llama.network, 2)
    change = result.patch.deltas[0].dense()
    assert torch.allclose((base + change)[:, pushing], torch.zeros(32, 3), atol=1e-7)
    rows = likelihoods(
        llama, case.adversarial_prompt, [case.safe, case.unsafe], (VANILLA, Row(result.patch)), format=PromptFormat("")
    )
    for step, row in zip(result.trace, rows, strict=True):
        assert step.safe_probability == pytest.approx(row[0].per_token, rel=1e-3)
        assert step.unsafe_probability == pytest.approx(row[1].per_token, rel=1e-3)
        assert step.edit_loss == pytest.approx(-math.log(row[0].per_token), rel=1e-3)
    assert result.trace[0].constraint_kl == pytest.approx(0.0, abs=1e-6) and result.trace[1].constraint_kl > 0
    assert result.trace[1].delta_norm == pytest.approx(float(change.norm()), rel=1e-4)


def test_a_knock_out_that_helps_the_unsafe_answer_is_refused(llama, case):
    activity = neuron_activity(llama, case, format=PromptFormat(""))
    order = np.argsort(activity.contribution[2])
    with pytest.raises(EditError, match=r"does not offer.*positive contribution"):
        run(knock_out(llama, case, 2, [int(n) for n in order[:5]], format=PromptFormat("")))


def test_a_cancelled_knock_out_has_no_patch_and_bad_neurons_are_refused(llama, case):
    result = run(knock_out(llama, case, 1, [1], format=PromptFormat(""), cancel=lambda: True))
    assert result.patch is None and result.stop_reason == "cancelled" and result.kept == 0
    for neurons in ([], [48], [1, 1], [-1]):
        with pytest.raises(PatchError):
            run(knock_out(llama, case, 1, neurons, format=PromptFormat("")))
