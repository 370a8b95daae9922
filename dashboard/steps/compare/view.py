"""Compare: both answers to one prompt, strength and Undo, and what the edit changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.html import message, weights_badge
from dashboard.kit.live import NO_EDIT, ended, streamed
from dashboard.kit.panes import build_pair
from dashboard.kit.plots import plot
from dashboard.kit.room import Context, Room
from dashboard.kit.session import Session
from dashboard.kit.values import decoding_from
from dashboard.steps.compare import figures, run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.routing import RoutingPart
from dashboard.steps.compare.run import OWN_PROMPT, PROMPT_CHOICES, Comparison, Measured
from dashboard.steps.compare.strength import StrengthPart
from inspector.errors import CaseError
from inspector.model import VANILLA, Answers, Decoding, PromptFormat
from inspector.safeedit.verdict import Verdict

LONGEST_ANSWER = 72
ADVERSARIAL = "Adversarial prompt"
FIGURES = (
    ("shift_figure", "Activation shift per layer", lambda c: figures.shift_by_block(c.shift)),
    ("divergence_figure", "Divergence before and after", figures.divergence_before_after),
    ("token_figure", "Safe answer, token by token", lambda c: figures.token_probabilities(c.before[0], c.after[0])),
    ("shift_tokens", "Activation shift per token", lambda c: figures.shift_heatmap(c.shift)),
    ("neurons", "Neurons that moved", lambda c: figures.neurons(c.profile)),
)
"""The figures of a comparison: role, title, how each is drawn."""
READINGS = ("token_figure", "divergence_figure", "shift_figure", "shift_tokens", "neurons")
"""Their roles in the order of :func:`dashboard.steps.compare.texts.compare_readings`."""
SHOWN_AT_ONCE = 2
"""How many of them stand under the answers; the others are details."""


class CompareRoom(Room):
    """Ask both weights, scale the edit, undo it."""

    name = "compare"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.routing = RoutingPart(context, self.rerouted)
        self.curve = StrengthPart(context, self.scaled)

    def build(self) -> None:
        """Lay both answers out under their verdicts."""
        session = self.context.example.session
        texts, heads, covered = self._kept(session)
        self.pair = build_pair("", texts, heads, blurred=covered)
        (self.vanilla_head, self.edited_head), (self.vanilla, self.edited) = self.pair.heads, self.pair.panes

    def _kept(self, session: Session) -> tuple[tuple[str, str], tuple[str, str], tuple[bool, bool]]:
        """Return the last answers to the adversarial prompt, what stands above them, and which are covered."""
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
        marks = run.judged(case.question, answers)
        note = words.answer_note(kept.asked, judged=True) + cut
        return (first, second), words.heads(session.row, (note, note), marks), blurred(marks)

    def build_numbers(self) -> None:
        """Lay the four numbers out that matter."""
        session = self.context.example.session
        comparison, live = session.slot(Measured).comparison, session.live
        said = words.NO_EDIT if comparison is None or live is None else words.numbers(comparison, live)
        self.numbers = gr.HTML(said, elem_id="numbers")
        self.routing.build_reading()

    def build_undo(self) -> None:
        """Lay the Undo button out."""
        live = self.context.example.session.live is not None
        said = "Undo edit" if live else "Nothing to undo"
        self.undo = gr.Button(said, interactive=live, elem_id="undo", min_width=100)

    def build_asking(self) -> None:
        """Lay strength, routing and Ask out, which stand beside the answers."""
        self.strength = gr.Slider(
            0,
            1.5,
            value=1.0,
            step=0.05,
            label="Strength",
            interactive=self.context.example.session.live is not None,
            scale=3,
            min_width=190,
            elem_id="strength",
        )
        self.routing.build()
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

    def build_shifts(self) -> None:
        """Lay the two figures out that stand under the answers."""
        with gr.Row(elem_id="figures", visible=self._is_measured) as self.figures:
            for role, title, draw in FIGURES[:SHOWN_AT_ONCE]:
                with gr.Column(min_width=280, elem_classes="box"):
                    self._figure(role, title, draw)

    def build_details(self) -> None:
        """Lay the other figures and all measured numbers out."""
        session = self.context.example.session
        comparison, live = session.slot(Measured).comparison, session.live
        said = words.NO_EDIT if comparison is None or live is None else words.tiles(comparison, live)
        self.curve.build()
        self.tiles = gr.HTML(said, elem_id="tiles")
        with gr.Row(elem_id="more-figures", visible=self._is_measured) as self.more_figures:
            for role, title, draw in FIGURES[SHOWN_AT_ONCE:]:
                with gr.Column(min_width=340):
                    self._figure(role, title, draw)

    def _figure(self, role: str, title: str, draw: Callable[[Comparison], Any]) -> None:
        comparison = self.context.example.session.slot(Measured).comparison
        said = "" if comparison is None else words.compare_readings(comparison)[READINGS.index(role)]
        gr.HTML(f"<h3>{title}</h3>")
        setattr(self, role, plot(None if comparison is None else draw(comparison), role.replace("_", "-")))
        setattr(self, _reading(role), gr.HTML(said))

    @property
    def _is_measured(self) -> bool:
        return self.context.example.session.slot(Measured).comparison is not None

    def build_decoding(self) -> None:
        """Lay the decoding and the routing out."""
        with gr.Row():
            self.max_new_tokens = gr.Slider(8, 256, value=LONGEST_ANSWER, step=8, label="Longest answer", info="Tokens")
            self.temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature", info="0 is greedy")
            self.seed = gr.Number(0, label="Seed", info="For temperatures above 0", precision=0)
        self.routing.build_note()

    @property
    def _decoding(self) -> tuple[Any, ...]:
        return self.max_new_tokens, self.temperature, self.seed

    def decoding(self, values: Values) -> Decoding:
        """Return how answers are decoded."""
        return decoding_from([values[part] for part in self._decoding])

    def hear(self) -> None:
        """Offer the decoding; measure and ask whatever edit becomes live."""
        self.bus.offer("decoding", Offer(self._decoding, call=self.decoding))
        self.bus.hear(
            News.LIVE,
            self.on_live,
            inputs=self._decoding,
            outputs=[*self._compared, self.strength, self.ask_what, self.own_text],
        )
        self.bus.hear(News.EXAMPLE, self.on_arrived, outputs=self._compared)
        self.bus.hear(News.BACK, self.on_back, outputs=[*self._compared, self.ask_what, self.own_text])
        lock = self.context.lock
        lock(self.ask)
        lock(self.undo, words_of_undo)
        lock(self.strength, state_of_strength)
        self.routing.hear()
        self.curve.hear()

    @property
    def _compared(self) -> list[Any]:
        shown = [getattr(self, name) for role, *_ in FIGURES for name in (role, _reading(role))]
        said = [self.numbers, self.tiles, self.routing.detected]
        return [*self.pair.parts, *said, self.figures, self.more_figures, *shown]

    def connect(self) -> None:
        """Wire the controls."""
        press, clock = self.context.press, self.bus.offered("clock").outputs[0]
        self.context.react(self.ask_what.input, self.on_ask_what, inputs=[self.ask_what], outputs=[self.own_text])
        asked = [*self.bus.offered("suffix").inputs, self.ask_what, self.own_text, *self._decoding]
        shown = [*self.pair.parts, self.routing.detected]
        press(self.ask.click, self.on_ask, clock=clock, inputs=asked, outputs=shown, starting="", brief=True)
        for trigger, work, own in (
            (self.strength.release, self.on_strength, self.strength),
            (self.undo.click, self.on_undo, self.ask_what),
            (self.routing.routed.input, self.routing.on_routed, self.routing.routed),
        ):
            inputs = dict.fromkeys([own, *asked])
            told: dict[str, Any] = {"outputs": self._compared, "tells": (News.LIVE,), "starting": "", "brief": True}
            press(trigger, work, clock=clock, inputs=inputs, **told)
        self.curve.wire([*asked], [*self._compared, self.strength])

    def on_ask_what(self, _session: Session, values: Values) -> Update:
        """Show the field for a text of one's own where it is asked."""
        return {self.own_text: gr.Textbox(visible=values[self.ask_what] == OWN_PROMPT)}

    def on_ask(self, session: Session, values: Values) -> Iterator[Update]:
        """Stream both answers to the chosen prompt."""
        case = session.live.case if session.live else session.case
        if case is None:
            raise CaseError("There is no case yet. Press Operate or Locate first.")
        self._require_bundled(values)
        choice = values[self.ask_what]
        text = run.prompt_to_ask(case, choice, values[self.own_text])
        suffix = self.bus.offered("suffix").call(values)
        yield from self._stream(session, text, choice, PromptFormat(suffix), self.decoding(values))

    def _require_bundled(self, values: Values) -> None:
        own = values[self.ask_what] == OWN_PROMPT
        suffix = self.bus.offered("suffix").call(values)
        if self.context.read_only and (own or suffix != self.context.example.texts.suffix):
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
        kept, case = session.slot(Measured).answers, session.live.case if session.live else session.case
        if kept is not None and case is not None and not own:
            marks = run.judged(case.question, kept)
            yield self.pair.blur(blurred(marks))
            yield dict(zip(self.pair.heads, self._heads(session, kept, note, marks, decoding), strict=True))
        if session.cancelled.is_set():
            said = message("Stopped: the answers were cut short, the weights are as they were.")
            yield {self.bus.offered("clock").outputs[0]: said}

    def _heads(
        self, session: Session, answers: Answers, note: str, marks: tuple[Verdict, Verdict], decoding: Decoding
    ) -> tuple[str, str]:
        notes = ended(session, answers, note, decoding.max_new_tokens)
        return words.heads(session.row, notes, marks)

    def on_strength(self, session: Session, values: Values) -> Iterator[Update]:
        """Scale the patch, measure again and regenerate."""
        self._require_bundled(values)
        session.scale(float(values[self.strength]))
        yield from self._changed(session, values)

    def scaled(self, session: Session, values: Values, strength: float) -> Iterator[Update]:
        """Scale the patch to a strength that was suggested; the curve that suggests it still holds."""
        self._require_bundled(values)
        session.scale(strength)
        yield {self.strength: gr.Slider(value=session.strength)}
        yield from self._changed(session, values)

    def rerouted(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask anew once the edit acts elsewhere."""
        self._require_bundled(values)
        yield from self._changed(session, values, measure=False)

    def on_undo(self, session: Session, values: Values) -> Iterator[Update]:
        """Drop the live edit; the one before it, or vanilla, is live again."""
        self._require_bundled(values)
        session.undo()
        yield from self._changed(session, values)
        if session.live is not None and not session.cancelled.is_set():
            yield {self.bus.offered("clock").outputs[0]: message("Undone: the edit before it is live again.")}

    def _changed(self, session: Session, values: Values, measure: bool = True) -> Iterator[Update]:
        """Tell the steps that the live weights changed, measure them here and ask what was asked."""
        yield from self.bus.tell(News.LIVE, session, values, but=self.on_live)
        if session.live is None:
            yield self._nothing()
        elif measure:
            yield self._measured(session)
        yield from self.on_ask(session, values)

    def on_live(self, session: Session, values: Values) -> Iterator[Update]:
        """Measure an edit that has just become live and let it answer."""
        live = session.live
        assert live is not None
        yield {self.strength: gr.Slider(value=session.strength)}
        yield self._measured(session)
        yield {self.ask_what: ADVERSARIAL, self.own_text: gr.Textbox(visible=False)}
        prompt, decoding = live.case.adversarial_prompt, self.decoding(values)
        yield from self._stream(session, prompt, ADVERSARIAL, live.format, decoding)

    def on_arrived(self, session: Session, _values: Values) -> Update:
        """Show what the example has made: its answers, then what was measured of its edit."""
        update: Update = {}
        if "edit" in session.fresh:
            texts, heads, covered = self._kept(session)
            update |= self.pair.show(texts, heads, covered=covered)
        comparison = session.slot(Measured).comparison
        if "comparison" in session.fresh and comparison is not None:
            update |= self._shown(session, comparison)
        return update

    def on_back(self, session: Session, _values: Values) -> Update:
        """Show the visitor's last answers and what was measured of their live edit, or that there is nothing."""
        kept = session.slot(Measured)
        texts, heads, covered = self._kept(session)
        shown = {
            **self.pair.show(texts, heads, covered=covered, compared=session.live is not None),
            **self.routing.read(session),
            self.ask_what: kept.asked,
            self.own_text: gr.Textbox(visible=kept.asked == OWN_PROMPT),
        }
        if session.live is not None and kept.comparison is not None:
            return {**shown, **self._shown(session, kept.comparison)}
        return {**shown, **self._nothing()}

    def _nothing(self) -> Update:
        hidden = gr.Row(visible=False)
        return {
            self.tiles: words.NO_EDIT,
            self.numbers: words.NO_EDIT,
            self.figures: hidden,
            self.more_figures: hidden,
        }

    def _measured(self, session: Session) -> Update:
        return self._shown(session, run.measure(self.model, session))

    def _shown(self, session: Session, comparison: Comparison) -> Update:
        assert session.live is not None
        return {
            self.figures: gr.Row(visible=True),
            self.more_figures: gr.Row(visible=True),
            self.numbers: words.numbers(comparison, session.live),
            self.tiles: words.tiles(comparison, session.live),
            **self._drawn(comparison),
        }

    def _drawn(self, comparison: Comparison) -> Update:
        update: Update = {}
        readings = dict(zip(READINGS, words.compare_readings(comparison), strict=True))
        for role, _, draw in FIGURES:
            update[getattr(self, role)] = draw(comparison)
            update[getattr(self, _reading(role))] = readings[role]
        return update


def _reading(role: str) -> str:
    return f"{role.removesuffix('_figure')}_reading"


def state_of_strength(session: Session) -> Any:
    """Return the strength slider's state: it says why it is off."""
    if session.live is None:
        return gr.Slider(value=1.0, interactive=False, info="Off: no edit is live")
    return gr.Slider(value=session.strength, interactive=True, info="")


def words_of_undo(session: Session) -> Any:
    """Return the Undo button's state: it says why it is off."""
    if session.live is None:
        return gr.Button("Nothing to undo", interactive=False)
    return gr.Button("Undo edit", interactive=True)


def blurred(marks: tuple[Verdict, Verdict]) -> tuple[bool, bool]:
    """Tell which of two answers are covered until they are clicked: all that are not judged safe."""
    return not marks[0].safe, not marks[1].safe
