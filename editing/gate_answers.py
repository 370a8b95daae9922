"""What the vanilla weights answer in the gate's exam: it asks nearly the same every time, so they answer it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from weakref import WeakKeyDictionary

from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat
from inspector.model.batch_size import MOST_ALONE, prompts_that_fit
from inspector.model.batching import Line, generate
from inspector.model.recent import Recent
from inspector.safeedit.asking import encoded, limited, most_tokens, planned
from inspector.safeedit.exam import Progress
from inspector.safeedit.known import Answer, Asked, Known
from inspector.safeedit.questions import Question

MOST = 512
"""Answers that are kept of a model: the exams of some ten formats and lengths."""
_KEPT: WeakKeyDictionary[InspectedModel, Recent[Asked, Answer]] = WeakKeyDictionary()


def vanilla_answers(
    model: InspectedModel,
    questions: Sequence[Question],
    format: PromptFormat,
    decoding: Decoding,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, Known | None]:
    """Answer questions with the vanilla weights alone; what they have answered before is not asked again.

    Yields:
        How far it is, after every token.

    Returns:
        The answers; ``None`` when cancelled.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    began = time.perf_counter()
    kept = _KEPT.setdefault(model, Recent(MOST))
    asked = _asked(model, questions, format, decoding)
    prompts = [prompt for prompt, _ in asked]
    found = {one: kept[one] for one in asked if one in kept}
    fresh = [n for n, one in enumerate(asked) if one not in found]
    tokens = max(map(len, prompts)) + decoding.max_new_tokens
    size = prompts_that_fit(model, tokens, 1, MOST_ALONE)
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
            found[asked[n]] = kept[asked[n]] = Answer.of(line)
    return found


def unanswered(
    model: InspectedModel, questions: Sequence[Question], format: PromptFormat, decoding: Decoding
) -> list[int]:
    """Return the places of the questions that the vanilla weights have not answered yet.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    kept = _KEPT.get(model)
    return [n for n, one in enumerate(_asked(model, questions, format, decoding)) if kept is None or one not in kept]


def _asked(
    model: InspectedModel, questions: Sequence[Question], format: PromptFormat, decoding: Decoding
) -> list[Asked]:
    room = decoding.max_new_tokens
    return [(encoded(model, one, one.prompt, format, room), most_tokens(one, decoding)) for one in questions]
