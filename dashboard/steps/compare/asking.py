"""Asking both weights: what they are asked, how they decode, and both answers as they stream under their verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard.kit.bus import Offer, Update, Values
from dashboard.kit.drawing.another import in_rail
from dashboard.kit.drawing.answers import Tokens
from dashboard.kit.drawing.html import message, weights_badge
from dashboard.kit.drawing.panes import build_pair, unless_safe
from dashboard.kit.live import NO_EDIT, NOT_ASKED, is_cut_short, streamed
from dashboard.kit.room import Context, Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.kit.sessions.values import decoding_from
from dashboard.steps.compare import run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.routing import RoutingPart
from dashboard.steps.compare.run import (
    ADVERSARIAL,
    LONGEST_ANSWER,
    OF_THE_RAIL,
    OWN_PROMPT,
    PROMPT_CHOICES,
    Measured,
    Prompt,
)
from dashboard.steps.compare.standing import StandingPart
from inspector.errors import CaseError, PromptError
from inspector.model import SUFFIX, VANILLA, Answers, Decoding, PromptFormat, pieces


@dataclass(frozen=True)
class Asking:
    """Something that can be asked and that nobody has answered yet.

    Attributes:
        asked: What both weights are asked.
        otherwise: The prompt format of the rail.
        decoding: How they decode.
        answers: Streams both answers.
    """

    asked: Prompt
    otherwise: PromptFormat
    decoding: Decoding
    answers: Iterator[Answers]


class AskingPart(Room):
    """What both weights are asked, and their answers.

    Args:
        context: The page's.
        routing: Says what the detector read of each prompt.
        standing: Says which answers are of another case than the rail's.
    """

    name = "asking"

    def __init__(self, context: Context, routing: RoutingPart, standing: StandingPart) -> None:
        super().__init__(context)
        self.routing, self.standing = routing, standing

    def build(self) -> None:
        """Lay both answers out under their verdicts."""
        session = self.context.example.session
        texts, heads, covered = self.kept(session)
        compared, tokens = session.live is not None, self.tokens(session)
        self.pair = build_pair("", texts, heads, blurred=covered, compared=compared, tokens=tokens)
        (self.vanilla_head, self.edited_head), (self.vanilla, self.edited) = self.pair.heads, self.pair.panes

    def kept(self, session: Session) -> tuple[tuple[str, str], tuple[str, str], tuple[bool, bool]]:
        """Return the last answers, what stands above them, and which are covered."""
        asked, answers, is_live = run.asked_last(session), session.slot(Measured).answers, session.live is not None
        if asked is None or answers is None:
            return *self._silent(session, words.NO_ANSWER), (False, False)
        texts = answers.texts[0], answers.texts[1] if is_live else NO_EDIT
        notes = words.notes(session, asked, answers)
        if asked.choice == OWN_PROMPT:
            heads = weights_badge(VANILLA, notes[0]), weights_badge(session.row, notes[1])
            return texts, heads, unless_safe(None, None, is_live)
        marks = run.judged(asked.text, answers)
        return texts, words.heads(session.row, notes, marks, is_live), unless_safe(*marks, is_live)

    @staticmethod
    def _silent(session: Session, note: str) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return what stands in both panes and above them while nobody has answered; without an edit one says that."""
        is_live, yet = session.live is not None, words.no_answer_yet(session)
        heads = weights_badge(VANILLA, note), weights_badge(session.row, note if is_live else NOT_ASKED)
        return (yet, yet if is_live else NO_EDIT), heads

    def shown(self, session: Session) -> Update:
        """Show the last answers."""
        texts, heads, covered = self.kept(session)
        compared, tokens = session.live is not None, self.tokens(session)
        return self.pair.show(texts, heads, covered=covered, compared=compared, tokens=tokens)

    def tokens(self, session: Session) -> Tokens | None:
        """Return the last answers in their tokens; ``None`` where no two weights have answered."""
        answers = session.slot(Measured).answers
        return None if answers is None or session.live is None else pieces(self.model, answers)

    def build_asking(self) -> None:
        """Lay Ask out with its choice of prompts, which stand beside the answers."""
        self.ask_what = gr.Dropdown(
            [*PROMPT_CHOICES, *([] if self.context.read_only else [OWN_PROMPT])],
            value=ADVERSARIAL,
            label="What both are asked",
            show_label=False,
            container=False,
            scale=2,
            min_width=150,
            elem_id="ask-what",
        )
        self.ask = gr.Button(words.ask(self.context.example.session), elem_id="ask", min_width=80)

    def build_own_text(self) -> None:
        """Lay the field for a text of one's own out, shown where it is asked."""
        self.own_text = gr.Textbox(
            "",
            label="Your own text",
            placeholder="For example a harmless question, to see whether it is still answered",
            lines=2,
            visible=False,
            elem_id="own-text",
        )

    def build_decoding(self) -> None:
        """Lay the decoding out."""
        with gr.Row():
            self.max_new_tokens = gr.Slider(8, 256, value=LONGEST_ANSWER, step=8, label="Longest answer", info="Tokens")
            self.temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature", info="0 is greedy")
            self.seed = gr.Number(0, label="Seed", info="For temperatures above 0", precision=0)

    @property
    def decoding_fields(self) -> dict[str, Any]:
        """The fields of the decoding, by its own names for them."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}

    def decoding(self, values: Values) -> Decoding:
        """Return how answers are decoded."""
        return decoding_from({name: values[part] for name, part in self.decoding_fields.items()})

    def hear(self) -> None:
        """Offer the decoding."""
        self.bus.offer("decoding", Offer(tuple(self.decoding_fields.values()), call=self.decoding))
        self.context.carry(**self.decoding_fields)
        self.context.lock(self.ask, lambda session: gr.Button(words.ask(session), interactive=True))

    @property
    def asked(self) -> list[Any]:
        """What asking reads."""
        return [*self.standing.read, self.ask_what, self.own_text, *self.decoding_fields.values()]

    @property
    def chosen(self) -> list[Any]:
        """What says what is asked."""
        return [self.ask_what, self.own_text]

    @property
    def drawn(self) -> list[Any]:
        """What it changes."""
        return [*self.pair.parts, self.routing.detected, self.standing.of_another]

    def connect(self) -> None:
        """Wire Ask."""
        clock = self.bus.offered("clock").outputs[0]
        self.context.react(self.ask_what.input, self.on_ask_what, inputs=[self.ask_what], outputs=[self.own_text])
        told: dict[str, Any] = {"outputs": self.drawn, "starting": "", "brief": True}
        self.context.press(self.ask.click, self.on_ask, clock=clock, inputs=self.asked, **told)

    def on_ask_what(self, _session: Session, values: Values) -> Update:
        """Show the field for a text of one's own where it is asked."""
        return {self.own_text: gr.Textbox(visible=values[self.ask_what] == OWN_PROMPT)}

    def on_ask(self, session: Session, values: Values) -> Iterator[Update]:
        """Stream both answers to the chosen prompt; that of a case is of the one in the rail."""
        self.require_bundled(values)
        of_the_rail = values[self.ask_what] in OF_THE_RAIL
        texts = self.bus.offered("typed").call(values) if of_the_rail else None
        yield from self._stream(session, values, self._asking(session, values, values[self.ask_what], texts))

    def again(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask anew after the live weights have changed; where the rail makes no prompt, what they were made for.

        What is chosen may be something that cannot be asked: it is the adversarial prompt then, and the choice says so.
        """
        try:
            asking = self._asking(session, values, values[self.ask_what], in_rail(self.bus, session, values))
        except (CaseError, PromptError):
            asking = self._asking(session, values, ADVERSARIAL, None)
            yield self._adversarial_chosen
        yield from self._stream(session, values, asking)

    def _asking(self, session: Session, values: Values, choice: str, texts: Texts | None) -> Asking:
        asked = run.to_ask(session, choice, values[self.own_text], texts)
        return self._begun(session, asked, self.bus.offered("format").call(values), self.decoding(values))

    def _begun(self, session: Session, asked: Prompt, otherwise: PromptFormat, decoding: Decoding) -> Asking:
        answers = run.ask(self.model, session, asked, otherwise, decoding, self.context.detector)
        return Asking(asked, otherwise, decoding, answers)

    @property
    def _adversarial_chosen(self) -> Update:
        return {self.ask_what: ADVERSARIAL, self.own_text: gr.Textbox(visible=False)}

    def require_bundled(self, values: Values) -> None:
        """Refuse a text of one's own in the read-only demo.

        Raises:
            CaseError: There is one.
        """
        own = values[self.ask_what] == OWN_PROMPT
        typed = self.bus.offered("format").call(values)
        if self.context.read_only and (own or typed.suffix != SUFFIX):
            raise CaseError("This demo is read-only: free text is off. Pick one of the case's prompts.")

    def _stream(self, session: Session, values: Values, asking: Asking) -> Iterator[Update]:
        asked, decoding = asking.asked, asking.decoding
        own, made = asked.choice == OWN_PROMPT, session.live.format if session.live else None
        note = words.answer_note(asked.choice, made, asking.otherwise, not own, asked.question)
        yield self.standing.asking(session, values, asked)
        try:
            yield from streamed(self.pair, self.model, session, asking.answers, note, decoding.max_new_tokens)
        except Exception:
            yield self.shown(session)
            raise
        yield self.routing.read(session)
        kept = session.slot(Measured).answers
        if kept is not None and not own:
            marks = run.judged(asked.text, kept)
            yield self.pair.blur(unless_safe(*marks, session.live is not None))
            heads = words.heads(session.row, words.notes(session, asked, kept), marks, session.live is not None)
            yield dict(zip(self.pair.heads, heads, strict=True))
        if session.cancelled.is_set():
            rows = (0,) if session.live is None else (0, 1)
            cut = kept is None or any(is_cut_short(kept, row, decoding.max_new_tokens) for row in rows)
            yield {self.bus.offered("clock").outputs[0]: message(words.STOPPED if cut else words.STOPPED_AFTER)}

    def adversarial(self, session: Session, values: Values) -> Iterator[Update]:
        """Stream both answers to the adversarial prompt of the live edit, and say that this is what was asked."""
        live = session.live
        assert live is not None
        yield self._adversarial_chosen
        asked = Prompt(ADVERSARIAL, live.case.adversarial_prompt, live.case.question)
        yield from self._stream(session, values, self._begun(session, asked, live.format, self.decoding(values)))

    def back(self, session: Session) -> Update:
        """Show the visitor's last answers on a page that opens anew, with what was asked."""
        asked = session.slot(Measured).asked
        return {
            **self.shown(session),
            **self.routing.read(session),
            self.ask_what: asked,
            self.own_text: gr.Textbox(visible=asked == OWN_PROMPT),
        }

    @staticmethod
    def forget(session: Session) -> None:
        """Drop the last answers, which other weights have given."""
        kept = session.slot(Measured)
        kept.answers = kept.detected = None

    def unanswered(self, session: Session) -> Update:
        """Show which weights are live, and that they have not answered."""
        self.forget(session)
        texts, heads = self._silent(session, words.UNANSWERED)
        shown = self.pair.show(texts, heads, compared=False, covered=(False, False))
        return {**shown, **self.routing.read(session)}
