"""Knock-out of single neurons as an edit: their value vectors are taken away, nothing is optimised."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from editing.guard import check_case, refuse_harm
from editing.methods.dinm import DinmSettings, prepare_terms, term_values
from editing.optimising.replay import TailReplay, master_weight
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.values import HarmlessCount, HarmlessTokens
from inspector.errors import EditError
from inspector.kl import told
from inspector.model import InspectedModel, Patch, PromptFormat
from inspector.neurons import neuron_knock_out
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class KnockOutSettings:
    """Settings of a knock-out.

    Attributes:
        neurons: The neurons that are taken away.
        format: The prompt format of the measurement.
        harmless_prompts: Prompts on which the constraint KL is measured.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    neurons: tuple[Annotated[int, Field(ge=0)], ...]
    format: PromptFormat = PromptFormat().open()
    harmless_prompts: HarmlessCount = 8
    harmless_tokens: HarmlessTokens = 12
    # What the screen's vital signs ask of every method's settings.
    steps: ClassVar[int] = 1
    damage_budget: ClassVar[float | None] = None
    target_probability: ClassVar[float | None] = None


def knock_out(
    model: InspectedModel,
    case: Case,
    block: int,
    neurons: Sequence[int],
    *,
    format: PromptFormat = PromptFormat(),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Take the value vectors of some neurons away, if the safe answer does not lose by it.

    A generator like :func:`editing.dinm`: step 0 is vanilla, step 1 the knock-out, both with the same vital signs.

    Args:
        block: The block of the neurons.
        neurons: Their numbers.

    Raises:
        EditError: The unsafe answer would gain on the safe one, which this program does not offer.
        PatchError: No neuron is given, one is given twice, or one does not exist.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: The block does not exist.
    """
    started = time.perf_counter()
    check_case(case)
    made = neuron_knock_out(model, block, neurons)
    settings = KnockOutSettings(tuple(sorted(neurons)), format.open())
    about = {**made.settings, "format": asdict(settings.format)}
    patch: Patch | None = replace(made, settings=about, format=settings.format)
    base = master_weight(model, block)
    watching = DinmSettings(
        format=settings.format,
        harmless_prompts=settings.harmless_prompts,
        harmless_tokens=settings.harmless_tokens,
        harmless_at_once=None,
        safe_answers=1,
        own_refusals=0,
    )
    terms = yield from prepare_terms(model, case, block, watching, base, TailReplay, cancel)
    trace: list[Step] = []
    if terms is not None:
        yield Preparation("Measuring vanilla and knocked-out weights", 0.95)
        for number, weight in enumerate((base, base + made.deltas[0].dense().to(base.device))):
            begun = time.perf_counter()
            with model.lock, torch.no_grad():
                edit_loss, safe, kl, total = term_values(terms, weight, watching, gradient=False)
                assert terms.unsafe is not None
                unsafe = terms.unsafe(weight)[1]
            trace.append(
                Step(
                    step=number,
                    steps=1,
                    edit_loss=float(edit_loss),
                    constraint_kl=told(kl),
                    total_loss=float(total),
                    safe_probability=float(safe),
                    unsafe_probability=float(unsafe),
                    gradient_norm=None,
                    delta_norm=float((weight - base).norm()),
                    seconds=time.perf_counter() - begun,
                )
            )
            yield trace[-1]
    if len(trace) < 2 or cancel():
        patch = None
    else:
        which = "this neuron" if len(settings.neurons) == 1 else f"these {len(settings.neurons)} neurons"
        refuse_harm(
            f"Knocking out {which} of layer {block}",
            trace[0],
            trace[1],
            "Choose neurons that push to the unsafe answer: those with a positive contribution.",
        )
    return EditResult(
        patch=patch,
        trace=tuple(trace),
        kept=0 if patch is None else 1,
        stop_reason="cancelled" if patch is None else "one pass",
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
    )
