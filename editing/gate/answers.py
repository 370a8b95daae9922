"""What the vanilla weights answer in the gate's exam: it asks nearly the same every time, so they answer it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from weakref import WeakKeyDictionary

from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat
from inspector.model.answers.batching import Line, generate
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.memory.recent import Recent, named, with_visits
from inspector.safeedit.asking import encoded, limited, most_tokens, planned
from inspector.safeedit.exam import Progress
from inspector.safeedit.known import Answer, Asked, Known
from inspector.safeedit.questions import CASE_PROMPTS, Question

MOST, MOST_OF_CASES = 1024, 64
"""Answers that are kept of a model, to bundled questions (the exams of some fifteen formats and lengths) and to the own
prompts of cases."""
_Answers = Recent[str, Answer]
_KEPT: WeakKeyDictionary[InspectedModel, _Answers] = WeakKeyDictionary()
_OF_CASES: WeakKeyDictionary[InspectedModel, _Answers] = WeakKeyDictionary()
with_visits(_OF_CASES.clear)  # a case may be a visitor's own


def vanilla_answers(
    model: InspectedModel,
    questions: Sequence[Question],
    format: PromptFormat,
    decoding: Decoding,
    cancel: Callable[[], bool] = lambda: False,
    at_once: int | None = None,
) -> Generator[Progress, None, Known | None]:
    """Answer questions with the vanilla weights alone; what they have answered before is not asked again.

    Questions of a case's own kinds are answered again once a visit has ended, the others are bundled.

    Args:
        cancel: Asked after every token.
        at_once: Prompts in one pass at most; by default as for :func:`prompts_that_fit`.

    Yields:
        How far it is, after every token.

    Returns:
        The answers; ``None`` when cancelled.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    began = time.perf_counter()
    kept = _kept(model, questions)
    asked = _asked(model, questions, format, decoding)
    names = [named(one) for one in asked]
    prompts = [prompt for prompt, _ in asked]
    known = {one: of.get(name) for one, name, of in zip(asked, names, kept, strict=True)}
    found = {one: answer for one, answer in known.items() if answer is not None}
    fresh = [n for n, one in enumerate(asked) if one not in found]
    tokens = max(map(len, prompts)) + decoding.max_new_tokens
    size = prompts_that_fit(model, tokens, 1, at_once, alone=True)
    batches = planned([questions[n] for n in fresh], [prompts[n] for n in fresh], size, mixed=True)
    for number, places in enumerate(batches):
        chosen = [fresh[place] for place in places]
        least = limited(decoding, questions[chosen[0]])
        lines: list[Line] = []
        for count, now in enumerate(generate(model, [prompts[n] for n in chosen], (VANILLA,), least), start=1):
            lines = now
            share = (number + min(1.0, count / least.max_new_tokens)) / len(batches)
            yield Progress(share, time.perf_counter() - began, (), 0, len(questions))
            if cancel():
                return None
        for n, line in zip(chosen, lines, strict=True):
            found[asked[n]] = kept[n][names[n]] = Answer.of(line)
    return found


def unanswered(
    model: InspectedModel, questions: Sequence[Question], format: PromptFormat, decoding: Decoding
) -> list[int]:
    """Return the places of the questions that the vanilla weights have not answered yet.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    asked = _asked(model, questions, format, decoding)
    kept = _kept(model, questions)
    return [n for n, (one, of) in enumerate(zip(asked, kept, strict=True)) if named(one) not in of]


def _kept(model: InspectedModel, questions: Sequence[Question]) -> list[_Answers]:
    """Return where the answer to each question is kept: those to a case's own prompts go with the visits."""
    bundled = _KEPT.setdefault(model, Recent(MOST))
    own = _OF_CASES.setdefault(model, Recent(MOST_OF_CASES))
    return [own if question.kind in CASE_PROMPTS else bundled for question in questions]


def _asked(
    model: InspectedModel, questions: Sequence[Question], format: PromptFormat, decoding: Decoding
) -> list[Asked]:
    room = decoding.max_new_tokens
    return [(encoded(model, one, one.prompt, format, room), most_tokens(one, decoding)) for one in questions]
