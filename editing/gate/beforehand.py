"""What the first edit of a model and its gate need and no case has a part in, done before anybody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator

from editing.gate.answers import vanilla_answers
from editing.gate.exam import small_exam
from editing.gate.gate import GateSettings
from inspector.detection import read_harmless
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.model.patches.routing import scores
from inspector.safeedit import bundled_cases
from inspector.safeedit.asking import encoded
from inspector.safeedit.questions import CASE_PROMPTS

ANSWERED_AT_ONCE, READ_AT_ONCE = 8, 4
"""Prompts that are answered, and read for a detector, in one step: a page that opens meanwhile waits for no more."""


def get_ready(
    model: InspectedModel,
    detector: Detector | None,
    settings: GateSettings = GateSettings(),
    format: PromptFormat = PromptFormat(),
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, None]:
    """Let the vanilla weights answer the gate's questions, and read what detectors are told harm from.

    All of it is kept of the model where an edit looks for it; a cancel loses what is not done, and nothing else.

    Args:
        detector: The model's; ``None`` for none.
        settings: The gate's.
        format: In which edits will be made.
        cancel: Asked after each token, and after each batch of prompts that is read.

    Yields:
        The share that is done, after each token or batch.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    exam = small_exam(bundled_cases()[0], settings.harmless, settings.questions)
    asked = [question for question in exam if question.kind not in CASE_PROMPTS]
    for event in vanilla_answers(model, asked, format, settings.decoding, cancel, ANSWERED_AT_ONCE):
        yield event.fraction / 2
    if detector is None or cancel():
        return
    room = settings.max_new_tokens
    prompts = [encoded(model, one, one.prompt, format, room) for one in asked]
    for start in range(0, len(prompts), READ_AT_ONCE):
        some = prompts[start : start + READ_AT_ONCE]
        scores(model, detector, some, keep=[True] * len(some))
        yield 0.5
        if cancel():
            return
    for share in read_harmless(model, detector, format, cancel):
        yield (1 + share) / 2
