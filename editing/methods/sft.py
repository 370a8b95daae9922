"""SFT: supervised fine-tuning of the whole model on (adversarial prompt, safe answer).

Loss: mean -log P(Y_safe given [X; S]) over the answer's tokens. The DINM paper compares with it; the settings here are
ours, made for one case or a few and not for its training set.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from editing.optimising.training import Training, TrainingSettings, sft_objective, trained_edit
from editing.progress import EditEvents, Step
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class SftSettings(TrainingSettings):
    """Settings of SFT; see :class:`TrainingSettings`."""


def sft(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: SftSettings = SftSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Fine-tune on the safe answer; a generator like :func:`editing.dinm`.

    Args:
        block: The block whose region is looked at afterwards; SFT trains them all.
        companions: Further cases that are trained on.

    Raises:
        EditError: The settings do not allow it, or the loss is not finite at the start.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """

    def phases(training: Training, cancelled: Callable[[], bool]) -> Generator[Step, None, None]:
        yield from training.run(sft_objective, settings.steps, cancelled)

    return (yield from trained_edit(model, case, companions, block, settings, "SFT", phases, cancel))
