"""An edit on top of an edit: the second is made with the first live, and both together are one patch of one base.

No method knows of it. :func:`carrying` gives a model of its own module tree, which shares every tensor with the base
but for the matrices that the first patch changes: those are float32 copies with the change in them. A method edits that
model as any other, so its deltas start where the first patch ends, and their sum with it is a patch of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editing.gate.exam import askable, own_and_harmless
from editing.gate.gate import not_asked
from editing.optimising.trainee import shared_copy
from editing.progress import EditEvents, EditResult, Preparation, part_of
from inspector.errors import EditError, PatchError
from inspector.model import Decoding, Delta, InspectedModel, Patch, PromptFormat, Row
from inspector.model.architecture import canonical_weight
from inspector.model.offloaded import held
from inspector.safeedit import Case
from inspector.safeedit.exam import EVALUATIONS, Evaluation, ExamResult, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.scores import Score
from inspector.safeedit.verdict import Judge

STACK = "stack"
"""Name of the list of edits among a stacked patch's settings."""


def stacked(first: Patch, second: Patch) -> Patch:
    """Return two patches of one base as one: deltas of the same matrix added, those of others side by side.

    Low-rank deltas stay low-rank where their ranks together are less than the matrix's.

    Args:
        first: The earlier edit, or a stack of several.
        second: The edit that was made on top of it.

    Raises:
        PatchError: They belong to different base models or prompt formats, or their matrices do not fit.
    """
    if first.fingerprint != second.fingerprint:
        raise PatchError(
            f"The patches {first.identifier} and {second.identifier} were made for different base models "
            f"({first.fingerprint} and {second.fingerprint}). Stack edits of one model."
        )
    require_same_format(first, second.format)
    deltas = {delta.module: delta for delta in first.deltas}
    for delta in second.deltas:
        earlier = deltas.get(delta.module)
        deltas[delta.module] = delta if earlier is None else _sum(earlier, delta)
    parts = [*_parts(first), *_parts(second)]
    method = " + ".join(part["method"] for part in parts)
    taught = tuple(dict.fromkeys((*first.taught, *second.taught)))
    return Patch(tuple(deltas.values()), first.fingerprint, method, {STACK: parts}, first.format, taught)


def require_same_format(first: Patch, format: PromptFormat) -> None:
    """Check that an edit on top of another one puts its questions as that one does: a stack is asked in one format.

    Whether answers are taught with the end of a turn plays no part in asking, and may differ.

    Args:
        first: The edit below.
        format: That of the edit on top.

    Raises:
        PatchError: The suffixes differ, or one is asked in the chat template and the other is not.
    """
    own = first.format
    if own.open() != format.open():
        raise PatchError(
            f"Patch {first.identifier} was made in another prompt format than the edit on top of it, and a stack is "
            f"asked in one. Make the second edit in the format of the first: its suffix is '{own.suffix}', and it was "
            f"made {'in the chat template' if own.chat else 'in plain text'}."
        )


def scaled(patch: Patch, strength: float) -> Patch:
    """Return a patch whose deltas are those of another at a strength.

    Raises:
        PatchError: The strength is out of range.
    """
    if Row(patch, strength).strength == 1:
        return patch
    deltas = tuple(replace(delta, left=strength * delta.left) for delta in patch.deltas)
    return replace(patch, deltas=deltas, settings={**patch.settings, "strength": strength})


def edits_in(patch: Patch | None) -> int:
    """Return how many edits are stacked in a patch: 0 for none, 1 for a plain one."""
    return 0 if patch is None else len(_parts(patch))


def carrying(model: InspectedModel, patch: Patch) -> InspectedModel:
    """Return a model that carries a patch in its weights; nothing of the base is written.

    It has the base's fingerprint, since patches made on it are patches of the base with this one under them, and the
    base's lock, since they share the device. It lives as long as the edit that is made on it, and nobody else sees it.

    Args:
        patch: Of this model, at strength 1 (see :func:`scaled`).

    Raises:
        PatchError: The patch belongs to another base model, or names a part that this one lacks.
    """
    if patch.fingerprint != model.fingerprint:
        raise PatchError(
            f"Patch {patch.identifier} was made for another base model ({patch.fingerprint}, this is "
            f"{model.fingerprint}). Load that model or edit anew."
        )
    names = {module: name for name, module in model.network.named_modules()}
    with model.lock:
        network = shared_copy(model.network)
    for delta in patch.deltas:
        _Carried.put(network, delta)

    def twin(module: nn.Module | None) -> Any:
        return None if module is None else network.get_submodule(names[module])

    parts = model.architecture
    architecture = replace(
        parts,
        blocks=tuple(map(twin, parts.blocks)),
        down_projections=tuple(map(twin, parts.down_projections)),
        final_norm=twin(parts.final_norm),
        unembedding=twin(parts.unembedding),
        project_out=twin(parts.project_out),
    )
    return replace(model, network=network, architecture=architecture)


