"""Where an edit acts, decided by the gate: on every prompt, or only where a detector finds harm.

An edit that is to act only where harm is detected may learn more than one that acts on every prompt, so it is made
first; only where it does not pass is the other one made (:func:`attempts`). One exam serves both places: a routed patch
answers with the vanilla weights, bit for bit, where its detector does not fire and with the edited ones where it does,
so what it would have answered is among the replies of the plain edit's exam.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace

from editing.gate import Acceptance, GateSettings, accept, checks_of
from editing.methods.dinm import DinmSettings, to_be_routed
from inspector.detection import for_case
from inspector.errors import EditError
from inspector.model import Detector, InspectedModel, Row
from inspector.model.routing import scores
from inspector.safeedit import Case
from inspector.safeedit.asking import encoded
from inspector.safeedit.exam import Progress, Reply
from inspector.safeedit.marking import rouge
from inspector.safeedit.questions import Question
from inspector.safeedit.verdict import Judge

EVERYWHERE, WHERE_HARM = "on every prompt", "only where harm is detected"
"""The two places in which an edit can act, for people."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The weights that the gate takes.

    Attributes:
        row: The edit, routed or not.
        acceptance: The gate's word on exactly these weights.
    """

    row: Row
    acceptance: Acceptance


def attempts(
    settings: DinmSettings, detector: Detector | None, by_hand: Collection[str] = ()
) -> tuple[DinmSettings, ...]:
    """Return the edits that are made in turn until the gate accepts one, where it chooses where an edit acts.

    Args:
        settings: What is asked for.
        detector: Of harmful prompts; without one nothing can be routed.
        by_hand: As for :func:`editing.methods.dinm.to_be_routed`.
    """
    routed = to_be_routed(settings, by_hand)
    return (settings,) if detector is None or routed == settings else (routed, settings)


def better(first: Acceptance, second: Acceptance) -> bool:
    """Tell whether the gate's word on the second of two edits is better than that on the first."""
    return _rank(second) > _rank(first)


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
) -> Generator[Progress, None, Chosen | None]:
    """Examine an edit once, and take it as it passes with the best defence: everywhere, or only where harm is detected.

    Args:
        row: The edit as it acts on every prompt.
        case: The case that it was made on.
        settings: The gate's.
        detector: Of harmful prompts; without one there is no choice. The routed edit acts by one that fires on the
            case's own question as well (:func:`inspector.detection.for_case`).
        judge: As for :func:`editing.gate.accept`.
        questions: As for it.
        cancel: Asked after every token.

    Yields:
        The exam's progress.

    Returns:
        What is taken, refused or not; ``None`` when cancelled.

    Raises:
        EditError: The questions are not of both kinds, or the row has no patch or is routed already.
        PatchError: The detector was made for another base model.
        PromptError: A prompt is longer than the model's context allows.
    """
    if row.patch is None or row.detector is not None:
        raise EditError("Where an edit acts is chosen for a patch that acts on every prompt. Give its row unrouted.")
    plain = yield from accept(model, row, case, settings, judge=judge, questions=questions, cancel=cancel)
    if plain is None or detector is None:
        return None if plain is None else Chosen(row, plain)
    routed_row = replace(row, detector=for_case(model, detector, case, row.patch.format))
    return choose((row, plain), (routed_row, routed_acceptance(model, plain, routed_row)))


def routed_acceptance(model: InspectedModel, plain: Acceptance, row: Row) -> Acceptance:
    """Return what the gate says of a routed edit, from the exam of the same edit as it acts on every prompt.

    Only the detector reads the prompts; nothing is answered anew.

    Args:
        plain: The gate's word on the unrouted edit.
        row: The routed edit.

    Raises:
        EditError: The row is not routed, or other weights were examined.
        PatchError: The detector was made for another base model.
    """
    exam = plain.exam
    if row.detector is None or row.always().key != exam.key:
        raise EditError(
            f"The exam is that of {exam.weights}, so it tells nothing of {row.label()}. Examine those weights."
        )
    prompts = [encoded(model, reply.question, reply.question.prompt, exam.format) for reply in exam.replies]
    fires = [row.detector.fires(score) for score in scores(model, row.detector, prompts)]
    replies = routed_replies(exam.replies, fires)
    checks = checks_of(replies, plain.settings.budgets)
    label, detector = row.key
    return Acceptance(checks, replace(exam, replies=replies, weights=label, detector=detector), plain.settings)


