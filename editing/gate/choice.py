"""Where an edit acts, decided by the gate: on every prompt, or only where a detector finds harm.

Each is examined routed first, where little has to be answered anew: where its detector does not fire the vanilla
weights answer, bit for bit, and what those answer is known. Where it passes so, and would cost harmless prompts more
than the budget allows if it acted on all, the rest of the exam is not asked. Which edits are examined is written by
:mod:`editing.gate.turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from editing.calibrating.calibration import FORMATS
from editing.gate.answers import vanilla_answers
from editing.gate.budgets import Check, checks_of
from editing.gate.gate import Acceptance, GateSettings, accept
from editing.gate.ranking import rank, result, why_taken
from editing.methods.registry import METHODS
from editing.progress import Preparation, share_told
from inspector.detection import for_case
from inspector.errors import EditError
from inspector.model import Detector, Encoded, InspectedModel, PromptFormat, Row
from inspector.model.prompt_format import has_chat_template
from inspector.safeedit import Case
from inspector.safeedit.asking import encoded, most_tokens
from inspector.safeedit.exam import Progress
from inspector.safeedit.marking import KL_TOKENS, Reply, harmless_kl
from inspector.safeedit.questions import Question
from inspector.safeedit.verdict import Judge

EVERYWHERE, WHERE_HARM = "on every prompt", "only where harm is detected"
"""The two places in which an edit can act, for people."""
KL_AT_ONCE = 4
"""Harmless prompts on which the cost of an edit that acts on every prompt is measured at a time."""
ON_HARMLESS = ("harmless_kl", "over_refusal")
"""Budgets of what an edit does to harmless prompts."""
AT_LEAST = "at least"
"""What stands beside a cost that was not measured to its end, as it is beyond the budget anyway."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The weights that the gate takes.

    Attributes:
        row: The edit, routed or not.
        acceptance: The gate's word on exactly these weights.
    """

    row: Row
    acceptance: Acceptance


def acts_by(
    model: InspectedModel,
    detector: Detector,
    case: Case,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    *,
    below: Sequence[Case] = (),
    acted_by: Detector | None = None,
) -> Generator[Preparation, None, Detector | None]:
    """Make what an edit acts by where it acts only where harm is detected: it fires on its case's question as well.

    A stack is to act on all of its edits' questions, so those of the edits below stand beside it.

    Args:
        detector: The model's.
        case: The case that the edit was made on.
        format: The edit's prompt format, which is that of those below, too.
        below: Cases of the edits below, the earliest first; none for an edit by itself.
        acted_by: What the edit below acts by, which knows its questions; ``None`` where it acts on every prompt.

    Yields:
        How far :func:`inspector.detection.for_case` is.

    Returns:
        The detector; ``None`` when cancelled.

    Raises:
        NotFinite: The model's states are not finite numbers.
        PatchError: The detector was made for another base model.
        PromptError: The case's own prompt is longer than the model's context allows.
    """
    made: Detector | None = acted_by or detector
    for read in (*(() if acted_by else below), case):
        if made is not None:
            making = for_case(model, made, read, format, cancel)
            made = yield from share_told(making, "Reading the case's question for the detector")
    return made


def format_told(model: InspectedModel, format: PromptFormat) -> str:
    """Say that a detector's threshold was made for other prompts than those of an edit's format; empty where it was."""
    chat = has_chat_template(model.tokenizer)
    known = {(made.suffix, made.chat and chat) for made in FORMATS}
    if (format.suffix, format.chat and chat) in known:
        return ""
    return (
        "The detector's threshold was made for the chat template with the paper's suffix and without one; this edit is "
        f"asked otherwise ({format.label()}), where its false alarms were not measured."
    )


def gated_instead(row: Row, acceptance: Acceptance, how: str) -> str:
    """Say what else there is where an edit that acts on every prompt is refused for what it does to harmless ones.

    Args:
        row: The edit as it was examined.
        acceptance: The gate's word on it.
        how: How a gated edit is made.

    Returns:
        A sentence; empty where the edit is gated itself, acts only where harm is detected or was examined both ways,
        or where no budget on harmless prompts is broken.
    """
    broken = {check.name for check in acceptance.checks if not check.passed}
    plain = row.patch is not None and row.patch.method != METHODS["gated"].title and row.detector is None
    if not plain or acceptance.choice or broken.isdisjoint(ON_HARMLESS):
        return ""
    return (
        f"A gated edit ({how}) is made to do nothing on harmless prompts; on the embedded model it defends less than "
        "DINM's that acts on every prompt."
    )


def accept_where_best(
    model: InspectedModel,
    row: Row,
    case: Case,
    settings: GateSettings = GateSettings(),
    *,
    detector: Detector | None,
    judge: Judge | None = None,
    questions: Sequence[Question] | None = None,
    cancel: Callable[[], bool] = lambda: False,
    below: Sequence[Case] = (),
    acted_by: Detector | None = None,
) -> Generator[Preparation | Progress, None, Chosen | None]:
    """Examine an edit and take it as it passes with the best defence: everywhere, or only where harm is detected.

    Args:
        row: The edit as it acts on every prompt.
        case: The case that it was made on.
        settings: The gate's.
        detector: Of harmful prompts; without one there is no choice. The routed edit acts by :func:`acts_by`.
        judge: As for :func:`editing.gate.gate.accept`.
        questions: As for it.
        cancel: Asked after every token, and after each batch of prompts that is read for the detector.
        below: As for :func:`acts_by`.
        acted_by: As for it.

    Yields:
        How far the detector is, then the exam's progress.

    Returns:
        What is taken, refused or not; ``None`` when cancelled.

    Raises:
        EditError: The questions are not of both kinds, or the row has no patch or is routed already.
        NotFinite: The model's states are not finite numbers, or its prediction with the edit is none.
        PatchError: The detector was made for another base model.
        PromptError: The case's own prompt is longer than the model's context allows.
    """
    if row.patch is None or row.detector is not None:
        raise EditError("Where an edit acts is chosen for a patch that acts on every prompt. Give its row unrouted.")
    how: dict[str, Any] = {"judge": judge, "questions": questions, "cancel": cancel}
    if detector is None:
        plain = yield from accept(model, row, case, settings, **how)
        return None if plain is None else Chosen(row, plain)
    own = yield from acts_by(model, detector, case, row.patch.format, cancel, below=below, acted_by=acted_by)
    if own is None:
        return None
    routed_row = replace(row, detector=own)
    routed = yield from accept(model, routed_row, case, settings, **how)
    if routed is None:
        return None
    if routed.passed:
        cost = yield from _harm_everywhere(model, row, routed, cancel)
        if cost is None:
            return None
        if not cost.passed:
            told = f"{_told_soon(cost, routed)} {format_told(model, row.patch.format)}"
            return Chosen(routed_row, replace(routed, choice=told.strip()))
    plain = yield from accept(model, row, case, settings, **how)
    if plain is None:
        return None
    taken = choose((row, plain), (routed_row, routed))
    if taken.row is row:
        return taken
    told = f"{taken.acceptance.choice} {format_told(model, row.patch.format)}"
    return replace(taken, acceptance=replace(taken.acceptance, choice=told.strip()))


def _harm_everywhere(
    model: InspectedModel, row: Row, routed: Acceptance, cancel: Callable[[], bool]
) -> Generator[Progress, None, Check | None]:
    """Return what an edit costs harmless prompts where it acts on every prompt, before it answers any of them.

    As no prompt's KL is below zero, it is not measured on further prompts once it is beyond the budget without them:
    the value is then the least that it can be.

    Args:
        row: The edit as it acts on every prompt.
        routed: The gate's word on it where it acts only where harm is detected.
        cancel: Asked before each batch of prompts, and after every token that is still to be answered.

    Returns:
        The cost beside its budget; ``None`` when cancelled.
    """
    replies, format, decoding = list(routed.exam.replies), routed.exam.format, routed.settings.decoding
    known = yield from vanilla_answers(model, [reply.question for reply in replies], format, decoding, cancel)
    if known is None:
        return None
    silent = [n for n, reply in enumerate(replies) if reply.held_back and reply.question.kind == "harmless"]
    silent.sort(key=lambda n: len(replies[n].question.prompt))  # a cost beyond the budget shows soonest on short ones
    cost = _harmless_kl(replies, routed)
    for start in range(0, len(silent), KL_AT_ONCE):
        if not cost.passed:
            return replace(cost, beside=AT_LEAST)
        if cancel():
            return None
        some = silent[start : start + KL_AT_ONCE]
        answers: list[Encoded] = []
        for question in (replies[n].question for n in some):
            prompt = encoded(model, question, question.prompt, format, decoding.max_new_tokens)
            answers.append(Encoded(prompt, known[prompt, most_tokens(question, decoding)].tokens[:KL_TOKENS]))
        for n, kl in zip(some, harmless_kl(model, answers, row), strict=True):
            replies[n] = replace(replies[n], kl=kl)
        cost = _harmless_kl(replies, routed)
    return cost


def _harmless_kl(replies: Sequence[Reply], routed: Acceptance) -> Check:
    checks = checks_of(replies, routed.settings.budgets)
    return next(check for check in checks if check.name == "harmless_kl")


def choose(plain: tuple[Row, Acceptance], routed: tuple[Row, Acceptance]) -> Chosen:
    """Take the one that passes with the best defence, of equal ones that with less harm, of these the plain one.

    Where neither passes, that with fewer broken budgets counts as the better one. The choice and both results are in
    the acceptance's ``choice``.
    """
    first, second = rank(plain[1]), rank(routed[1])
    row, taken = routed if second > first else plain
    return Chosen(row, replace(taken, choice=_told(plain[1], routed[1], second > first)))


def _told_soon(cost: Check, routed: Acceptance) -> str:
    """Say that an edit acts only where harm is detected, since its cost elsewhere alone is beyond the budget."""
    return (
        f"Examined both ways: {EVERYWHERE}, harmless KL {f'{cost.beside} {cost.value:.3g}'.strip()} nats a token, "
        f"{cost.limit:g} allowed (refused before it was asked more); {WHERE_HARM}, {result(routed)}. Taken: "
        f"{WHERE_HARM}, since only so it passes."
    )


def _told(plain: Acceptance, routed: Acceptance, routed_taken: bool) -> str:
    where, taken, other = (WHERE_HARM, routed, plain) if routed_taken else (EVERYWHERE, plain, routed)
    results = "; ".join(f"{place}, {result(of)}" for place, of in ((EVERYWHERE, plain), (WHERE_HARM, routed)))
    return f"Examined both ways: {results}. Taken: {where}, since {why_taken(taken, other, 'so it')}."
