"""The DINM edit: one block's down-projection goes down the terms' gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from editing.descent import Descent, Signs
from editing.guard import check_case
from editing.matrix import Matrix
from editing.methods.dinm.settings import DinmSettings
from editing.methods.dinm.terms import prepare_terms, term_values
from editing.null_space import harmless_moment, soft_null_space
from editing.progress import EditEvents, EditResult, Preparation
from editing.replay import ReplayFactory, TailReplay, master_weight
from editing.smaller import HalvedReplay, once_smaller
from editing.step_size import fused, measured_optimiser
from inspector.kl import not_negative
from inspector.model import Delta, InspectedModel, Patch, Taught
from inspector.model.fewer_kernels import fewer_kernels
from inspector.neurons import column_delta, neuron_activity
from inspector.safeedit import Case


@once_smaller
def dinm(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings = DinmSettings(),
    *,
    cancel: Callable[[], bool] = lambda: False,
    replay: ReplayFactory = TailReplay,
    smaller: bool = False,
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
        smaller: See :func:`editing.smaller.once_smaller`, which asks for it where memory runs out.

    Raises:
        EditError: The settings or the case do not allow this edit.
        RefusedEdit: The loss, or what harmless prompts use, is not finite at the start, no step of the wanted cost was
            found, or no update was kept.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: The block does not exist.
    """
    if smaller:
        replay = partial(HalvedReplay, way=replay)
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
        moment = yield from harmless_moment(
            model, block, settings.format, cancel, instead=", or set null_space to none"
        )
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
        patch=None
        if cancelled
        else _patch(model, block, settings, matrix, descent.updates, size, terms.companion_texts, terms.taught),
        trace=tuple(descent.trace),
        kept=0 if cancelled else descent.updates,
        stop_reason=descent.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        companions=terms.companion_texts if settings.companions else None,
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


def _patch(
    model: InspectedModel,
    block: int,
    settings: DinmSettings,
    matrix: Matrix,
    updates: int,
    size: float,
    companions: int,
    taught: tuple[Taught, ...],
) -> Patch:
    name, change = model.architecture.down_projection_names[block], matrix.change()
    about = {**asdict(settings), "learning_rate": size, "block": block, "updates": updates}
    if settings.companions:
        about["companions_used"] = companions
    if matrix.columns is None:
        delta = Delta(name, block, change)
    else:
        delta = column_delta(name, block, change, matrix.columns, matrix.base.shape[1])
        about["neurons"] = matrix.columns.tolist()
    return Patch((delta,), model.fingerprint, "DINM", about, settings.format, taught)
