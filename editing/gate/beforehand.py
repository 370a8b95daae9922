"""What the first edit of a model and its gate need and no case has a part in, done before anybody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from editing.gate.answers import vanilla_answers
from editing.gate.exam import small_exam
from editing.gate.gate import GateSettings
from editing.gate.turns import attempts
from editing.methods.dinm import preset
from editing.methods.dinm.terms import companion_terms
from editing.optimising.replay import TailReplay
from inspector.detection import read_harmless
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.model.memory.halving import let_go, ran_out
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
    block: int | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, None]:
    """Read what an edit learns from beside its case, answer the gate's questions, read what detectors tell harm from.

    All of it is kept of the model where an edit looks for it; a cancel loses what is not done, and nothing else.

    Args:
        detector: The model's; ``None`` for none.
        settings: The gate's.
        format: In which edits will be made.
        block: Where edits will be made: the recommended layer; ``None`` for none.
        cancel: Asked after each token, and after each batch of prompts that is read.

    Yields:
        The share that is done, after each token or batch; what the edit learns from counts as nothing.

    Raises:
        PromptError: A prompt is longer than the model's context allows.
    """
    if block is not None:
        for _ in _companions_read(model, detector, format, block):
            yield 0.0
            if cancel():
                return
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


def _companions_read(
    model: InspectedModel, detector: Detector | None, format: PromptFormat, block: int
) -> Iterator[object]:
    """Keep what enters the edited matrix for the companions of the edit that is made first, if it has any.

    They are those of a case whose question is none of them. Where memory runs out an edit reads them itself.
    """
    first = attempts(preset("corrected", format=format), detector)[0]
    parts, _ = companion_terms(model, block, first, TailReplay)
    try:
        yield from parts
    except Exception as error:
        if not ran_out(error):
            raise
        let_go(error)
