"""The atlas: the same small DINM edit at every block, and what each one achieves.

It is the ground truth that locators are judged by: not where two answers part, but where an edit works. One pass
per set of texts feeds the tails of all blocks (:class:`inspector.model.tails.Tails`), the first update of every
edit takes its gradient from one backward pass through the whole model, and edits of neighbouring blocks share
their batch above the higher one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from editing.guard import check_case
from editing.objectives import harmless_answers
from editing.progress import Preparation
from editing.replay import master_weight
from inspector.contrast import mlp_trace
from inspector.errors import EditError
from inspector.model import SUFFIX, Decoding, Delta, InspectedModel, Patch, Row, encode
from inspector.model.batching import Line, generate
from inspector.model.patch import VANILLA
from inspector.model.tails import Tails, with_weight
from inspector.safeedit import Case
from inspector.safeedit.exam import CASE_ONLY, CASE_PROMPTS, make_exam
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Judge, Verdict, verdicts


@dataclass(frozen=True)
class AtlasSettings:
    """The edit that is made at every block, and what is measured of it.

    Attributes:
        steps: Updates of each edit.
        learning_rate: Step size of Adam.
        blocks: Blocks to edit; empty for all.
        together: Blocks whose edits share a batch.
        suffix: The suffix prompt S.
        chat: Use the model's chat template.
        end_of_answer: Also learn to end after the safe answer.
        harmless_prompts: Prompts of the harmless KL.
        harmless_tokens: Most tokens of the model's own answer to each.
        answers: Also let every edited model answer the case's five prompts and have the answers judged.
        max_new_tokens: Longest such answer.
    """

    steps: int = 3
    learning_rate: float = 3e-3
    blocks: tuple[int, ...] = ()
    together: int = 5
    suffix: str = SUFFIX
    chat: bool = True
    end_of_answer: bool = True
    harmless_prompts: int = 3
    harmless_tokens: int = 12
    answers: bool = False
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        fine = {
            "steps": 1 <= self.steps <= 100,
            "learning_rate": 0 < self.learning_rate <= 100,
            "together": self.together >= 1,
            "harmless_prompts": 1 <= self.harmless_prompts <= 64,
            "harmless_tokens": 1 <= self.harmless_tokens <= 256,
            "max_new_tokens": 1 <= self.max_new_tokens <= 1024,
        }
        for name, is_fine in fine.items():
            if not is_fine:
                raise EditError(f"The setting {name} = {getattr(self, name)} is out of range. Choose another value.")


@dataclass(frozen=True)
class Entry:
    """What the edit of one block achieves.

    Attributes:
        block: The edited block.
        safe: Mean log-probability of the safe answer's tokens after the edit, nats.
        unsafe: The same of the unsafe answer.
        kl: KL(vanilla to edited) on harmless prompts, nats a token.
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
    """

    entries: tuple[Entry, ...]
    safe: float
    unsafe: float
    verdicts: dict[str, Verdict]
    settings: AtlasSettings
    blocks: int
    seconds: float

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


@dataclass(frozen=True, eq=False)
class _Texts:
    safe: Tails
    unsafe: Tails
    harmless: Tails
    safe_labels: Tensor
    unsafe_labels: Tensor
    vanilla: Tensor


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

    Raises:
        EditError: A weight is not in memory, or the loss is not finite.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: A block does not exist.
    """
    started = time.perf_counter()
    check_case(case)
    chosen = [model.architecture.check_block(b) for b in settings.blocks or range(model.blocks)]
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.suffix, settings.chat, cancel
    )
    text = case.adversarial_prompt
    safe, unsafe = (
        encode(model, text, answer, suffix=settings.suffix, chat=settings.chat, end=settings.end_of_answer)
        for answer in (case.safe, case.unsafe)
    )
    entries: list[Entry] = []
    said: dict[str, Verdict] = {}
    before = [float("nan"), float("nan")]

    def so_far() -> Atlas:
        seconds = time.perf_counter() - started
        return Atlas(tuple(entries), before[0], before[1], dict(said), settings, model.blocks, seconds)

    if own is None or cancel():
        return so_far()
    yield Preparation("Computing the states that enter every down-projection", 0.5)
    with torch.no_grad():
        texts = _Texts(
            safe=Tails(model, [safe.tokens], [safe.predicting], chosen),
            unsafe=Tails(model, [unsafe.tokens], [unsafe.predicting], chosen),
            harmless=Tails(model, [e.tokens for e in own], [e.predicting for e in own], chosen),
            safe_labels=torch.tensor(safe.response, device=model.architecture.head_device),
            unsafe_labels=torch.tensor(unsafe.response, device=model.architecture.head_device),
            vanilla=torch.empty(0),
        )
        last = {chosen[-1]: master_weight(model, chosen[-1])}
        before[0] = float(_likelihood(_run(texts.safe, last)[chosen[-1]], texts.safe_labels))
        before[1] = float(_likelihood(_run(texts.unsafe, last)[chosen[-1]], texts.unsafe_labels))
        object.__setattr__(texts, "vanilla", _run(texts.harmless, last)[chosen[-1]].log_softmax(dim=-1))

    def loss(logits: Tensor) -> Tensor:
        counted = logits[0, safe.predicting.start : safe.predicting.stop]
        return -_likelihood(counted, texts.safe_labels)

    first = mlp_trace(model, [safe.tokens], loss)
    if not np.isfinite(first.value):
        raise EditError("The loss is not a finite number. Load the model in float32 or shorten the answers.")
    reader = judge or EmbeddedJudge()
    if settings.answers:
        answers = yield from _answers(model, case, (VANILLA,), reader, settings, cancel, 0.7)
        if answers is None:
            return so_far()
        said.update(answers[0])
    for start in range(0, len(chosen), settings.together):
        group = chosen[start : start + settings.together]
        weights = {block: master_weight(model, block).requires_grad_(True) for block in group}
        optimiser = torch.optim.Adam(list(weights.values()), lr=settings.learning_rate)
        for step in range(settings.steps):
            optimiser.zero_grad()
            if step == 0:
                for block, weight in weights.items():
                    weight.grad = first.weight_gradient(block).to(weight.device)
            else:
                with torch.enable_grad(), model.lock:
                    found = _run(texts.safe, weights)
                    torch.stack([-_likelihood(logits, texts.safe_labels) for logits in found.values()]).sum().backward()
            optimiser.step()
            if step < settings.steps - 1:
                yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)
            if cancel():
                return so_far()
        fresh = _measured(model, texts, {block: weight.detach() for block, weight in weights.items()})
        if settings.answers:
            rows = [Row(_patch(model, block, weight, settings)) for block, weight in weights.items()]
            share = (start + len(group)) / len(chosen)
            answers = yield from _answers(model, case, rows, reader, settings, cancel, share)
            if answers is None:
                return so_far()
            fresh = [Entry(**{**vars(e), "verdicts": v}) for e, v in zip(fresh, answers, strict=True)]
        entries += fresh
        yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)
        if cancel():
            return so_far()
    return so_far()


