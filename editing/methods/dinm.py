"""DINM: edit the down-projection of the toxic layer so that the safe answer becomes likely.

Wang et al., "Detoxifying Large Language Models via Knowledge Editing", ACL 2024, arXiv 2403.14472. Three
presets: ``reference`` does what the authors' released code does, ``paper`` what the paper's equations say,
``corrected`` is ours. DESIGN.md holds the table of their differences; each is an option here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from editing.guard import check_case
from editing.objectives import (
    AnswerTerm,
    Direction,
    KlTerm,
    Span,
    aligned_answer,
    harmless_answers,
    kl_term,
    paper_constraint,
    reference_answer,
    reference_constraint,
)
from editing.progress import EditEvents, EditResult, Preparation, Step, StopReason, stop_reason
from editing.replay import ReplayFactory, TailReplay, master_weight
from inspector.errors import EditError
from inspector.model import SUFFIX, Delta, InspectedModel, Patch, encode
from inspector.model.encoding import with_suffix
from inspector.neurons import column_delta, neuron_activity
from inspector.safeedit import Case

Preset = Literal["corrected", "paper", "reference"]
PRESETS: tuple[Preset, ...] = ("corrected", "paper", "reference")
Optimiser = Literal["adam", "descent"]
ConstraintKind = Literal["harmless", "answer", "next token"]
LossPositions = Literal["aligned", "reference"]


@dataclass(frozen=True)
class DinmSettings:
    """Settings of one DINM edit. The defaults are those of ``corrected``.

    Attributes:
        preset: Name of the preset these settings started from.
        learning_rate: Step size. The released code uses 5e-4 (Llama 2, GPT-2 XL) and 1e-5 (Mistral) with Adam;
            for plain descent the paper names no value that fits, so ``paper`` takes ours (see :func:`preset`).
        steps: Most updates; the paper's T = 10.
        optimiser: ``adam`` (released code) or ``descent``, plain gradient descent (the paper's equation).
        weight_decay: L2 penalty of the optimiser; 0 in the released code.
        edit_weight: Weight of the edit loss, the paper's c_edit = 0.1.
        constraint_weight: Weight of the constraint's KL, 1 in paper and released code.
        constraint: Where the KL is measured: ``answer`` positions of the case's knowledge constraint (released
            code), ``next token`` after it (the paper's equation), or several ``harmless`` prompts with the
            model's own answers (ours).
        constraint_gradient: Whether the KL has a gradient; the released code only logs it.
        direction: KL(P_W0 to P_W), ``vanilla to edited`` (released code), or the reverse (the paper).
        loss_positions: ``aligned``, or ``reference`` for the released code's labels and positions.
        chat: Use the model's chat template; the released code uses plain text.
        suffix: The suffix prompt S.
        end_of_answer: Also learn to end after the safe answer.
        stop_below: Stop when the total loss is below this (released code: 1e-4).
        clamp: Largest change of a single weight (the released code's norm constraint); ``None`` for no limit.
        target_probability: Stop when the safe answer's mean token probability reaches this; ``None`` for never.
        damage_budget: Largest KL in nats per token; a step beyond it is undone and the edit ends.
        harmless_prompts: Number of harmless prompts of the ``harmless`` constraint.
        harmless_tokens: Most tokens of the model's own answer to each.
        watch_unsafe: Also follow the unsafe answer's probability (a forward pass more per step).
        neurons_only: Edit only the value vectors (columns) of this many neurons, those that carry most of the
            difference between the two answers (:func:`inspector.neurons.neuron_activity`); ``None`` for the whole
            matrix, as in paper and released code.
    """

    preset: Preset = "corrected"
    learning_rate: float = 1e-3
    steps: int = 40
    optimiser: Optimiser = "adam"
    weight_decay: float = 0.0
    edit_weight: float = 0.1
    constraint_weight: float = 1.0
    constraint: ConstraintKind = "harmless"
    constraint_gradient: bool = True
    direction: Direction = "vanilla to edited"
    loss_positions: LossPositions = "aligned"
    chat: bool = True
    suffix: str = SUFFIX
    end_of_answer: bool = True
    stop_below: float = 1e-4
    clamp: float | None = None
    target_probability: float | None = 0.8
    damage_budget: float | None = 0.2
    harmless_prompts: int = 8
    harmless_tokens: int = 12
    watch_unsafe: bool = True
    neurons_only: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "preset": Preset,
            "optimiser": Optimiser,
            "constraint": ConstraintKind,
            "direction": Direction,
            "loss_positions": LossPositions,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise EditError(
                    f"The setting {name} = '{getattr(self, name)}' is unknown. "
                    f"Valid values: {', '.join(get_args(allowed))}."
                )
        limits = {
            "learning_rate": 0 < self.learning_rate <= 100,
            "steps": 1 <= self.steps <= 1000,
            "weight_decay": self.weight_decay >= 0,
            "edit_weight": self.edit_weight >= 0,
            "constraint_weight": self.constraint_weight >= 0,
            "stop_below": self.stop_below >= 0,
            "clamp": self.clamp is None or self.clamp > 0,
            "target_probability": self.target_probability is None or 0 < self.target_probability <= 1,
            "damage_budget": self.damage_budget is None or self.damage_budget > 0,
            "harmless_prompts": 1 <= self.harmless_prompts <= 64,
            "harmless_tokens": 1 <= self.harmless_tokens <= 256,
            "neurons_only": self.neurons_only is None or self.neurons_only >= 1,
        }
        for name, fine in limits.items():
            if not fine:
                raise EditError(f"The setting {name} = {getattr(self, name)} is out of range. Choose another value.")


def preset(name: Preset, **changes) -> DinmSettings:
    """Return the settings of a preset, with changes.

    Raises:
        EditError: Unknown preset, or a value out of range.
    """
    if name == "corrected":
        settings = DinmSettings()
    elif name == "paper":
        settings = DinmSettings(
            preset="paper",
            # With Adam's 5e-4, plain descent leaves the embedded model as it is. This value is ours: on two bundled
            # cases it descended steadily at block 28 (larger ones did not); at the last block none did.
            learning_rate=0.5,
            steps=10,
            optimiser="descent",
            constraint="next token",
            direction="edited to vanilla",
            chat=False,
            end_of_answer=False,
            stop_below=0.0,
            target_probability=None,
            damage_budget=None,
        )
    elif name == "reference":
        settings = DinmSettings(
            preset="reference",
            learning_rate=5e-4,
            steps=10,
            constraint="answer",
            constraint_gradient=False,
            loss_positions="reference",
            chat=False,
            end_of_answer=False,
            target_probability=None,
            damage_budget=None,
        )
    else:
        raise EditError(f"Unknown preset '{name}'. Valid presets: {', '.join(PRESETS)}.")
    return replace(settings, **changes)


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one edit: the safe answer's loss, the constraint, and the unsafe answer where it is watched."""

    edit: AnswerTerm
    constraint: KlTerm
    unsafe: AnswerTerm | None


def dinm(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings = DinmSettings(),
    *,
    cancel: Callable[[], bool] = lambda: False,
    replay: ReplayFactory = TailReplay,
) -> EditEvents:
    """Edit one block's down-projection on one case.

    A generator: it yields :class:`Preparation` and :class:`Step`, and returns an :class:`EditResult` (use
    :func:`editing.run` for the result alone). The base weights are not written at any time; the matrix
    that is optimised is a float32 copy.

    Args:
        case: Adversarial prompt, safe and unsafe answer and, for ``reference`` and ``paper``, a
            knowledge constraint.
        block: The toxic layer.
        cancel: Asked after every event; ``True`` ends the edit within one step, without a patch.
        replay: How logits are computed; :class:`~editing.replay.FullReplay` is the plain way.

    Raises:
        EditError: The settings or the case do not allow this edit, or the loss is not finite at the start.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: The block does not exist.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    check_case(case)
    base = master_weight(model, block)
    terms = yield from prepare_terms(model, case, block, settings, base, replay, cancel)
    if terms is None:
        return _result(model, block, settings, base, base, [], 0, "cancelled", started)

    columns = yield from _columns(model, case, block, settings)
    columns = None if columns is None else columns.to(base.device)
    free = (base if columns is None else base[:, columns]).clone().requires_grad_(True)
    start = free.detach().clone()
    optimiser = _optimiser(free, settings)
    kept = base
    trace: list[Step] = []
    reason: StopReason = "step limit"
    for number in range(settings.steps + 1):
        last = number == settings.steps
        begun = time.perf_counter()
        with model.lock:
            weight = free if columns is None else base.index_copy(1, columns, free)
            edit_loss, safe_probability, kl, total = term_values(terms, weight, settings, gradient=not last)
            unsafe_probability = None
            if terms.unsafe is not None:
                with torch.no_grad():
                    unsafe_probability = terms.unsafe(weight)[1]
            stop = stop_reason(settings, number, float(edit_loss.detach()), float(kl.detach()), float(total.detach()))
            if stop is None and not last:
                optimiser.zero_grad()
                total.backward()
                assert free.grad is not None
                if not bool(torch.isfinite(free.grad).all()):
                    stop = "not finite"
        if stop == "not finite" and number == 0:
            raise EditError(
                "The loss is not a finite number before the first step. Load the model in float32 (--dtype "
                "float32) or shorten the answers."
            )
        rejected = stop in ("not finite", "damage budget")
        if not rejected:
            kept = weight.detach().clone()
        gradient = free.grad if stop is None and not last else None
        trace.append(
            Step(
                step=number,
                steps=settings.steps,
                edit_loss=float(edit_loss.detach()),
                constraint_kl=float(kl.detach()),
                total_loss=float(total.detach()),
                safe_probability=safe_probability,
                unsafe_probability=unsafe_probability,
                gradient_norm=None if gradient is None else float(gradient.norm()),
                delta_norm=float((weight.detach() - base).norm()),
                seconds=time.perf_counter() - begun,
            )
        )
        if stop is None and not last:
            optimiser.step()
            if settings.clamp is not None:
                with torch.no_grad():
                    free.clamp_(start - settings.clamp, start + settings.clamp)
        yield trace[-1]
        if cancel():
            reason = "cancelled"
            break
        if stop is not None:
            reason = stop
            break
    updates = trace[-1].step - (1 if reason in ("not finite", "damage budget") else 0)
    return _result(model, block, settings, base, kept, trace, updates, reason, started, columns)


def _columns(
    model: InspectedModel, case: Case, block: int, settings: DinmSettings
) -> Generator[Preparation, None, Tensor | None]:
    """Return the numbers of the neurons that may be edited, ascending; ``None`` for all of them."""
    if settings.neurons_only is None or settings.neurons_only >= model.architecture.d_ff:
        return None
    yield Preparation("Measuring which neurons carry the difference of the two answers", 0.95)
    activity = neuron_activity(model, case, suffix=settings.suffix, chat=settings.chat)
    return torch.tensor(sorted(activity.carrying(block, settings.neurons_only)))


def prepare_terms(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings,
    base: Tensor,
    replay: ReplayFactory,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Terms | None]:
    """Make the terms that an edit minimises and watches; returns ``None`` when cancelled."""
    text, suffix, chat = case.adversarial_prompt, settings.suffix, settings.chat
    if settings.constraint == "harmless":
        own = yield from harmless_answers(
            model, case, settings.harmless_prompts, settings.harmless_tokens, suffix, chat, cancel
        )
        if own is None:
            return None
        spans: list[Span] = [(encoded.tokens, encoded.predicting) for encoded in own]
    elif settings.constraint == "answer":
        spans = [reference_constraint(model, case, suffix)]
    else:
        spans = [paper_constraint(model, case, suffix, chat)]
    yield Preparation("Computing the states that enter the edited matrix", 0.9)
    if cancel():
        return None

    def aligned(response: str) -> AnswerTerm:
        encoded = encode(model, text, response, suffix=suffix, chat=chat, end=settings.end_of_answer)
        return aligned_answer(model, block, encoded, replay)

    if settings.loss_positions == "reference":
        encode(model, text, case.safe, suffix=suffix, chat=False)  # for its checks of length and emptiness
        edit = reference_answer(model, block, with_suffix(text, suffix), case.safe, replay)
    else:
        edit = aligned(case.safe)
    unsafe = aligned(case.unsafe) if settings.watch_unsafe else None
    return Terms(edit, kl_term(model, block, spans, settings.direction, base, replay), unsafe)


def term_values(
    terms: Terms, weight: Tensor, settings: DinmSettings, gradient: bool
) -> tuple[Tensor, float, Tensor, Tensor]:
    """Return edit loss, probability of the safe answer, KL and weighted total at one weight."""
    with torch.set_grad_enabled(gradient):
        edit_loss, safe_probability = terms.edit(weight)
    with torch.set_grad_enabled(gradient and settings.constraint_gradient):
        kl = terms.constraint(weight)
    total = settings.edit_weight * edit_loss + settings.constraint_weight * kl
    return edit_loss, safe_probability, kl, total


def _optimiser(weight: Tensor, settings: DinmSettings) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
    return kind([weight], lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _result(
    model: InspectedModel,
    block: int,
    settings: DinmSettings,
    base: Tensor,
    kept: Tensor,
    trace: list[Step],
    updates: int,
    reason: StopReason,
    started: float,
    columns: Tensor | None = None,
) -> EditResult:
    patch = None
    if reason != "cancelled":
        change = (kept - base).detach()
        name = model.architecture.down_projection_names[block]
        told = {**asdict(settings), "block": block, "updates": updates}
        if columns is None:
            delta = Delta(name, block, change)
        else:
            delta = column_delta(name, block, change[:, columns], columns, base.shape[1])
            told["neurons"] = columns.tolist()
        patch = Patch((delta,), model.fingerprint, "DINM", told)
    return EditResult(
        patch=patch,
        trace=tuple(trace),
        kept=0 if reason == "cancelled" else updates,
        stop_reason=reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
    )
