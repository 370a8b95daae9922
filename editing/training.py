"""The loop of the methods that train many matrices: SFT, DPO, and the experts of Ext-Sub."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from editing.guard import check_case
from editing.objectives import harmless_answers
from editing.progress import EditEvents, EditResult, Preparation, Step, StopReason, stop_reason
from editing.trainee import Scope, Trained, Trainee, trainee
from inspector.errors import EditError
from inspector.model import SUFFIX, InspectedModel, Patch, encode
from inspector.model.encoding import Encoded
from inspector.safeedit import Case

RATES: dict[Scope, float] = {"LoRA": 1e-3, "full": 2e-5}
"""Step size by what is trained: with these the two move about as far an update on the embedded model."""


@dataclass(frozen=True)
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
        suffix: The suffix prompt S.
        chat: Use the model's chat template.
        end_of_answer: Also learn to end after the answer.
        harmless_prompts: Number of harmless prompts on which the KL is measured; they are not trained on.
        harmless_tokens: Most tokens of the model's own answer to each.
        seed: Seed of LoRA's first factors.
    """

    scope: Scope = "LoRA"
    rank: int = 8
    alpha: int = 16
    learning_rate: float | None = None
    steps: int = 20
    weight_decay: float = 0.0
    companions_at_once: int = 3
    target_probability: float | None = 0.8
    damage_budget: float | None = None
    stop_below: float = 0.0
    suffix: str = SUFFIX
    chat: bool = True
    end_of_answer: bool = True
    harmless_prompts: int = 4
    harmless_tokens: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        self.trained()
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", RATES[self.scope])
        limits = {
            "learning_rate": 0 < self.rate <= 100,
            "steps": 1 <= self.steps <= 1000,
            "weight_decay": self.weight_decay >= 0,
            "companions_at_once": 1 <= self.companions_at_once <= 64,
            "target_probability": self.target_probability is None or 0 < self.target_probability <= 1,
            "damage_budget": self.damage_budget is None or self.damage_budget > 0,
            "harmless_prompts": 1 <= self.harmless_prompts <= 64,
            "harmless_tokens": 1 <= self.harmless_tokens <= 256,
        }
        for name, fine in limits.items():
            if not fine:
                raise EditError(f"The setting {name} = {getattr(self, name)} is out of range. Choose another value.")

    @property
    def rate(self) -> float:
        """The step size of AdamW."""
        assert self.learning_rate is not None
        return self.learning_rate

    def trained(self) -> Trained:
        """Return what of the model is trained."""
        return Trained(self.scope, self.rank, self.alpha, self.seed)


@dataclass(frozen=True)
class Pair:
    """One case's prompt with its wanted and its other answer, encoded."""

    wanted: Encoded
    other: Encoded


class PromptSettings(Protocol):
    """The settings that say how a prompt with its answer is encoded."""

    @property
    def suffix(self) -> str: ...
    @property
    def chat(self) -> bool: ...
    @property
    def end_of_answer(self) -> bool: ...


def encode_pair(model: InspectedModel, case: Case, settings: PromptSettings, anti: bool = False) -> Pair:
    """Encode a case for training; ``anti`` exchanges the answers (the anti-expert of Ext-Sub)."""
    check_case(case)

    def with_answer(answer: str) -> Encoded:
        return encode(
            model,
            case.adversarial_prompt,
            answer,
            suffix=settings.suffix,
            chat=settings.chat,
            end=settings.end_of_answer,
        )

    safe, unsafe = with_answer(case.safe), with_answer(case.unsafe)
    return Pair(unsafe, safe) if anti else Pair(safe, unsafe)


def log_probabilities(student: Trainee, answers: Sequence[Encoded]) -> list[Tensor]:
    """Return the log-probability of every response token of each sequence, ``[tokens]`` in nats."""
    logits = student.logits([answer.tokens for answer in answers], [answer.predicting for answer in answers])
    labels = torch.tensor([token for answer in answers for token in answer.response], device=logits.device)
    chosen = logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return list(chosen.split([len(answer.response) for answer in answers]))


@dataclass(frozen=True, eq=False)
class Values:
    """What an objective says of the weights as they are.

    Attributes:
        loss: What is minimised.
        wanted: Mean log-probability of the wanted answer's tokens for the case itself, nats.
        other: The same of the other answer.
    """

    loss: Tensor
    wanted: float
    other: float


class Objective(Protocol):
    """A loss on the case's pair (first) and its companions' pairs."""

    def __call__(self, student: Trainee, pairs: Sequence[Pair]) -> Values: ...


def sft_objective(student: Trainee, pairs: Sequence[Pair]) -> Values:
    """Mean negative log-likelihood of the wanted answers' tokens."""
    found = log_probabilities(student, [pair.wanted for pair in pairs])
    with torch.no_grad():
        (other,) = log_probabilities(student, [pairs[0].other])
    return Values(-torch.cat(found).mean(), float(found[0].detach().mean()), float(other.mean()))


@dataclass(frozen=True, eq=False)
class Harmless:
    """KL on harmless prompts of a student against the vanilla model, as a vital sign."""

    answers: tuple[Encoded, ...]
    vanilla: Tensor

    def kl(self, student: Trainee) -> float:
        """Return KL(vanilla to student) in nats per token."""
        edited = _harmless_logits(student, self.answers)
        return float((self.vanilla.exp() * (self.vanilla - edited)).sum(dim=-1).mean().clamp(min=0))


@torch.no_grad()
def _harmless_logits(student: Trainee, answers: Sequence[Encoded]) -> Tensor:
    return student.logits([a.tokens for a in answers], [a.predicting for a in answers]).log_softmax(dim=-1)


