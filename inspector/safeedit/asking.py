"""How the questions of an exam are put to vanilla and edited weights: prompts, batches, and answers in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest

from inspector.errors import TooLong
from inspector.model.answers.batching import Decoding, Line, generate, generate_each, plan
from inspector.model.answers.cached_lines import common_start
from inspector.model.encoding import encode
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.questions import CASE_PROMPTS, Kind, Question

OPENING = "The answer is"
"""Put before the model's answer to a fact question (zero-shot, as in the paper)."""
FACT_TOKENS = 12


def most_tokens(question: Question, decoding: Decoding) -> int:
    """Return how long the answer to a question may be, in tokens."""
    return min(FACT_TOKENS, decoding.max_new_tokens) if question.kind == "fact" else decoding.max_new_tokens


def limited(decoding: Decoding, question: Question) -> Decoding:
    """Return the decoding with the longest answer that a question allows."""
    return replace(decoding, max_new_tokens=most_tokens(question, decoding))


def by_kind(questions: Sequence[Question]) -> list[list[int]]:
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


Prompts = Sequence[tuple[int, ...]]


def planned(questions: Sequence[Question], prompts: Prompts, size: int, mixed: bool = False) -> list[list[int]]:
    """Return the batches of an exam as positions: of one kind, those with a long common start together.

    Args:
        prompts: Token ids of each question's prompt as the vanilla weights get it.
        size: Most prompts in a batch.
        mixed: Kinds whose answers may be as long share batches: fewer of them, and no kind comes before another.
    """
    groups = by_kind(questions)
    if mixed:
        facts = {n for n, question in enumerate(questions) if question.kind == "fact"}
        groups = [same for same in ([n for n in range(len(questions)) if n not in facts], sorted(facts)) if same]
    return [
        [group[position] for position in batch]
        for group in groups
        for batch in plan([prompts[position] for position in group], size)
    ]


def answers_of(
    model: InspectedModel,
    unedited: Prompts,
    edited: Sequence[Prompts],
    rows: Sequence[Row],
    decoding: Decoding,
    beside: InspectedModel | None = None,
) -> Iterator[list[Line]]:
    """Answer with the vanilla weights, then with each row's, each with its own prompts, in one batch."""
    if beside is not None:
        (other,) = edited
        both = ((model, unedited), (beside, other))
        yield from in_step(*(generate(network, prompts, (VANILLA,), decoding) for network, prompts in both))
        return
    if any(prompts != unedited for prompts in edited):
        asked = [(prompt, VANILLA) for prompt in unedited]
        asked += [(p, row.weights()) for prompts, row in zip(edited, rows, strict=True) for p in prompts]
        yield from generate_each(model, asked, decoding)
        return
    weights = [row.weights() for row in rows]
    if all(row == VANILLA for row in weights):
        for lines in generate(model, unedited, (VANILLA,), decoding):
            yield [*lines, *lines * len(rows)]
        return
    yield from generate(model, unedited, (VANILLA, *weights), decoding)


def in_step(first: Iterator[list[Line]], second: Iterator[list[Line]]) -> Iterator[list[Line]]:
    """Yield the lines of two networks after every token; the one that ends first keeps its last."""
    before: list[Line] = []
    after: list[Line] = []
    for fresh in zip_longest(first, second):
        before, after = fresh[0] or before, fresh[1] or after
        yield [*before, *after]


def encoded(
    model: InspectedModel, question: Question, text: str, format: PromptFormat, room: int = 0
) -> tuple[int, ...]:
    """Return a prompt's ids; after that of a fact question the answer is opened with :data:`OPENING`.

    Args:
        text: The prompt as it is put: the question's, or with a reminder around it.
        room: Tokens that the answer needs.

    Raises:
        PromptError: It is longer than the model's context allows.
    """
    if question.kind != "fact":
        return encode(model, text, None, format, room=room).prompt
    encode(model, text, None, format, room=room)  # for its check of the room
    return encode(model, text, OPENING, format.open()).tokens


def readable(
    model: InspectedModel, questions: Sequence[Question], row: Row, format: PromptFormat, room: int
) -> tuple[Question, ...]:
    """Return the questions that a model can read as a row's weights get them, which is at their longest.

    Args:
        room: Tokens that an answer needs.

    Raises:
        PromptError: The chat template takes no question.
    """
    found = []
    for question in questions:
        with suppress(TooLong):
            encoded(model, question, row.prompted(question.prompt), format, room)
            found.append(question)
    return tuple(found)


def cost_of(prompts: Sequence[Sequence[int]], longest: int) -> tuple[float, float]:
    """Return the tokens that a batch reads and those that it may write: what the time goes with."""
    shared = common_start(prompts) if len(prompts) > 1 else 0
    reading = shared + len(prompts) * (max(map(len, prompts)) - shared)
    return float(reading), float(len(prompts) * longest)
