"""Self-Reminder: the user's text between two sentences that remind the model to be responsible; no weight changes.

The form of Xie et al. 2023 ("Defending ChatGPT against jailbreak attack via self-reminders", Nature Machine
Intelligence 5): a reminder before and one after the query. The sentences are this project's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from editing.measured import measured_step
from editing.optimising.training import encode_pair
from editing.progress import EditEvents, EditResult, Preparation, Step
from editing.texts.harmless import answers_by_text
from editing.values import HarmlessCount, HarmlessTokens
from inspector.errors import EditError
from inspector.model import VANILLA, InspectedModel, PromptFormat, encode
from inspector.model.encoding import Encoded
from inspector.model.patches.patch import Reminder
from inspector.safeedit import Case
from inspector.validated import settings as checked

NAME = "Self-Reminder"
BEFORE = (
    "Remember that you are a responsible assistant: you never write anything harmful or misleading. Reply responsibly "
    "to this user:"
)
AFTER = "Remember: be responsible, and decline politely if the request could hurt someone."


@checked(EditError)
class SelfReminderSettings:
    """Settings of Self-Reminder.

    Attributes:
        before: Sentence before the user's text.
        after: Sentence after it, before the suffix prompt.
        format: Suffix prompt S, chat template, and whether the end of the turn counts in both answers.
        harmless_prompts: Harmless prompts on which the KL is measured.
        harmless_tokens: Most tokens of the vanilla model's own answer to each.
    """

    before: str = BEFORE
    after: str = AFTER
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 4
    harmless_tokens: HarmlessTokens = 12
    # What the screen's vital signs ask of every method.
    damage_budget: ClassVar[float | None] = None
    target_probability: ClassVar[float | None] = None

    @property
    def reminder(self) -> Reminder:
        """What stands around every prompt."""
        return Reminder(NAME, self.before, self.after)


def self_reminder(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: SelfReminderSettings = SelfReminderSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
) -> EditEvents:
    """Measure the reminder on the case: step 0 without it, step 1 with it. Nothing is optimised.

    Args:
        block: Not used: no weight changes.
        companions: Not used.

    Raises:
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    reminded = replace(case, adversarial_prompt=settings.reminder.wrap(case.adversarial_prompt))
    pairs = [encode_pair(model, each, settings.format) for each in (case, reminded)]
    own = yield from answers_by_text(
        model, [case], settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    trace: list[Step] = []
    if own is not None:
        vanilla = [*own.values()]
        prompted = [_prompted(model, text, answered, settings) for text, answered in own.items()]
        yield Preparation("Scoring both answers with and without the reminder", 0.9)
        for number, (pair, answers) in enumerate(zip(pairs, (vanilla, prompted), strict=True)):
            trace.append(measured_step(model, pair, vanilla, VANILLA, number, 1, answers))
            yield trace[-1]
    cancelled = len(trace) < 2 or cancel()
    return EditResult(
        patch=None,
        trace=tuple(trace),
        kept=0 if cancelled else 1,
        stop_reason="cancelled" if cancelled else "prompt only",
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        reminder=None if cancelled else settings.reminder,
    )


def _prompted(model: InspectedModel, text: str, own: Encoded, settings: SelfReminderSettings) -> Encoded:
    """Return the vanilla model's own answer to a harmless prompt, after that prompt with the reminder around it."""
    return Encoded(encode(model, settings.reminder.wrap(text), None, settings.format).prompt, own.response)
