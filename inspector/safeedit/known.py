"""Vanilla answers that are known before an exam, so that only the edited weights have to answer.

Plainly vanilla and edited weights share each batch (``asking.answers_of``). Where many exams put the same prompts, the
vanilla weights need to answer them once; :func:`compare` asks one batch again the plain way and counts what differs, as
another shape of a batch may round differently and flip a near tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from inspector.model.answers.batching import Decoding, Line, generate, generate_each
from inspector.model.inspected import InspectedModel
from inspector.model.memory.batch_size import MOST
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.patches.routing import decisions
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.asking import Prompts, answers_of, encoded, limited, most_tokens, planned
from inspector.safeedit.marking import Reply
from inspector.safeedit.questions import Question

Asked = tuple[tuple[int, ...], int]
"""A prompt's token ids and how many tokens the answer may have."""


@dataclass(frozen=True)
class Answer:
    """An answer as token ids.

    Attributes:
        tokens: Without the id that ended it.
        ended: The id that ended it; ``None`` where it was cut.
    """

    tokens: tuple[int, ...]
    ended: int | None

    @classmethod
    def of(cls, line: Line) -> Answer:
        """Return what a line has answered."""
        return cls(tuple(line.tokens), line.ended)

    def line(self, prompt: int) -> Line:
        """Return it as the vanilla weights' line of a batch."""
        return Line(prompt, 0, list(self.tokens), self.ended)


Known = Mapping[Asked, Answer]
"""Vanilla answers of one model in one data type and one decoding but for the longest answer."""
NONE_KNOWN: Known = MappingProxyType({})


def answer_once(model: InspectedModel, prompts: Prompts, decoding: Decoding) -> Known:
    """Answer prompts with the vanilla weights alone, in one batch."""
    lines: list[Line] = []
    for now in generate(model, prompts, (VANILLA,), decoding):
        lines = now
    longest = decoding.max_new_tokens
    return {(prompt, longest): Answer.of(line) for prompt, line in zip(prompts, lines, strict=True)}


def beside_known(
    model: InspectedModel,
    known: Sequence[Answer],
    unedited: Prompts,
    edited: Sequence[Prompts],
    rows: Sequence[Row],
    decoding: Decoding,
    bundled: Sequence[bool] = (),
) -> Iterator[list[Line]]:
    """Answer with each row's weights, beside known vanilla answers; the lines are those of ``asking.answers_of``.

    What a row answers with the vanilla weights (a refused edit, a prompt for which its detector does not fire) is the
    known answer to the same prompt, not made again.

    Args:
        bundled: Whether each prompt is one that other exams ask as well, so that what a detector reads of it is kept.
    """
    asked = [(prompt, row.weights()) for prompts, row in zip(edited, rows, strict=True) for prompt in prompts]
    keep = [*bundled] * len(rows)
    acting = decisions(model, [prompt for prompt, _ in asked], [row for _, row in asked], keep)
    size = len(unedited)
    before = [answer.line(n) for n, answer in enumerate(known)]
    after: list[Line] = []
    making: list[int] = []
    for n, ((prompt, _), made) in enumerate(zip(asked, acting, strict=True)):
        line = Line(n % size, 1 + n // size, [], None, made.weights, made.held_back, made.reading)
        if made.weights == VANILLA and prompt == unedited[n % size]:
            line.tokens, line.ended = list(before[n % size].tokens), before[n % size].ended
        else:
            making.append(n)
        after.append(line)
    if not making:
        yield [*before, *after]
        return
    for fresh in generate_each(model, [(asked[n][0], acting[n].weights) for n in making], decoding):
        for n, line in zip(making, fresh, strict=True):
            after[n] = replace(after[n], tokens=line.tokens, ended=line.ended)
        yield [*before, *after]


def network_beside_known(
    network: InspectedModel, known: Sequence[Answer], prompts: Prompts, decoding: Decoding
) -> Iterator[list[Line]]:
    """Answer with another network beside known answers of the model itself; the lines as of :func:`beside_known`."""
    before = [answer.line(n) for n, answer in enumerate(known)]
    for lines in generate(network, prompts, (VANILLA,), decoding):
        yield [*before, *lines]


@dataclass(frozen=True)
class Pairing:
    """How answers beside known ones compare with those of vanilla and edited weights in one batch.

    Attributes:
        compared: Prompts that were asked again with both weights in one batch.
        vanilla: How many of them get another vanilla answer there, token by token.
        edited: How many get another edited answer there, as text.
    """

    compared: int = 0
    vanilla: int = 0
    edited: int = 0

    def __add__(self, other: Pairing) -> Pairing:
        """Return both together."""
        return Pairing(self.compared + other.compared, self.vanilla + other.vanilla, self.edited + other.edited)


def compare(
    model: InspectedModel,
    questions: Sequence[Question],
    row: Row,
    replies: Sequence[Reply],
    known: Known,
    number: int = 0,
    *,
    plain: PromptFormat,
    format: PromptFormat,
    decoding: Decoding,
    prompts_at_once: int = MOST,
) -> Pairing:
    """Ask one batch of a finished exam again as a plain exam does, vanilla beside edited, and count what differs.

    Args:
        questions: The exam's.
        row: The edited weights.
        replies: The exam's, to all questions in their order.
        known: The vanilla answers that it took.
        number: Which of the plain batches with known answers it is; counted round, so that exams take turns.
        plain: Format in which the vanilla weights were asked.
        format: Format in which the edited weights were asked.
        decoding: The exam's.
        prompts_at_once: Prompts in a batch of the plain exam.

    Returns:
        No prompt compared where the exam took no known answer.
    """
    prompts = [encoded(model, q, q.prompt, plain, decoding.max_new_tokens) for q in questions]
    asked: list[Asked] = [
        (prompt, most_tokens(question, decoding)) for prompt, question in zip(prompts, questions, strict=True)
    ]
    batches = [batch for batch in planned(questions, prompts, prompts_at_once) if any(asked[n] in known for n in batch)]
    if not batches:
        return Pairing()
    batch = batches[number % len(batches)]
    edited = [
        encoded(model, questions[n], row.prompted(questions[n].prompt), format, decoding.max_new_tokens) for n in batch
    ]
    lines: list[Line] = []
    least = limited(decoding, questions[batch[0]])
    for now in answers_of(model, [prompts[n] for n in batch], [edited], (row,), least):
        lines = now
    found = Pairing()
    for place, n in enumerate(batch):
        if asked[n] in known:
            vanilla, text = Answer.of(lines[place]), model.decode(lines[len(batch) + place].tokens).strip()
            found += Pairing(1, int(vanilla != known[asked[n]]), int(text != replies[n].edited.text))
    return found
