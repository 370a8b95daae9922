"""The terms of a DINM edit: what it minimises, and what it watches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.methods.dinm.settings import COMPANIONS_AT_ONCE, FURTHER_ANSWERS, DinmSettings
from editing.optimising.monitor import Monitor, make_monitor
from editing.optimising.objectives import (
    AnswerTerm,
    KlTerm,
    LazyTerms,
    Span,
    aligned_answer,
    kl_term,
    paper_constraint,
    reference_answer,
    reference_constraint,
)
from editing.optimising.replay import ReplayFactory, kept
from editing.progress import Preparation, part_of
from editing.texts.contexts import after_context, random_contexts
from editing.texts.harmless import companions, harmless_answers, own_refusals
from editing.texts.own_words import safe_in_own_words
from editing.texts.taught import taught_answers
from editing.values import LONGEST_COMPANION
from inspector.model import InspectedModel, PromptFormat, Taught, encode
from inspector.model.encoding import with_suffix
from inspector.safeedit import Case
from inspector.safeedit.sets import spread

WATCHED = 2
"""Harmless prompts, of unlike length, that a step measures where nothing depends on what it finds."""


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one edit.

    Attributes:
        edit: The loss of the safe answer, or of several.
        unsafe: The unsafe answer, where it is watched.
        constraint: What every step is measured on, in parts that take turns; empty until :func:`prepare_constraint`.
        trials: What a step size is measured on, in its first part: the constraint, or more of it than a step watches.
        several: Whether the loss is a mean over more than the case's own answer to its prompt.
        monitor: The safe answer in attack templates that the edit is not made with, and unseen harmless prompts.
        companions: The loss of answers that decline other questions, in parts that take turns; empty for none.
        companion_texts: How many such questions there are.
        taught: Every answer that these losses make likely.
    """

    edit: AnswerTerm
    unsafe: AnswerTerm | None
    constraint: Sequence[KlTerm] = ()
    trials: Sequence[KlTerm] = ()
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
    terms = yield from prepare_answers(model, case, block, settings, replay, cancel)
    if terms is None:
        return None
    return (yield from prepare_constraint(terms, model, case, block, settings, base, replay, cancel))


def prepare_answers(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings,
    replay: ReplayFactory,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Terms | None]:
    """Make all terms but the constraint, which says nothing of unedited weights; returns ``None`` when cancelled."""
    text, format = case.adversarial_prompt, settings.format
    _own_constraint(model, case, settings)  # for its checks
    yield Preparation("Computing the states that enter the edited matrix", 0.1)
    if cancel():
        return None

    def aligned(response: str) -> AnswerTerm:
        return aligned_answer(model, block, encode(model, text, response, format), replay)

    further_answers: tuple[str, ...] = FURTHER_ANSWERS[: settings.safe_answers - 1]
    own: tuple[str, ...] = ()
    if settings.own_words and further_answers:
        said = yield from part_of(safe_in_own_words(model, case, len(further_answers), format, cancel), 0.0, 0.1)
        if said is None:
            return None
        own, further_answers = said, further_answers[: len(further_answers) - len(said)]
    if settings.loss_positions == "reference":
        # For its checks of length and emptiness.
        encode(model, text, case.safe, PromptFormat(format.suffix, chat=False))
        edit = reference_answer(model, block, with_suffix(text, format.suffix), case.safe, replay)
    else:
        texts = [text, case.question] if settings.question_alone and case.question else [text]
        answers = [case.safe, *own, *further_answers]
        first, *further = (encode(model, asked, answer, format) for asked in texts for answer in answers)
        begun = [after_context(context, text) for context in random_contexts(model, settings.contexts)]
        further += [encode(model, asked, case.safe, format) for asked in begun]
        edit = aligned_answer(model, block, first, replay, further, settings.first_token_weight)
    unsafe = aligned(case.unsafe) if settings.watch_unsafe else None
    further_questions, count = companion_terms(model, block, settings, replay, case.question)
    monitor = None
    if settings.monitor and settings.target_probability is None and settings.damage_budget is None:
        yield Preparation("No monitor: it ends an edit by target probability and damage budget, and both are none", 0.1)
    elif settings.monitor:
        monitor = yield from make_monitor(
            model, case, block, settings.monitor, settings.harmless_tokens, format, settings.direction, replay, cancel
        )
        if monitor is None:
            return None
    several = len(edit.labels) > len(edit.actual) or edit.weights is not None or count > 0
    taught = taught_answers([case], [*further_answers, *(FURTHER_ANSWERS[:1] if count else ())], own)
    return Terms(
        edit,
        unsafe,
        several=several,
        monitor=monitor,
        companions=further_questions,
        companion_texts=count,
        taught=taught,
    )


