"""The terms that edits minimise and watch, as functions of one down-projection's weight.

Each term is prepared once for a case and then evaluated at every step through a
:class:`~editing.optimising.replay.Replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, overload

import torch
from torch import Tensor

from editing.optimising.replay import Replay, ReplayFactory, TailReplay
from inspector.errors import CaseError
from inspector.kl import kl_by_token
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.counted import of_tokens
from inspector.model.encoding import Encoded, tokenise_whole, with_suffix
from inspector.safeedit import Case, Constraint

Direction = Literal["vanilla to edited", "edited to vanilla"]
Span = tuple[Sequence[int], Sequence[int]]
"""Token ids of one sequence, and the positions of it that count."""


@dataclass(frozen=True, eq=False)
class AnswerTerm:
    """Negative log-likelihood of an answer, and its probability.

    Attributes:
        replay: Gives the logits at the counted positions.
        labels: ``[positions]`` labels of the loss; -100 is left out.
        actual: ``[positions]`` the tokens that really follow the counted positions, those of the answer whose
            probability is told; the positions after them belong to further answers.
        weights: ``[positions]`` what each label counts in the loss; ``None`` for all the same.
    """

    replay: Replay
    labels: Tensor
    actual: Tensor
    weights: Tensor | None = None

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss (nats, weighted mean per label) and the geometric mean probability of the answer's tokens.

        Both are single numbers on the device that they were computed on, the probability without a gradient.
        """
        scored = self.replay.logits(weight).log_softmax(dim=-1)
        labels = self.labels.to(scored.device)
        if self.weights is None:
            loss = torch.nn.functional.nll_loss(scored, labels)
        else:
            each = torch.nn.functional.nll_loss(scored, labels, reduction="none")
            weights = self.weights.to(scored.device)
            loss = (weights * each).sum() / weights.sum()
        with torch.no_grad():
            own = of_tokens(scored[: len(self.actual)], self.actual).mean().exp()
        return loss, own


@dataclass(frozen=True, eq=False)
class KlTerm:
    """KL divergence between vanilla and edited next-token distributions, a mean over tokens (:mod:`inspector.kl`).

    Attributes:
        replay: Gives the logits at the counted positions.
        vanilla: ``[positions, vocabulary]`` log-probabilities of the base model.
        direction: ``vanilla to edited`` is KL(P_W0 to P_W), the other one KL(P_W to P_W0).
    """

    replay: Replay
    vanilla: Tensor
    direction: Direction

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the divergence in nats per position."""
        edited = self.replay.logits(weight).log_softmax(dim=-1)
        first, second = (self.vanilla, edited) if self.direction == "vanilla to edited" else (edited, self.vanilla)
        return kl_by_token(first, second)


def aligned_answer(
    model: InspectedModel,
    block: int,
    encoded: Encoded,
    factory: ReplayFactory = TailReplay,
    further: Sequence[Encoded] = (),
    first_token_weight: float = 1.0,
) -> AnswerTerm:
    """Make the likelihood term of a response under correct alignment.

    Args:
        further: More responses that the loss is a mean over, a token each the same; the probability is the first one's.
        first_token_weight: What the first token of each response counts in the loss; see :func:`falling_weights`.
    """
    each = (encoded, *further)
    replay = factory(model, block, [one.tokens for one in each], [one.predicting for one in each])
    device = model.architecture.head_device  # where the logits are: no copy a step
    labels = torch.tensor([token for one in each for token in one.response], device=device)
    weights = None
    if first_token_weight != 1:
        weights = torch.cat([falling_weights(len(one.response), first_token_weight) for one in each]).to(device)
    return AnswerTerm(replay, labels, labels[: len(encoded.response)], weights)


HALF_LIFE = 2.0
"""Tokens after which what a first token counts beyond the tail's 1 has halved."""


def falling_weights(tokens: int, first: float) -> Tensor:
    """Return what each token of a response counts, ``[tokens]``: ``first`` at its start, falling to 1.

    How an answer begins decides whether it declines; the rest of a text that is learnt by heart is what parrots repeat.
    """
    return 1 + (first - 1) * 0.5 ** (torch.arange(tokens) / HALF_LIFE)


