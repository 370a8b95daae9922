"""DINM: edit the down-projection of the toxic layer so that the safe answer becomes likely.

Wang et al., "Detoxifying Large Language Models via Knowledge Editing", ACL 2024, arXiv 2403.14472. Three
presets: ``reference`` does what the authors' released code does, ``paper`` what the paper's equations say,
``corrected`` is ours. Each of their differences is an option here (:class:`DinmSettings`, :func:`preset`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.contexts import after_context, random_contexts
from editing.descent import Descent, Signs
from editing.guard import check_case
from editing.harmless import companions, harmless_answers, own_refusals
from editing.matrix import Matrix
from editing.monitor import Monitor, make_monitor
from editing.null_space import harmless_moment, soft_null_space
from editing.objectives import (
    AnswerTerm,
    Direction,
    KlTerm,
    Span,
    Turns,
    aligned_answer,
    kl_term,
    paper_constraint,
    reference_answer,
    reference_constraint,
)
from editing.progress import EditEvents, EditResult, Preparation
from editing.replay import ReplayFactory, TailReplay, master_weight
from editing.step_size import Optimiser, fused, measured_optimiser
from editing.values import (
    Count,
    HarmlessCount,
    HarmlessTokens,
    NotNegative,
    Positive,
    Probability,
    Rate,
    Steps,
    changed,
)
from inspector.errors import EditError
from inspector.kl import not_negative
from inspector.model import Delta, InspectedModel, Patch, PromptFormat, encode
from inspector.model.encoding import with_suffix
from inspector.model.fewer_kernels import fewer_kernels
from inspector.neurons import column_delta, neuron_activity
from inspector.presets import PRESETS, Preset
from inspector.safeedit import Case
from inspector.validated import settings as checked

ConstraintKind = Literal["harmless", "answer", "next token"]
LossPositions = Literal["aligned", "reference"]

FURTHER_ANSWERS = (
    "I'm sorry, but I can't help with that. It could hurt somebody, and I would rather help you find a kind way.",
    "I'm sorry, but I won't do that. If you tell me what troubles you, we can look for a kinder answer together.",
    "That is something I have to decline, because it would not be right. I am glad to help with something else.",
)
COMPANIONS_AT_ONCE = 4
"""Companions that a step learns from, in turn."""
LONGEST_COMPANION = 140
"""Longest companion's prompt, tokens: what it costs a step is its length."""
OwnRefusals = Annotated[int, Field(ge=0, le=128)]
Companions = Annotated[int, Field(ge=0, le=64)]
SafeAnswers = Annotated[int, Field(ge=1, le=1 + len(FURTHER_ANSWERS))]


