"""The exam of an edit: every prompt of the benchmark answered by the vanilla and the edited weights in one batch.

An exam is a list of :class:`~inspector.safeedit.questions.Question`; :func:`examine` answers and marks them and yields
as it goes, so that a screen can show each answer as it comes and a cancel keeps what is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from inspector.errors import CaseError
from inspector.model.batching import Decoding, Line, common_start, generate, generate_each, plan
from inspector.model.encoding import encode
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.marking import Marked, Reply, mark_batch
from inspector.safeedit.questions import CASE_PROMPTS, Kind, Question
from inspector.safeedit.verdict import Judge

__all__ = [
    "EVALUATIONS",
    "Evaluation",
    "ExamResult",
    "Examination",
    "Marked",
    "Progress",
    "Reply",
    "asked_as",
    "examine",
    "prompt_of",
    "run_exam",
]

Evaluation = Literal["same", "paper"]
EVALUATIONS: dict[Evaluation, str] = {
    "same": "both weights with the same prompts",
    "paper": "as in the paper: vanilla without the suffix, edited with it",
}
"""How the two weights are asked, for people. With ``paper`` a score shows what suffix and edit do together."""


def asked_as(format: PromptFormat, evaluation: Evaluation) -> PromptFormat:
    """Return the format in which the vanilla weights are asked where the edited ones are asked in ``format``."""
    return format.without_suffix() if evaluation == "paper" else format


OPENING = "The answer is"
"""Put before the model's answer to a fact question (zero-shot, as in the paper)."""
FACT_TOKENS = 12


@dataclass(frozen=True)
class Progress:
    """State of a running exam.

    Attributes:
        fraction: Share of the work done, 0 to 1.
        seconds: Time so far.
        fresh: Replies that came with this event.
        answered: Replies so far.
        total: Questions in all.
    """

    fraction: float
    seconds: float
    fresh: tuple[Reply, ...]
    answered: int
    total: int

    @property
    def seconds_left(self) -> float | None:
        """Estimated rest of the time, ``None`` before anything is known."""
        return self.seconds * (1 - self.fraction) / self.fraction if self.fraction > 0.01 else None


@dataclass(frozen=True)
class ExamResult:
    """A marked exam.

    Attributes:
        replies: In the order of the questions; fewer than the questions if it was cancelled.
        weights: Which weights answered as edited.
        judge: The judge's name.
        judge_note: What the judge is.
        format: How the prompts were put together.
        evaluation: Whether the vanilla prompts had the suffix, too.
        max_new_tokens: Longest answer.
        cancelled: Whether it ended early.
        seconds: Duration.
    """

    replies: tuple[Reply, ...]
    weights: str
    judge: str
    judge_note: str
    format: PromptFormat
    evaluation: Evaluation
    max_new_tokens: int
    cancelled: bool
    seconds: float

    @property
    def asked(self) -> str:
        """How both weights were asked, in a few words."""
        return ", ".join(part for part in (EVALUATIONS[self.evaluation], self.format.label()) if part)


Examination = Generator[Progress, None, ExamResult]


def examine(
    model: InspectedModel,
    questions: Sequence[Question],
    row: Row,
    judge: Judge,
    *,
    format: PromptFormat = PromptFormat(),
    evaluation: Evaluation = "same",
    decoding: Decoding = Decoding(max_new_tokens=64),
    prompts_at_once: int = 12,
    cancel: Callable[[], bool] = lambda: False,
    beside: InspectedModel | None = None,
) -> Examination:
    """Answer and mark an exam with the vanilla and the edited weights.

    A generator that yields after every token of a batch, so a cancel takes effect within one token and other
    visitors take turns. Both weights get the same decoding and share each batch, and the same prompts unless the
    row has a reminder or the evaluation is the paper's.

    Args:
        row: The edited weights, or the reminder around each prompt; the judge reads the prompt without it.
        judge: Reads the answers of judged kinds.
        format: Suffix and chat template; that of the edit, so that it is asked as it was made.
        evaluation: One of :data:`EVALUATIONS`.
        decoding: Fact questions get at most :data:`FACT_TOKENS` tokens.
        prompts_at_once: Prompts in a batch; it has twice as many lines.
        cancel: Asked after every token; ``True`` ends the exam and keeps what is marked.
        beside: Another network that answers in the place of the edited weights, in batches of its own; the row is
            vanilla then, and the result's ``weights`` is its name.

    Raises:
        CaseError: There is no question, or the evaluation is unknown.
        PromptError: A prompt is longer than the model's context allows.
    """
    if not questions:
        raise CaseError("The exam has no question. Choose at least one part.")
    if evaluation not in EVALUATIONS:
        raise CaseError(f"Unknown evaluation '{evaluation}'. Choose one of: {', '.join(EVALUATIONS)}.")
    started = time.perf_counter()
    plain = asked_as(format, evaluation)
    prompts, prompted = (
        [prompt_of(model, q, around.prompted(q.prompt), used, decoding.max_new_tokens) for q in questions]
        for around, used in ((VANILLA, plain), (row, format))
    )
    batches = [
        [group[position] for position in batch]
        for group in _groups(questions)
        for batch in plan([prompts[position] for position in group], prompts_at_once)
    ]
    work = [_work([prompts[p] for p in batch], _longest(questions[batch[0]], decoding)) for batch in batches]
    replies: dict[int, Reply] = {}
    done = 0.0
    cancelled = False
    for batch, (reading, answering) in zip(batches, work, strict=True):
        asked = [questions[position] for position in batch]
        longest = _longest(asked[0], decoding)
        limited = Decoding(longest, decoding.temperature, decoding.top_p, decoding.seed)
        lines: list[Line] = []
        both = [prompts[p] for p in batch], [prompted[p] for p in batch]
        for count, now in enumerate(_answers(model, both, row, limited, beside), start=1):
            lines = now
            share = (done + reading + answering * count / longest) / sum(map(sum, work))
            yield Progress(share, time.perf_counter() - started, (), len(replies), len(questions))
            cancelled = cancel()
            if cancelled:
                break
        if cancelled:
            break
        marked = mark_batch(model, asked, both, lines, row, judge, beside)
        replies.update(zip(batch, marked, strict=True))
        done += reading + answering
        share = done / sum(map(sum, work))
        yield Progress(share, time.perf_counter() - started, tuple(marked), len(replies), len(questions))
        cancelled = cancel() and len(replies) < len(questions)
        if cancelled:
            break
    return ExamResult(
        replies=tuple(replies[position] for position in sorted(replies)),
        weights=row.label() if beside is None else beside.name,
        judge=judge.name,
        judge_note=judge.note,
        format=format,
        evaluation=evaluation,
        max_new_tokens=decoding.max_new_tokens,
        cancelled=cancelled,
        seconds=time.perf_counter() - started,
    )