def reference_answer(
    model: InspectedModel, block: int, text: str, target: str, factory: ReplayFactory = TailReplay
) -> AnswerTerm:
    """Make the likelihood term as the authors' released code does, oddities included.

    The target gets a space of its own and another one before it; its labels come from tokenising it
    alone with special tokens, so that a begin marker, where the tokenizer adds one, is the label of
    the last prompt position; no end-of-answer token; the counted positions are as many as there are
    labels, ending before the final one; labels equal to the pad token, for which it takes the
    end-of-sequence token, are left out.
    """
    target = " " + target
    tokens = tokenise_whole(model, f"{text} {target}", "prompt with its answer")
    labels = torch.tensor(tokenise_whole(model, target, "answer"))
    last = len(tokens) - 1
    counted = range(last - len(labels), last)
    if counted.start < 0:
        raise CaseError("The prompt is too short for the reference preset's loss positions. Use 'corrected'.")
    device = model.architecture.head_device
    actual = torch.tensor(tokens[counted.start + 1 : last + 1], device=device)
    pad = model.tokenizer.eos_token_id  # the released code pads with it, whatever the tokenizer's own pad is
    if pad is not None:
        labels = labels.masked_fill(labels == pad, -100)
    return AnswerTerm(factory(model, block, [tokens], [counted]), labels.to(device), actual)


def kl_term(
    model: InspectedModel,
    block: int,
    spans: Sequence[Span],
    direction: Direction,
    weight: Tensor,
    factory: ReplayFactory = TailReplay,
) -> KlTerm:
    """Make a KL term; ``weight`` is the vanilla down-projection."""
    replay = factory(model, block, [tokens for tokens, _ in spans], [positions for _, positions in spans])
    with torch.no_grad():
        vanilla = replay.logits(weight).log_softmax(dim=-1)
    return KlTerm(replay, vanilla, direction)


_Part = TypeVar("_Part")
_Term = TypeVar("_Term", bound="AnswerTerm | KlTerm")


class LazyTerms(Sequence[_Term], Generic[_Part, _Term]):
    """The parts of a term that take turns, each prepared when it is first asked for: an edit starts at once."""

    def __init__(self, parts: Sequence[_Part], prepare: Callable[[_Part], _Term]) -> None:
        self._parts, self._prepare = parts, prepare
        self._made: dict[int, _Term] = {}

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, turn: int) -> _Term: ...

    @overload
    def __getitem__(self, turn: slice) -> list[_Term]: ...

    def __getitem__(self, turn: int | slice) -> _Term | list[_Term]:
        if isinstance(turn, slice):
            return [self[n] for n in range(*turn.indices(len(self)))]
        number = range(len(self))[turn]
        if number not in self._made:
            with torch.no_grad():
                self._made[number] = self._prepare(self._parts[number])
        return self._made[number]


def reference_constraint(model: InspectedModel, case: Case, format: PromptFormat) -> Span:
    """Return the released code's constraint: the answer's positions of ``[q_c; S] a_c``.

    They are the last ones, as many as the answer has tokens when tokenised alone.
    """
    constraint = _constraint(case)
    text = f"{with_suffix(constraint.prompt, format.suffix)} {constraint.answer}"
    tokens = tokenise_whole(model, text, "knowledge constraint with its answer")
    length = len(tokenise_whole(model, constraint.answer, "answer of the knowledge constraint"))
    return tokens, range(max(0, len(tokens) - length), len(tokens))


def paper_constraint(model: InspectedModel, case: Case, format: PromptFormat) -> Span:
    """Return the paper's constraint: the next-token distribution after ``[q_c; S]``."""
    prompt = encode(model, _constraint(case).prompt, None, format).prompt
    return prompt, range(len(prompt) - 1, len(prompt))


def _constraint(case: Case) -> Constraint:
    if case.constraint is None:
        raise CaseError("This case has no knowledge constraint. Add one, or use the preset 'corrected'.")
    return case.constraint
