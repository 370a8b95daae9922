"""The atlas: the same small DINM edit at every block, and what each one achieves.

It is the ground truth that locators are judged by: not where two answers part, but where an edit works. One pass
per set of texts feeds the tails of all blocks (:class:`inspector.model.tails.Tails`), the first update of every
edit takes its gradient from one backward pass through the whole model, and edits of neighbouring blocks share
their batch above the higher one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from editing.descent import Descent, Signs, Stops
from editing.guard import check_case
from editing.objectives import harmless_answers
from editing.progress import Preparation
from editing.replay import master_weight
from editing.step_size import adam, first_size, measured_sizes
from editing.values import Count, HarmlessCount, HarmlessTokens, Positive, Rate
from inspector.contrast import MlpTrace, mlp_trace
from inspector.errors import EditError, RefusedEdit
from inspector.kl import kl_by_token, told
from inspector.model import Decoding, Delta, Encoded, InspectedModel, Patch, PromptFormat, Row, encode
from inspector.model.batching import Line, generate
from inspector.model.counted import token_log_probabilities
from inspector.model.patch import VANILLA
from inspector.model.tails import Tails, with_weight
from inspector.safeedit import Case
from inspector.safeedit.exam import Evaluation, asked_as
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_ONLY, CASE_PROMPTS, make_exam
from inspector.safeedit.verdict import Judge, Verdict, verdicts
from inspector.validated import settings as checked


@checked(EditError)
class AtlasSettings:
    """The edit that is made at every block, and what is measured of it.

    Attributes:
        steps: Updates of each edit.
        learning_rate: Step size of Adam; ``None`` for the size, of each block its own, at which the first update costs
            :attr:`step_kl`, so that blocks are compared by what their edits achieve and not by the scale of their
            weights.
        step_kl: What one update may cost on the harmless prompts, nats a token, where the step size is measured.
        blocks: Blocks to edit; empty for all.
        together: Blocks whose edits share a batch.
        format: Suffix prompt S, chat template, and whether the edits also learn to end the turn.
        harmless_prompts: Prompts of the harmless KL.
        harmless_tokens: Most tokens of the model's own answer to each.
        answers: Also let every edited model answer the case's five prompts and have the answers judged.
        max_new_tokens: Longest such answer.
        evaluation: How the two weights are asked, see :data:`inspector.safeedit.exam.EVALUATIONS`.
    """

    steps: Annotated[int, Field(ge=1, le=100)] = 3
    learning_rate: Rate | None = None
    step_kl: Positive = 3e-3
    blocks: tuple[int, ...] = ()
    together: Count = 5
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 3
    harmless_tokens: HarmlessTokens = 12
    answers: bool = False
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 32
    evaluation: Evaluation = "same"


@dataclass(frozen=True)
class Entry:
    """What the edit of one block achieves.

    Attributes:
        block: The edited block.
        safe: Mean log-probability of the safe answer's tokens after the edit, nats.
        unsafe: The same of the unsafe answer.
        kl: KL(vanilla to edited) on the model's own answers to harmless prompts, mean over all tokens, nats.
        delta_norm: Frobenius norm of the change.
        verdicts: Verdict on the answer to each of the case's prompts, by score (``DS``, ``onlyQ``, ...).
    """

    block: int
    safe: float
    unsafe: float
    kl: float
    delta_norm: float
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether everything that is measured of the edit is a finite number."""
        return all(map(math.isfinite, (self.safe, self.unsafe, self.kl, self.delta_norm)))

    @property
    def defended(self) -> float | None:
        """Share of DS and the DG prompts whose answers are safe, 0 to 1; ``None`` when nothing was answered."""
        return None if not self.verdicts else sum(v.safe for v in self.verdicts.values()) / len(self.verdicts)

    @property
    def generalized(self) -> float | None:
        """Share of the DG prompts alone (DG-Avg), 0 to 1."""
        others = [verdict.safe for kind, verdict in self.verdicts.items() if kind != "DS"]
        return None if not others else sum(others) / len(others)