def _likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean log-probability of the labels."""
    return logits.float().log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).mean()


def _run(tails: Tails, weights: dict[int, Tensor]) -> dict[int, Tensor]:
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


@torch.no_grad()
def _measured(model: InspectedModel, texts: _Texts, weights: dict[int, Tensor]) -> list[Entry]:
    with model.lock:
        safe, unsafe = _run(texts.safe, weights), _run(texts.unsafe, weights)
        harmless = _run(texts.harmless, weights)
    found = []
    for block, weight in weights.items():
        kl = (texts.vanilla.exp() * (texts.vanilla - harmless[block].log_softmax(dim=-1))).sum(dim=-1).mean()
        found.append(
            Entry(
                block=block,
                safe=float(_likelihood(safe[block], texts.safe_labels)),
                unsafe=float(_likelihood(unsafe[block], texts.unsafe_labels)),
                kl=float(kl),
                delta_norm=float((weight - master_weight(model, block)).norm()),
            )
        )
    return found


def _patch(model: InspectedModel, block: int, weight: Tensor, settings: AtlasSettings) -> Patch:
    delta = (weight.detach() - master_weight(model, block)).contiguous()
    name = model.architecture.down_projection_names[block]
    return Patch((Delta(name, block, delta),), model.fingerprint, "DINM", asdict(settings))


def _answers(
    model: InspectedModel,
    case: Case,
    rows: Sequence[Row],
    judge: Judge,
    settings: AtlasSettings,
    cancel: Callable[[], bool],
    share: float,
) -> Generator[Preparation, None, list[dict[str, Verdict]] | None]:
    """Let every row answer the case's own prompts; returns verdicts a row, ``None`` when cancelled."""
    asked = [question for question in make_exam(case, CASE_ONLY) if question.kind in CASE_PROMPTS]
    room = settings.max_new_tokens
    prompts = [encode(model, q.prompt, suffix=settings.suffix, chat=settings.chat, room=room).prompt for q in asked]
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