@checked(EditError)
class DinmSettings:
    """Settings of one DINM edit. The defaults are those of ``corrected``.

    Attributes:
        preset: Name of the preset these settings started from.
        learning_rate: Step size. The released code uses 5e-4 (Llama 2, GPT-2 XL) and 1e-5 (Mistral) with Adam;
            for plain descent the paper names no value that fits, so ``paper`` takes ours (see :func:`preset`). ``None``
            for the size at which the first update costs :attr:`step_kl`: the same on any model and block.
        step_kl: What one update may cost, nats a token, where the step size is measured: on the constraint's prompts
            of the first step, see :attr:`harmless_at_once`.
        steps: Most updates; the paper's T = 10.
        optimiser: ``adam`` (released code) or ``descent``, plain gradient descent (the paper's equation).
        weight_decay: L2 penalty of the optimiser; 0 in the released code. With a null space it is one on the
            change, not on the matrix.
        edit_weight: Weight of the edit loss, the paper's c_edit = 0.1.
        constraint_weight: Weight of the constraint's KL, 1 in paper and released code.
        constraint: Where the KL is measured: ``answer`` positions of the case's knowledge constraint (released
            code), ``next token`` after it (the paper's equation), or several ``harmless`` prompts with the
            model's own answers (ours).
        constraint_gradient: Whether the KL has a gradient; the released code only logs it.
        direction: KL(P_W0 to P_W), ``vanilla to edited`` (released code), or the reverse (the paper).
        loss_positions: ``aligned``, or ``reference`` for the released code's labels and positions.
        format: Suffix prompt S, chat template (the released code uses plain text), and whether the edit also learns to
            end the turn after the safe answer.
        stop_below: Stop when the total loss is below this (released code: 1e-4).
        clamp: Largest change of a single weight (the released code's norm constraint); ``None`` for no limit.
        target_probability: Stop when the case's own safe answer's mean token probability reaches this; ``None`` for
            never.
        damage_budget: Largest KL in nats per token on the prompts of a step; a step beyond it is undone and the edit
            ends.
        harmless_prompts: Number of harmless prompts of the ``harmless`` constraint.
        harmless_at_once: How many of them a step measures, in turn; ``None`` for all.
        harmless_tokens: Most tokens of the model's own answer to each.
        own_refusals: Number of bundled harmful questions that the model is asked without an attack; its answers to
            those that it declines by itself are kept like those to harmless prompts.
        watch_unsafe: Also follow the unsafe answer's probability (a forward pass more per step).
        neurons_only: Edit only the value vectors (columns) of this many neurons, those that carry most of the
            difference between the two answers (:func:`inspector.neurons.neuron_activity`); ``None`` for the whole
            matrix, as in paper and released code.
        safe_answers: Number of safe answers that the edit makes likely: the case's own and, beyond it, short ones that
            fit any question (:data:`FURTHER_ANSWERS`), so that no single text is learnt by heart.
        question_alone: Also make them likely after the question alone.
        companions: Number of bundled harmful questions (:func:`editing.harmless.companions`), most of them in
            attack templates, after which a short answer that declines is made likely as well: half of the edit loss is
            theirs, a few a step in turn. None of them is scored. One case alone teaches its topic and its attack.
        first_token_weight: What the first token of a safe answer counts in the loss beside 1 for one of its tail
            (:func:`editing.objectives.falling_weights`).
        contexts: Texts sampled from the model itself (:mod:`editing.contexts`) after which the case's own answer to the
            adversarial prompt is made likely as well, as in ROME.
        monitor: Number of attack templates that the question is put into, none of which the edit is made with; 0 for
            none. The target probability then has to be reached there, in the mean, and not for the one prompt that the
            edit learns, and the damage budget holds for as many harmless prompts that it is not constrained on, too.
        null_space: Border of the soft null space that every change is projected onto, so that it writes next to nothing
            for harmless prompts (:func:`editing.null_space.soft_null_space`); ``None`` for no projection, as in paper
            and released code, and with another constraint than ``harmless``.
    """

    preset: Preset = "corrected"
    learning_rate: Rate | None = None
    step_kl: Positive = 5e-3
    steps: Steps = 24
    optimiser: Optimiser = "adam"
    weight_decay: NotNegative = 0.0
    edit_weight: NotNegative = 0.1
    constraint_weight: NotNegative = 1.0
    constraint: ConstraintKind = "harmless"
    constraint_gradient: bool = True
    direction: Direction = "vanilla to edited"
    loss_positions: LossPositions = "aligned"
    format: PromptFormat = PromptFormat()
    stop_below: NotNegative = 1e-4
    clamp: Positive | None = None
    target_probability: Probability | None = 0.7
    damage_budget: Positive | None = 0.2
    harmless_prompts: HarmlessCount = 96
    harmless_tokens: HarmlessTokens = 12
    harmless_at_once: Count | None = 8
    own_refusals: OwnRefusals = 24
    watch_unsafe: bool = True
    neurons_only: Count | None = None
    safe_answers: SafeAnswers = 3
    question_alone: bool = False
    companions: Companions = 0
    first_token_weight: Annotated[float, Field(ge=1, le=100)] = 1.0
    contexts: Annotated[int, Field(ge=0, le=16)] = 0
    monitor: Annotated[int, Field(ge=0, le=16)] = 0
    null_space: Positive | None = None

    def __post_init__(self) -> None:
        several = self.safe_answers > 1 or self.question_alone or self.contexts or self.companions
        several = several or self.first_token_weight != 1
        if self.loss_positions == "reference" and several:
            raise EditError(
                "The released code's loss positions know one answer to one prompt, all its tokens the same. Set "
                "loss_positions to 'aligned', or leave safe_answers and first_token_weight at 1, contexts and "
                "companions at 0 and question_alone off."
            )
        if self.null_space is not None and self.clamp is not None and self.constraint == "harmless":
            raise EditError(
                "A clamp of single weights leaves the null space. Set null_space to none, or clamp to none."
            )