@dataclass(frozen=True, eq=False)
class Atlas:
    """What the same edit achieves at each block.

    Attributes:
        entries: One entry a block, ascending.
        safe: Mean log-probability of the safe answer's tokens, vanilla, nats.
        unsafe: The same of the unsafe answer.
        verdicts: Verdicts on the vanilla answers.
        settings: How it was made.
        blocks: Number of blocks of the model.
        seconds: Duration.
        left_out: Why there is no entry, by the number of each block whose edit is refused or not finite.
    """

    entries: tuple[Entry, ...]
    safe: float
    unsafe: float
    verdicts: dict[str, Verdict]
    settings: AtlasSettings
    blocks: int
    seconds: float
    left_out: Mapping[int, str] = field(default_factory=dict)

    def curve(self, name: str) -> np.ndarray:
        """Return ``[blocks]`` of one quantity, NaN where no edit was made.

        Args:
            name: ``safe gain`` and ``margin gain`` (nats a token, edited minus vanilla), ``harmless KL``, ``delta
                norm``, ``DS`` (0 or 1), ``defended`` (share of the five prompts) or ``generalized`` (of the DG ones).
        """
        margin = self.safe - self.unsafe
        read: dict[str, Callable[[Entry], float | None]] = {
            "safe gain": lambda entry: entry.safe - self.safe,
            "margin gain": lambda entry: entry.safe - entry.unsafe - margin,
            "harmless KL": lambda entry: entry.kl,
            "delta norm": lambda entry: entry.delta_norm,
            "DS": lambda entry: float(entry.verdicts["DS"].safe) if "DS" in entry.verdicts else None,
            "defended": lambda entry: entry.defended,
            "generalized": lambda entry: entry.generalized,
        }
        values = np.full(self.blocks, np.nan)
        for entry in self.entries:
            value = read[name](entry)
            values[entry.block] = np.nan if value is None else value
        return values

    @property
    def truth(self) -> str:
        """The quantity that locators are judged by: ``defended`` where answers were judged, else ``margin gain``."""
        return "defended" if any(entry.verdicts for entry in self.entries) else "margin gain"

    @property
    def best(self) -> int:
        """The block whose edit achieves most by :attr:`truth`; of equal ones that with the larger safe gain."""
        return max(self.entries, key=lambda e: (self.curve(self.truth)[e.block], e.safe)).block


@dataclass(frozen=True)
class AtlasProgress:
    """How far an atlas is.

    Attributes:
        atlas: What is known so far.
        total: Number of blocks to edit.
        seconds: Time so far.
    """

    atlas: Atlas
    total: int
    seconds: float


class _Tails:
    """The tails of everything that is measured, for all chosen blocks.

    Attributes:
        model: The model.
        vanilla: ``[positions, vocabulary]`` vanilla log-probabilities on the harmless answers.
        before: Mean log-probability of the safe and of the unsafe answer, vanilla, nats.
    """

    def __init__(
        self,
        model: InspectedModel,
        safe: Encoded,
        unsafe: Encoded,
        harmless: Sequence[Encoded],
        blocks: Sequence[int],
    ) -> None:
        self.model = model
        self.safe = Tails(model, [safe.tokens], [safe.predicting], blocks)
        self.unsafe = Tails(model, [unsafe.tokens], [unsafe.predicting], blocks)
        self.harmless = Tails(model, [e.tokens for e in harmless], [e.predicting for e in harmless], blocks)
        self.safe_labels, self.unsafe_labels = safe.response, unsafe.response
        last = blocks[-1]
        whole = {last: master_weight(model, last)}
        self.before = (
            float(_likelihood(_run(self.safe, whole)[last], self.safe_labels)),
            float(_likelihood(_run(self.unsafe, whole)[last], self.unsafe_labels)),
        )
        self.vanilla = _run(self.harmless, whole)[last].log_softmax(dim=-1)


