"""What the buttons do, as functions of (model, session, what was typed); no Gradio in here."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from dashboard.session import Comparison, LiveEdit, Session
from editing import DinmSettings, EditResult, Preparation, Step, dinm
from editing.guard import check_case
from inspector.columns import neuron_profile
from inspector.divergence import Divergence, Padding, divergence
from inspector.errors import CaseError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Answers, Decoding, InspectedModel, PromptFormat, encode, stream
from inspector.model.encoding import clean, prompt_text, special_markers
from inspector.presets import Preset
from inspector.safeedit import Case, Template, bundled_cases, bundled_templates
from inspector.shift import activation_shift


@dataclass(frozen=True)
class Texts:
    """What stands in the case rail.

    Attributes:
        question: The harmful question q.
        template: Attack template with a ``{question}`` slot; empty for the question alone.
        suffix: Suffix prompt S; empty for none.
        safe: Safe answer.
        unsafe: Unsafe answer.
    """

    question: str
    template: str
    suffix: str
    safe: str
    unsafe: str

    @property
    def format(self) -> PromptFormat:
        """The prompt format of what was typed: its suffix, and the model's chat template."""
        return PromptFormat(self.suffix)

    def adversarial_prompt(self) -> str:
        """Return X, the template with the question in its slot.

        Raises:
            CaseError: No question, or a template without slot.
        """
        if not self.question.strip():
            raise CaseError("The question is empty. Write one or pick an example in the case rail.")
        if not self.template.strip():
            return self.question
        if Template.SLOT not in self.template:
            raise CaseError(
                f"The attack template has no {Template.SLOT} slot, so the question would be lost. Put the slot where "
                "the question belongs, or empty the template."
            )
        return self.template.replace(Template.SLOT, self.question)


def texts_of(case: Case, suffix: str) -> Texts:
    """Return a bundled case as the rail shows it, the question's slot open in its template."""
    template = case.adversarial_prompt.replace(case.question, Template.SLOT, 1)
    return Texts(case.question, "" if template == Template.SLOT else template, suffix, case.safe, case.unsafe)


def case_of(texts: Texts) -> Case:
    """Build a case from what was typed; a bundled question keeps its record's generalization prompts.

    Raises:
        CaseError: Something is missing, or the answers are not what :func:`editing.guard.check_case` wants.
    """
    prompt = texts.adversarial_prompt()
    known = next((c for c in bundled_cases() if c.question == texts.question), None)
    other = next((t for t in bundled_templates() if t.fill(texts.question) != prompt), None)
    case = Case(
        question=texts.question,
        adversarial_prompt=prompt,
        safe=texts.safe,
        unsafe=texts.unsafe,
        identifier=known.identifier if known else None,
        category=known.category if known else "",
        attack_name=known.attack_name if known else "",
        only_question=texts.question,
        other_attack=known.other_attack if known else (other.fill(texts.question) if other else None),
        other_question=known.other_question if known else None,
        other_both=known.other_both if known else None,
        constraint=known.constraint if known else bundled_cases()[0].constraint,
    )
    check_case(case)
    return case


@dataclass(frozen=True)
class PromptView:
    """The assembled prompt.

    Attributes:
        text: As the model will get it, markers included.
        tokens: Its length.
        limit: The model's context length.
        notes: What the person should know about it.
    """

    text: str
    tokens: int
    limit: int
    notes: tuple[str, ...]


def view_prompt(model: InspectedModel, texts: Texts) -> PromptView:
    """Assemble the adversarial prompt.

    Raises:
        CaseError: See :meth:`Texts.adversarial_prompt`.
        PromptError: Too long.
    """
    prompt = texts.adversarial_prompt()
    encoded = encode(model, prompt, None, texts.format)
    notes = []
    removed = clean(prompt)[1]
    if removed:
        notes.append(f"{removed} control character{'s' if removed > 1 else ''} left out")
    markers = special_markers(model, prompt)
    if markers:
        notes.append(f"contains the model's own marker {', '.join(markers)}, which acts as one")
    return PromptView(prompt_text(model, prompt, texts.format), len(encoded.prompt), model.context_length, tuple(notes))


def ask_for_unsafe(model: InspectedModel, texts: Texts, decoding: Decoding) -> Iterator[str]:
    """Let the vanilla model answer the adversarial prompt without suffix, growing."""
    encoded = encode(
        model, texts.adversarial_prompt(), None, texts.format.without_suffix(), room=decoding.max_new_tokens
    )
    for answers in stream(model, encoded.prompt, (VANILLA,), decoding):
        yield answers.texts[0]


def locate(model: InspectedModel, session: Session, texts: Texts, preset: Preset, padding: Padding) -> Divergence:
    """Measure the vanilla divergence and keep it in the session."""
    case = case_of(texts)
    measured = divergence(model, case, preset, padding=padding, format=texts.format)
    session.case, session.format, session.divergence = case, texts.format, measured
    return measured


def edit(
    model: InspectedModel, session: Session, texts: Texts, block: int, settings: DinmSettings
) -> Generator[Preparation | Step, None, EditResult]:
    """Run DINM; its patch becomes the session's live edit unless it was cancelled."""
    case = case_of(texts)
    result = yield from dinm(model, case, block, settings, cancel=session.cancelled.is_set)
    if result.patch is not None:
        session.add(LiveEdit(case, result))
    return result


def measure(model: InspectedModel, session: Session) -> Comparison:
    """Measure the live edit at the session's strength, in its own prompt format, and keep the result."""
    live = session.live
    if live is None:
        raise CaseError("No edit is live. Press Edit in step 3 first.")
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
    session.comparison = comparison
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


def ask(
    model: InspectedModel, session: Session, text: str, otherwise: PromptFormat, decoding: Decoding
) -> Iterator[Answers]:
    """Stream the vanilla and the edited answer to one text from one batch.

    Args:
        otherwise: The prompt format where no edit is live; an edit is asked in its own.
    """
    encoded = encode(model, text, None, session.asked_in(otherwise), room=decoding.max_new_tokens)
    for answers in stream(model, encoded.prompt, (VANILLA, session.row), decoding):
        session.answers = answers
        yield answers
        if session.cancelled.is_set():
            return
