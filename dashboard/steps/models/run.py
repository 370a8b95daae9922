"""Measuring and asking two models the same case, each with its vanilla weights and in its own chat template."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts, case_of
from dashboard.kit.shelf import Shelf
from inspector.divergence import Divergence, divergence
from inspector.errors import CaseError, PromptError
from inspector.model import VANILLA, Answers, Decoding, InspectedModel, PromptFormat, encode, stream
from inspector.model.encoding import templated
from inspector.safeedit import Case
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Verdict, verdicts

ANSWERING = "Both models answer"
ALONE = (
    "Only one model is listed, so there is nothing to hold beside it. Whoever runs this page lists a second one: "
    "python app.py --model A --model B"
)


@dataclass(frozen=True, eq=False)
class Side:
    """What one model did with a case; plain numbers and texts, so that no model is kept by it.

    Attributes:
        label: Its name on the operator's list.
        fingerprint: Of its weights.
        parameters: How many numbers it has learnt.
        dtype: How they are stored.
        templated: Whether it was asked in a chat template of its own; else in plain text.
        divergence: Where its safe and its unsafe answer part.
        answer: What it answered.
        finished: Whether it ended by itself.
        verdict: The judge's.
        seconds: Time of its measurement and of its answer.
    """

    label: str
    fingerprint: str
    parameters: int
    dtype: str
    templated: bool
    divergence: Divergence
    answer: str
    finished: bool
    verdict: Verdict
    seconds: float

    @property
    def blocks(self) -> int:
        """Number of its layers."""
        return len(self.divergence.l2)

    @property
    def depths(self) -> np.ndarray:
        """``[blocks]`` share of the layers that a text has passed after each of them, up to 1."""
        return np.arange(1, self.blocks + 1) / self.blocks

    @property
    def toxic(self) -> int:
        """Its toxic layer."""
        return self.divergence.toxic_layer()


@dataclass(frozen=True, eq=False)
class Beside:
    """Two models on one case.

    Attributes:
        sides: Both, in the order in which they were chosen.
        case: What was asked.
        format: Suffix, and whether chat templates were used: each model its own.
        decoding: How both answered.
    """

    sides: tuple[Side, Side]
    case: Case
    format: PromptFormat
    decoding: Decoding


@dataclass
class Kept:
    """The visitor's last comparison."""

    beside: Beside | None = None


@dataclass(frozen=True)
class Growing:
    """How far a comparison is.

    Attributes:
        doing: In plain words.
        fraction: How far the whole is at least, 0 to 1.
        texts: The answers so far.
    """

    doing: str
    fraction: float
    texts: tuple[str, str] = ("", "")


def require_two(labels: Sequence[str]) -> None:
    """Refuse to hold a model against itself.

    Raises:
        CaseError: Both are the same.
    """
    if len(set(labels)) < 2:
        raise CaseError("Both are the same model. Choose another one for one of them.")


def compare_listed(
    shelf: Shelf,
    session: Session,
    labels: tuple[Any, Any],
    texts: Texts,
    decoding: Decoding,
    say: Callable[[str], Any],
) -> Generator[Any, None, Beside | None]:
    """Borrow two models of the list and compare them on a case; the session keeps what was measured.

    An error or a cancelled run leaves what was kept before.

    Args:
        labels: Their names on the list.
        texts: The case.
        say: Turns how far a model that is loaded is into what is shown.

    Yields:
        What :meth:`Shelf.lend` does until both are there, then what :func:`compare` does.

    Returns:
        ``None`` if it was cancelled.

    Raises:
        CaseError: One of them is not listed, both are the same, or the case or the answers' length is refused.
        ModelLoadError: One cannot be loaded, or does not fit.
        PromptError: See :func:`compare`.
    """
    if len(shelf.labels) < 2:
        raise CaseError(ALONE)
    require_two(labels)
    session.limits.require_decoding(decoding)
    case, cancelled = case_of(texts), session.cancelled.is_set
    loan = yield from shelf.lend(labels, cancelled, say)
    if loan is None:
        return None
    with loan as models:
        beside = yield from compare(models, labels, case, texts.format, decoding, cancelled)
    if beside is not None:
        session.slot(Kept).beside = beside
    return beside


def compare(
    models: Sequence[InspectedModel],
    labels: Sequence[str],
    case: Case,
    format: PromptFormat,
    decoding: Decoding,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[Growing, None, Beside | None]:
    """Measure where the answers of a case part in two models, and let both answer its adversarial prompt.

    Each model's lock is held during its own steps only, never between two.

    Args:
        models: Two.
        labels: Their names on the operator's list.
        format: Suffix, and whether chat templates are used: each model its own.

    Returns:
        ``None`` if it was cancelled.

    Raises:
        PromptError: A prompt is too long for one of them, or its chat template refuses it; the message names it.
        CaseError: An answer of the case is missing.
    """
    prompts, curves, seconds = [], [], [0.0, 0.0]
    for place, (model, label) in enumerate(zip(models, labels, strict=True)):
        yield Growing(f"Measuring where the answers part in {label}", 0.15 * place)
        if cancelled():
            return None
        began = time.perf_counter()
        try:
            encoded = encode(model, case.adversarial_prompt, None, format, room=decoding.max_new_tokens)
            curves.append(divergence(model, case, format=format))
        except PromptError as error:
            raise PromptError(f"{label}: {error.user_message()}", error.detail) from error
        prompts.append(encoded.prompt)
        seconds[place] += time.perf_counter() - began
    last: list[Answers | None] = [None, None]
    with ExitStack() as stack:
        runs: list[Any] = [
            stream(model, prompt, (VANILLA,), decoding) for model, prompt in zip(models, prompts, strict=True)
        ]
        for run in runs:  # closed with an error as well, whose traceback would keep their hooks
            stack.enter_context(closing(run))
        going = [0, 1]
        while going:
            for place in list(going):
                began = time.perf_counter()
                answers = next(runs[place], None)
                seconds[place] += time.perf_counter() - began
                if answers is None:
                    going.remove(place)
                else:
                    last[place] = answers
            if cancelled():
                return None
            if going:
                yield Growing(ANSWERING, _fraction(last, decoding), _texts(last))
    first, second = _texts(last)
    prompt = case.adversarial_prompt
    marks = verdicts(EmbeddedJudge(), [(prompt, first), (prompt, second)])
    sides = [
        Side(
            label=label,
            fingerprint=model.fingerprint,
            parameters=model.network.num_parameters(),
            dtype=model.dtype_name,
            templated=templated(model, format),
            divergence=curve,
            answer=text,
            finished=answers is not None and all(answers.finished),
            verdict=mark,
            seconds=spent,
        )
        for model, label, curve, text, answers, mark, spent in zip(
            models, labels, curves, (first, second), last, marks, seconds, strict=True
        )
    ]
    return Beside((sides[0], sides[1]), case, format, decoding)


def _texts(answers: Sequence[Answers | None]) -> tuple[str, str]:
    first, second = ("" if one is None else one.texts[0] for one in answers)
    return first, second


def _fraction(answers: Sequence[Answers | None], decoding: Decoding) -> float:
    written = [0 if one is None else len(one.token_ids[0]) for one in answers]
    return 0.3 + 0.7 * max(written) / decoding.max_new_tokens
