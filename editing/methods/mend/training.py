"""Meta-training of an editor network: its edits should make safe answers likely and leave harmless prompts alone.

Loss of one case (Mitchell et al. 2022, equation 4): c_edit * -log P_edited(Y_safe given x') + KL(P to P_edited on
harmless prompts), where the edit is made from the gradient on the case's adversarial prompt and x' is that prompt or
another one with the same question. Only the blocks from the lowest edited one on are run: what enters them is kept.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from editing.guard import check_case
from editing.memory import require_free_memory
from editing.methods.mend.network import EditorNetwork, EditorShape, Factors
from editing.methods.mend.top import TopBlocks, adding, gradient_factors
from editing.optimising.descent import fused
from editing.values import Count, HarmlessTokens, NotNegative, Positive, Rate
from inspector.errors import EditError
from inspector.kl import kl_by_token
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, encode
from inspector.model.answers.batching import generate
from inspector.model.architecture import canonical_shape
from inspector.model.encoding import Encoded
from inspector.model.memory.memory_need import bytes_in
from inspector.model.waiting import read
from inspector.safeedit import Case
from inspector.validated import settings as checked

_From = TypeVar("_From")
_Made = TypeVar("_Made", "Lesson", "Watched")


@checked(EditError)
class MendTraining:
    """Settings of a training.

    Attributes:
        steps: Updates of the editor network.
        cases_at_once: Cases whose losses one update sums up.
        harmless_at_once: Harmless prompts that go with each case.
        learning_rate: Adam's step size for the network.
        alpha_rate: Adam's step size for the learned step sizes, as a share of their initial value.
        edit_weight: c_edit, 0.1 in Mitchell et al. and in the DINM paper's runs.
        top_blocks: How many of the last blocks' MLPs are edited; 3 there.
        rank: Rank of the network's layers.
        alpha: Initial step size of each matrix.
        clip: Largest norm of the gradient.
        harmless_tokens: Most tokens of the model's own answer to a harmless prompt.
        seed: Seed of the network and of the order.
        format: Suffix prompt S, chat template, and whether the end of the turn counts in the loss.
    """

    steps: Annotated[int, Field(ge=0, le=100_000)] = 300
    cases_at_once: Count = 3
    harmless_at_once: Count = 3
    learning_rate: Rate = 3e-4
    alpha_rate: Rate = 3e-3
    edit_weight: NotNegative = 0.1
    top_blocks: Count = 3
    rank: Count = 64
    alpha: Positive = 1e-4
    clip: Positive = 10.0
    harmless_tokens: HarmlessTokens = 24
    seed: int = 0
    format: PromptFormat = PromptFormat()


@dataclass(frozen=True, eq=False)
class Lesson:
    """One case as the training needs it.

    Attributes:
        factors: The gradient of the safe answer's loss on the adversarial prompt.
        asked: That prompt and others with the same question, each with the safe answer.
    """

    factors: dict[str, Factors]
    asked: list[TopBlocks]

    @property
    def kept(self) -> tuple[Any, ...]:
        """All tensors that stay in memory for it."""
        return self.factors, [top.kept for top in self.asked]


@dataclass(frozen=True, eq=False)
class Watched:
    """A harmless prompt with the model's own answer and its vanilla log-probabilities."""

    top: TopBlocks
    vanilla: Tensor

    @property
    def kept(self) -> tuple[Any, ...]:
        """All tensors that stay in memory for it."""
        return self.top.kept, self.vanilla


@dataclass(frozen=True)
class Report:
    """What one update, or an evaluation, saw: means over cases.

    Attributes:
        step: Number of updates before it.
        loss: The meta-loss.
        safe_before: Negative log-likelihood of the safe answer without an edit, nats a token.
        safe_after: The same with the edit.
        kl: KL on harmless prompts, nats a token, mean over prompts of each prompt's mean over its first tokens, at most
            :attr:`MendTraining.harmless_tokens`.
        seconds: Time since the start.
    """

    step: int
    loss: float
    safe_before: float
    safe_after: float
    kl: float
    seconds: float


