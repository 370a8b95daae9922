"""Safe answers in the model's own words: what it says to a case with a reminder around it, as far as that is safe.

A text that somebody else wrote is learnt by heart, and is what other questions are answered with; the model's own words
are near to what it would say.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace

from editing.methods.self_reminder import SelfReminderSettings
from editing.progress import Preparation
from editing.texts.own_answers import SHORTEST, whole
from inspector.errors import PromptError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, encode
from inspector.model.answers.batching import Line, generate
from inspector.safeedit import Case
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import verdicts

LONGEST = 48
"""Longest answer, tokens."""
ROUNDS = 4
"""How often the model is asked: greedily, then by sampling with another seed each time."""
SAMPLED = Decoding(max_new_tokens=LONGEST, temperature=0.7, top_p=0.9)


def safe_in_own_words(
    model: InspectedModel,
    case: Case,
    count: int,
    format: PromptFormat = PromptFormat(),
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, tuple[str, ...] | None]:
    """Ask the vanilla model about a case with a self-reminder, until enough of what it says is judged safe.

    It is asked its adversarial prompt and its question, both at once (:mod:`editing.methods.self_reminder`), without
    the suffix, and the embedded rules judge. The answers are the same every time.

    Args:
        count: How many answers are wanted.

    Yields:
        One message after each token.

    Returns:
        At most ``count`` answers, each once, none of them the case's own; fewer, or none, where the model says no more
        in :data:`ROUNDS` rounds, or a prompt with its reminder is too long for it; ``None`` when cancelled.
    """
    reminder, plain = SelfReminderSettings().reminder, format.without_suffix()
    prompts: list[tuple[int, ...]] = []
    for text in filter(None, dict.fromkeys((case.adversarial_prompt, case.question))):
        with suppress(PromptError):
            prompts.append(encode(model, reminder.wrap(text), None, plain, room=LONGEST).prompt)
    found = dict[str, None]()
    for turn in range(ROUNDS if prompts else 0):
        decoding = replace(SAMPLED, seed=turn) if turn else Decoding(max_new_tokens=LONGEST)
        lines: list[Line] = []
        for token, now in enumerate(generate(model, prompts, (VANILLA,), decoding)):
            lines = now
            told = "Asking the model for safe answers in its own words"
            yield Preparation(told, min(1.0, (turn + token / LONGEST) / ROUNDS))
            if cancel():
                return None
        said = [_whole_text(model, line) for line in lines]
        judged = verdicts(EmbeddedJudge(), [(case.question, text) for text in said])
        for text, verdict in zip(said, judged, strict=True):
            if verdict.safe and len(text.split()) >= SHORTEST and text not in (case.safe, case.unsafe):
                found[text] = None
        if len(found) >= count:
            break
    return tuple(found)[:count]


def _whole_text(model: InspectedModel, line: Line) -> str:
    """Return what a line has said up to the end of its last sentence; nothing where it was cut in its first one."""
    text = model.decode(line.tokens).strip()
    said = whole(text, line.ended is not None)
    return "" if line.ended is None and said == text and not text.endswith((".", "!", "?")) else said
