"""What Compare measures and asks; no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from editing import Preparation
from editing.gate.budgets import Budgets
from editing.strength import StrengthCurve, StrengthSettings, strength_curve
from inspector.columns import NeuronProfile, neuron_profile
from inspector.divergence import Divergence, divergence
from inspector.errors import CaseError
from inspector.likelihood import Likelihood, likelihoods
from inspector.model import VANILLA, Answers, Decoding, Detector, InspectedModel, PromptFormat, encode, stream
from inspector.model.patches.routing import scores
from inspector.safeedit import Case
from inspector.safeedit.exam import Evaluation
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Verdict, verdicts
from inspector.shift import Shift, activation_shift

LONGEST_ANSWER = 72
"""Tokens of an answer where nobody asks for another length."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured of one edit at one strength.

    Attributes:
        strength: Factor on the patch.
        before: Likelihood of the safe and of the unsafe answer, vanilla.
        after: The same, edited.
        divergence_before: Vanilla divergence.
        divergence_after: Edited divergence.
        shift: Change of the activations on the prompt with the safe answer.
        profile: Change of the edited matrix per neuron, at strength 1.
    """

    strength: float
    before: tuple[Likelihood, Likelihood]
    after: tuple[Likelihood, Likelihood]
    divergence_before: Divergence
    divergence_after: Divergence
    shift: Shift
    profile: NeuronProfile


@dataclass(frozen=True)
class Detected:
    """What the model's detector read of one prompt.

    Attributes:
        score: Its score, the prompt's highest window.
        threshold: Score from which a prompt counts as harmful.
        fires: Whether it does.
        routed: Whether the edit acts only where it does; else it acts all the same.
    """

    score: float
    threshold: float
    fires: bool
    routed: bool


@dataclass
class Measured:
    """What was measured of the live edit, the last answers, vanilla first, and what the detector read of their prompt.

    Attributes:
        curve: Defence against damage over its strength, if it was asked for.
        asked: What was asked, by its name on the screen.
        prompt: Its text.
        question: That of the case which it belongs to; ``None`` where it belongs to none, or nobody has said.
        decoding: How the answers were decoded.
        typed: The prompt format of the rail as they were asked.
        cancelled: Whether their run was.
    """

    comparison: Comparison | None = None
    answers: Answers | None = None
    detected: Detected | None = None
    curve: StrengthCurve | None = None
    asked: str = "Adversarial prompt"
    prompt: str | None = None
    question: str | None = None
    decoding: Decoding | None = None
    typed: PromptFormat | None = None
    cancelled: bool = False

    def live_changed(self) -> None:
        """Forget what belongs to other weights."""
        self.comparison = self.answers = self.detected = self.curve = None
        self.prompt = self.question = self.decoding = self.typed = None
        self.cancelled = False


def measure(model: InspectedModel, session: Session) -> Comparison:
    """Measure the live edit at the session's strength, in its own prompt format, and keep the result."""
    live = session.live
    if live is None:
        raise CaseError("No edit is live. Press Operate or Edit first.")
    case, row, format = live.case, session.weights, live.format
    prompt, answers = case.adversarial_prompt, (case.safe, case.unsafe)
    scored = likelihoods(model, prompt, answers, (VANILLA, row), format=format)
    region = live.result.block
    downs = model.architecture.down_projection_names
    changed = any(delta.module == downs[region] for delta in live.patch.deltas)
    comparison = Comparison(
        strength=session.strength,
        before=(scored[0][0], scored[0][1]),
        after=(scored[1][0], scored[1][1]),
        divergence_before=divergence(model, case, format=format),
        divergence_after=divergence(model, case, row=row, format=format),
        shift=activation_shift(model, prompt, case.safe, row, region=region, format=format),
        profile=neuron_profile(model, live.patch, region if changed else None),
    )
    session.slot(Measured).comparison = comparison
    return comparison


PROMPT_CHOICES = {
    "Adversarial prompt": "adversarial_prompt",
    "Question alone": "only_question",
    "Other attack": "other_attack",
    "Other question": "other_question",
    "Other question and attack": "other_both",
}
"""What both models can be asked, by its name on the screen."""


