"""What the methods share that train many matrices: SFT, DPO, and the experts of Ext-Sub."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from editing.guard import check_case
from editing.optimising.descent import Descent, Signs, Stops, fused
from editing.optimising.smaller import once_smaller
from editing.optimising.trainee import Alpha, Rank, Scope, TrainedScope, Trainee, trainee
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.texts.harmless import harmless_answers
from editing.texts.taught import taught_answers
from editing.values import Decay, HarmlessCount, HarmlessTokens, Positive, Probability, Rate, Steps
from inspector.errors import EditError
from inspector.kl import kl_by_token, not_negative
from inspector.model import InspectedModel, Patch, PromptFormat, encode
from inspector.model.encoding import Encoded
from inspector.safeedit import Case
from inspector.validated import settings as checked

RATES: dict[Scope, float] = {"LoRA": 1e-3, "full": 2e-5}
"""Step size by what is trained: with these the two move about as far an update on the embedded model."""


@checked(EditError)
class TrainingSettings:
    """Settings that all trained methods share.

    The defaults are ours, made for single cases on the embedded model; the papers of these methods train on whole data
    sets, with smaller steps.

    Attributes:
        scope: ``LoRA``, or ``full`` for every weight of every matrix of the blocks.
        rank: Rank of LoRA's factors.
        alpha: LoRA's alpha.
        learning_rate: Step size of AdamW; ``None`` becomes that of the scope in :data:`RATES`.
        steps: Most updates.
        weight_decay: AdamW's weight decay.
        companions_at_once: Companion cases that share each update with the case; they take turns.
        target_probability: Stop when the safe answer's mean token probability reaches this; ``None`` for never.
        damage_budget: Largest KL on harmless prompts in nats per token; ``None`` for none.
        stop_below: Stop when the loss is below this.
        format: Suffix prompt S, chat template, and whether the training also learns to end the turn.
        harmless_prompts: Number of harmless prompts on which the KL is measured; they are not trained on.
        harmless_tokens: Most tokens of the model's own answer to each.
        seed: Seed of LoRA's first factors.
    """

    scope: Scope = "LoRA"
    rank: Rank = 8
    alpha: Alpha = 16
    learning_rate: Rate | None = None
    steps: Steps = 20
    weight_decay: Decay = 0.0
    companions_at_once: Annotated[int, Field(ge=1, le=64)] = 3
    target_probability: Probability | None = 0.8
    damage_budget: Positive | None = None
    stop_below: float = 0.0
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 4
    harmless_tokens: HarmlessTokens = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", RATES[self.scope])

    @property
    def rate(self) -> float:
        """The step size of AdamW."""
        assert self.learning_rate is not None
        return self.learning_rate

    def trained(self) -> TrainedScope:
        """Return what of the model is trained."""
        return TrainedScope(self.scope, self.rank, self.alpha, self.seed)


@dataclass(frozen=True)
class Pair:
    """One case's prompt with its wanted and its other answer, encoded."""

    wanted: Encoded
    other: Encoded


def encode_pair(model: InspectedModel, case: Case, format: PromptFormat, anti: bool = False) -> Pair:
    """Encode a case for training; ``anti`` exchanges the answers (the anti-expert of Ext-Sub)."""
    check_case(case)
    safe, unsafe = (encode(model, case.adversarial_prompt, answer, format) for answer in (case.safe, case.unsafe))
    return Pair(unsafe, safe) if anti else Pair(safe, unsafe)


@dataclass(frozen=True, eq=False)
class Values:
    """What an objective says of the weights as they are.

    Attributes:
        loss: What is minimised.
        wanted: Mean log-probability of the wanted answer's tokens for the case itself, a single number in nats.
        other: The same of the other answer.
    """

    loss: Tensor
    wanted: Tensor
    other: Tensor


class Objective(Protocol):
    """A loss on the case's pair (first) and its companions' pairs."""

    def __call__(self, student: Trainee, pairs: Sequence[Pair]) -> Values: ...


def sft_objective(student: Trainee, pairs: Sequence[Pair]) -> Values:
    """Mean negative log-likelihood of the wanted answers' tokens."""
    found = student.log_probabilities([pair.wanted for pair in pairs])
    with torch.no_grad():
        (other,) = student.log_probabilities([pairs[0].other])
    return Values(-torch.cat(found).mean(), found[0].detach().mean(), other.mean())


@dataclass(frozen=True, eq=False)
class HarmlessKl:
    """KL(vanilla to student) on the vanilla model's own answers to harmless prompts, nats a token (a vital sign).

    Attributes:
        answers: The prompts with those answers.
        vanilla: ``[tokens, vocabulary]`` log-probabilities of the untrained student.
    """

    answers: tuple[Encoded, ...]
    vanilla: Tensor

    def of(self, student: Trainee) -> Tensor:
        """Return the divergence of a student as it is now, a single number."""
        return not_negative(kl_by_token(self.vanilla, _harmless_logits(student, self.answers)))


