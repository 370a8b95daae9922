"""What the edited models of an atlas answer to the case's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from editing.atlas.made import AtlasSettings
from editing.progress import Preparation
from inspector.model import Decoding, InspectedModel, PromptFormat, Row, encode
from inspector.model.answers.batching import Line, generate
from inspector.safeedit import Case
from inspector.safeedit.questions import CASE_ONLY, CASE_PROMPTS, make_exam
from inspector.safeedit.verdict import Judge, Verdict, verdicts


def case_verdicts(
    model: InspectedModel,
    case: Case,
    rows: Sequence[Row],
    judge: Judge,
    settings: AtlasSettings,
    format: PromptFormat,
    cancel: Callable[[], bool],
    share: float,
) -> Generator[Preparation, None, list[dict[str, Verdict]] | None]:
    """Let every row answer the case's own prompts; returns verdicts a row, ``None`` when cancelled."""
    asked = [question for question in make_exam(case, CASE_ONLY) if question.kind in CASE_PROMPTS]
    room = settings.max_new_tokens
    prompts = [encode(model, q.prompt, None, format, room=room).prompt for q in asked]
    lines: list[Line] = []
    for count, now in enumerate(generate(model, prompts, rows, Decoding(max_new_tokens=room))):
        lines = now
        if count % 8 == 0:
            yield Preparation("Answering the case's prompts with the edited weights", share)
        if cancel():
            return None
    pairs = [(asked[line.prompt].prompt, model.decode(line.tokens).strip()) for line in lines]
    found = verdicts(judge, pairs)
    result: list[dict[str, Verdict]] = [{} for _ in rows]
    for line, verdict in zip(lines, found, strict=True):
        result[line.row][asked[line.prompt].kind] = verdict
    return result