def edit_on_top(
    model: InspectedModel,
    first: Row,
    edit: Callable[[InspectedModel], EditEvents],
    format: PromptFormat | None = None,
) -> EditEvents:
    """Make a second edit with the first one live.

    Whatever the second edit is held to is what the model with the first one says: its constraint and budget are about
    the second edit alone. What both do to the vanilla model is what exams of the returned patch measure.

    Args:
        first: The edit that is there, with its strength. A detector is left to the caller: it routes the stack as one.
        edit: Starts the second edit on the model that it is given, for example
            ``lambda carrying: dinm(carrying, case, block, settings)``.
        format: The prompt format of the second edit where it is known: one that does not fit is refused before it runs.

    Yields:
        What the second edit yields.

    Returns:
        The second edit's result with the stack of both as its patch; without one where it was cancelled.

    Raises:
        EditError: There is no first patch, the second edit changes prompts and no weights, or that of the edit.
        PatchError: See :func:`carrying`, :func:`stacked` and :func:`require_same_format`.
    """
    if first.patch is None:
        raise EditError("There is no edit of weights to stack another one on. Make the first edit, or edit vanilla.")
    if format is not None:
        require_same_format(first.patch, format)
    below = scaled(first.patch, first.strength)
    result: EditResult = yield from edit(carrying(model, below))
    if result.reminder is not None:
        raise EditError(
            "This method changes prompts, not weights, so it cannot be stacked. Use one that edits weights."
        )
    return result if result.patch is None else replace(result, patch=stacked(below, result.patch))


@dataclass(frozen=True, eq=False)
class StackExam:
    """What an edit does to the scores of the one that it was made on top of, and of its own case.

    Attributes:
        first: Exams of the case of the edit below: without the one on top, and with both.
        second: Exams of the case of the edit on top, likewise.
        below: Place in the stack of the edit below, 1 for the earliest one.
        top: That of the edit on top.
        too_long: Prompts of both cases that were not asked, as the model cannot read them with room for an answer.
    """

    first: tuple[ExamResult, ExamResult]
    second: tuple[ExamResult, ExamResult]
    below: int = 1
    top: int = 2
    too_long: int = 0

    @property
    def both(self) -> tuple[str, str]:
        """The :attr:`inspector.model.Row.key` of the stack as it was examined."""
        return self.first[1].key

    @property
    def evaluation(self) -> Evaluation:
        """How both weights were asked (:data:`inspector.safeedit.exam.EVALUATIONS`)."""
        return self.first[0].evaluation

    @staticmethod
    def scores(exams: tuple[ExamResult, ExamResult]) -> tuple[dict[str, Score], dict[str, Score]]:
        """Return the scores of a case by name: without the edit on top, and with both."""
        alone, both = ({score.name: score for score in exam.scores} for exam in exams)
        return alone, both

    @property
    def reading(self) -> str:
        """Say in two sentences what the edit on top does to both cases; edits go by their places in the stack.

        Further ones tell how both weights were asked, and how many prompts were not.
        """
        told = []
        for name, exams in ((f"edit {self.below}'s case", self.first), ("its own case", self.second)):
            values = [_told(exams, score) for score in ("DS", "DG-Avg")]
            told.append(f"on {name} {', '.join(value for value in values if value)}")
        kept = [_told(self.first, score) for score in ("harmless KL", "over-refusal")]
        return (
            f"Edit {self.top} changes {'; '.join(told)}. Against vanilla, harmless prompts: "
            f"{', '.join(value for value in kept if value)}. Asked: {EVALUATIONS[self.evaluation]}."
            f"{not_asked(self.too_long)}"
        )