OWN_PROMPT = "Your own text"
ADVERSARIAL = "Adversarial prompt"
OF_THE_RAIL = (ADVERSARIAL, "Question alone")
"""What is asked of the texts in the rail; a case that was only typed has no other prompts."""


@dataclass(frozen=True)
class Prompt:
    """What both weights are asked.

    Attributes:
        choice: Its name on the screen.
        text: The user's text.
        question: Of the case that it belongs to; ``None`` for a text of one's own.
    """

    choice: str
    text: str
    question: str | None = None


def case_asked(session: Session) -> Case | None:
    """Return the case whose prompts a visitor's weights are asked: the live edit's, else that of the last Locate."""
    return session.live.case if session.live else session.case


def to_ask(session: Session, choice: str, own: str, texts: Texts | None) -> Prompt:
    """Return what a choice stands for: of the texts in the rail, or of the live edit's case.

    Args:
        own: A text of one's own.
        texts: What stands in the rail; ``None`` to ask the case of the weights.

    Raises:
        CaseError: There is no case, the case or the texts lack it, or the own text is empty.
    """
    if texts is not None and choice in OF_THE_RAIL:
        prompt = texts.adversarial_prompt()
        return Prompt(choice, prompt if choice == ADVERSARIAL else texts.question, texts.question)
    case = case_asked(session)
    if case is None:
        raise CaseError("There is no case yet. Press Operate or Locate first.")
    return Prompt(choice, prompt_to_ask(case, choice, own), None if choice == OWN_PROMPT else case.question)


def asked_last(session: Session) -> Prompt | None:
    """Return what the last answers were asked; ``None`` without any."""
    kept, case, text = session.slot(Measured), case_asked(session), session.slot(Measured).prompt
    if kept.answers is None:
        return None
    if kept.asked == OWN_PROMPT:
        return Prompt(OWN_PROMPT, text or "")
    if text is None:  # an example that was read from disk
        return None if case is None else Prompt(kept.asked, prompt_to_ask(case, kept.asked, ""), case.question)
    is_of_case = case is not None and text in [getattr(case, name) for name in PROMPT_CHOICES.values()]
    return Prompt(kept.asked, text, case.question if case is not None and is_of_case else kept.question)


def prompt_to_ask(case: Case, choice: str, own: str) -> str:
    """Return the user's text that a choice stands for.

    Raises:
        CaseError: The case lacks it, or the own text is empty.
    """
    if choice == OWN_PROMPT:
        if not own.strip():
            raise CaseError("Your own text is empty. Write what both models should answer.")
        return own
    text = getattr(case, PROMPT_CHOICES[choice])
    if not text:
        raise CaseError(f"A case of your own has no '{choice}' prompt. Choose another, or write your own text.")
    return text


def prompt_of(session: Session, text: str) -> Prompt:
    """Return what a program's text is: a prompt of the case that a visitor's weights are asked, else a text of one's
    own.
    """
    case = case_asked(session)
    if case is not None and text:
        for choice, name in PROMPT_CHOICES.items():
            if getattr(case, name) == text:
                return Prompt(choice, text, case.question)
    return Prompt(OWN_PROMPT, text)


def ask(
    model: InspectedModel,
    session: Session,
    asked: Prompt,
    otherwise: PromptFormat,
    decoding: Decoding,
    detector: Detector | None = None,
) -> Iterator[Answers]:
    """Stream the vanilla and the edited answer to one prompt from one batch.

    What was asked and answered before stays the session's until these answers begin.

    Args:
        otherwise: The prompt format where no edit is live; an edit is asked in its own.
        detector: The model's. It reads the prompt for the record where no other one routes the edit.

    Raises:
        CaseError: It is more than a visitor may ask. This and the next are raised by the call, not by the iterator.
        PromptError: The text is empty or too long for the model.
    """
    session.limits.require_decoding(decoding)
    session.limits.require_short(asked.text)
    encoded = encode(model, asked.text, None, session.asked_in(otherwise), room=decoding.max_new_tokens)
    return _answered(model, session, encoded.prompt, asked, otherwise, decoding, session.detector or detector)


