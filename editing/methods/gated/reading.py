"""A reading of single tokens that tells at the end of a prompt that it is harmful, with the threshold in one row.

A gate acts at every token, so it must not only tell harmful prompts from others where the answer begins: it has to stay
shut everywhere else. The reading is a ridge regression on tokens' inputs of the MLP: +1 at the end of harmful prompts,
-1 at that of harmless ones, and -1 at tokens drawn from all over both and at those of the model's own answers to
further harmless prompts: a reading that knows no answer opens somewhere in most of them. Harmful questions and harmless
prompts stand in the same attack templates, so that the template itself says nothing.

A row of weights has no constant beside it. The regression therefore goes through the origin, and a threshold is folded
into a row by a direction whose product with any token's input is next to 1: a normalised input has such directions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from editing.methods.dinm import FURTHER_ANSWERS
from editing.progress import Preparation
from editing.texts.harmless import unseen_answers
from inspector.detection import FOLDS, area, samples
from inspector.errors import EditError, PromptError
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.memory.recent import Recent, named
from inspector.model.patches.routing import AT_ONCE, mlp_inputs
from inspector.safeedit.sets import spread

PENALTY = 0.03
"""Squared penalty, as a share of each input's mean square: it means the same whatever the scale of the inputs."""
OWN_TOKENS = 24
"""Most tokens of an own answer of the model at which gates are to stay shut."""
ELSEWHERE = 4
"""Tokens of each text, drawn before its end, at which gates are to stay shut."""
MOST_KEPT = 4
"""Readings that are kept for a model, those used last."""
_READINGS: WeakKeyDictionary[InspectedModel, Recent[tuple[Any, ...], TokenReading]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Inputs:
    """What enters an MLP for bundled texts.

    Attributes:
        ends: ``[texts, positions, d_model]``, the last tokens of each prompt and the first of an answer.
        elsewhere: ``[texts, tokens, d_model]``, tokens before them.
        answers: ``[tokens, d_model]`` each, the model's own answers to harmless prompts that are none of the texts.
        harmful: ``[texts]``.
        folds: ``[texts]``, texts of one fold share neither question nor template with those of another.
    """

    ends: np.ndarray
    elsewhere: np.ndarray
    answers: Sequence[np.ndarray]
    harmful: np.ndarray
    folds: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenReading:
    """A linear reading of a token's input of an MLP.

    Attributes:
        direction: ``[d_model]`` float32; about +1 at the end of a harmful prompt, -1 elsewhere.
        constant: ``[d_model]`` float32, whose product with any token's input is about 1.
        held_out: ``[texts]`` each text's highest reading at its end, by a fit that knew neither its question nor its
            template.
        harmful: ``[texts]`` whether it is.
        elsewhere: ``[texts, tokens]`` the readings at other tokens, likewise.
        answers: ``[answers]`` the highest reading in each of the model's own, likewise.
    """

    direction: Tensor
    constant: Tensor
    held_out: np.ndarray
    harmful: np.ndarray
    elsewhere: np.ndarray
    answers: np.ndarray

    def threshold(self, false_alarms: float) -> float:
        """Return the reading that a share of the harmless texts held out of the fit reach at their end."""
        return float(np.quantile(self.held_out[~self.harmful], 1 - false_alarms))

    @property
    def spread(self) -> float:
        """Standard deviation over harmless texts: the unit of a gate's ramp."""
        return float(self.held_out[~self.harmful].std()) or 1.0

    def record(self, threshold: float) -> dict[str, Any]:
        """Say how it was made, and how often texts held out of the fit read above a threshold, as shares."""
        return {
            "harmful_texts": int(self.harmful.sum()),
            "harmless_texts": int((~self.harmful).sum()),
            "auc_held_out": area(self.held_out, self.harmful),
            "threshold": threshold,
            "found_held_out": float((self.held_out[self.harmful] >= threshold).mean()),
            "false_alarms_held_out": float((self.held_out[~self.harmful] >= threshold).mean()),
            "open_elsewhere": float((self.elsewhere >= threshold).mean()),
            "answers": len(self.answers),
            "open_in_answers": float((self.answers >= threshold).mean()) if len(self.answers) else None,
        }


def token_reading(
    model: InspectedModel,
    block: int,
    format: PromptFormat,
    count: int,
    longest: int,
    positions: int,
    answer: int = 0,
    own: int = 0,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, TokenReading | None]:
    """Fit a reading on bundled texts; kept per model, block, format and texts.

    Args:
        block: The block whose MLP is read.
        format: The prompts'.
        count: Most texts, harmful and harmless ones together.
        longest: Most tokens of a text.
        positions: Tokens at the end of a prompt at which gates may open; 1 for where the answer begins.
        answer: Tokens of an answer that declines at which gates may stay open: each text is followed by the beginning
            of one, harmless texts as well, so that the answer itself says nothing.
        own: The model's own answers to harmless prompts, at whose tokens gates are to stay shut.

    Yields:
        A message now and then.

    Returns:
        The reading; ``None`` when cancelled.

    Raises:
        NotFinite: The states are not finite numbers.
        EditError: Too few texts fit into the model's context.
    """
    kept, key = (
        _READINGS.setdefault(model, Recent(MOST_KEPT)),
        (block, named(format.open()), count, longest, positions, answer, own),
    )
    known = kept.get(key)
    if known is not None:
        return known
    inputs = yield from _inputs(
        model, block, format, count, min(longest, model.context_length), positions, answer, cancel
    )
    if inputs is None:
        return None
    answers = yield from _own_answers(model, block, format, own, cancel)
    if answers is None:
        return None
    yield Preparation("Fitting the gates' reading", 0.7)
    kept[key] = found = fit_reading(replace(inputs, answers=answers))
    return found


def fit_reading(inputs: Inputs, penalty: float = PENALTY) -> TokenReading:
    """Fit a reading, and again without each fold, for thresholds that hold for texts it has not seen.

    Raises:
        EditError: Without some fold there is no text of one kind.
    """
    held_out = np.zeros(len(inputs.harmful))
    elsewhere = np.zeros(inputs.elsewhere.shape[:2])
    answers = np.zeros(len(inputs.answers))
    groups = np.arange(len(answers)) % FOLDS
    for fold in sorted(set(inputs.folds.tolist())):
        left, known = inputs.folds == fold, inputs.folds != fold
        if len(set(inputs.harmful[known].tolist())) < 2:
            raise EditError(_TOO_FEW)
        others = [tokens for tokens, group in zip(inputs.answers, groups, strict=True) if group != fold]
        row, _ = _solved(inputs, known, others, penalty)
        for number in np.flatnonzero(groups == fold).tolist():
            answers[number] = (inputs.answers[number] @ row).max()
        held_out[left] = (inputs.ends[left] @ row).max(axis=1)
        elsewhere[left] = inputs.elsewhere[left] @ row
    whole = np.ones(len(held_out), dtype=bool)
    solved = _solved(inputs, whole, inputs.answers, penalty)
    direction, constant = (torch.tensor(row, dtype=torch.float32) for row in solved)
    return TokenReading(direction, constant, held_out, inputs.harmful, elsewhere, answers)


def _solved(
    inputs: Inputs, chosen: np.ndarray, answers: Sequence[np.ndarray], penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the regressions on the label and on the constant 1; each kind of tokens weighs the same."""
    size = inputs.ends.shape[-1]
    moment, wanted, total = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    kinds = [
        (1.0, inputs.ends[chosen & inputs.harmful]),
        (-1.0, inputs.ends[chosen & ~inputs.harmful]),
        (-1.0, inputs.elsewhere[chosen]),
    ]
    if answers:
        kinds.append((-1.0, np.concatenate(answers)))
    for label, tokens in kinds:
        each = tokens.reshape(-1, size).astype(np.float64)
        moment += each.T @ each / len(each)
        wanted += label * each.mean(axis=0)
        total += each.mean(axis=0)
    scale = np.sqrt(moment.diagonal())
    scale[scale == 0] = 1.0  # an input that is always zero
    moment, one = moment / np.outer(scale, scale), np.eye(size)
    direction, constant = (
        np.linalg.solve(moment + penalty * one, wanted / scale),
        np.linalg.solve(moment + 1e-3 * one, total / scale),
    )
    return direction / scale, constant / scale


def _inputs(
    model: InspectedModel,
    block: int,
    format: PromptFormat,
    count: int,
    limit: int,
    positions: int,
    answer: int,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Inputs | None]:
    known = samples("detector")
    short = []
    candidates = [
        sample for harmful in (True, False) for sample in spread([s for s in known if s.harmful == harmful], 2 * count)
    ]
    for sample in candidates:
        if len(sample.text) <= 8 * limit:  # else it is too long for sure, and need not be encoded
            ids = encode_short(model, sample.text, format, limit - answer)
            if len(ids) > positions + 1:
                short.append((sample, ids))
    chosen = [
        entry
        for harmful in (True, False)
        for entry in spread([e for e in short if e[0].harmful == harmful], count // 2)
    ]
    if {sample.fold for sample, _ in chosen} != set(range(FOLDS)):
        raise EditError(_TOO_FEW)
    chosen.sort(key=lambda entry: len(entry[1]))
    random = np.random.default_rng(0)
    ends: list[np.ndarray] = []
    elsewhere: list[np.ndarray] = []
    order: list[int] = []
    for start in range(0, len(chosen), AT_ONCE):
        batch = [
            (*ids, *_declining(model, sample.text, start + number, format, answer))
            for number, (sample, ids) in enumerate(chosen[start : start + AT_ONCE])
        ]
        yield Preparation(
            f"Reading bundled texts for the gates: {start + len(batch)} of {len(chosen)}",
            0.1 + 0.6 * start / len(chosen),
        )
        if cancel():
            return None
        for number, states in _by_length(mlp_inputs(model, [block], batch)):  # in which order places are drawn
            tokens = states[:, 0].cpu().numpy()
            model.require_finite("MLP input", [tokens])
            ends.append(tokens[-positions - answer :])
            elsewhere.append(tokens[random.integers(1, len(tokens) - positions - answer, ELSEWHERE)])
            order.append(start + number)
    return Inputs(
        np.stack(ends),
        np.stack(elsewhere),
        [],
        np.array([chosen[number][0].harmful for number in order]),
        np.array([chosen[number][0].fold for number in order]),
    )


def _own_answers(
    model: InspectedModel, block: int, format: PromptFormat, count: int, cancel: Callable[[], bool]
) -> Generator[Preparation, None, list[np.ndarray] | None]:
    """Read what enters the MLP at the tokens of the model's own answers, ``[tokens, d_model]`` each."""
    if not count:
        return []
    answered = yield from unseen_answers(model, count, OWN_TOKENS, format, cancel)
    if answered is None:
        return None
    found: list[np.ndarray] = []
    answered = sorted((each for each in answered if each.response), key=lambda each: len(each.tokens))
    for start in range(0, len(answered), AT_ONCE):
        batch = answered[start : start + AT_ONCE]
        yield Preparation(f"Reading the model's own answers for the gates: {start} of {len(answered)}", 0.65)
        if cancel():
            return None
        for number, states in _by_length(mlp_inputs(model, [block], [each.tokens for each in batch])):
            found.append(states[len(batch[number].prompt) :, 0].cpu().numpy())
            model.require_finite("MLP input", found[-1:])
    return found


def _by_length(read: Iterable[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
    """Return what was read of texts, the shortest first, whichever were read together."""
    return sorted(read, key=lambda each: (len(each[1]), each[0]))


def _declining(model: InspectedModel, text: str, number: int, format: PromptFormat, answer: int) -> Sequence[int]:
    """Return the first tokens of a short answer that declines, the same kinds after harmful and harmless texts."""
    if not answer:
        return ()
    response = encode(model, text, FURTHER_ANSWERS[number % len(FURTHER_ANSWERS)], format).response
    return response[:answer]


def encode_short(model: InspectedModel, text: str, format: PromptFormat, limit: int) -> Sequence[int]:
    """Return the ids of a prompt; none where there are more than a limit."""
    try:
        ids = encode(model, text, None, format).prompt
    except PromptError:
        return ()
    return ids if len(ids) <= limit else ()


_TOO_FEW = (
    "Too few bundled texts are short enough to teach gates what harm is. Raise longest_text, or use another method."
)