def watch_harmless(
    model: InspectedModel, student: Trainee, case: Case, settings: TrainingSettings, cancel: Callable[[], bool]
) -> Generator[Preparation, None, Harmless | None]:
    """Let the vanilla model answer harmless prompts; the student must be untrained still. ``None`` when cancelled."""
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.suffix, settings.chat, cancel
    )
    if own is None:
        return None
    with model.lock:
        return Harmless(tuple(own), _harmless_logits(student, own))


@dataclass(eq=False)
class Training:
    """One training of a student, step by step.

    Attributes:
        student: The trainable copy.
        pairs: The case's pair, then its companions'.
        harmless: The vital sign on harmless prompts; ``None`` to leave it out.
        trace: Every step so far.
        kept: Number of updates that the student holds.
        reason: Why it ended.
    """

    model: InspectedModel
    student: Trainee
    pairs: Sequence[Pair]
    harmless: Harmless | None
    settings: TrainingSettings

    def __post_init__(self) -> None:
        self.trace: list[Step] = []
        self.kept = 0
        self.reason: StopReason = "step limit"
        self._before: list[Tensor] | None = None

    def batch(self, number: int) -> list[Pair]:
        """Return the pairs of one update: the case and the companions whose turn it is."""
        others = self.pairs[1:]
        count = min(self.settings.companions_at_once, len(others))
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
        """Make up to ``steps`` updates, measuring before each and after the last.

        Args:
            rate: Step size; that of the settings by default.
            warm_up: Another phase follows: the weights after the last update are its to measure, and the target does
                not end this one.
            of: Step limit that is reported; ``steps`` by default.

        Raises:
            EditError: The loss is not finite before the first update.
        """
        settings, student = self.settings, self.student
        optimiser = torch.optim.AdamW(student.parameters, lr=rate or settings.rate, weight_decay=settings.weight_decay)
        start = self.kept
        for number in range(steps if warm_up else steps + 1):
            last = number == steps
            begun = time.perf_counter()
            with self.model.lock, torch.set_grad_enabled(not last):
                values = objective(student, self.batch(number))
                kl = self.harmless.kl(student) if self.harmless is not None else 0.0
                loss = float(values.loss.detach())
                limits = _NoTarget(settings.damage_budget) if warm_up else settings
                stop = stop_reason(limits, number + start, -values.wanted, kl, loss)
                if stop is None and not last:
                    optimiser.zero_grad()
                    values.loss.backward()
                    if not all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in student.parameters):
                        stop = "not finite"
            if stop == "not finite" and number + start == 0:
                raise EditError(
                    "The loss is not a finite number before the first step. Load the model in float32 (--dtype "
                    "float32) or shorten the answers."
                )
            step = Step(
                step=start + number,
                steps=steps if of is None else of,
                edit_loss=loss,
                constraint_kl=kl,
                total_loss=loss,
                safe_probability=float(torch.tensor(values.wanted).exp()),
                unsafe_probability=float(torch.tensor(values.other).exp()),
                gradient_norm=_gradient_norm(student) if stop is None and not last else None,
                delta_norm=student.delta_norm(),
                seconds=0.0,
            )
            if stop in ("not finite", "damage budget"):
                assert self._before is not None
                student.restore(self._before)
                self.kept = start + number - 1
            if stop is None and not last:
                self._before = student.kept()
                optimiser.step()
                self.kept = start + number + 1
            self.trace.append(Step(**{**asdict(step), "seconds": time.perf_counter() - begun}))
            yield self.trace[-1]
            if cancel():
                self.reason = "cancelled"
                return
            if stop is not None:
                self.reason = stop
                return


def _gradient_norm(student: Trainee) -> float:
    norms = [parameter.grad.norm() for parameter in student.parameters if parameter.grad is not None]
    return float(torch.stack(norms).norm())


@dataclass(frozen=True)
class _NoTarget:
    damage_budget: float | None
    target_probability: float | None = None
    stop_below: float = float("-inf")


def kept_nothing(method: str, reason: StopReason) -> EditError:
    """Return the error of an edit that has changed nothing."""
    if reason in ("target reached", "converged"):
        return EditError(
            f"The safe answer is likely enough already, so {method} has nothing to learn. Raise its target_probability."
        )
    return EditError(f"{method} kept no update, so nothing has changed. Raise its damage budget or lower its step.")


def trained_edit(
    model: InspectedModel,
    case: Case,
    companions: Sequence[Case],
    block: int,
    settings: TrainingSettings,
    method: str,
    phases: Callable[[Training, Callable[[], bool]], Generator[Step, None, None]],
    cancel: Callable[[], bool],
) -> EditEvents:
    """Make a student, train it in one or more phases, and return its change as a patch."""
    started = time.perf_counter()
    model.architecture.check_block(block)
    pairs = [encode_pair(model, each, settings) for each in (case, *companions)]
    yield Preparation("Copying the module tree; the weights are shared", 0.0)
    student = trainee(model, settings.trained())
    harmless = yield from watch_harmless(model, student, case, settings, cancel)
    if harmless is None:
        return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
    training = Training(model, student, pairs, harmless, settings)
    yield from phases(training, cancel)
    patch = None
    deltas = student.deltas() if training.reason != "cancelled" else ()
    if deltas:
        told = {**asdict(settings), "block": block, "updates": training.kept, "companions": len(companions)}
        patch = Patch(deltas, model.fingerprint, method, told)
    elif training.reason != "cancelled":
        raise kept_nothing(method, training.reason)
    return EditResult(
        patch=patch,
        trace=tuple(training.trace),
        kept=training.kept if patch is not None else 0,
        stop_reason=training.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
    )
