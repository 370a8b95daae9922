"""Vanilla answers that all cases of a sweep share: each prompt that exams have in common is answered once.

The prompts are answered in batches that depend on the settings alone, so that an answer is the same whichever worker
gives it, and whichever case asks first. What a case asks for itself is asked as ever, with both weights in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from editing.memory import memory_told
from editing.sweep.settings import SweepSettings
from inspector.errors import InspectorError
from inspector.model import Decoding, InspectedModel
from inspector.safeedit.asking import encoded, limited, planned
from inspector.safeedit.exam import asked_as
from inspector.safeedit.known import Known, answer_once
from inspector.safeedit.questions import QuestionSets, common_questions

AT_ONCE = 24
"""Prompts in a batch: as many lines as an exam's batches have with vanilla and edited weights."""
MOST_TOKENS = 4_000_000
"""Tokens that all shared answers together may have; prompts beyond are asked as ever. About 150 MB a process."""


@dataclass(frozen=True)
class Batch:
    """Prompts that the vanilla weights answer together.

    Attributes:
        prompts: Token ids of each.
        decoding: How they are answered.
    """

    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding


def shared_batches(
    model: InspectedModel, settings: SweepSettings, texts: QuestionSets, most_tokens: int = MOST_TOKENS
) -> tuple[Batch, ...]:
    """Return the batches of what the exams of a sweep have in common, the first ones within the bound.

    Args:
        texts: The sets that every exam draws from, without what is too long (:mod:`editing.sweep.fitting`).
        most_tokens: Tokens that the answers may have in all.

    Returns:
        None where vanilla is asked beside every edit.
    """
    if settings.vanilla == "paired":
        return ()
    decoding = Decoding(max_new_tokens=settings.max_new_tokens)
    plain = asked_as(settings.format, settings.evaluation)
    questions = common_questions(settings.size, texts)
    prompts = [encoded(model, q, q.prompt, plain, decoding.max_new_tokens) for q in questions]
    found: list[Batch] = []
    seen: set[tuple[tuple[int, ...], int]] = set()
    for places in planned(questions, prompts, AT_ONCE):
        least = limited(decoding, questions[places[0]])
        fresh = tuple(dict.fromkeys(prompts[n] for n in places if (prompts[n], least.max_new_tokens) not in seen))
        most_tokens -= len(fresh) * least.max_new_tokens
        if most_tokens < 0:
            break
        if fresh:
            found.append(Batch(fresh, least))
            seen.update((prompt, least.max_new_tokens) for prompt in fresh)
    return tuple(found)


def answered(model: InspectedModel, batch: Batch) -> Known | None:
    """Answer a batch with the vanilla weights; ``None`` where that cannot be done, so that it is asked as ever."""
    try:
        with memory_told():
            return answer_once(model, batch.prompts, batch.decoding)
    except InspectorError:
        return None


def asked_first(batches: tuple[Batch, ...]) -> str:
    """Say that the vanilla weights answer first."""
    prompts = sum(len(batch.prompts) for batch in batches)
    return f"The vanilla weights answer {prompts} prompts once, for all cases."