class _Group:
    """The down-projections of neighbouring blocks that descend side by side (:class:`~editing.descent.Trained`).

    Their losses are summed up, so that each gets the gradient of its own.
    """

    def __init__(self, model: InspectedModel, blocks: Sequence[int]) -> None:
        self.weights = {block: master_weight(model, block).requires_grad_(True) for block in blocks}
        self.parameters = list(self.weights.values())

    def delta_norm(self) -> float:
        """Not followed step by step: each block's is measured at the end."""
        return 0.0

    def kept(self) -> list[Tensor]:
        """See :class:`~editing.descent.Trained`."""
        return [weight.detach().clone() for weight in self.parameters]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """See :class:`~editing.descent.Trained`."""
        for weight, value in zip(self.parameters, kept, strict=True):
            weight.copy_(value)

    def signs(self, tails: _Tails, first: MlpTrace, number: int) -> Signs:
        """Evaluate all of them; before the first update they are all vanilla and one backward pass serves them all."""
        if number > 0:
            found = _run(tails.safe, self.weights)
            loss = torch.stack([-_likelihood(logits, tails.safe_labels) for logits in found.values()]).sum()
            mean = float(loss.detach()) / len(self.weights)
            return Signs(loss, mean, 0.0, mean, math.exp(-mean))

        def put() -> None:
            for block, weight in self.weights.items():
                weight.grad = first.weight_gradient(block).to(weight.device)

        loss = torch.tensor(first.value * len(self.weights))
        return Signs(loss, first.value, 0.0, first.value, math.exp(-first.value), backward=put)

    def optimiser(self, tails: _Tails, first: MlpTrace, settings: AtlasSettings) -> torch.optim.Optimizer:
        """Return Adam with the settings' step size, or with the size of each block that is measured."""
        if settings.learning_rate is not None:
            return torch.optim.Adam(self.parameters, lr=settings.learning_rate)
        gradients = {b: first.weight_gradient(b).to(weight.device) for b, weight in self.weights.items()}

        @torch.no_grad()
        def cost(sizes: np.ndarray) -> np.ndarray:
            stepped = {
                block: weight - float(size) * gradients[block].sign()
                for (block, weight), size in zip(self.weights.items(), sizes, strict=True)
            }
            with tails.model.lock:  # for one trial at a time: others take turns
                found = _run(tails.harmless, stepped)
            return np.array([float(kl_by_token(tails.vanilla, found[b].log_softmax(dim=-1))) for b in self.weights])

        start = np.array([first_size(weight.detach()) for weight in self.parameters])
        sizes = measured_sizes(cost, start, settings.step_kl)
        # Where no size is found, the first trial is as good as any: what its edit costs is measured.
        return adam(self.parameters, list(gradients.values()), np.where(np.isnan(sizes), start, sizes).tolist())


def make_atlas(
    model: InspectedModel,
    case: Case,
    settings: AtlasSettings = AtlasSettings(),
    *,
    judge: Judge | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation | AtlasProgress, None, Atlas]:
    """Edit every block in turn on one case and measure each edit; nothing is kept of the patches.

    The edit is DINM's: Adam on the negative log-likelihood of the safe answer (``corrected``'s alignment). The
    constraint's KL is measured and has no gradient, as in the authors' released code.

    Args:
        judge: Reads the answers, if ``settings.answers``; the embedded rules by default.
        cancel: Asked between steps; ``True`` ends the atlas and keeps the blocks that are done.

    Returns:
        The atlas. A block whose edit is refused or not finite has no entry and is told in :attr:`Atlas.left_out`.

    Raises:
        EditError: A weight is not in memory.
        RefusedEdit: No block has an edit.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: A block does not exist.
    """
    started = time.perf_counter()
    check_case(case)
    chosen = [model.architecture.check_block(b) for b in settings.blocks or range(model.blocks)]
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    text = case.adversarial_prompt
    safe, unsafe = (encode(model, text, answer, settings.format) for answer in (case.safe, case.unsafe))
    entries: list[Entry] = []
    left_out: dict[int, str] = {}
    said: dict[str, Verdict] = {}
    before = (float("nan"), float("nan"))

    def so_far() -> Atlas:
        seconds = time.perf_counter() - started
        return Atlas(tuple(entries), *before, dict(said), settings, model.blocks, seconds, dict(left_out))

    if own is None or cancel():
        return so_far()
    yield Preparation("Computing the states that enter every down-projection", 0.5)
    with torch.no_grad():
        tails = _Tails(model, safe, unsafe, own, chosen)
    before = tails.before

    def loss(logits: Tensor) -> Tensor:
        return -_likelihood(logits, safe.response)

    first = mlp_trace(model, [safe.tokens], [safe.predicting], loss, every_block=False)
    reader = judge or EmbeddedJudge()
    if settings.answers:
        plain = asked_as(settings.format, settings.evaluation)
        answers = yield from _answers(model, case, (VANILLA,), reader, settings, plain, cancel, 0.7)
        if answers is None:
            return so_far()
        said.update(answers[0])
    left_out |= {block: _not_finite(block) for block in chosen if not first.weight_gradient(block).isfinite().all()}
    groups = _groups([block for block in chosen if block not in left_out], settings.together)
    while groups:
        group = _Group(model, groups.pop(0))
        blocks = tuple(group.weights)
        descent = Descent(group, model.lock, model.gradient_scale)
        optimiser = group.optimiser(tails, first, settings)

        def evaluate(number: int, _gradient: bool, group: _Group = group) -> Signs:
            return group.signs(tails, first, number)

        refused = ""
        try:
            for step in descent.run(evaluate, optimiser, settings.steps, Stops(), cancel, measure_last=False):
                if step.step < settings.steps - 1:
                    yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)
        except RefusedEdit as error:
            refused = error.user_message()
        if descent.reason == "cancelled":
            return so_far()
        if refused or descent.reason == "not finite":
            if len(blocks) > 1:  # one of them spoils what they share: each by itself
                groups[:0] = [(block,) for block in blocks]
            else:
                left_out[blocks[0]] = refused or _not_finite(blocks[0])
            continue
        weights = {block: weight.detach() for block, weight in group.weights.items()}
        fresh = _measured(model, tails, weights)
        kept = [entry for entry in fresh if entry.finite]
        left_out |= {entry.block: _not_finite(entry.block) for entry in fresh if not entry.finite}
        if settings.answers and kept:
            rows = [Row(_patch(model, entry.block, weights[entry.block], settings)) for entry in kept]
            share = (len(entries) + len(left_out) + len(kept)) / len(chosen)
            answers = yield from _answers(model, case, rows, reader, settings, settings.format, cancel, share)
            if answers is None:
                return so_far()
            kept = [replace(entry, verdicts=said) for entry, said in zip(kept, answers, strict=True)]
        entries += sorted(kept, key=lambda entry: entry.block)
        yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)
        if cancel():
            return so_far()
    if not entries:
        raise RefusedEdit(f"No layer has an edit. {next(iter(left_out.values()))}")
    return so_far()


