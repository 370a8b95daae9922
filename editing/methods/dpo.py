"""DPO: direct preference optimisation of the safe over the unsafe answer (Rafailov et al. 2023, arXiv 2305.18290).

Equation 7: -log sigmoid(beta ((log p(Y_safe) - log r(Y_safe)) - (log p(Y_unsafe) - log r(Y_unsafe)))), p the trained
model, r the reference, both summed over the answer's tokens. As there, the reference is the model after supervised
fine-tuning: some SFT updates come first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from editing.optimising.trainee import Trainee
from editing.optimising.training import (
    Pair,
    Training,
    TrainingSettings,
    Values,
    sft_objective,
    trained_edit,
)
from editing.progress import EditEvents, Step
from editing.values import Rate
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class DpoSettings(TrainingSettings):
    """Settings of DPO.

    Attributes:
        beta: How strongly the reference holds; 0.1 is the default of Rafailov et al.
        warm_up: SFT updates before the reference is taken; 0 for DPO on the vanilla model.
        preference_rate: Step size of the preference updates; ``None`` becomes a tenth of ``learning_rate``, which is
            the warm-up's. With the whole of it one update takes the preference loss to zero.
        stop_below: Stop when the preference loss is below this: what is left of its gradient is small, but Adam would
            turn it into full steps.
    """

    beta: Rate = 0.1
    warm_up: Annotated[int, Field(ge=0, le=1000)] = 5
    preference_rate: Rate | None = None
    stop_below: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preference_rate is None:
            object.__setattr__(self, "preference_rate", self.rate / 10)


def preference_loss(policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """Return the DPO loss in nats.

    Args:
        policy: Summed log-probability of the wanted and of the other answer under the trained model.
        reference: The same under the reference.
        beta: The temperature of the implicit reward.
    """
    gain = (policy[0] - reference[0]) - (policy[1] - reference[1])
    return -F.logsigmoid(beta * gain)


class DpoObjective:
    """Mean preference loss over pairs; the reference's log-probabilities are taken when the object is made."""

    def __init__(self, student: Trainee, pairs: Sequence[Pair], beta: float) -> None:
        self._beta = beta
        with torch.no_grad():
            self._reference = {pair: self._sums(student, [pair])[0] for pair in dict.fromkeys(pairs)}

    @staticmethod
    def _sums(student: Trainee, pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
        found = student.log_probabilities([answer for pair in pairs for answer in (pair.wanted, pair.other)])
        return [(found[2 * n].sum(), found[2 * n + 1].sum()) for n in range(len(pairs))]

    def __call__(self, student: Trainee, pairs: Sequence[Pair]) -> Values:
        """See :class:`editing.optimising.training.Objective`."""
        sums = self._sums(student, pairs)
        losses = [
            preference_loss(policy, self._reference[pair], self._beta) for policy, pair in zip(sums, pairs, strict=True)
        ]
        wanted, other = sums[0]
        return Values(
            torch.stack(losses).mean(),
            wanted.detach() / len(pairs[0].wanted.response),
            other.detach() / len(pairs[0].other.response),
        )


def dpo(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DpoSettings = DpoSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Prefer the safe over the unsafe answer; a generator like :func:`editing.dinm`.

    Args:
        block: The block whose region is looked at afterwards; DPO trains them all.
        companions: Further cases that are trained on.

    Raises:
        EditError: The settings do not allow it, or the loss is not finite at the start.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    total = settings.warm_up + settings.steps

    def phases(training: Training, cancelled: Callable[[], bool]) -> Generator[Step, None, None]:
        if settings.warm_up:
            yield from training.run(sft_objective, settings.warm_up, cancelled, warm_up=True, of=total)
            if training.descent.reason != "step limit":
                return
        with training.lock:
            objective = DpoObjective(training.student, training.pairs, settings.beta)
        yield from training.run(objective, settings.steps, cancelled, rate=settings.preference_rate, of=total)

    return (yield from trained_edit(model, case, companions, block, settings, "DPO", phases, cancel))
