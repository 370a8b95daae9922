"""What unseen prompts say of an edit while it is made, so that it ends when it works and not when one text is learnt.

The case's question is asked in attack templates that the edit is not made with, and harmless prompts are watched that
it is not constrained on. The templates are those of the detector's split: no case stands in them and no exam asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.optimising.objectives import AnswerTerm, Direction, KlTerm, aligned_answer, kl_term
from editing.optimising.replay import ReplayFactory, master_weight
from editing.progress import Preparation
from editing.texts.harmless import unseen_answers
from inspector.errors import EditError, PromptError
from inspector.kl import not_negative
from inspector.model import InspectedModel, PromptFormat, encode
from inspector.model.encoding import Encoded
from inspector.safeedit import Case
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.sets import spread

LONGEST = 450
"""Characters of a template that a monitor reads: each update reads all of them."""
LOOK_ALIKES = 0.5
"""Share of a monitor's harmless prompts that sound harmful."""


@dataclass(frozen=True, eq=False)
class Monitor:
    """The safe answer in templates that an edit is not made with, and harmless prompts beside its constraint."""

    wrapped: AnswerTerm
    harmless: KlTerm

    @torch.no_grad()
    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the safe answer's negative log-likelihood and the harmless KL, single numbers in nats a token."""
        return self.wrapped(weight)[0], not_negative(self.harmless(weight))


def make_monitor(
    model: InspectedModel,
    case: Case,
    block: int,
    count: int,
    tokens: int,
    format: PromptFormat,
    direction: Direction,
    replay: ReplayFactory,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Monitor | None]:
    """Prepare a monitor; returns ``None`` when cancelled.

    Args:
        count: Templates, and harmless prompts; those that are too long for the model are left out.
        tokens: Most tokens of the model's own answer to each harmless prompt.

    Raises:
        EditError: The case has no question, or there are fewer templates.
        PromptError: All texts are too long.
    """
    asked = monitored(case, count)
    unseen = yield from unseen_answers(model, count, tokens, format, cancel, LOOK_ALIKES)
    if unseen is None:
        return None
    first, *others = _encoded(model, asked, case.safe, format)
    spans = [(one.tokens, one.predicting) for one in unseen]
    harmless = kl_term(model, block, spans, direction, master_weight(model, block), replay)
    return Monitor(aligned_answer(model, block, first, replay, others), harmless)


def monitored(case: Case, count: int) -> list[str]:
    """Return the case's question in attack templates that no case stands in and no exam asks.

    Raises:
        EditError: The case has no question, or there are fewer templates.
    """
    templates = [template for template in bundled_templates("detector") if len(template.text) <= LONGEST]
    if not case.question.strip():
        raise EditError("A monitor asks the case's question in other words, and this case has none. Set monitor to 0.")
    if count > len(templates):
        raise EditError(f"There are {len(templates)} templates for a monitor. Set monitor to no more than that.")
    return [template.fill(case.question) for template in spread(templates, count)]


def _encoded(model: InspectedModel, texts: Sequence[str], answer: str, format: PromptFormat) -> list[Encoded]:
    found, wrong = [], None
    for text in texts:
        try:
            found.append(encode(model, text, answer, format))
        except PromptError as error:
            wrong = error
    if wrong is not None and not found:
        raise wrong
    return found
