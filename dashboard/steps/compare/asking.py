"""Asking both weights: what they are asked, how they decode, and both answers as they stream under their verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import Offer, Update, Values
from dashboard.kit.html import message, weights_badge
from dashboard.kit.live import NO_EDIT, ended, streamed
from dashboard.kit.panes import build_pair, unless_safe
from dashboard.kit.room import Context, Room
from dashboard.kit.session import Session
from dashboard.kit.values import decoding_from
from dashboard.steps.compare import run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.routing import RoutingPart
from dashboard.steps.compare.run import OWN_PROMPT, PROMPT_CHOICES, Measured
from inspector.errors import CaseError
from inspector.model import VANILLA, Answers, Decoding, PromptFormat
from inspector.safeedit.verdict import Verdict

LONGEST_ANSWER = 72
ADVERSARIAL = "Adversarial prompt"


class AskingPart(Room):
    """What both weights are asked, and their answers.

    Args:
        context: The page's.
        routing: Says what the detector read of each prompt.
    """

    name = "asking"

    def __init__(self, context: Context, routing: RoutingPart) -> None:
        super().__init__(context)
        self.routing = routing

    def build(self) -> None:
        """Lay both answers out under their verdicts."""
        session = self.context.example.session
        texts, heads, covered = self.kept(session)
        self.pair = build_pair("", texts, heads, blurred=covered)
        (self.vanilla_head, self.edited_head), (self.vanilla, self.edited) = self.pair.heads, self.pair.panes

    def kept(self, session: Session) -> tuple[tuple[str, str], tuple[str, str], tuple[bool, bool]]:
        """Return the last answers, what stands above them, and which are covered."""
        kept, case = session.slot(Measured), session.live.case if session.live else session.case
        answers = kept.answers
        if case is None or answers is None:
            heads = weights_badge(VANILLA, words.NO_ANSWER), weights_badge(VANILLA, words.NO_ANSWER)
            return (words.NO_ANSWER_YET, words.NO_ANSWER_YET), heads, (False, False)
        first, second = answers.texts if session.live else (answers.texts[0], NO_EDIT)
        cut = "" if all(answers.finished) else " · cut short"
        if kept.asked == OWN_PROMPT:
            note = words.answer_note(OWN_PROMPT) + cut
            return (first, second), (weights_badge(VANILLA, note), weights_badge(session.row, note)), (True, True)
        marks = run.judged(run.prompt_to_ask(case, kept.asked, ""), answers)
        note = words.answer_note(kept.asked, judged=True) + cut
        return (first, second), words.heads(session.row, (note, note), marks), unless_safe(*marks)

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
        self.ask = gr.Button("Ask both", elem_id="ask", min_width=80)

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
    def decoding_fields(self) -> tuple[Any, ...]:
        """The fields of the decoding."""
        return self.max_new_tokens, self.temperature, self.seed

    def decoding(self, values: Values) -> Decoding:
        """Return how answers are decoded."""
        return decoding_from([values[part] for part in self.decoding_fields])

    def hear(self) -> None:
        """Offer the decoding."""
        self.bus.offer("decoding", Offer(self.decoding_fields, call=self.decoding))
        self.context.carry(*self.decoding_fields)
        self.context.lock(self.ask)

    @property
    def asked(self) -> list[Any]:
        """What asking reads."""
        return [*self.bus.offered("format").inputs, self.ask_what, self.own_text, *self.decoding_fields]

    @property
    def drawn(self) -> list[Any]:
        """What it changes."""
        return [*self.pair.parts, self.routing.detected]

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
        """Stream both answers to the chosen prompt."""
        case = session.live.case if session.live else session.case
        if case is None:
            raise CaseError("There is no case yet. Press Operate or Locate first.")
        self.require_bundled(values)
        choice = values[self.ask_what]
        text = run.prompt_to_ask(case, choice, values[self.own_text])
        typed = self.bus.offered("format").call(values)
        yield from self._stream(session, text, choice, typed, self.decoding(values))

    def require_bundled(self, values: Values) -> None:
        """Refuse a text of one's own in the read-only demo.

        Raises:
            CaseError: There is one.
        """
        own = values[self.ask_what] == OWN_PROMPT
        typed = self.bus.offered("format").call(values)
        if self.context.read_only and (own or typed.suffix != self.context.example.texts.suffix):
            raise CaseError("This demo is read-only: free text is off. Pick one of the case's prompts.")

    def _stream(
        self, session: Session, text: str, choice: str, otherwise: PromptFormat, decoding: Decoding
    ) -> Iterator[Update]:
        own = choice == OWN_PROMPT
        session.slot(Measured).asked = choice
        note = words.answer_note(choice, session.live.format if session.live else None, otherwise, judged=not own)
        answers = run.ask(self.model, session, text, otherwise, decoding, self.context.detector)
        yield from streamed(self.pair, session, answers, note, decoding.max_new_tokens)
        yield self.routing.read(session)
        kept = session.slot(Measured).answers
        if kept is not None and not own:
            marks = run.judged(text, kept)
            yield self.pair.blur(unless_safe(*marks))
            yield dict(zip(self.pair.heads, self._heads(session, kept, note, marks, decoding), strict=True))
        if session.cancelled.is_set():
            said = message("Stopped: the answers were cut short, the weights are as they were.")
            yield {self.bus.offered("clock").outputs[0]: said}

    def _heads(
        self, session: Session, answers: Answers, note: str, marks: tuple[Verdict, Verdict], decoding: Decoding
    ) -> tuple[str, str]:
        notes = ended(session, answers, note, decoding.max_new_tokens)
        return words.heads(session.row, notes, marks)

    def adversarial(self, session: Session, values: Values) -> Iterator[Update]:
        """Stream both answers to the adversarial prompt of the live edit, and say that this is what was asked."""
        live = session.live
        assert live is not None
        yield {self.ask_what: ADVERSARIAL, self.own_text: gr.Textbox(visible=False)}
        prompt, decoding = live.case.adversarial_prompt, self.decoding(values)
        yield from self._stream(session, prompt, ADVERSARIAL, live.format, decoding)

    def back(self, session: Session) -> Update:
        """Show the visitor's last answers on a page that opens anew, with what was asked."""
        texts, heads, covered = self.kept(session)
        asked = session.slot(Measured).asked
        return {
            **self.pair.show(texts, heads, covered=covered, compared=session.live is not None),
            **self.routing.read(session),
            self.ask_what: asked,
            self.own_text: gr.Textbox(visible=asked == OWN_PROMPT),
        }

    def unanswered(self, session: Session) -> Update:
        """Show which weights are live, and that they have not answered."""
        kept = session.slot(Measured)
        kept.answers = kept.detected = None
        texts = words.NO_ANSWER_YET, words.NO_ANSWER_YET if session.live else NO_EDIT
        heads = weights_badge(VANILLA, words.UNANSWERED), weights_badge(session.row, words.UNANSWERED)
        shown = self.pair.show(texts, heads, compared=False, covered=(False, False))
        return {**shown, **self.routing.read(session)}
