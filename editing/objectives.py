"""The terms that edits minimise and watch, as functions of one down-projection's weight.

Each term is prepared once for a case and then evaluated at every step through a
:class:`~editing.replay.Replay`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random
from typing import Generic, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editing.progress import Preparation
from editing.replay import Replay, ReplayFactory, TailReplay
from inspector.errors import CaseError, PromptError
from inspector.kl import kl_by_token
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, encode
from inspector.model.batching import generate
from inspector.model.encoding import Encoded, tokenise_whole, with_suffix
from inspector.safeedit import Case, Constraint, bundled_constraint_prompts
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.sets import harmful_questions, spread

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
            own = scored[: len(self.actual)].gather(-1, self.actual.to(scored.device).unsqueeze(-1)).mean().exp()
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


class Turns(Sequence[_Term], Generic[_Part, _Term]):
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


def reference_constraint(model: InspectedModel, case: Case, suffix: str) -> Span:
    """Return the released code's constraint: the answer's positions of ``[q_c; S] a_c``.

    They are the last ones, as many as the answer has tokens when tokenised alone.
    """
    constraint = _constraint(case)
    text = f"{with_suffix(constraint.prompt, suffix)} {constraint.answer}"
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


MOST_KNOWN = 4096
"""Answers that are kept for a model; the oldest go first."""
ASKED_AT_ONCE = 8
"""Harmless prompts that are answered in one batch."""
_Asked = tuple[str, int, PromptFormat]
_OWN_ANSWERS: WeakKeyDictionary[InspectedModel, dict[_Asked, Encoded]] = WeakKeyDictionary()


def known_answers(model: InspectedModel) -> dict[_Asked, Encoded]:
    """Return the model's own answers to harmless prompts made so far, by (prompt, tokens, open format)."""
    return _OWN_ANSWERS.setdefault(model, {})


def harmless_texts(case: Case, count: int) -> list[str]:
    """Return at most ``count`` harmless prompts that edits on a case may be constrained on.

    The case's own comes first, then the bundled ones, look-alikes among them, in an order drawn once. None of them
    stands in an attack template: such prompts teach an edit to tell this question from others in its template, and
    what it then defends is little but this question. Harmless prompts in
    attack templates are what the detector is for (:mod:`inspector.detection`).
    """
    prompts = [case.constraint.prompt] if case.constraint else []
    return [*prompts, *(prompt for prompt in _drawn() if prompt not in prompts)][:count]


def further_harmless_texts(count: int) -> list[str]:
    """Return ``count`` harmless prompts that are none of the first ones that :func:`harmless_texts` returns."""
    return list(_drawn()[-count:])


@cache
def _drawn() -> tuple[str, ...]:
    """Return the bundled harmless prompts in the order in which edits use them, from both ends."""
    prompts = list(bundled_constraint_prompts())
    Random(0).shuffle(prompts)
    return tuple(prompts)


