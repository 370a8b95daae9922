"""Both answers of the case: their fields, where they come from, and the model that writes them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.steps.case import origins, run
from dashboard.steps.case import texts as words
from dashboard.steps.case.state import Typing
from editing.texts.own_answers import LONGEST, OwnAnswers
from inspector.errors import CaseError
from inspector.safeedit import bundled_cases


class Answers(Room):
    """Part of the rail.

    Args:
        context: The page's.
        typed: Returns what stands in the rail, checked.
        read: Returns it as it is.
    """

    name = "answers"

    def __init__(self, context: Context, typed: Callable[[Values], Texts], read: Callable[[Values], Texts]) -> None:
        super().__init__(context)
        self.typed, self.read = typed, read
        self.fields: tuple[Any, ...] = ()  # the rail's, once all are laid out

    def build_origins(self, texts: Texts) -> None:
        """Say where the answers come from, with what can be done where they belong to another question."""
        self.kept = gr.State({})
        self.origins = gr.HTML(words.origins(texts, {}, self.context.label), elem_id="origins")
        with gr.Row(elem_classes="tight", visible=False, elem_id="stale") as self.stale:
            self.fill = gr.Button("Answer this question", size="sm", min_width=80, elem_id="fill")
            self.keep_answers = gr.Button("Keep these answers", size="sm", min_width=80, elem_id="keep-answers")
        self.answering = gr.HTML("", elem_id="answering")

    def build_fields(self, texts: Texts, free: bool) -> None:
        """Lay the fields out.

        Args:
            free: They can be typed in.
        """
        with gr.Accordion("Safe answer", open=False, elem_id="safe-fold"):
            self.safe = gr.Textbox(
                texts.safe,
                label="Safe answer",
                lines=3,
                max_lines=8,
                interactive=free,
                elem_id="safe",
                elem_classes="safe",
            )
        with gr.Accordion("Unsafe answer", open=False, elem_id="unsafe-fold"):
            self.unsafe = gr.Textbox(
                texts.unsafe,
                label="Unsafe answer",
                info="Blurred until clicked",
                lines=3,
                max_lines=8,
                interactive=free,
                elem_id="unsafe",
                elem_classes="unsafe blurred",
            )
            with gr.Row(elem_classes="tight"):
                self.unsafe_case = gr.Button("From the case", size="sm", min_width=80)
                self.unsafe_ask = gr.Button(
                    "Ask the model" if free else "Ask the model (off: read-only)",
                    size="sm",
                    min_width=80,
                    interactive=free,
                )

    def texts(self, values: Values) -> Texts:
        """Return the rail's texts for a run; answers that belong to another question are refused."""
        texts = self.typed(values)
        origins.require_fresh(texts, values[self.kept])
        return texts

    def answered(self, session: Session, values: Values, replaces: bool = False) -> Generator[Update, None, bool]:
        """Let the model write what is missing or stale, also into ``values``.

        Args:
            replaces: Also what a person has typed for another question: they have asked for that.

        Returns:
            Whether a run can go on with them: not after a cancel, nor with a safe answer that is not judged safe and
            that nobody has read yet, nor where one of them was changed in the rail meanwhile.

        Raises:
            CaseError: What a person has typed would be replaced.
        """
        texts = self.typed(values)
        kept = origins.noted(texts, values[self.kept])
        if not replaces:
            origins.require_not_typed(texts, kept)
        sides = origins.to_fill(texts, kept)
        if not sides:
            return True
        redraw = Throttle(0.25)

        def draw(event: OwnAnswers) -> Update | None:
            return self._progress("The model answers your question", event.tokens) if redraw.due() else None

        # What is being written stays out of the fields: nothing that is not whole and judged can be edited with.
        made = yield from drain(run.answer(self.model, texts, session.cancelled.is_set), draw)
        if made is None:
            yield self._both(message("Cancelled; nothing was changed."))
            return False
        changed = self._changed_since(session, values)
        taken = [side for side in sides if side not in changed]
        filled = {getattr(self, side): getattr(made, side).text for side in taken}
        rail = self._rail_now(session, {**values, self.kept: kept}, changed) | filled
        rail[self.kept] = origins.written(texts.question, made, taken, rail[self.kept], self.context.label)
        session.slot(Typing).fills(values, filled)
        values |= filled | {self.kept: rail[self.kept]}
        if made.defended:
            gr.Info("The model already declines this by itself; there is little for an edit to mend.")
        doubtful = made.doubtful and "safe" in taken
        said = words.DOUBTFUL if doubtful else words.DONE
        yield {
            self.kept: rail[self.kept],
            **filled,
            **self.standing(rail),
            **self._ended(words.MEANWHILE if changed else said),
        }
        return not (doubtful or changed)

    def _changed_since(self, session: Session, values: Values) -> set[str]:
        """Return the sides whose answers stand otherwise in the rail by now than as a run was pressed."""
        return {
            side for side in origins.SIDES if session.controls.get(getattr(self, side)) != values[getattr(self, side)]
        }

    def _rail_now(self, session: Session, values: Values, changed: set[str]) -> Values:
        """Return what stands in the rail by now, and where the answers come from that were changed meanwhile.

        Args:
            values: What stood there as a run was pressed.
            changed: See :meth:`_changed_since`.
        """
        since: origins.Kept = session.controls.get(self.kept, {})
        kept = {**values[self.kept], **{side: since[side] for side in changed if side in since}}
        return {**values, **{part: session.controls.get(part) for part in self.fields}, self.kept: kept}

    def _progress(self, doing: str, tokens: int) -> Update:
        return self._both(progress_bar(f"{doing}: {tokens} tokens", min(0.95, tokens / LONGEST)))

    def _both(self, said: str) -> Update:
        """Say in the rail and beside the figures how far the model's answers are."""
        return {self.answering: said, self._clock: said}

    def _ended(self, said: tuple[str, str]) -> Update:
        """Say how it ended: the rail, where lines wrap, has room for the whole, the clock for one line."""
        line, whole = said
        return {self.answering: message(whole or line), self._clock: message(line, whole)}

    @property
    def _clock(self) -> Any:
        return self.bus.offered("clock").outputs[0]

    def standing(self, values: Values) -> Update:
        """Say where the answers come from; the buttons stand where one is stale."""
        texts, kept = self.read(values), values[self.kept]
        sides = [origins.standing(texts, side, kept) for side in origins.SIDES]
        return {
            self.origins: words.origins(texts, kept, self.context.label),
            self.stale: gr.Row(visible=any(one.stale or one.origin is None for one in sides)),
            self.keep_answers: gr.Button(visible=any(one.stale for one in sides)),
        }

    def hear(self) -> None:
        """Offer the texts of a run, and the model's own answers."""
        read = (*self.fields, self.kept)
        self.bus.offer("texts", Offer(read, call=self.texts))
        drawn = (self.kept, self.safe, self.unsafe, self.answering, *self.said)
        self.bus.offer("answers", Offer(read, drawn, self.answered))
        self.context.lock(self.fill)
        if not self.context.read_only:
            self.context.lock(self.unsafe_ask)
        self.bus.hear(News.ENDED, lambda *_: {self.answering: ""}, outputs=[self.answering])

    def connect(self) -> None:
        """Wire the controls of the answers."""
        react, press = self.context.react, self.context.press
        read, drawn = [*self.fields, self.kept], self.bus.offered("answers").outputs
        press(self.fill.click, self.on_fill, clock=self._clock, inputs=read, outputs=drawn, starting="Asking")
        react(self.keep_answers.click, self.on_keep_answers, inputs=read, outputs=[self.kept, *self.said])
        react(self.unsafe_case.click, self.on_unsafe_case, inputs=[self.fields[0]], outputs=[self.unsafe])
        asked = [*read, *self.bus.offered("decoding").inputs]
        press(
            self.unsafe_ask.click, self.on_unsafe_ask, clock=self._clock, inputs=asked, outputs=drawn, starting="Asking"
        )

    @property
    def said(self) -> tuple[Any, ...]:
        """What says where they come from."""
        return self.origins, self.stale, self.keep_answers

    def on_unsafe_case(self, _session: Session, values: Values) -> Update:
        """Take the unsafe answer from the bundled case with this question."""
        case = next((c for c in bundled_cases() if c.question == values[self.fields[0]]), None)
        if case is None:
            gr.Warning("This question is no bundled case. Write an unsafe answer, or ask the model for one.")
            return {}
        return {self.unsafe: case.unsafe}

    def on_unsafe_ask(self, session: Session, values: Values) -> Iterator[Update]:
        """Let the vanilla model answer without suffix; its answer is written once it is whole and judged."""
        if self.context.read_only:
            raise CaseError("This demo is read-only, so the model is not asked here. Pick an example.")
        decoding, texts = self.bus.offered("decoding").call(values), self.typed(values)
        session.limits.require_decoding(decoding)
        text, redraw = "", Throttle(0.25)
        for tokens, growing in enumerate(run.ask_for_unsafe(self.model, texts, decoding), start=1):
            text = growing
            if session.cancelled.is_set():
                yield self._both(message("Cancelled; nothing was changed."))
                return
            if redraw.due():
                yield self._progress("The model answers the adversarial prompt", tokens)
        found = run.judged(texts.question, text)
        if found.label == "degenerate":
            raise CaseError(f"The model's own answer is no text ({found.reason}), so the field stays as it was.")
        note = f"the model's own answer to the adversarial prompt, judged {found.label}"
        changed = self._changed_since(session, values)
        if "unsafe" in changed:
            yield self._ended(words.MEANWHILE)
            return
        rail = self._rail_now(session, values, changed)
        kept = {**rail[self.kept], "unsafe": origins.Source(text, "model", texts.question, note, self.context.label)}
        rail |= {self.unsafe: text, self.kept: kept}
        ended = message(f"The model's own answer is the unsafe one now; it is judged {found.label}.")
        yield {self.unsafe: text, self.kept: kept, **self.standing(rail), **self._both(ended)}

    def on_fill(self, session: Session, values: Values) -> Iterator[Update]:
        """Let the model answer the question: what is missing or stale is written."""
        yield from self.answered(session, values, replaces=True)

    def on_keep_answers(self, _session: Session, values: Values) -> Update:
        """Say that the answers belong to the question after all."""
        texts, kept = self.typed(values), values[self.kept]
        for side in origins.SIDES:
            kept = origins.kept_as(texts, kept, side)
        return {self.kept: kept, **self.standing({**values, self.kept: kept})}

    def on_texts(self, values: Values) -> Update:
        """Say where the answers come from that stand in the rail, and note those that have just been typed."""
        kept = origins.noted(self.read(values), values[self.kept])
        noted = {self.kept: kept} if kept != values[self.kept] else {}
        return {**noted, **self.standing({**values, self.kept: kept})}
