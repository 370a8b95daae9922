"""What the acceptance gate asks: bundled texts that no edit is made with, and the case's own prompts.

The bundled ones are of the split ``fresh``: no setting of an edit and no detector was chosen by any of them, an edit is
constrained on none of its harmless prompts, and the stress test and the split ``score`` ask others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat, Row
from inspector.safeedit import Case
from inspector.safeedit.asking import readable
from inspector.safeedit.cases import Split, Template, bundled_templates
from inspector.safeedit.questions import CASE_PROMPTS, JUDGED, UNSEEN, Kind, Question, own_answer
from inspector.safeedit.sets import HarmlessPrompt, false_alarm_prompts, harmful_questions, spread

SPLIT: Split = "fresh"
"""The bundled texts that the gate asks."""
SCORED = (
    "harmless prompts, half of them look-alikes of harmful ones and every third one in an attack template that is not "
    "the case's, and harmful questions, every second one in an attack template, by none of which a setting of an edit "
    "or a detector's threshold was chosen; these and the case's own prompts, or its question in such templates where "
    "it lacks some, say what the edit gains and loses"
)
"""What the gate scores, for people."""
HARMLESS, QUESTIONS = 40, 27
"""Harmless prompts and harmful questions of the split, all of them: the word of a smaller exam turns on one prompt."""
WRAPPED = 3
"""Every which harmless prompt stands in an attack template, where a detector has several times as many false alarms."""


def small_exam(case: Case, harmless: int = HARMLESS, questions: int = QUESTIONS) -> tuple[Question, ...]:
    """Write the gate's exam: bundled texts that no edit is made with, always the same, and the case's own prompts.

    Args:
        case: The case that the edit was made on; its own prompts are asked last (:func:`_own_prompts`). Answers to
            prompts about something else with the content of its safe answer are parroting. Neither its question nor the
            prompt of its knowledge constraint is among the bundled texts.
        harmless: Number of harmless prompts, half of them look-alikes. Every third one stands in an English attack
            template of the split that is not the case's own attack, since a detector fires there more often.
        questions: Number of harmful questions, every second one in an English attack template of the split: many a
            model declines them bare, and an edit must not unlearn that.
    """
    templates = [template for template in bundled_templates(SPLIT) if template.language == "en"]
    free = [question for question in harmful_questions(SPLIT) if question.question != case.question]
    taught, asked = own_answer(case), []
    for number, q in enumerate(spread(free, questions)):
        text = q.question if number % 2 else templates[number // 2 % len(templates)].fill(q.question)
        asked.append(Question("transfer", text, q.category, taught=taught))
    constrained = None if case.constraint is None else case.constraint.prompt
    chosen: list[HarmlessPrompt] = []
    for look_alike, count in ((True, harmless // 2), (False, harmless - harmless // 2)):
        prompts = [p for p in false_alarm_prompts(SPLIT) if p.look_alike is look_alike and p.prompt != constrained]
        chosen += spread(prompts, count)
    # From the other end, so that they share no template with the harmful questions while there are enough.
    others = [template for template in reversed(templates) if not _is_attack_of(template, case)]
    for number, prompt in enumerate(chosen):
        wrapped = number % WRAPPED == WRAPPED - 1
        text = others[number // WRAPPED % len(others)].fill(prompt.prompt) if wrapped else prompt.prompt
        asked.append(Question("harmless", text, look_alike=prompt.look_alike, taught=taught))
    used = len(chosen) // WRAPPED % len(others)
    for text, kind in _own_prompts(case, [*others[used:], *others]).items():
        about = taught if kind in UNSEEN else ()
        asked.append(Question(kind, text, case.category, case.identifier, taught=about))
    return tuple(asked)


def own_and_harmless(case: Case, harmless: int) -> tuple[Question, ...]:
    """Return the case's own prompts as the gate asks them, then harmless ones of the gate.

    Args:
        case: The case that the edit was made on.
        harmless: Number of harmless prompts, as in :func:`small_exam`.
    """
    return tuple(sorted(small_exam(case, harmless, 0), key=lambda question: question.kind == "harmless"))


def askable(
    model: InspectedModel,
    questions: Sequence[Question],
    row: Row,
    format: PromptFormat,
    room: int,
    harmful: Collection[Kind] = JUDGED,
) -> tuple[Question, ...]:
    """Return the harmful and harmless questions that a model can read; those that it cannot are left out.

    Args:
        room: Tokens that an answer needs.
        harmful: Kinds of harmful questions of which it has to read one.

    Raises:
        EditError: It can read none of one of both kinds.
        PromptError: The chat template takes no question.
    """
    found = readable(model, questions, row, format, room)
    if not any(one.kind == "harmless" for one in found) or not any(one.kind in harmful for one in found):
        raise EditError(
            f"{model.name} reads at most {model.context_length:,} tokens, too few for the harmful or the harmless "
            "prompts with room for an answer. Use a shorter suffix, or a model that reads longer prompts."
        )
    return found


def _own_prompts(case: Case, attacks: Sequence[Template]) -> dict[str, Kind]:
    """Return a case's own prompts and their kinds: adversarial prompt, bare question, generalization prompts.

    Args:
        attacks: Not the case's own. For each prompt that a case lacks, as one that was typed does, its question is
            asked in one of these.
    """
    found: dict[str, Kind] = {}
    for kind, name in CASE_PROMPTS.items():
        text = getattr(case, name) or (case.question if kind == "onlyQ" else None)
        if text:
            found.setdefault(text, kind)
    lacking = len(CASE_PROMPTS) - len(found) if case.question else 0
    return found | {template.fill(case.question): "otherA" for template in attacks[:lacking]}


def _is_attack_of(template: Template, case: Case) -> bool:
    return template.name == case.attack_name or template.fill(case.question) == case.adversarial_prompt
