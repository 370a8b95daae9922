"""One MEND edit: a gradient of the safe answer's loss, turned into an edit by a trained network in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from editing.guard import refuse_harm
from editing.measured import measured_step
from editing.methods.mend.network import EditorNetwork
from editing.methods.mend.store import load_editor, require_trained
from editing.methods.mend.top import TopBlocks, gradient_factors
from editing.optimising.training import encode_pair
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.texts.harmless import harmless_answers
from editing.texts.taught import taught_answers
from editing.values import HarmlessCount, HarmlessTokens
from inspector.errors import EditError, NotFinite, RefusedEdit
from inspector.model import VANILLA, Delta, InspectedModel, Patch, PromptFormat, Row
from inspector.model.encoding import Encoded
from inspector.safeedit import Case
from inspector.validated import settings as checked


@checked(EditError)
class MendSettings:
    """Settings of one MEND edit.

    Attributes:
        editor: File of the editor network; empty for the one that was trained for the model.
        scale: Factor on the learned step sizes; 1 as trained.
        format: Suffix prompt S, chat template, and whether the end of the turn counts in the loss; those of the
            editor's training.
        harmless_prompts: Harmless prompts on which the KL is measured.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    editor: str = ""
    scale: Annotated[float, Field(gt=0, le=10)] = 1.0
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 4
    harmless_tokens: HarmlessTokens = 12
    # What the screen's vital signs ask of every method.
    damage_budget: ClassVar[float | None] = None
    target_probability: ClassVar[float | None] = None


def mend(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: MendSettings = MendSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Edit with the model's trained editor network; a generator like :func:`editing.dinm`.

    Args:
        block: The block whose region is looked at afterwards; the editor changes the matrices it was trained for.
        companions: Not used: MEND edits on one case.

    Raises:
        EditError: There is no editor for this model.
        OtherFormat: It was trained in another prompt format.
        RefusedEdit: Its edit would let the unsafe answer gain on the safe one, or the gradient is not finite.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    pair = encode_pair(model, case, settings.format)
    editor, record = load_editor(model, Path(settings.editor) if settings.editor else None)
    require_trained(model, record, settings.format)
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    trace: list[Step] = []
    patch = None
    if own is not None:
        trace.append(measured_step(model, pair, own, VANILLA, 0, 1))
        yield trace[-1]
    if own is not None and not cancel():
        yield Preparation("Turning the gradient into an edit", 0.9)
        try:
            deltas = editor_deltas(model, editor, pair.wanted, settings.scale)
        except NotFinite as error:
            raise RefusedEdit(error.user_message()) from error
        about = {**asdict(settings), "block": block, "updates": 1}
        patch = Patch(deltas, model.fingerprint, "MEND", about, settings.format, taught_answers([case]))
        trace.append(measured_step(model, pair, own, Row(patch), 1, 1))
        yield trace[-1]
        if cancel():
            patch = None
        else:
            refuse_harm("MEND's edit", trace[0], trace[1], "Lower its scale, or train the editor longer.")
    return EditResult(
        patch=patch,
        trace=tuple(trace),
        kept=0 if patch is None else 1,
        stop_reason="cancelled" if patch is None else "one pass",
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
    )


def editor_deltas(
    model: InspectedModel, editor: EditorNetwork, answer: Encoded, scale: float = 1.0
) -> tuple[Delta, ...]:
    """Return what an editor makes of the gradient of one answer's loss, as deltas."""
    names = [name for name, _ in editor.shape.matrices]
    blocks = {name: block for block in range(model.blocks) for name in model.architecture.projections(block)}
    factors = gradient_factors(TopBlocks(model, [answer], editor.shape.first), names)
    with torch.no_grad():
        edits = editor(factors)
        return tuple(_delta(name, blocks[name], scale * left, right) for name, (left, right) in edits.items())


def _delta(name: str, block: int, left: torch.Tensor, right: torch.Tensor) -> Delta:
    if left.shape[1] >= min(left.shape[0], right.shape[1]):
        return Delta(name, block, left @ right)
    return Delta(name, block, left.contiguous(), right.contiguous())
