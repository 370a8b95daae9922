"""DPO on the embedded model: a descent of several updates, not a jump."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from editing import run
from editing.methods.dpo import DpoSettings, dpo
from inspector.model import PromptFormat
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.embedded


def test_the_preference_loss_takes_several_updates_to_its_stop(embedded):
    """To three quarters of its start, on short texts; with SFT's own step size it was one update to nothing."""
    case = bundled_cases()[3]
    safe, unsafe = (" ".join(text.split()[:6]) + "." for text in (case.safe, case.unsafe))
    case = replace(case, adversarial_prompt=case.question, safe=safe, unsafe=unsafe)
    settings = DpoSettings(
        warm_up=0,
        harmless_prompts=1,
        harmless_tokens=2,
        stop_below=0.75 * math.log(2),
        format=PromptFormat("", chat=False),
    )
    result = run(dpo(embedded, case, 29, settings))
    losses = [step.edit_loss for step in result.trace]
    assert result.stop_reason == "converged" and len(losses) >= 3
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and losses == sorted(losses, reverse=True)
    assert result.trace[-1].unsafe_probability < result.trace[0].unsafe_probability
