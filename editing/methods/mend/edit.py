"""One MEND edit: a gradient of the safe answer's loss, turned into an edit by a trained network in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from editing.guard import refuse_harm
from editing.measured import measured_step
from editing.methods.mend.network import EditorNetwork
from editing.methods.mend.store import load_editor
from editing.methods.mend.top import TopBlocks, gradient_factors
from editing.objectives import harmless_answers
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.training import encode_pair
from inspector.errors import EditError
from inspector.model import SUFFIX, VANILLA, Delta, InspectedModel, Patch, Row
from inspector.model.encoding import Encoded
from inspector.safeedit import Case


@dataclass(frozen=True)
class MendSettings:
    """Settings of one MEND edit.

    Attributes:
        editor: File of the editor network; empty for the one that was trained for the model.
        scale: Factor on the learned step sizes; 1 as trained.
        suffix: The suffix prompt S.
        chat: Use the model's chat template.
        end_of_answer: The end-of-answer token counts in the loss.
        harmless_prompts: Harmless prompts on which the KL is measured.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    editor: str = ""
    scale: float = 1.0
    suffix: str = SUFFIX
    chat: bool = True
    end_of_answer: bool = True
    harmless_prompts: int = 4
    harmless_tokens: int = 12
    # What the screen's vital signs ask of every method.
    damage_budget: ClassVar[float | None] = None
    target_probability: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 10:
            raise EditError(f"The setting scale = {self.scale:g} is out of range. Choose one above 0, at most 10.")


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
        EditError: There is no editor for this model, or its edit would let the unsafe answer gain on the safe one.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    pair = encode_pair(model, case, settings)
    editor, _ = load_editor(model, Path(settings.editor) if settings.editor else None)
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.suffix, settings.chat, cancel
    )
    trace: list[Step] = []
    patch = None
    if own is not None:
        trace.append(measured_step(model, pair, own, VANILLA, 0, 1))
        yield trace[-1]
    if own is not None and not cancel():
        yield Preparation("Turning the gradient into an edit", 0.9)
        deltas = editor_deltas(model, editor, pair.wanted, settings.scale)
        patch = Patch(deltas, model.fingerprint, "MEND", {**asdict(settings), "block": block, "updates": 1})
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