def companion_terms(
    model: InspectedModel, block: int, settings: DinmSettings, replay: ReplayFactory, apart: str = ""
) -> tuple[Sequence[AnswerTerm], int]:
    """Return the loss of answers that decline other questions, in parts that take turns, and how many questions it has.

    Each part is made when it is first asked for, and what enters the edited matrix is kept for other edits.

    Args:
        apart: A question that is none of them: the case's own.
    """
    longest, format = LONGEST_COMPANION, settings.format
    fitting = [*companions(model, settings.companions, longest, FURTHER_ANSWERS[0], format, apart).values()]
    turns = math.ceil(len(fitting) / COMPANIONS_AT_ONCE)
    parts = LazyTerms(
        [fitting[turn::turns] for turn in range(turns)],
        lambda part: aligned_answer(model, block, part[0], kept(replay), part[1:], settings.first_token_weight),
    )
    return parts, len(fitting)


def prepare_constraint(
    terms: Terms,
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DinmSettings,
    base: Tensor,
    replay: ReplayFactory,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Terms | None]:
    """Add the constraint to the terms, each of its parts made when it is first asked for; ``None`` when cancelled.

    Args:
        terms: The others (:func:`prepare_answers`).
        base: The vanilla down-projection.
    """
    spans = _own_constraint(model, case, settings)
    if not spans:
        count, tokens, format = settings.harmless_prompts, settings.harmless_tokens, settings.format
        answering = harmless_answers(model, case, count, tokens, format, cancel, settings.look_alikes)
        own = yield from part_of(answering, 0.1, 0.6)
        refusals = own_refusals(model, settings.own_refusals, tokens, format, cancel, case.question)
        declined = yield from part_of(refusals, 0.6, 0.9)
        if own is None or declined is None:
            return None
        own = [*own, *declined]
        if settings.harmless_at_once is not None:
            own = sorted(own, key=lambda encoded: len(encoded.tokens))  # and dealt: a step meets short and long ones
        spans = [(encoded.tokens, encoded.predicting) for encoded in own]
    turns = math.ceil(len(spans) / (settings.harmless_at_once or len(spans)))
    parts = [spans[turn::turns] for turn in range(turns)]
    watched: Sequence[Sequence[Span]] = parts
    if settings.constraint_weight == 0 and settings.damage_budget is None:
        parts = parts[:1]  # it is only watched, and what is watched on the same texts can be compared over the steps
        few = settings.harmless_at_once is not None and len(parts[0]) > WATCHED
        watched = [spread(parts[0], WATCHED)] if few else parts

    def of(spans: Sequence[Span]) -> KlTerm:
        return kl_term(model, block, spans, settings.direction, base, kept(replay))

    trials = LazyTerms(parts, of)
    return replace(terms, constraint=trials if watched is parts else LazyTerms(watched, of), trials=trials)


def _own_constraint(model: InspectedModel, case: Case, settings: DinmSettings) -> list[Span]:
    """Return what the case's own knowledge constraint asks for; nothing where harmless prompts stand in its place."""
    if settings.constraint == "harmless":
        return []
    if settings.constraint == "answer":
        return [reference_constraint(model, case, settings.format)]
    return [paper_constraint(model, case, settings.format)]


def answer_values(terms: Terms, weight: Tensor, gradient: bool, number: int = 0) -> tuple[Tensor, Tensor]:
    """Return edit loss and probability of the safe answer at one weight, single numbers.

    Args:
        number: Of the step: the companions' parts take turns.
    """
    with torch.set_grad_enabled(gradient):
        edit_loss, safe_probability = terms.edit(weight)
        if terms.companions:
            declined, _ = terms.companions[number % len(terms.companions)](weight)
            edit_loss = (edit_loss + declined) / 2
    return edit_loss, safe_probability


def term_values(
    terms: Terms, weight: Tensor, settings: DinmSettings, gradient: bool, number: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return edit loss, probability of the safe answer, KL and weighted total at one weight, single numbers.

    Args:
        number: Of the step: the constraint's parts take turns, and the companions'.
    """
    edit_loss, safe_probability = answer_values(terms, weight, gradient, number)
    constraint = terms.constraint[number % len(terms.constraint)]
    with torch.set_grad_enabled(gradient and settings.constraint_gradient and settings.constraint_weight > 0):
        kl = constraint(weight)
    total = settings.edit_weight * edit_loss + settings.constraint_weight * kl
    return edit_loss, safe_probability, kl, total
