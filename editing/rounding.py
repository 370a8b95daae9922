"""What bfloat16 by itself does to harmless answers, without an edit: the row beside which an edit's harm is read.

A stress test and a sweep make it of the same weights (:mod:`inspector.safeedit.yardstick`), where these can be rounded
and a second network fits into the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from editing.memory import require_free_memory
from inspector.model import Decoding, InspectedModel, PromptFormat
from inspector.model.memory.memory_need import bytes_of
from inspector.model.patches.rounded import computes
from inspector.safeedit.exam import Examination
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.known import NONE_KNOWN, Known
from inspector.safeedit.questions import Question
from inspector.safeedit.yardstick import rounding_exam


def why_not_rounded(model: InspectedModel) -> str | None:
    """Return why a model has no rounding row, ``None`` if it can have one."""
    if any(parameter.device.type == "meta" for parameter in model.network.parameters()):
        return "No rounding row: weights are offloaded"
    if model.quantisation is not None:
        return f"No rounding row: this model is quantised ({model.quantisation})"
    if all(parameter.dtype == torch.bfloat16 for parameter in model.network.parameters()):
        return "No rounding row: this model is bfloat16 already"
    return None


def harmless_of(questions: Sequence[Question]) -> list[Question]:
    """Return the harmless prompts of an exam, as a network is asked them that was taught nothing."""
    return [replace(question, taught=()) for question in questions if question.kind == "harmless"]


def rounded_exam(
    model: InspectedModel,
    harmless: Sequence[Question],
    *,
    format: PromptFormat,
    decoding: Decoding,
    prompts_at_once: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
    known: Known = NONE_KNOWN,
) -> Examination:
    """Ask the same weights, rounded to bfloat16, harmless prompts; a generator like ``rounding_exam``.

    A model that computes in float32 is set beside one that computes in bfloat16, where the device can; of any other the
    weights alone are rounded.

    Args:
        harmless: What :func:`harmless_of` gives.
        format: Suffix and chat template.
        decoding: As in the exam that it is to stand beside.
        prompts_at_once: Prompts in a batch; by default as many as fit.
        cancel: Asked after every token.
        known: Vanilla answers in this decoding, which are not given again.

    Raises:
        OutOfMemory: A second network does not fit beside the first.
        InspectorError: See :func:`inspector.safeedit.yardstick.rounding_exam`.
    """
    for device, count in bytes_of(model.network).items():
        require_free_memory(
            device,
            count,
            "A second network, of the same weights rounded,",
            "Leave the rounding row out, or use a machine with more memory.",
        )
    return (
        yield from rounding_exam(
            model,
            harmless,
            EmbeddedJudge(),
            format=format,
            decoding=decoding,
            prompts_at_once=prompts_at_once,
            cancel=cancel,
            computed=computes_in_bfloat16(model),
            known=known,
        )
    )


def computes_in_bfloat16(model: InspectedModel) -> bool:
    """Tell whether a model computes in float32 on a device that can in bfloat16 as well."""
    plain = all(parameter.dtype == torch.float32 for parameter in model.network.parameters())
    return plain and computes(model.device)
