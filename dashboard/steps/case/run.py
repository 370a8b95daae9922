"""What the case's controls do; no Gradio in here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from dashboard.kit.sessions.typed import Texts
from editing.texts.own_answers import OwnAnswers, own_answers
from inspector.model import VANILLA, Decoding, InspectedModel, encode, stream
from inspector.model.encoding import clean, prompt_text, special_markers
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Verdict, verdicts


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


def judged(question: str, text: str) -> Verdict:
    """Judge one answer by the embedded rules."""
    return verdicts(EmbeddedJudge(), [(question, text)])[0]


def answer(
    model: InspectedModel, texts: Texts, cancel: Callable[[], bool]
) -> Generator[OwnAnswers, None, OwnAnswers | None]:
    """Let the model write both answers to the question in the rail."""
    return own_answers(model, texts.question, texts.adversarial_prompt(), texts.format, cancel=cancel)
