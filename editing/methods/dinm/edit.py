"""The DINM edit: one block's down-projection goes down the terms' gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from editing.calibrating.step_size import measured_optimiser
from editing.guard import check_case
from editing.methods.dinm.settings import DinmSettings
from editing.methods.dinm.terms import answer_values, prepare_answers, prepare_constraint, term_values
from editing.optimising.descent import NOT_FINITE, Descent, Signs, fused
from editing.optimising.matrix import Matrix
from editing.optimising.null_space import harmless_moment, soft_null_space
from editing.optimising.replay import ReplayFactory, TailReplay, master_weight
from editing.optimising.smaller import HalvedReplay, once_smaller
from editing.progress import EditEvents, EditResult, Preparation, Step
from inspector.errors import RefusedEdit
from inspector.kl import not_negative
from inspector.model import Delta, InspectedModel, Patch, Taught
from inspector.model.passes.fewer_kernels import fewer_kernels
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
    method: str = "DINM",
) -> EditEvents:
    """Edit one block's down-projection on one case.

    A generator: it yields :class:`Preparation` and :class:`Step`, and returns an :class:`EditResult` (use
    :func:`editing.run` for the result alone). The base weights are not written at any time; the matrix
    that is optimised is a float32 copy.

    Args:
        case: Adversarial prompt, safe and unsafe answer and, for ``reference`` and ``paper``, a
            knowledge constraint.
        block: The layer to edit: the recommended one (:mod:`editing.calibrating.calibration`), or the toxic one, as
            the paper does.
        cancel: Asked after every event; ``True`` ends the edit within one step, without a patch.
        replay: How logits are computed; :class:`~editing.optimising.replay.FullReplay` is the plain way.
        smaller: See :func:`editing.optimising.smaller.once_smaller`, which asks for it where memory runs out.
        method: Whose loop this is, for the patch and for messages.

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
    trace: list[Step] = []
    step_size = "step_kl" if settings.learning_rate is None else "learning_rate"

    def cancelled() -> EditResult:
        return EditResult(None, tuple(trace), 0, "cancelled", block, settings, time.perf_counter() - started)

    answers = yield from prepare_answers(model, case, block, settings, replay, cancel)
    if answers is None:
        return cancelled()
    columns = yield from _columns(model, case, block, settings)
    projection = None
    if settings.null_space is not None and settings.constraint == "harmless":
        moment = yield from harmless_moment(
            model, block, settings.format, cancel, instead=", or set null_space to none"
        )
        if moment is None:
            return cancelled()
        moment = moment if columns is None else moment[columns][:, columns]
        projection = soft_null_space(moment.to(base.device), settings.null_space)
    matrix = Matrix(base, columns, projection)
    descent = Descent(matrix, model.lock, model.gradient_scale, trace)

    def signs(weight: Tensor, edit_loss: Tensor, safe_probability: Tensor, total: Tensor, cost: Tensor | None) -> Signs:
        unsafe_probability = None
        if answers.unsafe is not None:
            with torch.no_grad():
                unsafe_probability = answers.unsafe(weight)[1]
        nll = edit_loss.detach()
        own = None if answers.several else nll
        if answers.monitor is not None:
            own, there = answers.monitor(weight)
            cost = None if cost is None else torch.maximum(cost, there.to(cost.device))
        return Signs(total, nll, 0.0 if cost is None else cost, own, safe_probability, unsafe_probability)

    def unedited(_number: int, gradient: bool) -> Signs:
        """Evaluate the weights that every KL is measured from, which leaves none of it."""
        weight = matrix.weight()
        edit_loss, safe_probability = answer_values(answers, weight, gradient)
        return signs(weight, edit_loss, safe_probability, settings.edit_weight * edit_loss, None)

    yield descent.begin(unedited, settings.steps, settings)
    if cancel():
        return cancelled()
    if descent.ended:
        descent.require_update(method, step_size)
    terms = yield from prepare_constraint(answers, model, case, block, settings, base, replay, cancel)
    if terms is None:
        return cancelled()

    def evaluate(number: int, gradient: bool) -> Signs:
        weight = matrix.weight()
        edit_loss, safe_probability, kl, total = term_values(terms, weight, settings, gradient, number)
        return signs(weight, edit_loss, safe_probability, total, not_negative(kl))

    yield Preparation("Computing what the constraint is measured from, and the step size", 0.95)
    if cancel():
        return cancelled()
    first = terms.constraint[0]  # made here, as the first step may be captured
    if not bool(torch.isfinite(first.vanilla.sum())):
        raise RefusedEdit(NOT_FINITE)
    if settings.constraint_gradient and settings.constraint_weight > 0:
        # Its gradient at unedited weights is rounding alone, but Adam's steps are as large for small gradients.
        if projection is None and not terms.companions:
            descent.add(lambda: settings.constraint_weight * first(matrix.weight()))
        else:  # a sum of three, or behind a product, is rounded as it is at every other step
            descent.put(lambda: term_values(terms, matrix.weight(), settings, gradient=True)[3])
    if settings.learning_rate is None:
        optimiser, size = measured_optimiser(
            matrix, model.lock, terms.trials[0], settings.optimiser, settings.step_kl, settings.weight_decay
        )
    else:
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
        size = settings.learning_rate
        optimiser = kind(matrix.parameters, lr=size, weight_decay=settings.weight_decay, fused=fused(matrix.parameters))
    yield from descent.run(
        evaluate,
        optimiser,
        settings.steps,
        settings,
        cancel,
        limit=matrix.limited(settings.clamp),
        period=math.lcm(len(terms.constraint), len(terms.companions) or 1)
        if replay is TailReplay and model.can_be_captured
        else None,
        inside=partial(fewer_kernels, model),
    )
    if descent.reason == "cancelled":
        return cancelled()
    descent.require_update(method, step_size)
    return EditResult(
        patch=_patch(
            model, block, settings, matrix, descent.updates, size, terms.companion_texts, terms.taught, method
        ),
        trace=tuple(trace),
        kept=descent.updates,
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
    method: str,
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
    return Patch((delta,), model.fingerprint, method, about, settings.format, taught)