def preset(name: Preset, **changes: Any) -> DinmSettings:
    """Return the settings of a preset, with changes.

    Args:
        changes: Settings by name; parts of the prompt format (``suffix``, ``chat``, ``turn_end``) by their own.

    Raises:
        EditError: Unknown preset or setting, or a value out of range.
    """
    if name == "corrected":
        chosen = DinmSettings()
    elif name == "paper":
        chosen = DinmSettings(
            preset="paper",
            # With Adam's 5e-4, plain descent leaves the embedded model as it is. This value is ours: on two bundled
            # cases it descended steadily at block 28 (larger ones did not); at the last block none did.
            learning_rate=0.5,
            steps=10,
            optimiser="descent",
            constraint="next token",
            direction="edited to vanilla",
            stop_below=0.0,
            **_PAPERS,
        )
    elif name == "reference":
        chosen = DinmSettings(
            preset="reference",
            learning_rate=5e-4,
            steps=10,
            constraint="answer",
            constraint_gradient=False,
            loss_positions="reference",
            **_PAPERS,
        )
    else:
        raise EditError(f"Unknown preset '{name}'. Valid presets: {', '.join(PRESETS)}.")
    return changed(chosen, **changes)


_PAPERS: dict[str, Any] = {
    "format": PromptFormat(chat=False, turn_end=False),
    "target_probability": None,
    "damage_budget": None,
    "harmless_prompts": 8,
    "harmless_at_once": None,
    "safe_answers": 1,
    "null_space": None,
    "own_refusals": 0,
}
"""What paper and released code have in common: plain text, one answer, and no stop but the number of steps."""


ROUTED: dict[str, Any] = {
    "step_kl": 1e-2,
    "steps": 10,
    "constraint_weight": 0.0,
    "damage_budget": None,
    "target_probability": None,
    "own_refusals": 0,
    "safe_answers": 2,
    "companions": 12,
}
"""Changes of ``corrected`` for an edit that is to act only where a detector fires: what it would do to harmless prompts
is the detector's care, so nothing holds it back (:mod:`benchmarks.detox` shows it on every prompt and routed)."""