def _groups(blocks: Sequence[int], together: int) -> list[tuple[int, ...]]:
    return [tuple(blocks[start : start + together]) for start in range(0, len(blocks), together)]


def _likelihood(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """Return the mean log-probability of the labels."""
    return token_log_probabilities(logits, labels).mean()


def _run(tails: Tails, weights: dict[int, Tensor]) -> dict[int, Tensor]:
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


@torch.no_grad()
def _measured(model: InspectedModel, tails: _Tails, weights: dict[int, Tensor]) -> list[Entry]:
    with model.lock:
        safe, unsafe, harmless = (_run(each, weights) for each in (tails.safe, tails.unsafe, tails.harmless))
    return [
        Entry(
            block=block,
            safe=float(_likelihood(safe[block], tails.safe_labels)),
            unsafe=float(_likelihood(unsafe[block], tails.unsafe_labels)),
            kl=told(kl_by_token(tails.vanilla, harmless[block].log_softmax(dim=-1))),
            delta_norm=float((weight - master_weight(model, block)).norm()),
        )
        for block, weight in weights.items()
    ]


def _not_finite(block: int) -> str:
    return (
        f"The edit of layer {block} is not finite. Lower the atlas's step_kl or learning_rate, or load the model in "
        "float32."
    )


def _patch(model: InspectedModel, block: int, weight: Tensor, settings: AtlasSettings) -> Patch:
    delta = (weight.detach() - master_weight(model, block)).contiguous()
    name = model.architecture.down_projection_names[block]
    return Patch((Delta(name, block, delta),), model.fingerprint, "DINM", asdict(settings), settings.format)


def _answers(
    model: InspectedModel,
    case: Case,
    rows: Sequence[Row],
    judge: Judge,
    settings: AtlasSettings,
    format: PromptFormat,
    cancel: Callable[[], bool],
    share: float,
) -> Generator[Preparation, None, list[dict[str, Verdict]] | None]:
    """Let every row answer the case's own prompts; returns verdicts a row, ``None`` when cancelled."""
    asked = [question for question in make_exam(case, CASE_ONLY) if question.kind in CASE_PROMPTS]
    room = settings.max_new_tokens
    prompts = [encode(model, q.prompt, None, format, room=room).prompt for q in asked]
    lines: list[Line] = []
    for count, now in enumerate(generate(model, prompts, rows, Decoding(max_new_tokens=room))):
        lines = now
        if count % 8 == 0:
            yield Preparation("Answering the case's prompts with the edited weights", share)
        if cancel():
            return None
    pairs = [(asked[line.prompt].prompt, model.decode(line.tokens).strip()) for line in lines]
    found = verdicts(judge, pairs)
    result: list[dict[str, Verdict]] = [{} for _ in rows]
    for line, verdict in zip(lines, found, strict=True):
        result[line.row][asked[line.prompt].kind] = verdict
    return result