def new_editor(model: InspectedModel, settings: MendTraining) -> EditorNetwork:
    """Return an untrained editor for the MLPs of the last blocks.

    Raises:
        EditError: The model has fewer blocks.
    """
    if not 1 <= settings.top_blocks <= model.blocks:
        raise EditError(f"This model has {model.blocks} blocks; top_blocks = {settings.top_blocks} does not fit.")
    first = model.blocks - settings.top_blocks
    matrices = tuple(
        (name, canonical_shape(module))
        for block in range(first, model.blocks)
        for name, module in model.architecture.mlp_projections(block).items()
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return EditorNetwork(EditorShape(matrices, first, settings.rank, settings.alpha)).to(
            model.architecture.head_device
        )


def lesson(
    model: InspectedModel, case: Case, editor: EditorNetwork, settings: MendTraining, others: bool = True
) -> Lesson:
    """Prepare a case.

    Args:
        others: Whether the question is asked in other prompts, too; an evaluation asks the adversarial one alone.

    Raises:
        CaseError: It lacks an answer.
    """
    check_case(case)
    prompts = [case.adversarial_prompt, *([case.only_question or case.question, case.other_attack] if others else [])]
    asked = [
        TopBlocks(model, [encode(model, text, case.safe, settings.format)], editor.shape.first)
        for text in dict.fromkeys(prompts)
        if text
    ]
    names = [name for name, _ in editor.shape.matrices]
    return Lesson(gradient_factors(asked[0], names), asked)


def lessons_of(
    model: InspectedModel, cases: Sequence[Case], editor: EditorNetwork, settings: MendTraining, others: bool = True
) -> list[Lesson]:
    """Prepare cases; ``others`` as for :func:`lesson`.

    Raises:
        CaseError: One lacks an answer.
        OutOfMemory: As large as the first, all do not fit into the memory that is left.
    """
    return _all_of(
        cases,
        lambda case: lesson(model, case, editor, settings, others),
        editor,
        "A lesson of each case",
        "Lower --limit.",
    )


def _all_of(
    items: Sequence[_From], make: Callable[[_From], _Made], editor: EditorNetwork, what: str, remedy: str
) -> list[_Made]:
    """Make something of each item; once the first is made, ask whether as much for each of the others is free."""
    found: list[_Made] = []
    for item in items:
        found.append(make(item))
        if len(found) == 1:
            require_free_memory(editor.device, (len(items) - 1) * bytes_in(found[0].kept), what, remedy)
    return found


def watched_prompts(
    model: InspectedModel, texts: Sequence[str], editor: EditorNetwork, settings: MendTraining
) -> list[Watched]:
    """Let the vanilla model answer harmless prompts and keep its distributions there, the end of an answer left out.

    Raises:
        OutOfMemory: As large as the first, all do not fit into the memory that is left.
    """
    prompts = [encode(model, text, None, settings.format).prompt for text in texts]
    *_, lines = generate(model, prompts, (VANILLA,), Decoding(max_new_tokens=settings.harmless_tokens))
    answered = [Encoded(prompt, tuple(line.tokens)) for prompt, line in zip(prompts, lines, strict=True) if line.tokens]

    def watched(answer: Encoded) -> Watched:
        top = TopBlocks(model, [answer], editor.shape.first)
        with torch.no_grad():
            return Watched(top, top.logits({}).log_softmax(dim=-1))

    return _all_of(
        answered,
        watched,
        editor,
        "A harmless prompt's distributions, for each of them,",
        "Lower --harmless-tokens, or give fewer harmless prompts.",
    )


def _meta_loss(
    editor: EditorNetwork, item: Lesson, asked: TopBlocks, harmless: Sequence[Watched], edit_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss with its two terms: the safe answer's loss, the KL."""
    rewrites = {name: adding(left, right) for name, (left, right) in editor(item.factors).items()}
    safe = asked.loss(rewrites)
    terms = []
    for watched in harmless:
        edited = watched.top.logits(rewrites).log_softmax(dim=-1)
        terms.append(kl_by_token(watched.vanilla, edited))
    kl = torch.stack(terms).mean()  # over prompts, long and short alike
    return edit_weight * safe + kl, safe, kl


def train(
    model: InspectedModel,
    cases: Sequence[Case],
    harmless: Sequence[str],
    settings: MendTraining = MendTraining(),
) -> Generator[Report, None, EditorNetwork]:
    """Train an editor network, yielding after every update.

    Args:
        cases: Cases to learn from; none that is scored later.
        harmless: Harmless prompts that the edits should leave alone.

    Raises:
        EditError: The model is in float16, no case or no harmless prompt with an answer is given, or the settings do
            not fit the model.
        OutOfMemory: See :func:`lessons_of`.
    """
    started = time.perf_counter()
    if model.dtype == torch.float16:
        raise EditError("An editor network is not trained in float16. Load the model in float32 or bfloat16.")
    editor = new_editor(model, settings)
    lessons = lessons_of(model, cases, editor, settings)
    watched = watched_prompts(model, harmless, editor, settings) if harmless else []
    if not lessons or not watched:
        raise EditError("MEND needs cases and harmless prompts to learn from. Give at least one of each.")
    editor.normalise_by([item.factors for item in lessons])
    every = [asked for item in lessons for asked in item.asked]
    with torch.no_grad():
        before = dict(zip(map(id, every), read([asked.loss({}) for asked in every]), strict=True))
    order = random.Random(settings.seed)
    network = [parameter for name, parameter in editor.named_parameters() if name != "alphas"]
    optimiser = torch.optim.Adam(
        [
            {"params": network, "lr": settings.learning_rate},
            {"params": [editor.alphas], "lr": settings.alpha_rate * settings.alpha},
        ],
        fused=fused([*network, editor.alphas]),
    )
    for step in range(settings.steps):
        optimiser.zero_grad()
        terms: list[tuple[Tensor, Tensor, Tensor]] = []
        safe_before = 0.0
        for _ in range(settings.cases_at_once):
            item = order.choice(lessons)
            asked = order.choice(item.asked)
            some = order.sample(watched, min(settings.harmless_at_once, len(watched)))
            loss, safe, kl = _meta_loss(editor, item, asked, some, settings.edit_weight)
            with model.lock:  # where weights are offloaded the gradient fetches them as well
                (loss / settings.cases_at_once).backward()
            terms.append((loss.detach(), safe.detach(), kl.detach()))
            safe_before += before[id(asked)] / settings.cases_at_once
        norm, *numbers = read([torch.nn.utils.clip_grad_norm_(network, settings.clip), *chain(*terms)])
        if not math.isfinite(norm):
            raise EditError(
                f"The training left the finite numbers at step {step}, and the network was not kept. Lower its "
                "learning_rate, or load the model in float32."
            )
        optimiser.step()
        means = [sum(each / settings.cases_at_once for each in numbers[term::3]) for term in range(3)]
        yield Report(step, means[0], safe_before, means[1], means[2], time.perf_counter() - started)
    return editor


@torch.no_grad()
def evaluate(
    editor: EditorNetwork, lessons: Sequence[Lesson], harmless: Sequence[Watched], edit_weight: float = 0.1
) -> Report:
    """Measure an editor on cases it may not have seen, on their adversarial prompts.

    Raises:
        EditError: There is no case, or no harmless prompt with an answer.
    """
    if not lessons or not harmless:
        raise EditError("An evaluation needs cases and harmless prompts with answers. Give at least one of each.")
    begun = time.perf_counter()
    found = [_meta_loss(editor, item, item.asked[0], harmless, edit_weight) for item in lessons]
    means = [torch.stack(values).mean() for values in zip(*found, strict=True)]
    loss, safe, kl, *before = read([*means, *(item.asked[0].loss({}) for item in lessons)])
    return Report(0, loss, sum(before) / len(before), safe, kl, time.perf_counter() - begun)
