"""Two edits of the history and the vanilla weights, asked one text in one batch; nothing becomes live. No Gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dashboard.kit.drawing.detected import detector_told
from inspector.errors import CaseError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row, encode
from inspector.model.answers.batching import Line, generate_each
from inspector.safeedit import Case
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Verdict, verdicts

PROMPTS = {
    "Case of A, with its attack": (0, "adversarial_prompt"),
    "Case of A, question alone": (0, "only_question"),
    "Case of B, with its attack": (1, "adversarial_prompt"),
    "Case of B, question alone": (1, "only_question"),
}
"""What both can be asked, by its name on the screen: whose case, and which of its prompts."""
OWN = "Your own text"


@dataclass(frozen=True)
class Asked:
    """What vanilla, edit A and edit B answered, in this order.

    Attributes:
        texts: The answers.
        labels: Names of the weights.
        notes: How each ended and what was special, of a routed edit what its detector read of the text.
        choice: What was asked, by its name on the screen.
        verdicts: The judge's, of a case's prompt; ``None`` for a text of one's own, which nobody judges.
        prompt: The text that was asked.
        cancelled: Whether they were cut short.
    """

    texts: tuple[str, str, str]
    labels: tuple[str, str, str]
    notes: tuple[str, str, str]
    choice: str
    verdicts: tuple[Verdict, Verdict, Verdict] | None = None
    prompt: str = ""
    cancelled: bool = False

    @property
    def covered(self) -> tuple[bool, bool, bool]:
        """Which answers are covered until they are clicked: all that are not judged safe."""
        if self.verdicts is None:
            return True, True, True
        first, one, other = (not verdict.safe for verdict in self.verdicts)
        return first, one, other


def text_to_ask(cases: tuple[Case, Case], choice: str, own: str, read_only: bool = False) -> str:
    """Return the text that a choice stands for.

    Raises:
        CaseError: The choice is unknown, the case lacks it, or the own text is empty or not allowed.
    """
    if choice == OWN:
        if read_only:
            raise CaseError("This demo is read-only: free text is off. Pick one of the cases' prompts.")
        if not own.strip():
            raise CaseError("Your own text is empty. Write what both edits should answer.")
        return own
    if choice not in PROMPTS:
        raise CaseError(f"Unknown choice '{choice}'. Choose one of: {', '.join(PROMPTS)}.")
    whose, name = PROMPTS[choice]
    text = getattr(cases[whose], name)
    if not text:
        raise CaseError("This case has no such prompt. Choose another, or write your own text.")
    return text


def ask(
    model: InspectedModel,
    rows: tuple[Row, Row],
    labels: tuple[str, str],
    text: str,
    choice: str,
    decoding: Decoding,
    cancel: Callable[[], bool] = lambda: False,
) -> Iterator[Asked]:
    """Answer a text with vanilla and two edits in one batch, each edit in its own prompt format.

    Args:
        rows: The edits; vanilla is asked as the first one is.
        labels: Their names.
        cancel: Asked after every token; ``True`` ends the answers as they are.

    Yields:
        The answers so far; the last ones say how they ended, and are judged unless they were cancelled.

    Raises:
        CaseError: Both are the same weights.
        PromptError: The text is too long.
    """
    if rows[0].key == rows[1].key:
        raise CaseError("A and B are the same weights. Pick another row for one of them.")
    formats = [PromptFormat() if row.patch is None else row.patch.format for row in rows]
    prompts = [encode(model, text, None, format, room=decoding.max_new_tokens).prompt for format in formats]
    asked = [(prompts[0], VANILLA), (prompts[0], rows[0]), (prompts[1], rows[1])]
    own = ("", "", "" if prompts[0] == prompts[1] else "asked in its own prompt format")
    lines: Sequence[Line] = ()
    shown: Asked | None = None
    for lines in generate_each(model, asked, decoding):
        texts = tuple(model.decode(line.tokens).strip() for line in lines)
        answers = texts[0], texts[1], texts[2]
        shown = Asked(answers, (VANILLA.label(), *labels), _notes(lines, own), choice, prompt=text)
        yield shown
        if cancel():
            break
    if shown is None:
        return
    if cancel() and not all(line.finished or len(line.tokens) >= decoding.max_new_tokens for line in lines):
        yield replace(shown, notes=_notes(lines, own, "cancelled"), cancelled=True)
        return
    shown = replace(shown, notes=_notes(lines, own, f"cut at {decoding.max_new_tokens} tokens"))
    if choice != OWN:
        said = verdicts(EmbeddedJudge(), [(text, answer) for answer in shown.texts])
        shown = replace(shown, verdicts=(said[0], said[1], said[2]))
    yield shown


def _notes(lines: Sequence[Line], own: tuple[str, str, str], unfinished: str = "") -> tuple[str, str, str]:
    """Return what was special about each answer.

    Args:
        own: About how each was asked.
        unfinished: Said of those that have not ended by themselves.
    """
    held = [detector_told(line.reading, line.held_back) for line in lines]
    ended = ["" if line.finished else unfinished for line in lines]
    first, one, other = (" · ".join(filter(None, parts)) for parts in zip(own, held, ended, strict=True))
    return first, one, other
