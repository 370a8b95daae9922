"""Answers for a question of one's own: the unsafe one is the model's, the safe one the model's or a template's.

The model answers the adversarial prompt as it is, and twice more with a self-reminder around it
(:mod:`editing.methods.self_reminder`) and around the question alone, all three in one batch. The first reminded answer
that the judge calls safe is the safe one; where there is none, a template declines the question in its own words, which
the judge is asked about as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from editing.methods.self_reminder import SelfReminderSettings
from inspector.errors import CaseError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, encode
from inspector.model.answers.batching import Line, generate
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.verdict import Judge, verdicts

Origin = Literal["case", "typed", "model", "template"]
"""Where an answer comes from: a bundled case, a person, the model, or a template of this program."""
LONGEST = 96
"""Longest answer of the model, tokens."""
SHORTEST = 4
"""Words from which a text of the model is an answer."""
REQUEST = re.compile(
    r"(?i)^(?:please |hey |hi,? )*(?:(?P<asked>(?:can|could|will|would) you(?: please)?)|"
    r"(?:how|where|when) (?:can|do|could|should|would|might) (?:i|we|one|someone|you)|"
    r"(?:what is|what's|what are|tell me|show me|give me) (?:the |a |some )?(?:best |easiest |good |quickest )?"
    r"(?:ways? to|how to)|how to|help me(?: to)?)\s+(?P<what>[^?.!\n]{4,160})[?.!]*$"
)
"""A request for something in one sentence, and what it is."""
TURNED = {
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "am": "are",
    "i'm": "you're",
    "we": "you",
    "us": "you",
    "our": "your",
    "ours": "yours",
    "ourselves": "yourselves",
    "i've": "you've",
    "you": "I",
    "your": "my",
    "yours": "mine",
    "yourself": "myself",
}
AFTERWARDS = (
    "It could hurt or wrong someone, and I don't want to be part of that. If there is a worry behind it, tell me about "
    "it, and I will gladly help you find a way that is fair to everyone."
)
AGREES = "Sure, I can do that for you. Here is what you asked for."
"""What stands in for the unsafe answer of a model that says nothing at all."""


@dataclass(frozen=True)
class OwnAnswer:
    """One answer.

    Attributes:
        text: The answer.
        origin: ``model`` or ``template`` here.
        note: What the judge said of it, or why it comes from there, one sentence.
    """

    text: str
    origin: Origin
    note: str


@dataclass(frozen=True)
class OwnAnswers:
    """Both answers; as long as they are being written, the state of the model's.

    Attributes:
        safe: The safe one.
        unsafe: The unsafe one.
        tokens: How many tokens the model has written of each.
        done: Both are whole and judged.
        defended: The model's own answer to the adversarial prompt is judged safe: there is little to mend.
        doubtful: The safe answer is not judged safe: a person has to read it before anything is made with it.
    """

    safe: OwnAnswer
    unsafe: OwnAnswer
    tokens: int = 0
    done: bool = False
    defended: bool = False
    doubtful: bool = False


def own_answers(
    model: InspectedModel,
    question: str,
    prompt: str,
    format: PromptFormat = PromptFormat(),
    *,
    judge: Judge | None = None,
    longest: int = LONGEST,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[OwnAnswers, None, OwnAnswers | None]:
    """Write both answers for a question.

    Args:
        question: The harmful question.
        prompt: The adversarial prompt with the question in it.
        format: Its prompt format; the answers are asked without its suffix, which would help the model.
        judge: Says which answers are safe; the embedded rules by default.
        longest: Longest answer of the model, tokens.
        cancel: Ends it within one token.

    Yields:
        The answers so far, after every token.

    Returns:
        Both answers; ``None`` after a cancel.

    Raises:
        CaseError: The question is empty.
        PromptError: A prompt is too long for the model.
    """
    if not question.strip():
        raise CaseError("The question is empty. Write one or pick an example in the case rail.")
    judge = judge or EmbeddedJudge()
    plain, reminder = format.without_suffix(), SelfReminderSettings().reminder
    asked = (prompt, reminder.wrap(prompt), reminder.wrap(question))
    decoding = Decoding(max_new_tokens=longest)
    prompts = [encode(model, text, None, plain, room=longest).prompt for text in asked]
    lines: list[Line] = []
    for written, lines in enumerate(generate(model, prompts, [VANILLA], decoding), 1):
        texts = [model.decode(line.tokens).strip() for line in lines]
        unsafe, safe = OwnAnswer(texts[0], "model", "being written"), OwnAnswer(texts[1], "model", "being written")
        yield OwnAnswers(safe, unsafe, min(written, longest))  # more where the batch had to be halved
        if cancel():
            return None
    texts = [whole(model.decode(line.tokens).strip(), line.ended is not None) for line in lines]
    own, *reminded = verdicts(judge, [(question, text) for text in texts])
    unsafe = OwnAnswer(texts[0], "model", f"the model's own answer to the adversarial prompt, judged {own.label}")
    if own.label == "degenerate":
        unsafe = OwnAnswer(AGREES, "template", f"the model's own answer is no text: {own.reason}")
    safe, doubtful = _templates(question, judge)
    for text, verdict in zip(texts[1:], reminded, strict=True):
        if verdict.safe and len(text.split()) >= SHORTEST and text.split() != unsafe.text.split():
            safe = OwnAnswer(text, "model", f"the model's own words with a reminder, judged safe: {verdict.reason}")
            doubtful = False
            break
    made = OwnAnswers(safe, unsafe, max(len(line.tokens) for line in lines), True, own.safe, doubtful)
    yield made
    return made


def _templates(question: str, judge: Judge) -> tuple[OwnAnswer, bool]:
    """Return the template's safe answer with what the judge says of it, and whether it is not judged safe."""
    text = declined(question)
    (verdict,) = verdicts(judge, [(question, text)])
    said = f"{'judged safe' if verdict.safe else 'not judged safe'}: {verdict.reason}"
    note = f"a template, since the model's own reminded answers are not judged safe; the template's is {said}"
    return OwnAnswer(text, "template", note), not verdict.safe


def whole(text: str, ended: bool) -> str:
    """Return an answer up to the end of its last sentence, all of it if it ended by itself or has none."""
    if ended:
        return text
    end = max((found.end() for found in re.finditer(r"[.!?][\"')]*(?=\s|$)", text)), default=0)
    return text[:end] if end else text


def declined(question: str) -> str:
    """Decline a question in a few sentences that name what was asked for, in English."""
    shown = " ".join(question.split()).replace('"', "'")
    plain = f"I'm sorry, but I can't help with that: \"{shown}\" {AFTERWARDS}"
    found = REQUEST.match(" ".join(question.split()))
    if found is None:
        return plain
    what = " ".join(_turned(word) for word in found["what"].split())
    helped = re.match(r"(?i)help you(?: to)? ", what)
    what = what[helped.end() :] if helped else what
    said = f"I'm sorry, but I can't {'' if found['asked'] and not helped else 'help you '}{what}. {AFTERWARDS}"
    # Rare verbs are no refusal to the rules that judge it.
    return said if read_refusal(said, question).refused else plain


def _turned(word: str) -> str:
    bare = word.strip(",;:")
    return word.replace(bare, TURNED[bare.lower()]) if bare.lower() in TURNED else word
