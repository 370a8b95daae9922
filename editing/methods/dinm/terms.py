"""The terms of a DINM edit: what it minimises, and what it watches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.contexts import after_context, random_contexts
from editing.harmless import companions, harmless_answers, own_refusals
from editing.methods.dinm.settings import COMPANIONS_AT_ONCE, FURTHER_ANSWERS, LONGEST_COMPANION, DinmSettings
from editing.monitor import Monitor, make_monitor
from editing.objectives import (
    AnswerTerm,
    KlTerm,
    Span,
    Turns,
    aligned_answer,
    kl_term,
    paper_constraint,
    reference_answer,
    reference_constraint,
)
from editing.progress import Preparation
from editing.replay import ReplayFactory
from editing.taught import taught_answers
from inspector.model import InspectedModel, PromptFormat, Taught, encode
from inspector.model.encoding import with_suffix
from inspector.safeedit import Case


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one edit.

    Attributes:
        edit: The loss of the safe answer, or of several.
        constraint: Its parts, which take turns.
        unsafe: The unsafe answer, where it is watched.
        several: Whether the loss is a mean over more than the case's own answer to its prompt.
        monitor: The safe answer in attack templates that the edit is not made with, and unseen harmless prompts.
        companions: The loss of answers that decline other questions, in parts that take turns; empty for none.
        companion_texts: How many such questions there are.
        taught: Every answer that these losses make likely.
    """

    edit: AnswerTerm
    constraint: Sequence[KlTerm]
    unsafe: AnswerTerm | None
    several: bool = False
    monitor: Monitor | None = None
    companions: Sequence[AnswerTerm] = ()
    companion_texts: int = 0
    taught: tuple[Taught, ...] = ()


def prepare_terms(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings,
    base: Tensor,
    replay: ReplayFactory,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Terms | None]:
    """Make the terms that an edit minimises and watches; returns ``None`` when cancelled."""
    text, format = case.adversarial_prompt, settings.format
    if settings.constraint == "harmless":
        own = yield from harmless_answers(
            model, case, settings.harmless_prompts, settings.harmless_tokens, format, cancel
        )
        declined = yield from own_refusals(model, settings.own_refusals, settings.harmless_tokens, format, cancel)
        if own is None or declined is None:
            return None
        own = [*own, *declined]
        if settings.harmless_at_once is not None:
            own = sorted(own, key=lambda encoded: len(encoded.tokens))  # and dealt: a step meets short and long ones
        spans: list[Span] = [(encoded.tokens, encoded.predicting) for encoded in own]
    elif settings.constraint == "answer":
        spans = [reference_constraint(model, case, format.suffix)]
    else:
        spans = [paper_constraint(model, case, format)]
    yield Preparation("Computing the states that enter the edited matrix", 0.9)
    if cancel():
        return None

    def aligned(response: str) -> AnswerTerm:
        return aligned_answer(model, block, encode(model, text, response, format), replay)

    further_answers = FURTHER_ANSWERS[: settings.safe_answers - 1]
    if settings.loss_positions == "reference":
        # For its checks of length and emptiness.
        encode(model, text, case.safe, PromptFormat(format.suffix, chat=False))
        edit = reference_answer(model, block, with_suffix(text, format.suffix), case.safe, replay)
    else:
        texts = [text, case.question] if settings.question_alone and case.question else [text]
        answers = [case.safe, *further_answers]
        first, *further = (encode(model, asked, answer, format) for asked in texts for answer in answers)
        begun = [after_context(context, text) for context in random_contexts(model, settings.contexts)]
        further += [encode(model, asked, case.safe, format) for asked in begun]
        edit = aligned_answer(model, block, first, replay, further, settings.first_token_weight)
    unsafe = aligned(case.unsafe) if settings.watch_unsafe else None
    turns = math.ceil(len(spans) / (settings.harmless_at_once or len(spans)))
    parts = [spans[turn::turns] for turn in range(turns)]
    if settings.constraint_weight == 0 and settings.damage_budget is None:
        parts = parts[:1]  # it is only watched, and what is watched on the same texts can be compared over the steps
    constraint = Turns(parts, lambda part: kl_term(model, block, part, settings.direction, base, replay))
    fitting = [*companions(model, settings.companions, LONGEST_COMPANION, FURTHER_ANSWERS[0], format).values()]
    turns = math.ceil(len(fitting) / COMPANIONS_AT_ONCE)
    further_questions = Turns(
        [fitting[turn::turns] for turn in range(turns)],
        lambda part: aligned_answer(model, block, part[0], replay, part[1:], settings.first_token_weight),
    )
    monitor = None
    if settings.monitor:
        monitor = yield from make_monitor(
            model, case, block, settings.monitor, settings.harmless_tokens, format, settings.direction, replay, cancel
        )
        if monitor is None:
            return None
    several = len(edit.labels) > len(edit.actual) or edit.weights is not None or bool(fitting)
    taught = taught_answers([case], [*further_answers, *(FURTHER_ANSWERS[:1] if fitting else ())])
    return Terms(edit, constraint, unsafe, several, monitor, further_questions, len(fitting), taught)


def term_values(
    terms: Terms, weight: Tensor, settings: DinmSettings, gradient: bool, number: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return edit loss, probability of the safe answer, KL and weighted total at one weight, single numbers.

    Args:
        number: Of the step: the constraint's parts take turns, and the companions'.
    """
    with torch.set_grad_enabled(gradient):
        edit_loss, safe_probability = terms.edit(weight)
        if terms.companions:
            declined, _ = terms.companions[number % len(terms.companions)](weight)
            edit_loss = (edit_loss + declined) / 2
    constraint = terms.constraint[number % len(terms.constraint)]
    with torch.set_grad_enabled(gradient and settings.constraint_gradient and settings.constraint_weight > 0):
        kl = constraint(weight)
    total = settings.edit_weight * edit_loss + settings.constraint_weight * kl
    return edit_loss, safe_probability, kl, total