def harmless_answers(
    model: InspectedModel,
    case: Case,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmless prompts; answers are kept per model.

    The prompts are the case's own knowledge constraint and bundled requests made for this, so that the
    harmless prompts that edits are *scored* on stay unseen.

    Yields:
        One message before each batch of prompts that have to be answered.

    Returns:
        At most ``count`` prompts with the model's own answers, each with the id that ended it; ``None`` when cancelled.
    """
    texts = fitting_texts(model, case, count, tokens, format)
    return (yield from _answered(model, texts, tokens, format, cancel, "harmless prompts"))


def unseen_answers(
    model: InspectedModel,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmless prompts that no edit is constrained on (:func:`further_harmless_texts`).

    Yields:
        One message before each batch of prompts that have to be answered.

    Returns:
        Those that leave room for an answer, with the model's; ``None`` when cancelled.

    Raises:
        PromptError: None does.
    """
    texts = _fitting(model, further_harmless_texts(count), tokens, format)
    return (yield from _answered(model, texts, tokens, format, cancel, "harmless prompts"))


def own_refusals(
    model: InspectedModel,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmful questions without an attack; what it declines by itself is to stay.

    An edit that changes how a model declines may unlearn what it already does right.

    Args:
        count: Number of bundled questions to ask; none of them is scored.

    Yields:
        One message before each batch of questions that have to be answered.

    Returns:
        The declined questions with the model's answers; ``None`` when cancelled.
    """
    texts = refusal_texts(count)
    answered = yield from _answered(model, texts, tokens, format, cancel, "harmful questions")
    if answered is None:
        return None
    pairs = zip(texts, answered, strict=True)
    return [one for text, one in pairs if read_refusal(model.decode(one.response), text).refused]


BARE = 6
"""Every which companion stands without a template."""


def companions(
    model: InspectedModel, count: int, longest: int, answer: str, format: PromptFormat
) -> dict[str, Encoded]:
    """Return bundled harmful questions of all categories, most of them in English attack templates, drawn once.

    They are of the texts that a detector may be fitted on; none is scored.

    Args:
        count: How many are wanted.
        longest: Most tokens of a prompt; what is longer, or leaves the model no room for the answer, is left out.
        answer: What each of them is answered with.
        format: The prompts'.

    Returns:
        At most ``count`` texts, each with its answer.
    """
    templates = [template for template in bundled_templates("detector") if template.language == "en"]
    questions = list(spread(harmful_questions("detector"), 3 * count))
    drawn = Random(0)
    drawn.shuffle(questions)
    drawn.shuffle(templates)
    waiting = cycle(templates)
    found: dict[str, Encoded] = {}
    for question in questions:
        if len(found) == count:
            break
        bare = len(found) % BARE == BARE - 1
        for text in [question.question] if bare else (next(waiting).fill(question.question) for _ in templates):
            try:
                encoded = encode(model, text, answer, format)
            except PromptError:
                continue
            if len(encoded.prompt) <= longest:
                found[text] = encoded
                break
    return found


def refusal_texts(count: int) -> list[str]:
    """Return the questions that :func:`own_refusals` asks, of all categories."""
    return [question.question for question in spread(harmful_questions("detector"), count)]


def _answered(
    model: InspectedModel,
    texts: Sequence[str],
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool],
    what: str,
) -> Generator[Preparation, None, list[Encoded] | None]:
    known = known_answers(model)
    keys = [(text, tokens, format.open()) for text in texts]
    missing = [key for key in keys if key not in known]
    for start in range(0, len(missing), ASKED_AT_ONCE):
        batch = missing[start : start + ASKED_AT_ONCE]
        yield Preparation(
            f"Asking the vanilla model {what} {start + 1} to {start + len(batch)} of {len(missing)}",
            start / len(missing),
        )
        if cancel():
            return None
        prompts = [encode(model, text, None, format, room=tokens).prompt for text, _, _ in batch]
        answered = deque(generate(model, prompts, (VANILLA,), Decoding(max_new_tokens=tokens)), maxlen=1)[0]
        for key, prompt, line in zip(batch, prompts, answered, strict=True):
            end = () if line.ended is None else (line.ended,)
            known[key] = Encoded(prompt, (*line.tokens, *end))
        while len(known) > MOST_KNOWN:
            known.pop(next(key for key in known if key not in keys))
    return [known[key] for key in keys]


def fitting_texts(model: InspectedModel, case: Case, count: int, tokens: int, format: PromptFormat) -> list[str]:
    """Return :func:`harmless_texts` without those that leave no room for an answer, such as one in a long attack.

    Raises:
        PromptError: None does.
    """
    return _fitting(model, harmless_texts(case, count), tokens, format)


def _fitting(model: InspectedModel, texts: Sequence[str], tokens: int, format: PromptFormat) -> list[str]:
    found, wrong = [], None
    for text in texts:
        try:
            encode(model, text, None, format, room=tokens)
            found.append(text)
        except PromptError as error:
            wrong = error
    if wrong is not None and not found:
        raise wrong
    return found
