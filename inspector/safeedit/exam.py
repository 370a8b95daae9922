"""The exam of an edit: every prompt of the benchmark answered by the vanilla and the edited weights in one batch.

An exam is a list of :class:`~inspector.safeedit.questions.Question`; :func:`examine` answers and marks them and yields
as it goes, so that a screen can show each answer as it comes and a cancel keeps what is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from inspector.errors import CaseError
from inspector.model.answers.batching import Decoding, Line
from inspector.model.inspected import InspectedModel
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.asking import answers_of, cost_of, encoded, limited, most_tokens, planned
from inspector.safeedit.known import NONE_KNOWN, Answer, Asked, Known, beside_known, network_beside_known
from inspector.safeedit.marking import Marked, Reply, mark_batch
from inspector.safeedit.questions import CASE_PROMPTS, Question
from inspector.safeedit.scores import Score, score_table
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
    "examine_all",
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
        detector: Digest of the detector by which these weights acted; empty for on every prompt.
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
    detector: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The :attr:`inspector.model.Row.key` of the weights that answered as edited."""
        return self.weights, self.detector

    @property
    def asked(self) -> str:
        """How both weights were asked, in a few words."""
        return ", ".join(part for part in (EVALUATIONS[self.evaluation], self.format.label()) if part)

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """Every score that the replies can serve; some of their intervals are resampled, so they are made once."""
        return score_table(self.replies, self.judge)


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
    prompts_at_once: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
    beside: InspectedModel | None = None,
    known: Known = NONE_KNOWN,
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
        decoding: Fact questions get at most :data:`inspector.safeedit.asking.FACT_TOKENS` tokens.
        prompts_at_once: Prompts in a batch, which has twice as many lines; by default as many as fit into the memory
            that is free, up to a bound (:mod:`inspector.model.memory.batch_size`).
        cancel: Asked after every token; ``True`` ends the exam and keeps what is marked.
        beside: Another network that answers in the place of the edited weights, in batches of its own; the row is
            vanilla then, and the result's ``weights`` is its name.
        known: Vanilla answers of this model in this decoding (:mod:`inspector.safeedit.known`); the prompts that have
            one are answered by the edited weights alone.

    Raises:
        CaseError: There is no question, or the evaluation is unknown.
        PromptError: A prompt is longer than the model's context allows.
    """
    found = yield from examine_all(
        model,
        questions,
        (row,),
        judge,
        format=format,
        evaluation=evaluation,
        decoding=decoding,
        prompts_at_once=prompts_at_once,
        cancel=cancel,
        beside=beside,
        known=known,
    )
    return found[0]


def examine_all(
    model: InspectedModel,
    questions: Sequence[Question],
    rows: Sequence[Row],
    judge: Judge,
    *,
    format: PromptFormat = PromptFormat(),
    evaluation: Evaluation = "same",
    decoding: Decoding = Decoding(max_new_tokens=64),
    prompts_at_once: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
    beside: InspectedModel | None = None,
    known: Known = NONE_KNOWN,
    heard: dict[Asked, Answer] | None = None,
) -> Generator[Progress, None, tuple[ExamResult, ...]]:
    """Give several edits one exam: the vanilla weights answer once, and all share each batch.

    Like :func:`examine`, one result a row. A progress' replies are the first row's; its seconds, like the results', are
    those of all together.

    Args:
        rows: Edited weights or reminders, all asked in one format.
        prompts_at_once: Prompts in a batch, which has one line more a prompt than there are rows.
        heard: Takes the vanilla answers that are given here, for another exam of the same prompts.
    """
    if not questions:
        raise CaseError("The exam has no question. Choose at least one part.")
    if evaluation not in EVALUATIONS:
        raise CaseError(f"Unknown evaluation '{evaluation}'. Choose one of: {', '.join(EVALUATIONS)}.")
    started = time.perf_counter()
    plain = asked_as(format, evaluation)
    prompts, *prompted = (
        [encoded(model, q, around.prompted(q.prompt), used, decoding.max_new_tokens) for q in questions]
        for around, used in ((VANILLA, plain), *((row, format) for row in rows))
    )
    longest = [most_tokens(question, decoding) for question in questions]
    asked_before = [(prompt, most) in known for prompt, most in zip(prompts, longest, strict=True)]
    # A batch beside known answers has no vanilla lines of its own.
    sizes = {False: prompts_at_once or 0, True: (prompts_at_once or 0) * (1 + len(rows)) // len(rows)}
    if prompts_at_once is None:
        tokens = max(len(prompt) for each in (prompts, *prompted) for prompt in each) + decoding.max_new_tokens
        sizes = {
            False: prompts_that_fit(model, tokens, 1 + len(rows)),
            True: prompts_that_fit(model, tokens, len(rows), alone=True),
        }
    batches: list[list[int]] = []
    for taken, size in sizes.items():
        chosen = [position for position, is_known in enumerate(asked_before) if is_known is taken]
        places = planned([questions[n] for n in chosen], [prompts[n] for n in chosen], size, mixed=taken)
        batches += [[chosen[place] for place in batch] for batch in places]
    work = [cost_of([prompts[p] for p in batch], longest[batch[0]]) for batch in batches]
    replies: list[dict[int, Reply]] = [{} for _ in rows]
    done = 0.0
    cancelled = False
    for batch, (reading, answering) in zip(batches, work, strict=True):
        asked = [questions[position] for position in batch]
        most = limited(decoding, asked[0])
        lines: list[Line] = []
        unedited, *each = ([of[p] for p in batch] for of in (prompts, *prompted))
        if asked_before[batch[0]]:
            given = [known[prompt, most.max_new_tokens] for prompt in unedited]
            bundled = [question.kind not in CASE_PROMPTS for question in asked]
            answers = (
                beside_known(model, given, unedited, each, rows, most, bundled)
                if beside is None
                else network_beside_known(beside, given, each[0], most)
            )
        else:
            answers = answers_of(model, unedited, each, rows, most, beside)
        for count, now in enumerate(answers, start=1):
            lines = now
            answered = min(1.0, count / most.max_new_tokens)  # a batch that had to be halved has more events
            share = (done + reading + answering * answered) / sum(map(sum, work))
            yield Progress(share, time.perf_counter() - started, (), len(replies[0]), len(questions))
            cancelled = cancel()
            if cancelled:
                break
        if cancelled:
            break
        size = len(batch)
        if heard is not None:
            heard |= {
                (prompt, most.max_new_tokens): Answer.of(line)
                for prompt, line in zip(unedited, lines[:size], strict=True)
            }
        for number, (row, edited) in enumerate(zip(rows, each, strict=True)):
            own = [*lines[:size], *lines[size * (number + 1) : size * (number + 2)]]
            marked = mark_batch(model, asked, (unedited, edited), own, row, judge, beside)
            replies[number].update(zip(batch, marked, strict=True))
        done += reading + answering
        share = done / sum(map(sum, work))
        fresh = tuple(replies[0][position] for position in batch)
        yield Progress(share, time.perf_counter() - started, fresh, len(replies[0]), len(questions))
        cancelled = cancel() and len(replies[0]) < len(questions)
        if cancelled:
            break
    return tuple(
        ExamResult(
            replies=tuple(found[position] for position in sorted(found)),
            weights=row.label() if beside is None else beside.name,
            judge=judge.name,
            judge_note=judge.note,
            format=format,
            evaluation=evaluation,
            max_new_tokens=decoding.max_new_tokens,
            cancelled=cancelled,
            seconds=time.perf_counter() - started,
            detector=row.key[1],
        )
        for row, found in zip(rows, replies, strict=True)
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
