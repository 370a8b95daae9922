"""Ext-Sub: subtract what only the anti-expert knows (Hu et al. 2024, AAAI, arXiv 2308.08090).

Two LoRA modules are trained apart: an expert on safe answers and an anti-expert on unsafe ones. Row by row of their
weight changes, the part of the anti-expert that lies along the direction both share (the sum of their unit vectors) is
general ability and stays; the rest is subtracted from the expert. The anti-expert exists inside the generator only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from editing.guard import refuse_harm
from editing.measured import measured_step
from editing.optimising.smaller import once_smaller
from editing.optimising.trainee import trainee
from editing.optimising.training import (
    HarmlessKl,
    Pair,
    Training,
    TrainingSettings,
    encode_pair,
    sft_objective,
    watch_harmless,
)
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.texts.taught import taught_answers
from editing.values import Steps
from inspector.errors import EditError, RefusedEdit
from inspector.model import Delta, InspectedModel, Patch, Row
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class ExtSubSettings(TrainingSettings):
    """Settings of Ext-Sub.

    Attributes:
        scope: ``LoRA``: Ext-Sub is defined on its modules.
        subtraction: How much of the anti-expert's own part is subtracted; alpha = 1 in Hu et al.
        anti_steps: Updates of the anti-expert.
    """

    scope: Literal["LoRA"] = "LoRA"
    subtraction: Annotated[float, Field(ge=0, le=10)] = 1.0
    anti_steps: Steps = 10


def own_part(expert: Tensor, anti: Tensor) -> Tensor:
    """Return the part of each row of ``anti`` that is off the direction it shares with the expert's row.

    Args:
        expert: ``[rows, columns]``.
        anti: ``[rows, columns]``.
    """
    common = _unit(_unit(expert) + _unit(anti))
    return anti - (anti * common).sum(dim=-1, keepdim=True) * common


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def subtracted(expert: Delta, anti: Delta, strength: float = 1.0) -> Delta:
    """Return ``expert - strength * own_part``, as low-rank factors of twice the rank.

    Every row of the result is a combination of the two rows it comes from, so that
    ``diag(a) E + diag(b) A = [diag(a) E_left, diag(b) A_left] [E_right; A_right]``.
    """
    assert expert.right is not None and anti.right is not None and expert.module == anti.module
    first, second = expert.dense(), anti.dense()
    length, other = (m.norm(dim=-1).clamp(min=1e-12) for m in (first, second))
    common = first / length[:, None] + second / other[:, None]
    size = common.norm(dim=-1).clamp(min=1e-12)
    along = (second * common).sum(dim=-1) / size**2  # (A . n) n = along * common
    keep = 1 + strength * along / length
    drop = strength * (along / other - 1)
    left = torch.cat([keep[:, None] * expert.left, drop[:, None] * anti.left], dim=1)
    return Delta(expert.module, expert.block, left, torch.cat([expert.right, anti.right]))


@once_smaller
def ext_sub(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: ExtSubSettings = ExtSubSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
    smaller: bool = False,
) -> EditEvents:
    """Train expert and anti-expert and subtract; a generator like :func:`editing.dinm`.

    The steps are the expert's; the last one is the result after the subtraction, which is no update.

    Args:
        block: The block whose region is looked at afterwards; the modules stand in all.
        companions: Further cases that both are trained on.
        smaller: See :func:`editing.optimising.smaller.once_smaller`, which asks for it where memory runs out.

    Raises:
        EditError: The settings do not allow it, or the result would let the unsafe answer gain on the safe one.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    cases = (case, *companions)
    pairs = [encode_pair(model, each, settings.format) for each in cases]
    swapped = [encode_pair(model, each, settings.format, anti=True) for each in cases]
    anti = yield from _anti_expert(model, swapped, settings, cancel, smaller)
    expert: tuple[Training, HarmlessKl] | None = None
    if anti is not None:
        expert = yield from _expert(model, case, pairs, settings, cancel, smaller)
    trace: list[Step] = [] if expert is None else list(expert[0].descent.trace)
    patch = None
    if anti is not None and expert is not None and not cancel():
        training, harmless = expert
        updates = training.descent.updates
        deltas = _difference(training, {delta.module: delta for delta in anti}, settings.subtraction)
        about = {**asdict(settings), "block": block, "updates": updates, "companions": len(companions)}
        patch = Patch(tuple(deltas), model.fingerprint, "Ext-Sub", about, settings.format, taught_answers(cases))
        number, of = trace[-1].step + 1, settings.steps + 1
        trace.append(measured_step(model, pairs[0], harmless.answers, Row(patch), number, of))
        yield trace[-1]
        if cancel():
            patch = None
        else:
            _check(trace[0], trace[-1], settings)
    return EditResult(
        patch=patch,
        trace=tuple(trace),
        kept=0 if patch is None or expert is None else expert[0].descent.updates,
        stop_reason="cancelled" if patch is None or expert is None else expert[0].descent.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        learnt_from=tuple(companions),
        closing=patch is not None,
    )


def _difference(expert: Training, anti: Mapping[str, Delta], strength: float) -> list[Delta]:
    """Return the expert's deltas, the anti-expert's own part subtracted where it has one."""
    expert.descent.require_update("Ext-Sub", "learning_rate")
    deltas = expert.student.deltas()
    return [subtracted(d, anti[d.module], strength) if d.module in anti else d for d in deltas]


def _check(before: Step, after: Step, settings: ExtSubSettings) -> None:
    """Refuse a result that does harm: to safety, or beyond the damage budget."""
    remedy = "Train the anti-expert less (anti_steps, subtraction)."
    refuse_harm("This subtraction", before, after, remedy)
    if settings.damage_budget is not None and after.constraint_kl > settings.damage_budget:
        raise RefusedEdit(
            f"The subtraction moves harmless answers by {after.constraint_kl:.3f} nats a token, beyond the damage "
            f"budget of {settings.damage_budget:g}. {remedy}"
        )


def _anti_expert(
    model: InspectedModel, pairs: Sequence[Pair], settings: ExtSubSettings, cancel: Callable[[], bool], smaller: bool
) -> Generator[Preparation, None, tuple[Delta, ...] | None]:
    yield Preparation("Copying the module tree; the weights are shared", 0.0)
    # It has no target of its own: it learns for as many updates as it is given.
    own = replace(settings, target_probability=None, damage_budget=None)
    training = Training(model, trainee(model, settings.trained(), smaller), pairs, None, own)
    for step in training.run(sft_objective, settings.anti_steps, cancel):
        yield Preparation(
            f"Training the anti-expert, update {step.step} of {settings.anti_steps}", step.step / settings.anti_steps
        )
    if training.descent.reason == "cancelled":
        return None
    training.descent.require_update("Ext-Sub's anti-expert", "learning_rate")
    return training.student.deltas()


def _expert(
    model: InspectedModel,
    case: Case,
    pairs: Sequence[Pair],
    settings: ExtSubSettings,
    cancel: Callable[[], bool],
    smaller: bool,
) -> Generator[Preparation | Step, None, tuple[Training, HarmlessKl] | None]:
    student = trainee(model, settings.trained(), smaller)
    harmless = yield from watch_harmless(model, student, case, settings, cancel)
    if harmless is None:
        return None
    training = Training(model, student, pairs, harmless, settings)
    yield from training.run(sft_objective, settings.steps, cancel, of=settings.steps + 1)
    return None if training.descent.reason == "cancelled" else (training, harmless)