def examine_stack(
    model: InspectedModel,
    cases: tuple[Case, Case],
    first: Row,
    both: Row,
    *,
    harmless: int = 8,
    max_new_tokens: int = 32,
    evaluation: Evaluation = "same",
    judge: Judge | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, StackExam | None]:
    """Examine the cases of two edits, one on top of the other, each with the edit below and with both.

    Each case is asked its own prompts as the gate asks them.

    Args:
        cases: That of the edit below, and that of the edit on top.
        first: The edit below, with all that it was made on top of itself.
        both: The stack.
        harmless: Harmless prompts of the gate (:func:`editing.gate.exam.small_exam`).
        max_new_tokens: Longest answer.
        evaluation: Whether the vanilla weights are asked with the suffix, too
            (:data:`inspector.safeedit.exam.EVALUATIONS`).
        judge: Reads the answers to harmful prompts; the embedded rules by default.
        cancel: Asked after every token.

    Yields:
        How far it is, after every token.

    Returns:
        The four exams; ``None`` when cancelled.

    Raises:
        EditError: A row has no patch, or the model can read too few of a case's prompts.
        PromptError: The chat template takes no question.
    """
    done: list[ExamResult] = []
    too_long = 0
    for case in cases:
        exam = own_and_harmless(case, harmless)
        for row in (first, both):
            if row.patch is None:
                raise EditError("A stack is two edits of weights, and one has none. Make both edits first.")
            asked = askable(model, exam, row, row.patch.format, max_new_tokens)
            run = examine(
                model,
                asked,
                row,
                judge or EmbeddedJudge(),
                format=row.patch.format,
                evaluation=evaluation,
                decoding=Decoding(max_new_tokens=max_new_tokens),
                cancel=cancel,
            )
            number = len(done)
            done.append((yield from part_of(run, number / 4, (number + 1) / 4, f"Exam {number + 1} of 4")))
            if done[-1].cancelled:
                return None
        too_long += len(exam) - len(asked)
    return StackExam((done[0], done[1]), (done[2], done[3]), edits_in(first.patch), edits_in(both.patch), too_long)


class _Carried(nn.Linear):
    """A projection with a delta in its float32 weight ``[out, in]``; the bias is the base's."""

    def __init__(self, base: nn.Module, delta: Delta) -> None:
        nn.Module.__init__(self)  # no weight of its own to draw
        weight = canonical_weight(base)
        if weight.shape != delta.shape:
            raise PatchError(
                f"The patch changes {delta.module} as a matrix of {delta.shape}, and it is one of "
                f"{tuple(weight.shape)}. Load the patch's own model."
            )
        self.out_features, self.in_features = weight.shape
        merged = weight.detach().float() + delta.dense().to(weight.device)
        self.weight = nn.Parameter(merged, requires_grad=False)
        self.bias = held(base, "bias")
        self.eval()

    @classmethod
    def put(cls, network: nn.Module, delta: Delta) -> None:
        """Put it in the place of a projection of a network's own module tree."""
        parent, _, child = delta.module.rpartition(".")
        try:
            base = network.get_submodule(delta.module)
        except AttributeError:
            raise PatchError(f"This model has no part '{delta.module}' that the patch changes.") from None
        setattr(network.get_submodule(parent), child, cls(base, delta))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the product in the input's data type, computed in float32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(inputs.float(), self.weight, bias).to(inputs.dtype)


def _sum(one: Delta, other: Delta) -> Delta:
    if one.shape != other.shape:
        raise PatchError(
            f"Both patches change {one.module}, as matrices of {one.shape} and {other.shape}. Stack edits of one model."
        )
    if one.right is not None and other.right is not None:
        right = torch.cat([one.right, other.right.to(one.right.device)])
        if len(right) < min(one.shape):
            return replace(one, left=torch.cat([one.left, other.left.to(one.left.device)], dim=1), right=right)
    return Delta(one.module, one.block, one.dense() + other.dense().to(one.left.device))


def _parts(patch: Patch) -> list[dict[str, Any]]:
    """Return the record of each edit in a patch, the earliest first."""
    if STACK in patch.settings:
        return list(patch.settings[STACK])
    return [{"method": patch.method, "identifier": patch.identifier, "settings": dict(patch.settings)}]


def _told(exams: tuple[ExamResult, ExamResult], name: str) -> str:
    """Say how a score changes, empty where it was not asked."""
    before, after = (table.get(name) for table in StackExam.scores(exams))
    if before is None or after is None or before.edited.value is None or after.edited.value is None:
        return ""
    if before.unit == "%":
        return f"{name} {before.edited.value:.0f} to {after.edited.value:.0f} %"
    return f"{name} {before.edited.value:.3g} to {after.edited.value:.3g} {before.unit}"
