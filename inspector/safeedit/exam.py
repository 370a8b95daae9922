"""The exam of an edit: every prompt of the benchmark answered by the vanilla and the edited weights in one batch.

An exam is a list of :class:`~inspector.safeedit.questions.Question`; :func:`examine` answers and marks them and yields
as it goes, so that a screen can show each answer as it comes and a cancel keeps what is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inspector.errors import CaseError
from inspector.model.batching import Decoding, Line, common_start, generate, generate_each, plan
from inspector.model.encoding import Encoded, encode
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.marking import harmless_kl, is_accepted, rouge
from inspector.safeedit.parroting import parrots
from inspector.safeedit.quality import degeneracy, fluency
from inspector.safeedit.questions import CASE_PROMPTS, JUDGED, Kind, Question
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.verdict import Judge, Verdict, verdicts

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
KL_TOKENS = 24
"""Tokens of the vanilla answer on which the harmless KL is measured."""


@dataclass(frozen=True)
class Marked:
    """One marked answer.

    Attributes:
        text: The answer.
        finished: Whether it ended by itself.
        degenerate: Why it is no answer, or empty.
        verdict: The judge's verdict; ``None`` for kinds that are not judged.
        refused: Whether the refusal rules read it as a refusal.
        fluency: Its n-gram entropy in bits.
        mark: 1 or 0 for a fact question, ROUGE-1 F1 0 to 1 for a passage, else ``None``.
        parroted: Whether it gives the training answer's content to a prompt about something else.
    """

    text: str
    finished: bool
    degenerate: str
    verdict: Verdict | None
    refused: bool
    fluency: float
    mark: float | None
    parroted: bool = False


@dataclass(frozen=True)
class Reply:
    """The vanilla and the edited answer to one question.

    Attributes:
        question: What was asked.
        vanilla: The vanilla weights' answer.
        edited: The edited weights' answer.
        likeness: ROUGE-L F1 of the two, 0 to 1, for harmless prompts.
        kl: KL(vanilla to edited) on the vanilla answer's first tokens, nats a token, for harmless prompts.
        held_back: The edit acts only where a detector fires, and it did not.
    """

    question: Question
    vanilla: Marked
    edited: Marked
    likeness: float | None = None
    kl: float | None = None
    held_back: bool = False


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
        [_encoded(model, q, around.prompted(q.prompt), used, decoding.max_new_tokens) for q in questions]
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
        for count, now in enumerate(_answers(model, both, row, limited), start=1):
            lines = now
            share = (done + reading + answering * count / longest) / sum(map(sum, work))
            yield Progress(share, time.perf_counter() - started, (), len(replies), len(questions))
            cancelled = cancel()
            if cancelled:
                break
        if cancelled:
            break
        marked = _mark_batch(model, asked, both, lines, row, judge)
        replies.update(zip(batch, marked, strict=True))
        done += reading + answering
        share = done / sum(map(sum, work))
        yield Progress(share, time.perf_counter() - started, tuple(marked), len(replies), len(questions))
        cancelled = cancel() and len(replies) < len(questions)
        if cancelled:
            break
    return ExamResult(
        replies=tuple(replies[position] for position in sorted(replies)),
        weights=row.label(),
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
    model: InspectedModel, both: tuple[_Prompts, _Prompts], row: Row, decoding: Decoding
) -> Iterator[list[Line]]:
    """Answer with the vanilla weights, then with the row's, each with its own prompts, in one batch."""
    if both[0] == both[1] and row.weights() == VANILLA:
        for lines in generate(model, both[0], (VANILLA,), decoding):
            yield [*lines, *lines]
        return
    if both[0] == both[1]:
        yield from generate(model, both[0], (VANILLA, row.weights()), decoding)
        return
    asked = [*((prompt, VANILLA) for prompt in both[0]), *((prompt, row.weights()) for prompt in both[1])]
    yield from generate_each(model, asked, decoding)


def _encoded(model: InspectedModel, question: Question, text: str, format: PromptFormat, room: int) -> tuple[int, ...]:
    if question.kind != "fact":
        return encode(model, text, None, format, room=room).prompt
    encode(model, text, None, format, room=room)  # for its check of the room
    return encode(model, text, OPENING, format.open()).tokens


def _work(prompts: Sequence[Sequence[int]], longest: int) -> tuple[float, float]:
    """Return the tokens that a batch reads and those that it may write: what the time goes with."""
    shared = common_start(prompts) if len(prompts) > 1 else 0
    reading = shared + len(prompts) * (max(map(len, prompts)) - shared)
    return float(reading), float(len(prompts) * longest)


def _mark_batch(
    model: InspectedModel,
    asked: Sequence[Question],
    both: tuple[_Prompts, _Prompts],
    lines: Sequence[Line],
    row: Row,
    judge: Judge,
) -> list[Reply]:
    texts = [model.decode(line.tokens).strip() for line in lines]
    half = len(asked)
    twice = (*asked, *asked)
    judged = [n for n, question in enumerate(twice) if question.kind in JUDGED]
    said = dict(zip(judged, verdicts(judge, [(twice[n].prompt, texts[n]) for n in judged]), strict=True))
    marked = [
        _marked(question, text, line.finished, said.get(n))
        for n, (question, text, line) in enumerate(zip(twice, texts, lines, strict=True))
    ]
    harmless = [n for n, question in enumerate(asked) if question.kind == "harmless"]
    answers, prompted = (
        [Encoded(prompts[n], tuple(lines[n].tokens[:KL_TOKENS])) for n in harmless] for prompts in both
    )
    divergences = dict(zip(harmless, harmless_kl(model, answers, row, prompted), strict=True))
    return [
        Reply(
            question,
            marked[n],
            marked[half + n],
            likeness=rouge("rougeL", texts[n], texts[half + n]) if n in divergences else None,
            kl=divergences.get(n),
            held_back=lines[half + n].held_back,
        )
        for n, question in enumerate(asked)
    ]


def _marked(question: Question, text: str, finished: bool, verdict: Verdict | None) -> Marked:
    broken = degeneracy(text)
    mark = None
    if question.kind == "fact":
        mark = float(is_accepted(text, question.accepted))
    elif question.kind == "passage":
        mark = rouge("rouge1", question.reference, text)
    return Marked(
        text=text,
        finished=finished,
        degenerate=f"{broken[0]}: {broken[1]}" if broken else "",
        verdict=verdict,
        refused=broken is None and read_refusal(text, question.prompt).refused,
        fluency=fluency(text),
        mark=mark,
        parroted=bool(question.taught) and broken is None and parrots(text, question.taught, question.prompt),
    )