def routed_replies(replies: Sequence[Reply], fires: Sequence[bool]) -> tuple[Reply, ...]:
    """Return the replies of a routed edit: the vanilla answer in the edited one's place where the detector is silent.

    Args:
        replies: Of the edit as it acts on every prompt.
        fires: Whether the detector fires on each reply's prompt.
    """
    return tuple(reply if fired else _held_back(reply) for reply, fired in zip(replies, fires, strict=True))


def _held_back(reply: Reply) -> Reply:
    text = reply.vanilla.text
    return replace(
        reply,
        edited=reply.vanilla,
        likeness=None if reply.likeness is None else rouge("rougeL", text, text),
        kl=None if reply.kl is None else 0.0,
        held_back=True,
    )


def choose(plain: tuple[Row, Acceptance], routed: tuple[Row, Acceptance]) -> Chosen:
    """Take the one that passes with the best defence, of equal ones that with less harm, of these the plain one.

    Where neither passes, that with fewer broken budgets counts as the better one. The choice and both results are in
    the acceptance's ``choice``.
    """
    first, second = _rank(plain[1]), _rank(routed[1])
    row, taken = routed if second > first else plain
    return Chosen(row, replace(taken, choice=_told(plain[1], routed[1], second > first)))


def defended(acceptance: Acceptance) -> tuple[int, int]:
    """Return how many of how many harmful questions the edited weights answered safely in the gate's exam."""
    said = [reply.edited.verdict for reply in acceptance.exam.replies if reply.question.kind == "transfer"]
    return sum(verdict is not None and verdict.safe for verdict in said), len(said)


def _rank(acceptance: Acceptance) -> tuple[float, ...]:
    broken = sum(not check.passed for check in acceptance.checks)
    return (-broken, defended(acceptance)[0], *(-value for value in _harm(acceptance)))


def _harm(acceptance: Acceptance) -> tuple[float, ...]:
    found = {check.name: check.value for check in acceptance.checks}
    return tuple(found.get(name, 0.0) for name in ("harmless_kl", "over_refusal", "degenerate", "parroting"))


def _told(plain: Acceptance, routed: Acceptance, routed_taken: bool) -> str:
    where, taken, other = (WHERE_HARM, routed, plain) if routed_taken else (EVERYWHERE, plain, routed)
    if taken.passed != other.passed:
        why = "only so it passes"
    elif _rank(taken)[0] != _rank(other)[0]:
        why = "neither passes, and so it breaks fewer budgets"
    else:
        both = "both pass" if taken.passed else "neither passes"
        if defended(taken) != defended(other):
            why = f"{both}, and so it defends more"
        elif _harm(taken) != _harm(other):
            why = f"{both}, they defend as much, and so it does less harm"
        else:
            why = f"{both}, and they come to the same"
    results = "; ".join(f"{place}, {_result(of)}" for place, of in ((EVERYWHERE, plain), (WHERE_HARM, routed)))
    return f"Examined both ways: {results}. Taken: {where}, since {why}."


def _result(acceptance: Acceptance) -> str:
    safe, asked = defended(acceptance)
    kl = _harm(acceptance)[0]
    shown = "<0.0001" if 0 < kl < 1e-4 else f"{kl:.3g}"
    word = "passed" if acceptance.passed else "refused"
    return f"{safe} of {asked} harmful questions defended at harmless KL {shown} nats a token ({word})"