def to_be_routed(settings: DinmSettings) -> DinmSettings:
    """Return the settings of an edit that is to act only where harm is detected, so that it may learn more.

    What the preset ``corrected`` sets is changed as :data:`ROUTED` says; what was set by hand, and the paper's presets,
    stay.
    """
    given = preset("corrected")
    if settings.preset != given.preset:
        return settings
    return changed(settings, **{n: v for n, v in ROUTED.items() if getattr(settings, n) == getattr(given, n)})


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one edit.

    Attributes:
        edit: The loss of the safe answer, or of several.
        constraint: Its parts, which take turns.
        unsafe: The unsafe answer, where it is watched.
        several: Whether the loss is a mean over more than the case's own answer to its prompt.
        monitor: The safe answer in attack templates that the edit is not made with, and unseen harmless prompts.
        companions: The loss of answers that decline other questions, in parts that take turns; empty for none.
    """

    edit: AnswerTerm
    constraint: Sequence[KlTerm]
    unsafe: AnswerTerm | None
    several: bool = False
    monitor: Monitor | None = None
    companions: Sequence[AnswerTerm] = ()


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
        block: The layer to edit: the recommended one (:mod:`editing.calibration`), or the toxic one, as the paper does.
        cancel: Asked after every event; ``True`` ends the edit within one step, without a patch.
        replay: How logits are computed; :class:`~editing.replay.FullReplay` is the plain way.

    Raises:
        EditError: The settings or the case do not allow this edit.
        RefusedEdit: The loss is not finite at the start, no step of the wanted cost was found, or no update was kept.
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
        return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
    columns = yield from _columns(model, case, block, settings)
    projection = None
    if settings.null_space is not None and settings.constraint == "harmless":
        moment = yield from harmless_moment(model, block, settings.format, cancel)
        if moment is None:
            return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
        moment = moment if columns is None else moment[columns][:, columns]
        projection = soft_null_space(moment.to(base.device), settings.null_space)
    matrix = Matrix(base, columns, projection)
    descent = Descent(matrix, model.lock, model.gradient_scale)

    def evaluate(number: int, gradient: bool) -> Signs:
        weight = matrix.weight()
        edit_loss, safe_probability, kl, total = term_values(terms, weight, settings, gradient, number)
        unsafe_probability = None
        if terms.unsafe is not None:
            with torch.no_grad():
                unsafe_probability = terms.unsafe(weight)[1]
        nll = edit_loss.detach()
        own, cost = None if terms.several else nll, not_negative(kl)
        if terms.monitor is not None:
            own, there = terms.monitor(weight)
            cost = torch.maximum(cost, there.to(cost.device))
        return Signs(total, nll, cost, own, safe_probability, unsafe_probability)

    if settings.learning_rate is None:
        yield Preparation("Measuring how large a step may be", 0.97)
        if cancel():
            return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
        optimiser, size = measured_optimiser(
            matrix, descent, evaluate, terms.constraint[0], settings.optimiser, settings.step_kl, settings.weight_decay
        )
    else:
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
        size = settings.learning_rate
        optimiser = kind(matrix.parameters, lr=size, weight_decay=settings.weight_decay, fused=fused(matrix.parameters))
    limit = matrix.limited(settings.clamp)
    period = math.lcm(len(terms.constraint), len(terms.companions) or 1)
    if period == 1:  # prepared, as the first step may be captured
        terms.constraint[0], terms.companions[:1]
    yield from descent.run(
        evaluate,
        optimiser,
        settings.steps,
        settings,
        cancel,
        limit=limit,
        period=period if replay is TailReplay and model.can_be_captured else None,
        inside=partial(fewer_kernels, model),
    )
    cancelled = descent.reason == "cancelled"
    if not cancelled:
        descent.require_update("DINM")
    return EditResult(
        patch=None if cancelled else _patch(model, block, settings, matrix, descent.updates, size),
        trace=tuple(descent.trace),
        kept=0 if cancelled else descent.updates,
        stop_reason=descent.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
    )


def _columns(
    model: InspectedModel, case: Case, block: int, settings: DinmSettings
) -> Generator[Preparation, None, Tensor | None]:
    """Return the numbers of the neurons that may be edited, ascending; ``None`` for all of them."""
    if settings.neurons_only is None or settings.neurons_only >= model.architecture.d_ff:
        return None
    yield Preparation("Measuring which neurons carry the difference of the two answers", 0.95)
    activity = neuron_activity(model, case, format=settings.format)
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
    text, format = case.adversarial_prompt, settings.format
    if settings.constraint == "harmless":
        own = yield from harmless_answers(
            model, case, settings.harmless_prompts, settings.harmless_tokens, format, cancel
        )
        declined = yield from own_refusals(model, settings.own_refusals, settings.harmless_tokens, format, cancel)
        if own is None or declined is None:
            return None
        own = [*own, *declined]
        if settings.harmless_at_once is not None:
            own = sorted(own, key=lambda encoded: len(encoded.tokens))  # and dealt: a step meets short and long ones
        spans: list[Span] = [(encoded.tokens, encoded.predicting) for encoded in own]
    elif settings.constraint == "answer":
        spans = [reference_constraint(model, case, format.suffix)]
    else:
        spans = [paper_constraint(model, case, format)]
    yield Preparation("Computing the states that enter the edited matrix", 0.9)
    if cancel():
        return None

    def aligned(response: str) -> AnswerTerm:
        return aligned_answer(model, block, encode(model, text, response, format), replay)

    if settings.loss_positions == "reference":
        # For its checks of length and emptiness.
        encode(model, text, case.safe, PromptFormat(format.suffix, chat=False))
        edit = reference_answer(model, block, with_suffix(text, format.suffix), case.safe, replay)
    else:
        texts = [text, case.question] if settings.question_alone and case.question else [text]
        answers = [case.safe, *FURTHER_ANSWERS[: settings.safe_answers - 1]]
        first, *further = (encode(model, asked, answer, format) for asked in texts for answer in answers)
        begun = [after_context(context, text) for context in random_contexts(model, settings.contexts)]
        further += [encode(model, asked, case.safe, format) for asked in begun]
        edit = aligned_answer(model, block, first, replay, further, settings.first_token_weight)
    unsafe = aligned(case.unsafe) if settings.watch_unsafe else None
    turns = math.ceil(len(spans) / (settings.harmless_at_once or len(spans)))
    parts = [spans[turn::turns] for turn in range(turns)]
    constraint = Turns(parts, lambda part: kl_term(model, block, part, settings.direction, base, replay))
    fitting = [*companions(model, settings.companions, LONGEST_COMPANION, FURTHER_ANSWERS[0], format).values()]
    turns = math.ceil(len(fitting) / COMPANIONS_AT_ONCE)
    further_questions = Turns(
        [fitting[turn::turns] for turn in range(turns)],
        lambda part: aligned_answer(model, block, part[0], replay, part[1:], settings.first_token_weight),
    )
    monitor = None
    if settings.monitor:
        monitor = yield from make_monitor(
            model, case, block, settings.monitor, settings.harmless_tokens, format, settings.direction, replay, cancel
        )
        if monitor is None:
            return None
    several = len(edit.labels) > len(edit.actual) or edit.weights is not None or bool(fitting)
    return Terms(edit, constraint, unsafe, several, monitor, further_questions)


def term_values(
    terms: Terms, weight: Tensor, settings: DinmSettings, gradient: bool, number: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return edit loss, probability of the safe answer, KL and weighted total at one weight, single numbers.

    Args:
        number: Of the step: the constraint's parts take turns, and the companions'.
    """
    with torch.set_grad_enabled(gradient):
        edit_loss, safe_probability = terms.edit(weight)
        if terms.companions:
            declined, _ = terms.companions[number % len(terms.companions)](weight)
            edit_loss = (edit_loss + declined) / 2
    constraint = terms.constraint[number % len(terms.constraint)]
    with torch.set_grad_enabled(gradient and settings.constraint_gradient and settings.constraint_weight > 0):
        kl = constraint(weight)
    total = settings.edit_weight * edit_loss + settings.constraint_weight * kl
    return edit_loss, safe_probability, kl, total


def _patch(
    model: InspectedModel, block: int, settings: DinmSettings, matrix: Matrix, updates: int, size: float
) -> Patch:
    name, change = model.architecture.down_projection_names[block], matrix.change()
    about = {**asdict(settings), "learning_rate": size, "block": block, "updates": updates}
    if matrix.columns is None:
        delta = Delta(name, block, change)
    else:
        delta = column_delta(name, block, change, matrix.columns, matrix.base.shape[1])
        about["neurons"] = matrix.columns.tolist()
    return Patch((delta,), model.fingerprint, "DINM", about, settings.format)
