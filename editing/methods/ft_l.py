"""FT-L: fine-tune one block's down-projection on the safe answer, with an optional limit on each weight's change.

The constrained fine-tuning of Meng et al. 2022 (ROME, arXiv 2202.05262, following Zhu et al. 2020), as the DINM paper
compares with it: the likelihood of the target alone, no constraint on other prompts. It is DINM's loop with that loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from editing.methods.dinm import DinmSettings, dinm
from editing.progress import EditEvents
from editing.values import Decay, HarmlessCount, HarmlessTokens, Positive, Probability, Rate, Steps
from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class FtLSettings:
    """Settings of FT-L.

    Attributes:
        learning_rate: Step size of Adam; 5e-4 in Meng et al. 2022.
        steps: Most updates; 25 in Meng et al. 2022.
        weight_decay: L2 penalty; 0 there.
        clamp: Largest change of a single weight (their L-infinity constraint; 5e-4 in released settings for GPT-2
            XL); ``None`` for no limit, as in the DINM paper's runs.
        target_probability: Stop when the safe answer's mean token probability reaches this; ``None`` for never.
        damage_budget: Largest KL on harmless prompts; ``None`` for none: FT-L has no such term.
        format: Suffix prompt S, chat template, and whether the edit also learns to end the turn.
        harmless_prompts: Harmless prompts on which the KL is measured, not trained.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    learning_rate: Rate = 5e-4
    steps: Steps = 25
    weight_decay: Decay = 0.0
    clamp: Positive | None = None
    target_probability: Probability | None = None
    damage_budget: Positive | None = None
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 4
    harmless_tokens: HarmlessTokens = 12

    def as_dinm(self) -> DinmSettings:
        """Return DINM's settings that make its loop FT-L."""
        return DinmSettings(
            **vars(self),
            edit_weight=1.0,
            constraint_weight=0.0,
            constraint_gradient=False,
            stop_below=0.0,
            harmless_at_once=None,
            safe_answers=1,
            null_space=None,
            own_refusals=0,
        )


def ft_l(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: FtLSettings = FtLSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Fine-tune one block's down-projection; a generator like :func:`editing.dinm`, with the same errors.

    Args:
        companions: Not used: FT-L edits on one case.
    """
    result = yield from dinm(model, case, block, settings.as_dinm(), cancel=cancel, method="FT-L")
    patch = result.patch
    if patch is not None:
        told = {**asdict(settings), "block": block, "updates": result.kept}
        patch = replace(patch, settings=told)
    return replace(result, patch=patch, settings=settings)