@torch.no_grad()
def _harmless_logits(student: Trainee, answers: Sequence[Encoded]) -> Tensor:
    return student.logits([a.tokens for a in answers], [a.predicting for a in answers]).log_softmax(dim=-1)


def watch_harmless(
    model: InspectedModel, student: Trainee, case: Case, settings: TrainingSettings, cancel: Callable[[], bool]
) -> Generator[Preparation, None, HarmlessKl | None]:
    """Let the vanilla model answer harmless prompts; the student must be untrained still. ``None`` when cancelled."""
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    if own is None:
        return None
    with model.lock:
        return HarmlessKl(tuple(own), _harmless_logits(student, own))


class Training:
    """One training of a student, in one phase or several.

    Args:
        student: The trainable copy.
        pairs: The case's pair, then its companions'.
        harmless: The vital sign on harmless prompts; ``None`` to leave it out.

    Attributes:
        descent: The student's way down: trace, updates, and why it ended.
    """

    def __init__(
        self,
        model: InspectedModel,
        student: Trainee,
        pairs: Sequence[Pair],
        harmless: HarmlessKl | None,
        settings: TrainingSettings,
    ) -> None:
        self.student, self.pairs, self.lock = student, pairs, model.lock
        self._harmless, self._settings = harmless, settings
        self.descent = Descent(student, model.lock, model.gradient_scale)

    def batch(self, number: int) -> list[Pair]:
        """Return the pairs of one update: the case and the companions whose turn it is."""
        others = self.pairs[1:]
        count = min(self._settings.companions_at_once, len(others))
        return [self.pairs[0], *(others[(number * count + n) % len(others)] for n in range(count))]

    def run(
        self,
        objective: Objective,
        steps: int,
        cancel: Callable[[], bool],
        *,
        rate: float | None = None,
        warm_up: bool = False,
        of: int | None = None,
    ) -> Generator[Step, None, None]:
        """Make up to ``steps`` updates (:meth:`editing.optimising.descent.Descent.run`).

        Args:
            rate: Step size; that of the settings by default.
            warm_up: Another phase follows: the weights after the last update are its to measure, and neither target
                nor small loss end this one.
            of: Step limit that is reported; ``steps`` by default.

        Raises:
            EditError: The loss is not finite before the first update.
        """
        settings, student = self._settings, self.student
        optimiser = torch.optim.AdamW(
            student.parameters,
            lr=rate or settings.rate,
            weight_decay=settings.weight_decay,
            fused=fused(student.parameters),
        )

        def evaluate(number: int, _gradient: bool) -> Signs:
            values = objective(student, self.batch(number))
            kl = self._harmless.of(student) if self._harmless is not None else 0.0
            return Signs(values.loss, values.loss.detach(), kl, -values.wanted, values.wanted.exp(), values.other.exp())

        stops = Stops(settings.damage_budget) if warm_up else settings
        yield from self.descent.run(evaluate, optimiser, steps, stops, cancel, measure_last=not warm_up, of=of)


@once_smaller
def trained_edit(
    model: InspectedModel,
    case: Case,
    companions: Sequence[Case],
    block: int,
    settings: TrainingSettings,
    method: str,
    phases: Callable[[Training, Callable[[], bool]], Generator[Step, None, None]],
    cancel: Callable[[], bool],
    smaller: bool = False,
) -> EditEvents:
    """Make a student, train it in one or more phases, and return its change as a patch.

    Args:
        smaller: See :func:`editing.optimising.smaller.once_smaller`, which asks for it where memory runs out.

    Raises:
        EditError: The settings do not allow it, the loss is not finite at the start, or no update is kept.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    pairs = [encode_pair(model, each, settings.format) for each in (case, *companions)]
    yield Preparation("Copying the module tree; the weights are shared", 0.0)
    student = trainee(model, settings.trained(), smaller)
    harmless = yield from watch_harmless(model, student, case, settings, cancel)
    if harmless is None:
        return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
    training = Training(model, student, pairs, harmless, settings)
    yield from phases(training, cancel)
    descent, patch = training.descent, None
    if descent.reason != "cancelled":
        descent.require_update(method, "learning_rate")
        about = {**asdict(settings), "block": block, "updates": descent.updates, "companions": len(companions)}
        taught = taught_answers((case, *companions))
        patch = Patch(student.deltas(), model.fingerprint, method, about, settings.format, taught)
    return EditResult(
        patch=patch,
        trace=tuple(descent.trace),
        kept=descent.updates if patch is not None else 0,
        stop_reason=descent.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        learnt_from=tuple(companions),
    )