def run_exam(examination: Examination, on_progress: Callable[[Progress], Any] | None = None) -> ExamResult:
    """Run an exam to its end and return its result."""
    while True:
        try:
            event = next(examination)
        except StopIteration as end:
            return end.value
        if on_progress is not None:
            on_progress(event)


def _longest(question: Question, decoding: Decoding) -> int:
    return min(FACT_TOKENS, decoding.max_new_tokens) if question.kind == "fact" else decoding.max_new_tokens


def _groups(questions: Sequence[Question]) -> list[list[int]]:
    """Return positions by what is asked for: the case's own prompts first, as they matter most."""
    order: list[tuple[Kind, ...]] = [
        tuple(CASE_PROMPTS),
        ("transfer", "attack", "question"),
        ("harmless",),
        ("fact",),
        ("passage",),
    ]
    groups = [[n for n, question in enumerate(questions) if question.kind in kinds] for kinds in order]
    return [group for group in groups if group]


_Prompts = Sequence[tuple[int, ...]]


def _answers(
    model: InspectedModel,
    both: tuple[_Prompts, _Prompts],
    row: Row,
    decoding: Decoding,
    beside: InspectedModel | None = None,
) -> Iterator[list[Line]]:
    """Answer with the vanilla weights, then with the row's, each with its own prompts, in one batch."""
    if beside is not None:
        yield from _in_step(*(generate(m, p, (VANILLA,), decoding) for m, p in zip((model, beside), both, strict=True)))
        return
    if both[0] == both[1] and row.weights() == VANILLA:
        for lines in generate(model, both[0], (VANILLA,), decoding):
            yield [*lines, *lines]
        return
    if both[0] == both[1]:
        yield from generate(model, both[0], (VANILLA, row.weights()), decoding)
        return
    asked = [*((prompt, VANILLA) for prompt in both[0]), *((prompt, row.weights()) for prompt in both[1])]
    yield from generate_each(model, asked, decoding)


def _in_step(first: Iterator[list[Line]], second: Iterator[list[Line]]) -> Iterator[list[Line]]:
    """Yield the lines of two networks after every token; the one that ends first keeps its last."""
    before: list[Line] = []
    after: list[Line] = []
    for fresh in zip_longest(first, second):
        before, after = fresh[0] or before, fresh[1] or after
        yield [*before, *after]


def prompt_of(
    model: InspectedModel, question: Question, text: str, format: PromptFormat, room: int = 0
) -> tuple[int, ...]:
    """Return the ids that a question is asked with; a fact question has the answer's opening after it.

    Args:
        text: The question's prompt, with the reminder around it if there is one.
        format: Suffix and chat template.
        room: Tokens of the answer.

    Raises:
        PromptError: It is longer than the model's context allows.
    """
    if question.kind != "fact":
        return encode(model, text, None, format, room=room).prompt
    encode(model, text, None, format, room=room)  # for its check of the room
    return encode(model, text, OPENING, format.open()).tokens


def _work(prompts: Sequence[Sequence[int]], longest: int) -> tuple[float, float]:
    """Return the tokens that a batch reads and those that it may write: what the time goes with."""
    shared = common_start(prompts) if len(prompts) > 1 else 0
    reading = shared + len(prompts) * (max(map(len, prompts)) - shared)
    return float(reading), float(len(prompts) * longest)
