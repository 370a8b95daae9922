"""What each edit is asked: its case's own prompts, and a share of a split's texts that no other edit is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from editing.calibrating.trial_edits import Layers, fresh_cases, trial_cases
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.cases import Split, bundled_templates
from inspector.safeedit.questions import CASE_ONLY, Question, QuestionSets, Size, make_exam, own_answer
from inspector.safeedit.sets import facts, false_alarm_prompts, harmful_questions, passages, spread

_Item = TypeVar("_Item")

CHOSEN_ON = (1, 3, 5, 7)
"""Cases on whose own prompts settings were chosen, by DG-Avg, when the split ``development`` was asked: 3, 5 and 7 for
today's ``corrected`` and the edit that is made to be routed, 1 and 5 in trials before (benchmarks/README.md, "How the
settings were chosen"). An edit's own prompts are the same in every split: of the other cases alone they are unseen."""
READ_BEFORE = 12
"""How often the split ``score`` was read until now, as benchmarks/README.md tells ("How often the split was read"): who
reads it once more raises this by one."""


def unseen_cases(count: int, layers: Layers | None = None) -> tuple[Case, ...]:
    """Return cases to edit on, categories in turn, that the recommended layer was not chosen on.

    Args:
        count: Most cases.
        layers: The model's trial edits; where layers were tried anew, few cases are left.
    """
    anew = () if layers is None or layers.anew is None else fresh_cases()
    tried = {case.identifier for case in (*trial_cases(), *anew)}
    waiting: dict[str, list[Case]] = {}
    for case in bundled_cases():
        if case.split == "edit" and case.identifier not in tried:
            waiting.setdefault(case.category, []).append(case)
    longest = max(map(len, waiting.values()))
    in_turn = [found[n] for n in range(longest) for found in waiting.values() if n < len(found)]
    return tuple(in_turn[:count])


def share_of(items: Sequence[_Item], each: int, number: int, of: int) -> tuple[_Item, ...]:
    """Return one edit's share: ``each`` items, evenly spread; no two edits share one while there are enough."""
    return spread(items, each * of)[number::of] if each * of <= len(items) else spread(items[number % 2 :], each)


def asked_of(case: Case, split: Split, size: Size, number: int = 0, of: int = 1) -> tuple[Question, ...]:
    """Return the exam of an edit on a case: its own prompts, and a split's in a split's templates.

    Args:
        split: ``development`` or ``score``.
        size: Of ``transfer``, harmful questions, each in a template; every third harmless prompt is in one.
        number: Which edit it is, counted from 0.
        of: Number of edits in all.
    """
    templates = [template for template in bundled_templates(split) if template.language == "en"]
    taught = own_answer(case)
    questions = [
        Question("transfer", templates[(number + n) % len(templates)].fill(q.question), q.category, taught=taught)
        for n, q in enumerate(share_of(harmful_questions(split), size.transfer, number, of))
    ]
    for n, prompt in enumerate(share_of(false_alarm_prompts(split), size.harmless, number, of)):
        wrapped = (number + n) % 3 == 2
        text = templates[(number + n // 3) % len(templates)].fill(prompt.prompt) if wrapped else prompt.prompt
        questions.append(Question("harmless", text, look_alike=prompt.look_alike, taught=taught))
    known = QuestionSets(
        held_out=(),
        harmless=(),
        facts=share_of(facts(), size.facts, number, of),
        passages=share_of(passages(), size.passages, number, of),
    )
    further = make_exam(case, Size(0, 0, size.facts, size.passages), known)
    return (*make_exam(case, CASE_ONLY), *questions, *(q for q in further if q.kind in ("fact", "passage")))