def _answered(
    model: InspectedModel,
    session: Session,
    prompt: Sequence[int],
    asked: Prompt,
    otherwise: PromptFormat,
    decoding: Decoding,
    detector: Detector | None,
) -> Iterator[Answers]:
    kept, found = session.slot(Measured), detected(model, session, prompt, detector)
    for answers in stream(model, prompt, (VANILLA, session.row), decoding):
        kept.asked, kept.prompt, kept.question = asked.choice, asked.text, asked.question
        kept.answers, kept.detected, kept.decoding, kept.typed = answers, found, decoding, otherwise
        kept.cancelled = False
        yield answers
        if session.cancelled.is_set():
            break
    kept.cancelled = session.cancelled.is_set()


def detected(
    model: InspectedModel, session: Session, prompt: Sequence[int], detector: Detector | None
) -> Detected | None:
    """Let a detector read a prompt, token ids as the model gets them; ``None`` without one."""
    if detector is None:
        return None
    (score,) = scores(model, detector, [prompt])
    return Detected(score, detector.threshold, detector.fires(score), session.detector is not None)


def curve(
    model: InspectedModel, session: Session, budgets: Budgets, evaluation: Evaluation = "same"
) -> Generator[Preparation, None, StrengthCurve | None]:
    """Measure defence against damage over the live edit's strength; kept with the visitor unless it was cancelled.

    Args:
        budgets: The gate's, within which a strength may be suggested.
        evaluation: Whether vanilla is asked with the suffix, too (:data:`inspector.safeedit.exam.EVALUATIONS`).

    Raises:
        CaseError: No edit is live.
    """
    live = session.live
    if live is None:
        raise CaseError("No edit is live, so there is no strength to choose. Press Operate first.")
    settings = StrengthSettings(**CURVE, budgets=budgets, evaluation=evaluation)
    made = yield from strength_curve(model, session.row, live.case, settings, cancel=session.cancelled.is_set)
    if made is not None:
        session.slot(Measured).curve = made
    return made


CURVE: dict[str, Any] = {"harmless": 8, "max_new_tokens": 32}
"""Size of the strength curve on the page."""


_KEPT: dict[tuple[str, tuple[str, ...]], tuple[Verdict, Verdict]] = {}
"""Verdicts that came with a kept example, by the prompt and both answers: the judge, which is asked while the page is
built, takes half a second to import. What visitors ask is not kept here."""


def judged(prompt: str, answers: Answers) -> tuple[Verdict, Verdict]:
    """Judge both answers to a harmful prompt, vanilla first, by the refusal rules.

    Args:
        prompt: The user's text that both were asked, as the exams give it to their judges.
    """
    kept = _KEPT.get((prompt, tuple(answers.texts)))
    if kept is not None:
        return kept
    first, second = verdicts(EmbeddedJudge(), [(prompt, text) for text in answers.texts])
    return first, second


def keep_verdicts(prompt: str, answers: Answers, given: tuple[Verdict, Verdict]) -> None:
    """Take the verdicts on two answers as :func:`judged` has given them before."""
    _KEPT[prompt, tuple(answers.texts)] = given


def verdicts_of_live(session: Session) -> dict[str, str] | None:
    """Return the verdicts on both answers to the adversarial prompt of the live edit's case, by whose they are.

    ``None`` where no edit is live, nothing was answered, something else was asked last, or it was cancelled.
    """
    live, kept, asked = session.live, session.slot(Measured), asked_last(session)
    answers, most = kept.answers, 0 if kept.decoding is None else kept.decoding.max_new_tokens
    if live is None or answers is None or asked is None or asked.text != live.case.adversarial_prompt:
        return None
    ended = zip(answers.token_ids, answers.finished, strict=True)
    if not all(finished or len(tokens) >= most for tokens, finished in ended):
        return None
    first, second = judged(asked.text, answers)
    return {"vanilla": first.label, "edited": second.label}


def of_live(session: Session) -> Comparison | None:
    """Return what was measured of the live weights at their strength, if that was."""
    comparison = session.slot(Measured).comparison
    if session.live is None or comparison is None or comparison.strength != session.strength:
        return None
    return comparison
